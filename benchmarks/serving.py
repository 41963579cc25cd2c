"""What the embedded server can do: its throughput, its swaps of versions, and what it withstands.

    python -m benchmarks.serving                          # throughput beside a direct call
    python -m benchmarks.serving --hot_reload_minutes=10  # load while versions are published
    python -m benchmarks.serving --malformed=10000        # requests that must be refused

The server is a process of its own, and so are the clients, which send the next request when the
last is answered (a closed loop), over connections that stay open, and do not look into answers
unless that is the question. On few cores they take from the server what they need themselves.

Throughput: rows, that is images, per second and milliseconds per request. "direct" is the same
signature called in a loop in one process, with batches as large as those that the server makes of
what all clients ask for at a time (up to 256). A server that shares its cores with its clients
falls short of it, except where it gains more by running two batches at a time, one of which does
not fill the cores, as while images become PNG files. The rest of the table tells where the
processors' time went: to the model (what the same rows cost directly, at most all of the server's),
to the rest of the server, to the clients, or elsewhere. The bar, at 32 clients with requests of 64
rows: 60 % of direct.
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
NOISE_MIB = 50  # by which memory that does not grow may differ from one time to another
MAX_ROWS = 256  # of a batch of the server's
SEEDS = 100  # that are asked for while versions change
MIN_ANSWERS = 20  # of each version


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


def cpu_seconds(pid: int | str = "self") -> float:
    """What a process has had of the processors, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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


def client_process(ports, pid, model, form, batch, clients, seconds, results) -> None:
    """Puts milliseconds of requests, errors that ended clients, and CPU seconds into the queue.

    Those of the server, and of the clients.
    """
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
    time.sleep(WARM_UP_SECONDS)
    began = cpu_seconds(pid), cpu_seconds()
    time.sleep(seconds)
    spent = cpu_seconds(pid) - began[0], cpu_seconds() - began[1]
    for thread in threads:
        thread.join()
    results.put((times, faults, spent))


def direct_rows_per_second(folder: Path, model: str, form: str, batch: int, seconds: float):
    """Calls the signature in this process: rows per second, and per CPU second."""
    from tfgan_mnist import cli

    cli.start_tensorflow()
    from tfgan_mnist.serving.saved_model import SavedModel

    saved = SavedModel(folder)
    signature, output = ("png", "png_bytes") if form == "png" else ("sample", "images")
    inputs = inputs_of(model, batch, 0)
    for _ in range(3):
        saved.run(signature, inputs, (output,))
    start, spent, calls = time.perf_counter(), cpu_seconds(), 0
    while time.perf_counter() < start + seconds:
        saved.run(signature, inputs, (output,))
        calls += 1
    rows = calls * batch
    return rows / (time.perf_counter() - start), rows / max(cpu_seconds() - spent, 0.01)


def throughput(base_path: Path, model: str, seconds: float) -> bool:
    """Prints the table; whether the bar was reached and every request answered."""
    context = multiprocessing.get_context("spawn")
    direct = {}
    sizes = sorted({min(clients * batch, MAX_ROWS) for clients in CLIENTS for batch in BATCHES})
    with context.Pool(1) as pool:  # a process that ends, so that it takes nothing from the server
        for form in ("json", "png"):
            for size in sizes:
                arguments = (base_path / model / "1", model, form, size, seconds)
                direct[form, size] = pool.apply(direct_rows_per_second, arguments)
                rate = direct[form, size][0]
                print(f"direct  {form:5} batch {size:3}: {rate:8.0f} rows/s", flush=True)
    holds = True
    print(
        "form  clients batch   rows/s  p50 ms  p95 ms  p99 ms  direct  model server clients other"
    )
    with server(base_path) as (rest_port, grpc_port, pid):
        for form in FORMS:
            for clients in CLIENTS:
                for batch in BATCHES:
                    results = context.Queue()
                    arguments = ((rest_port, grpc_port), pid, model, form, batch, clients, seconds)
                    process = context.Process(target=client_process, args=(*arguments, results))
                    process.start()
                    times, faults, (by_server, by_clients) = results.get()
                    process.join()
                    rate = len(times) * batch / seconds
                    signature = "png" if form == "png" else "json"
                    there, per_cpu = direct[signature, min(clients * batch, MAX_ROWS)]
                    below = (clients, batch) == (32, 64) and rate < BAR * there
                    holds = holds and not below and not faults
                    p50, p95, p99 = np.percentile(times or [np.nan], [50, 95, 99])
                    whole = seconds * len(os.sched_getaffinity(0))
                    by_model = min(rate * seconds / per_cpu, by_server)
                    parts = [by_model, by_server - by_model, by_clients]
                    parts = [part / whole for part in (*parts, whole - by_server - by_clients)]
                    print(
                        f"{form:5} {clients:7} {batch:5} {rate:8.0f} {p50:7.1f} {p95:7.1f} "
                        f"{p99:7.1f} {rate / there:7.0%} {parts[0]:6.0%} {parts[1]:6.0%} "
                        f"{parts[2]:7.0%} {max(parts[3], 0):5.0%}"
                        f"{f'  BELOW {BAR:.0%}' if below else ''}"
                        f"{'  ' + faults[0] if faults else ''}",
                        flush=True,
                    )
    return holds


# Versions


def publish(source: Path, target: Path, model: str, number: int) -> np.ndarray:
    """Publishes a version with weights of its own; its images (SEEDS, H, W), levels.

    For a process of its own, as it imports TensorFlow.
    """
    import tensorflow as tf
    from tfgan_mnist.serving.saved_model import SavedModel

    partial = target.with_name(f".{number}.partial")
    shutil.copytree(source, partial)
    stored = str(source / "variables" / "variables")
    reader = tf.train.load_checkpoint(stored)
    names = [name for name, _ in tf.train.list_variables(stored)]
    tensors = [reader.get_tensor(name) for name in names]
    scaled = [
        0.95 ** (number - 1) * t if t.dtype == np.float32 else t for t in map(np.array, tensors)
    ]
    tf.raw_ops.SaveV2(
        prefix=str(partial / "variables" / "variables"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[
            tf.constant(value, tf.string if value.dtype.kind in "OS" else value.dtype)
            for value in scaled
        ],
    )
    with contextlib.closing(SavedModel(partial)) as saved:
        pngs = saved.run("png", inputs_of(model, SEEDS, 0), ("png_bytes",))["png_bytes"]
    partial.rename(target)
    return np.stack([levels(png) for png in pngs])


def levels(png: bytes) -> np.ndarray:
    """The pixels (H, W) of a PNG file, 0..255."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)), int)


def hot_reload(base_path: Path, model: str, minutes: float, clients: int) -> bool:
    """Publishes a version every PUBLISH_SECONDS under load; whether nothing went wrong.

    Every version has other weights. Each answer must be that of one of them, and no client may get
    an older one's than before.
    """
    counts: Counter = Counter()
    lock = threading.Lock()
    stop = threading.Event()
    expected: dict[int, np.ndarray] = {}  # version -> (SEEDS, H, W)

    def version_of(seed: int, image: np.ndarray) -> int | None:
        # A row in a batch of another size is rounded differently in its last bit, which turns a
        # pixel that is half way between two levels to the other one.
        known = list(expected.items())
        found = [n for n, images in known if np.abs(images[seed] - image).max() <= 1]
        return found[0] if len(found) == 1 else None

    def asked(connection: http.client.HTTPConnection, rng, last: int) -> tuple[str, int]:
        seed = int(rng.integers(SEEDS))
        row = {name: int(array[0]) for name, array in inputs_of(model, 1, seed).items()}
        body = json.dumps({"signature_name": "png", "instances": [row]})
        connection.request("POST", f"/v1/models/{model}:predict", body)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            return f"wrong: status {answer.status} {content[:80]!r}", last
        image = levels(base64.b64decode(json.loads(content)["predictions"][0]["b64"]))
        version = version_of(seed, image)
        ends = time.monotonic() + 60  # a version may answer before its publisher has told of it
        while version is None and time.monotonic() < ends and not stop.is_set():
            time.sleep(0.1)
            version = version_of(seed, image)
        if version is None:
            return "wrong: an image of no version", last
        if version < last:
            return f"wrong: version {version} after {last}", last
        return f"version {version}", version

    def work(port: int, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        rng = np.random.default_rng(number)
        last = 0
        while not stop.is_set():
            try:
                outcome, last = asked(connection, rng, last)
            except Exception as error:  # whatever it is, it is none of the answers
                outcome = f"wrong: {error!r}"
                connection.close()
            with lock:
                counts[outcome] += 1

    context = multiprocessing.get_context("spawn")
    memory = []
    with tempfile.TemporaryDirectory() as temporary, context.Pool(1) as pool:
        folder = Path(temporary) / "models" / model
        folder.mkdir(parents=True)
        source, version = base_path / model / "1", 1
        expected[1] = pool.apply(publish, (source, folder / "1", model, 1))
        with server(folder.parent) as (port, _, pid):
            threads = [threading.Thread(target=work, args=[port, i]) for i in range(clients)]
            for thread in threads:
                thread.start()
            ends = time.monotonic() + 60 * minutes
            while time.monotonic() < ends:
                time.sleep(min(PUBLISH_SECONDS, 60 * minutes / 3))
                version += 1
                target = folder / str(version)
                expected[version] = pool.apply(publish, (source, target, model, version))
                memory.append(memory_mib(pid))
                print(f"version {version}, {memory[-1]:.0f} MiB: {dict(counts)}", flush=True)
            time.sleep(min(PUBLISH_SECONDS, 60 * minutes / 3))
            stop.set()
            for thread in threads:
                thread.join()
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", f"/v1/models/{model}")
            states = json.loads(connection.getresponse().read())["model_version_status"]
    print({entry["version"]: entry["state"] for entry in states})
    print(dict(counts))
    wrong = [name for name in counts if name.startswith("wrong")]
    rare = [n for n in expected if counts[f"version {n}"] < MIN_ANSWERS]
    if rare:
        print(f"expected {MIN_ANSWERS} answers of each version; fewer of {rare}")
    live = [entry["version"] for entry in states if entry["state"] == "AVAILABLE"]
    return is_flat(memory) and not wrong and not rare and live == [str(version)]


def is_flat(memory: list[float]) -> bool:
    """Whether MiB over time did not grow from the first half to the second."""
    first, second = np.array_split(memory, 2)
    growth = float(np.mean(second) - np.mean(first)) if len(second) else 0.0
    print(f"memory: {growth:+.0f} MiB from the first half to the second")
    return growth < NOISE_MIB


# Malformed requests


def withstand(base_path: Path, model: str, number: int) -> bool:
    """Sends malformed requests and valid ones in between; whether all were answered as is right."""
    counts: Counter = Counter()
    memory = []
    with server(base_path, "--rest_api_timeout_in_ms=3000") as (port, _, pid):
        for seed in range(2):  # what is allocated once
            malformed.send_all(port, model, 200, seed)
        for part in range(8):
            counts += malformed.send_all(port, model, max(number // 8, malformed.THREADS), 3 + part)
            time.sleep(1)
            memory.append(memory_mib(pid))
    for name, count in sorted(counts.items()):
        print(f"{count:6} {name}")
    print("memory, MiB: " + " ".join(f"{each:.0f}" for each in memory))
    return is_flat(memory) and not any("WRONG" in name for name in counts)


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
    return 0 if throughput(flags.model_base_path, flags.model, flags.seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
