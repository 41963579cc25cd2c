"""Speed of the embedded server, and its behaviour under stress.

    python -m benchmarks.serving                   # throughput beside a direct call
    python -m benchmarks.serving --quick           # the same within a minute
    python -m benchmarks.serving --form=png --clients=8 --rows=64    # one line of the table
    python -m benchmarks.serving --stress=10000    # malformed requests, while versions appear

Server and clients have their own processes, which share the cores. A client sends its next request
when the last one is answered, over a connection that stays open. Throughput is rows, that is
images, per second. "direct" is the same signature called in a loop in one process, in batches as
large as those of the server: the rows of all clients, up to 256.

The exit status is 1 if a request was not answered as it should be, if memory grew, if the newest
version is not served, or if 32 clients with 64 rows each reached less than 60 % of direct (unless
--quick, which is too short to tell).
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks import malformed, records

MIN_OF_DIRECT = 0.6
CLIENTS = (1, 8, 32)
BATCHES = (1, 64)
# Float images as JSON, PNG as JSON, float images by gRPC.
SIGNATURES = {"json": "sample", "png": "png", "grpc": "sample"}
QUICK_SECONDS = 0.5  # for each line
PARTS = 8  # versions under stress
PUBLISH_SECONDS = 3.0
MAX_GROWTH_MIB = 50  # between the first and the second half of the versions
MAX_ROWS = 256  # of a batch of the server


@contextlib.contextmanager
def server(base_path: Path) -> Iterator[tuple[int, int, int]]:
    """Runs the serve command; yields its REST port, its gRPC port and its process number."""
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    command = [sys.executable, "-m", "tfgan_mnist.serve", f"--model_base_path={base_path}"]
    command += [f"--rest_api_port={ports[0]}", f"--port={ports[1]}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("model:"):
                break
        try:
            yield ports[0], ports[1], process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
    assert process.returncode == 0, f"the server ended with {process.returncode}"


def request_of(model: str, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns the inputs of the signatures `sample` and `png` for `batch` rows."""
    inputs = {"seed": np.arange(seed, seed + batch, dtype=np.int32)}
    return inputs | ({"labels": inputs["seed"] % 10} if model == "cdcgan" else {})


def rest_sender(port: int, model: str, signature: str, batch: int):
    """Returns a function that sends a request and waits for its answer."""
    columns = {name: array.tolist() for name, array in request_of(model, batch).items()}
    rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
    document = {"signature_name": signature, "instances": rows}
    content = malformed.post(model, json.dumps(document).encode())
    connection = socket.create_connection(("127.0.0.1", port), 60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send() -> None:
        connection.sendall(content)
        answer = malformed.read_answer(connection)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"expected status 200; received {answer[:300]!r}")

    return send


def grpc_sender(port: int, model: str, batch: int):
    """Returns the same for gRPC."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, "sample"
    for name, array in request_of(model, batch).items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options)
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    content = request.SerializeToString()
    return lambda: call(content, timeout=60)


def run_clients(ports, model, form, batch, clients, seconds) -> list[float]:
    """Returns the milliseconds of all requests. For a process of its own."""
    ready = threading.Barrier(clients, timeout=120)

    def work(_) -> list[float]:
        if form == "grpc":
            send = grpc_sender(ports[1], model, batch)
        else:
            send = rest_sender(ports[0], model, SIGNATURES[form], batch)
        ready.wait()
        ends, times = time.perf_counter() + 1.5 * seconds, []  # a third is for warming up
        while (now := time.perf_counter()) < ends:
            send()
            if now > ends - seconds:
                times.append((time.perf_counter() - now) * 1e3)
        return times

    with ThreadPoolExecutor(clients) as pool:
        return [time for times in pool.map(work, range(clients)) for time in times]


def direct_rows_per_second(folder: Path, model: str, keys, seconds: float) -> dict:
    """Calls signatures with batches. For a process of its own, so that the server gets the memory.

    Returns:
      Rows per second of each of the `keys`, (signature, rows in a batch).
    """
    from tfgan_mnist import cli

    cli.start_tensorflow()
    import tensorflow as tf

    loaded, rates = tf.saved_model.load(str(folder)), {}
    for signature, batch in keys:
        function = loaded.signatures[signature]
        inputs = {name: tf.constant(array) for name, array in request_of(model, batch).items()}
        function(**inputs)
        start, calls = time.perf_counter(), 0
        while time.perf_counter() < start + seconds:
            next(iter(function(**inputs).values())).numpy()
            calls += 1
        rates[signature, batch] = calls * batch / (time.perf_counter() - start)
    return rates


def throughput(base_path: Path, model: str, lines: list[tuple], seconds: float) -> bool:
    """Prints a table of these lines, (form, clients, rows); returns whether it was fast enough."""
    passed, rows = True, []
    direct_of = {line: (SIGNATURES[line[0]], min(line[1] * line[2], MAX_ROWS)) for line in lines}
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(1) as pool:
        arguments = (base_path / model / "1", model, sorted(set(direct_of.values())), seconds)
        direct = pool.apply(direct_rows_per_second, arguments)
    with spawn.Pool(1) as pool, server(base_path) as (*ports, _):
        for line in lines:
            form, clients, batch = line
            times = pool.apply(run_clients, (ports, model, form, batch, clients, seconds))
            rate = len(times) * batch / seconds
            share = rate / direct[direct_of[line]]
            passed = passed and ((clients, batch) != (32, 64) or share >= MIN_OF_DIRECT)
            percentiles = [f"{each:.1f}" for each in np.percentile(times, [50, 95, 99])]
            rows.append((*line, f"{rate:.0f}", *percentiles, f"{share:.0%}"))
            print(*rows[-1], flush=True)
    heads = ("form", "clients", "rows", "rows/s", "p50 ms", "p95 ms", "p99 ms", "of direct")
    print(records.table(rows, heads))
    return passed


def live_versions(port: int, model: str) -> list[str]:
    """The versions that are served."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models/{model}") as answer:
        states = json.load(answer)["model_version_status"]
    return [entry["version"] for entry in states if entry["state"] == "AVAILABLE"]


def memory_mib(pid: int) -> float:
    """The resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


def stress(base_path: Path, model: str, number: int) -> bool:
    """Publishes versions while requests arrive, valid and malformed ones.

    Returns:
      Whether all answers were as they should be, memory did not grow, and the last version serves.
    """
    counts: Counter = Counter()
    memory = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "models" / model
        shutil.copytree(base_path / model / "1", folder / "1")
        with server(folder.parent) as (port, _, pid):
            malformed.send_all(port, model, 400, 0)  # what is allocated once
            for part in range(PARTS):
                partial = shutil.copytree(folder / "1", folder / f".{part}.partial")
                partial.rename(folder / str(part + 2))
                counts += malformed.send_all(port, model, number // PARTS, part + 1)
                time.sleep(PUBLISH_SECONDS)
                memory.append(memory_mib(pid))
                print(f"version {part + 2}, {memory[-1]:.0f} MiB", flush=True)
            live = live_versions(port, model)
    for name, count in sorted(counts.items()):
        print(f"{count:6} {name}")
    first, second = np.array_split(memory, 2)
    growth = np.mean(second) - np.mean(first)
    print(f"serving version {', '.join(live)}; memory: {growth:+.0f} MiB from half to half")
    wrong = any("WRONG" in name for name in counts)
    return growth < MAX_GROWTH_MIB and not wrong and live == [str(PARTS + 1)]


def main() -> int:
    """Measures throughput or the behaviour under stress; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="cdcgan", help="(default: %(default)s)")
    parser.add_argument("--model_base_path", type=Path, default=Path("saved_models"))
    parser.add_argument("--seconds", type=float, default=5.0, help="for each line of the table")
    parser.add_argument("--quick", action="store_true", help="within a minute")
    parser.add_argument("--form", choices=SIGNATURES, help="only lines of this form")
    parser.add_argument("--clients", type=int, help="only lines of so many clients")
    parser.add_argument("--rows", type=int, help="only lines of so many rows in a request")
    parser.add_argument("--stress", type=int, default=0, help="number of requests")
    flags = parser.parse_args()
    if flags.stress:
        return 0 if stress(flags.model_base_path, flags.model, flags.stress) else 1
    lines = itertools.product(
        [flags.form] if flags.form else SIGNATURES,
        [flags.clients] if flags.clients else CLIENTS[::2] if flags.quick else CLIENTS,
        [flags.rows] if flags.rows else BATCHES,
    )
    seconds = QUICK_SECONDS if flags.quick else flags.seconds
    passed = throughput(flags.model_base_path, flags.model, list(lines), seconds)
    return 0 if passed or flags.quick else 1


if __name__ == "__main__":
    sys.exit(main())
