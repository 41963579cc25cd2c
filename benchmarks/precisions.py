"""Milliseconds of the bare step by precision, with XLA and without: for a GPU, or a new CPU.

    python -m benchmarks.precisions --models dcgan cdcgan gan

One batch in memory, training steps without `fit`; deterministic operations, as the train command
has them. Each combination has a process of its own. 100 steps are sent off one after the other and
waited for together; the median of six such times, and the shortest. "plain": with Keras's own
layers in place of ours. Half a minute for each on a GPU, most of it compiling. Lines go to
results/precisions.jsonl.
"""

import argparse
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import time

from benchmarks import records

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
WARM, STEPS, TIMES = 20, 100, 6


def measure(name: str, precision: str, batch_size: int, xla: bool, plain: bool) -> dict:
    """Times one combination in this process."""
    from tfgan_mnist import cli

    cli.start_tensorflow()
    import tensorflow as tf

    from benchmarks.entrants import plain_layers
    from tfgan_mnist import config
    from tfgan_mnist.training import build, runtime

    explicit = {"model": name, "precision": precision, "batch_size": batch_size}
    settings = config.resolve(explicit | {"steps_per_epoch": 1000})
    runtime.configure(settings.seed, precision)
    began = time.perf_counter()
    with plain_layers() if plain else contextlib.nullcontext():
        model = build.build(settings, (28, 28, 1), 10, jit_compile=xla)
    num = settings.images_per_step
    images = tf.random.uniform([num, 28, 28, 1], -1, 1)
    labels = tf.range(num) % 10

    @tf.function(jit_compile=xla)
    def step():
        return model.train_step((images, labels))

    def steps(number: int) -> float:
        start = time.perf_counter()
        for _ in range(number):
            logs = step()
        float(logs["d_loss"])  # waits for the device
        return (time.perf_counter() - start) / number * 1e3

    steps(1)
    first = time.perf_counter() - began
    steps(WARM)
    times = [steps(STEPS) for _ in range(TIMES)]
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return {
        "gpus": [found.get("device_name", "") for found in details],
        "milliseconds": round(statistics.median(times), 3),
        "shortest": round(min(times), 3),
        "images_per_second": round(num * 1e3 / statistics.median(times)),
        "first_step_seconds": round(first, 1),
    }


def main() -> None:
    """Times the combinations one after the other and prints them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=["dcgan"], metavar="NAME")
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        print(json.dumps(measure(**json.loads(flags.worker))))
        return
    rows = []
    combinations = itertools.product(flags.models, flags.precisions, (True, False), (False, True))
    for name, precision, xla, plain in combinations:
        if plain and name != "dcgan":
            continue
        what = {"name": name, "precision": precision, "batch_size": flags.batch_size}
        what |= {"xla": xla, "plain": plain}
        command = [sys.executable, "-m", "benchmarks.precisions", "--worker", json.dumps(what)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        records.append("precisions", what | found)
        cells = [f"{found[key]:.2f}" for key in ("milliseconds", "shortest")]
        cells += [found["images_per_second"], found["first_step_seconds"]]
        rows.append((name, precision, "yes" if xla else "no", "plain" if plain else "ours", *cells))
    heads = ("model", "precision", "XLA", "layers", "ms/step", "shortest", "images/s", "first, s")
    print(records.table(rows, heads))


if __name__ == "__main__":
    main()
