"""What training on several workers costs, and what it brings: counted, measured and modelled.

    python -m benchmarks.scaling --write=docs/scaling.md

Counted: the all-reductions of a training step of each model's default recipe, from the step itself
as it is traced for two replicas.

Measured: seconds per step with 1, 2 and 4 processes on this machine, each with one core, that share
one global batch of 64 images or bring a batch each. Processes beyond the number of cores share
these, and say nothing about scaling.

Modelled: t(R) = compute + calls * latency * 2 log2(R) + 2 (R - 1) / R * bytes / bandwidth: what
NCCL's trees take, with nothing overlapped with computing, and the tensors of a call sent as one
message, as TensorFlow packs them. The efficiency is compute / t(R) with a batch per replica that
stays the same.
"""

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tfgan_mnist import cli

MODELS = ("gan", "dcgan", "cdcgan")
PROCESSES = (1, 2, 4)
BATCH = 64  # images
REPLICAS = (8, 16, 64, 256, 1024)
STEPS, WARM_UP = 30, 5
BEGIN, END = "<!-- benchmarks.scaling -->", "<!-- end -->"
# Name, bytes per second of a link, seconds for a message to the next.
NETWORKS = (
    ("GPUs of one machine, NVLink, 300 GB/s, 5 us", 300e9, 5e-6),
    ("hosts, 100 Gbit/s with RDMA, 10 us", 12.5e9, 10e-6),
    ("hosts, 10 Gbit/s Ethernet, 50 us", 1.25e9, 50e-6),
)
COMPUTE_SECONDS = 0.005  # of a step on one replica; scale by your own


def count() -> None:
    """Prints, as JSON, the all-reductions of each model's step: (calls, bytes)."""
    cli.start_tensorflow()
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    from tfgan_mnist.config import resolve
    from tfgan_mnist.training import build, distribution

    placement = distribution.start("mirrored", 0)
    context_type = type(tf.distribute.get_replica_context()).__mro__[1]
    original = context_type.all_reduce
    seen: list[int] = []  # bytes of each call

    def counted(self, reduce_op, value, options=None):
        # Of an embedding's gradient, the rows that a replica looked up.
        tensors = tf.nest.flatten(value, expand_composites=True)
        tensors = [tf.convert_to_tensor(each) for each in tensors]
        seen.append(sum(each.shape.num_elements() * each.dtype.size for each in tensors))
        return original(self, reduce_op, value, options)

    context_type.all_reduce = counted
    result = {}
    for name in MODELS:
        for synchronised in (True, False):
            settings = resolve(
                {"model": name, "steps_per_epoch": 1, "sync_batch_norm": synchronised}
            )
            with placement.strategy.scope():
                model = build.build(settings, (28, 28, 1), 10)
            seen.clear()
            images = tf.zeros([settings.batch_size // 2, 28, 28, 1])
            labels = tf.zeros([settings.batch_size // 2], tf.int32)

            @tf.function
            def step(images, labels, model=model):
                return placement.strategy.run(model.train_step, args=((images, labels),))

            step.get_concrete_function(images, labels)
            # Both replicas are traced and counted.
            result[f"{name}/{synchronised}"] = (len(seen) // 2, sum(seen) // 2)
    print(json.dumps(result))


def work(model_name: str, batch_size: int) -> None:
    """One process of a measurement: prints the median seconds of a step."""
    cli.start_tensorflow()
    import functools

    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    from tfgan_mnist import data
    from tfgan_mnist.config import resolve
    from tfgan_mnist.data import order
    from tfgan_mnist.training import build, distribution

    placement = distribution.start("auto", 120)
    settings = resolve({"model": model_name, "steps_per_epoch": 100})
    split = data.Split(np.zeros((4096, 28, 28, 1), np.uint8), np.zeros(4096, np.int32))
    with placement.strategy.scope():
        model = build.build(settings, (28, 28, 1), 10)
    pipeline = functools.partial(order.batches, split, batch_size, 0)
    batches = iter(distribution.share(placement, pipeline))

    @tf.function
    def step(batch):
        return placement.strategy.run(model.train_step, args=(batch,))

    seconds = []
    with distribution.together(placement):
        for _ in range(WARM_UP + STEPS):
            batch = next(batches)
            began = time.perf_counter()
            tf.nest.map_structure(lambda each: each.numpy(), step(batch))
            seconds.append(time.perf_counter() - began)
    print(json.dumps(statistics.median(seconds[WARM_UP:])))


def call(*arguments: str, environment: dict | None = None) -> subprocess.Popen:
    """This program again, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scaling", *arguments],
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        text=True,
    )


def seconds_per_step(model: str, batch_size: int, processes: int) -> float:
    """Measured with so many workers on this machine; `batch_size` is the global one."""
    ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(processes)]
    addresses = [f"127.0.0.1:{port.getsockname()[1]}" for port in ports]
    for port in ports:
        port.close()
    workers = [
        call(
            f"--work={model}",
            f"--batch_size={batch_size}",
            environment={
                "TF_CONFIG": json.dumps(
                    {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
                )
            },
        )
        for index in range(processes)
    ]
    outputs = [worker.communicate()[0] for worker in workers]
    seconds = max(json.loads(output.splitlines()[-1]) for output in outputs)
    print(f"{model}, batch {batch_size}, {processes} processes: {seconds:.4f} s", file=sys.stderr)
    return seconds


def report(measure: bool) -> str:
    """The tables, as Markdown."""
    counts = json.loads(call("--count").communicate()[0].splitlines()[-1])
    lines = [
        "| recipe | all-reductions per step | KB per step | without synchronised batch norm |",
        "|---|---|---|---|",
    ]
    for model in MODELS:
        (number, size), (plain_number, plain_size) = (
            counts[f"{model}/{synchronised}"] for synchronised in (True, False)
        )
        lines.append(
            f"| `{model}` | {number} | {size / 1e3:,.0f} | {plain_number}; "
            f"{plain_size / 1e3:,.0f} KB |"
        )
    if measure:
        cores = len(os.sched_getaffinity(0))
        lines += [
            "",
            f"Seconds per step on this machine ({cores} cores), one core per process, loopback:",
            "",
            f"| recipe | processes | global batch {BATCH} | speed-up "
            f"| batch {BATCH} each | efficiency |",
            "|---|---|---|---|---|---|",
        ]
        for model in MODELS:
            for number in PROCESSES:
                strong = seconds_per_step(model, BATCH, number)
                weak = seconds_per_step(model, BATCH * number, number) if number > 1 else strong
                if number == 1:
                    alone = strong
                crowded = "" if number <= cores else " (shared cores)"
                lines.append(
                    f"| `{model}` | {number}{crowded} | {strong:.4f} | {alone / strong:.2f} | "
                    f"{weak:.4f} | {alone / weak:.0%} |"
                )
    lines += [
        "",
        f"Modelled efficiency, computing {COMPUTE_SECONDS * 1e3:g} ms per step and replica, "
        "nothing overlapped; in brackets without synchronised batch norm:",
        "",
        "| network | recipe | " + " | ".join(f"{number} replicas" for number in REPLICAS) + " |",
        "|---" * (len(REPLICAS) + 2) + "|",
    ]
    for network, bandwidth, latency in NETWORKS:
        for model in MODELS:
            shares = []
            for replicas in REPLICAS:
                both = []
                for synchronised in (True, False):
                    calls, size = counts[f"{model}/{synchronised}"]
                    talk = calls * latency * 2 * math.log2(replicas)
                    talk += 2 * (replicas - 1) / replicas * size / bandwidth
                    both.append(COMPUTE_SECONDS / (COMPUTE_SECONDS + talk))
                shares.append(f"{both[0]:.0%} ({both[1]:.0%})")
            lines.append(f"| {network} | `{model}` | " + " | ".join(shares) + " |")
    return "\n".join(lines)


def main() -> None:
    """Prints the tables, or writes them between the marks of a page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", metavar="FILE", help="page to put the tables into")
    parser.add_argument("--no-measure", dest="measure", action="store_false")
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--batch_size", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.count:
        count()
    elif arguments.work:
        work(arguments.work, arguments.batch_size)
    else:
        tables = report(arguments.measure)
        print(tables)
        if arguments.write:
            page = Path(arguments.write)
            before, _, rest = page.read_text().partition(BEGIN)
            _, _, after = rest.partition(END)
            page.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}")


if __name__ == "__main__":
    main()
