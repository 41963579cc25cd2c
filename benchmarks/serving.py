"""What the embedded server can do: its throughput, its swaps of versions, and what it withstands.

    python -m benchmarks.serving                          # throughput beside a direct call
    python -m benchmarks.serving --hot_reload_minutes=10  # load while versions are published
    python -m benchmarks.serving --malformed=10000        # requests that must be refused

The server is a process of its own, and so are the clients, which send the next request when the
last is answered (a closed loop), over connections that stay open, and do not look into answers
unless that is the question. On few cores they take from the server what they need themselves.

Throughput: rows, that is images, per second and milliseconds per request. "direct" is the same
signature called in a loop in one process, once with the rows of a request ("as asked") and once
with those that all clients ask for at a time, up to 64 ("together"), which no server can reach that
shares its cores with its clients. The bar, at 32 clients: 60 % of the first with requests of 64
rows, where both are the same; what requests of a single row get of the second is told.
"""

import argparse
import base64
import contextlib
import http.client
import io
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import malformed

BAR = 0.6
CLIENTS = (1, 8, 32)
BATCHES = (1, 64)
FORMS = ("json", "png", "grpc")  # float images as JSON, PNG as JSON, float images by gRPC
WARM_UP_SECONDS = 1.0
PUBLISH_SECONDS = 30.0
RESTS_MIB = 100  # that the memory may have grown by, in the middle of requests under way


@contextlib.contextmanager
def server(base_path: Path, *flags: str) -> Iterator[tuple[int, int, int]]:
    """Runs the command; yields its REST port, its gRPC port and its process number."""
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    command = [sys.executable, "-m", "tfgan_mnist.serve", f"--model_base_path={base_path}"]
    command += [f"--rest_api_port={ports[0]}", f"--port={ports[1]}", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("model:"):
                break
        try:
            yield ports[0], ports[1], process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
    assert process.returncode == 0, f"the server ended with {process.returncode}"


def memory_mib(pid: int) -> float:
    """What a process has in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


# Throughput


def inputs_of(model: str, batch: int, seed: int) -> dict[str, np.ndarray]:
    """The inputs of `sample` and `png` for as many rows as `batch`."""
    rows = {"seed": np.arange(seed, seed + batch, dtype=np.int32)}
    return rows | ({"labels": rows["seed"] % 10} if model == "cdcgan" else {})


def rest_sender(port: int, model: str, form: str, batch: int, seed: int):
    """A function that sends a request and waits for its answer."""
    columns = {name: array.tolist() for name, array in inputs_of(model, batch, seed).items()}
    rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
    document = {"signature_name": {"json": "sample"}.get(form, form), "instances": rows}
    content = malformed.post(model, json.dumps(document).encode())
    connection = socket.create_connection(("127.0.0.1", port), 60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send() -> None:
        connection.sendall(content)
        answer = malformed.read_answer(connection)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"not answered: {answer[:300]!r}")

    return send


def grpc_sender(port: int, model: str, batch: int, seed: int):
    """The same by gRPC."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, "sample"
    for name, array in inputs_of(model, batch, seed).items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options)
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    content = request.SerializeToString()
    return lambda: call(content, timeout=60)


def client_process(ports, model, form, batch, clients, seconds, results) -> None:
    """Puts the milliseconds of all requests, or the error that ended it, into the queue."""
    times: list[float] = []
    faults: list[str] = []
    first = threading.Barrier(clients + 1)
    if form == "grpc":
        import tensorflow  # noqa: F401  # takes seconds, which are not the server's

    def work(number: int) -> None:
        seed = 1000 * number
        send = (
            grpc_sender(ports[1], model, batch, seed)
            if form == "grpc"
            else rest_sender(ports[0], model, form, batch, seed)
        )
        first.wait()
        start = time.perf_counter()
        try:
            while (now := time.perf_counter()) < start + WARM_UP_SECONDS + seconds:
                send()
                if now > start + WARM_UP_SECONDS:
                    times.append((time.perf_counter() - now) * 1e3)
        except Exception as error:
            faults.append(repr(error))

    threads = [threading.Thread(target=work, args=[number]) for number in range(clients)]
    for thread in threads:
        thread.start()
    first.wait()
    for thread in threads:
        thread.join()
    results.put((times, faults))


def direct_rows_per_second(folder: Path, model: str, form: str, batch: int, seconds: float):
    """Calls the signature in this process."""
    from tfgan_mnist import cli

    cli.start_tensorflow()
    from tfgan_mnist.serving.saved_model import SavedModel

    saved = SavedModel(folder)
    signature, output = ("png", "png_bytes") if form == "png" else ("sample", "images")
    inputs = inputs_of(model, batch, 0)
    for _ in range(3):
        saved.run(signature, inputs, (output,))
    start, calls = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        saved.run(signature, inputs, (output,))
        calls += 1
    return calls * batch / (time.perf_counter() - start)


def throughput(base_path: Path, model: str, seconds: float) -> None:
    """Prints the table."""
    context = multiprocessing.get_context("spawn")
    direct = {}
    with context.Pool(1) as pool:  # a process that ends, so that it takes nothing from the server
        for form in ("json", "png"):
            for batch in sorted({*CLIENTS, 64}):
                arguments = (base_path / model / "1", model, form, batch, seconds)
                direct[form, batch] = pool.apply(direct_rows_per_second, arguments)
                rate = direct[form, batch]
                print(f"direct  {form:5} batch {batch:3}: {rate:8.0f} rows/s", flush=True)
    print("form  clients batch     rows/s   p50 ms   p95 ms   p99 ms  as asked  together")
    with server(base_path) as (rest_port, grpc_port, _):
        for form in FORMS:
            for clients in CLIENTS:
                for batch in BATCHES:
                    results = context.Queue()
                    arguments = ((rest_port, grpc_port), model, form, batch, clients, seconds)
                    process = context.Process(target=client_process, args=(*arguments, results))
                    process.start()
                    times, faults = results.get()
                    process.join()
                    rows = len(times) * batch / seconds
                    signature = "png" if form == "png" else "json"
                    asked = direct[signature, batch]
                    together = direct[signature, min(clients * batch, 64)]
                    holds = "" if rows >= BAR * asked else f" BELOW {BAR:.0%}"
                    bar = holds if (clients, batch) == (32, 64) else ""
                    p50, p95, p99 = np.percentile(times or [np.nan], [50, 95, 99])
                    print(
                        f"{form:5} {clients:7} {batch:5} {rows:10.0f} {p50:8.1f} {p95:8.1f} "
                        f"{p99:8.1f} {rows / asked:9.0%} {rows / together:9.0%}{bar}"
                        f"{'  ' + faults[0] if faults else ''}",
                        flush=True,
                    )


# Versions


def hot_reload(base_path: Path, model: str, minutes: float, clients: int) -> bool:
    """Publishes a version every PUBLISH_SECONDS under load; whether nothing went wrong."""
    from PIL import Image

    counts: Counter = Counter()
    stop = threading.Event()
    first_images: dict[int, tuple[bytes, np.ndarray]] = {}

    def work(port: int, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        rng = np.random.default_rng(number)
        while not stop.is_set():
            seed = int(rng.integers(100))
            columns = inputs_of(model, 1, seed)
            row = {name: int(array[0]) for name, array in columns.items()}
            body = json.dumps({"signature_name": "png", "instances": [row]})
            try:
                connection.request("POST", f"/v1/models/{model}:predict", body)
                answer = connection.getresponse()
                content = answer.read()
            except OSError as error:
                counts[f"wrong: {error!r}"] += 1
                connection.close()
                continue
            if answer.status != 200:
                counts[f"wrong: status {answer.status} {content[:80]!r}"] += 1
                continue
            png = base64.b64decode(json.loads(content)["predictions"][0]["b64"])
            expected, image = first_images.setdefault(
                seed, (png, np.asarray(Image.open(io.BytesIO(png)), int))
            )
            difference = 0
            if png != expected:
                difference = np.abs(np.asarray(Image.open(io.BytesIO(png)), int) - image).max()
            # A row in a batch of another size is rounded differently in its last bit, which turns
            # a pixel that is half way between two levels to the other one.
            counts[("same bytes", "one level off")[difference] if difference < 2 else
                   "wrong: image"] += 1  # fmt: skip

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "models" / model
        shutil.copytree(base_path / model / "1", folder / "1")
        with server(folder.parent) as (port, _, pid):
            threads = [threading.Thread(target=work, args=[port, i]) for i in range(clients)]
            for thread in threads:
                thread.start()
            ends, version = time.monotonic() + 60 * minutes, 1
            while time.monotonic() < ends:
                time.sleep(min(PUBLISH_SECONDS, 60 * minutes / 3))
                version += 1
                shutil.copytree(base_path / model / "1", Path(temporary) / "new")
                (Path(temporary) / "new").rename(folder / str(version))
                print(f"version {version}, {memory_mib(pid):.0f} MiB: {dict(counts)}", flush=True)
            time.sleep(3)
            stop.set()
            for thread in threads:
                thread.join()
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", f"/v1/models/{model}")
            states = json.loads(connection.getresponse().read())["model_version_status"]
    print({entry["version"]: entry["state"] for entry in states})
    print(dict(counts))
    return not any(name.startswith("wrong") for name in counts) and states[0]["state"] == (
        "AVAILABLE"
    )


# Malformed requests


def withstand(base_path: Path, model: str, number: int) -> bool:
    """Sends malformed requests and valid ones in between; whether all were answered as is right."""
    with server(base_path, "--rest_api_timeout_in_ms=3000") as (port, _, pid):
        for seed in range(2):  # what is allocated once
            malformed.send_all(port, model, 200, seed)
        before = memory_mib(pid)
        counts = malformed.send_all(port, model, number, seed=3)
        time.sleep(1)
        after = memory_mib(pid)
    for name, count in sorted(counts.items()):
        print(f"{count:6} {name}")
    print(f"memory: {before:.0f} MiB before, {after:.0f} MiB after")
    return not any("WRONG" in name for name in counts) and after - before < RESTS_MIB


def main() -> int:
    """Runs one of the three; the exit status is 1 when what must hold does not."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="cdcgan", help="(default: %(default)s)")
    parser.add_argument("--model_base_path", type=Path, default=Path("saved_models"))
    parser.add_argument("--seconds", type=float, default=5.0, help="for each line of the table")
    parser.add_argument("--clients", type=int, default=8, help="during --hot_reload_minutes")
    parser.add_argument("--hot_reload_minutes", type=float, default=0.0)
    parser.add_argument("--malformed", type=int, default=0, help="number of requests")
    flags = parser.parse_args()
    if flags.hot_reload_minutes:
        holds = hot_reload(
            flags.model_base_path, flags.model, flags.hot_reload_minutes, flags.clients
        )
        return 0 if holds else 1
    if flags.malformed:
        return 0 if withstand(flags.model_base_path, flags.model, flags.malformed) else 1
    throughput(flags.model_base_path, flags.model, flags.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
