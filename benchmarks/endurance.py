"""Whether training stays as light and as fast as it began: memory and pace, epoch by epoch.

    python -m benchmarks.endurance [--epochs=40, or any other flag of the train command]

Runs the train command for 10,000 steps of a small `gan` with every callback on: sample grids, log,
an evaluation, the watch, TensorBoard and a checkpoint after each of 20 epochs. Prints the process's
resident memory and the time of a step (median over the epoch) after each epoch. "In use" is what
remains resident when the C library has given back what was freed, of which it can keep tens of MB
for the threads of the data pipeline.

A machine's own pace can change by half within minutes. So a second process does the same step, on
one batch in memory and with learning rates of 0, for a second between epochs, and sleeps otherwise.
The pace of an epoch is its step's time over the mean of the other's before and after it: what
slows the machine slows both.

Exits with 1 when the memory in use has grown by more than 2 % since epoch SETTLED, by when
TensorFlow has traced and allocated what it needs, or the median pace of the last third of the
epochs is a tenth slower than that of the first. Some three minutes on two cores.
"""

import ctypes
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.workers import Turns, Worker
from tfgan_mnist import cli, config, train
from tfgan_mnist.errors import UserError

SETTLED = 5
MAX_GROWTH, MAX_SLOWDOWN = 1.02, 1.1
SECONDS = 1.0  # of the second process, between two epochs
FLAGS = [
    "--model=gan",
    "--g_hidden_widths=64,64",
    "--d_hidden_widths=64",
    "--epochs=20",
    "--steps_per_epoch=500",
    "--epochs_per_evaluation=1",
    "--tensorboard",
]


class Epoch(NamedTuple):
    """What is seen after an epoch."""

    resident: int  # bytes
    in_use: int  # bytes
    seconds: float  # of a step, median
    bare: float  # seconds of the other process's step

    @property
    def pace(self) -> float:
        return self.seconds / self.bare


def resident_bytes() -> int:
    """Of this process."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def resolved(flags: list[str]) -> config.Config:
    """What the train command makes of these flags.

    Raises:
      UserError: too few epochs to compare.
    """
    settings = config.resolve(config.explicit_flags(train.parser().parse_args(flags)))
    if settings.epochs < 2 * SETTLED:
        raise UserError(f"--epochs: expected at least {2 * SETTLED}; received {settings.epochs}")
    return settings


def work(flags: list[str]) -> None:
    """The second process: the bare step, whenever it is its turn."""
    turns = Turns()
    cli.start_tensorflow()
    import tensorflow as tf

    from tfgan_mnist.training import build, runtime

    # Without learning the same work for ever: no weight grows and no unit dies.
    still = {"g_learning_rate": 0.0, "d_learning_rate": 0.0}
    settings = dataclasses.replace(resolved(flags), **still)
    runtime.configure(settings.seed, settings.precision)
    model = build.build(settings, (28, 28, 1), 10, jit_compile=runtime.use_xla())
    images = tf.random.uniform([settings.images_per_step, 28, 28, 1], -1, 1)
    labels = tf.zeros([settings.images_per_step], tf.int32)

    @tf.function(jit_compile=model.jit_compile)
    def step():
        return model.train_step((images, labels))

    step()
    turns.begin({})
    while True:
        began = time.perf_counter()
        step()
        turns.note("step", time.perf_counter() - began)
        turns.tick(settings.images_per_step)


def measure(flags: list[str], other: Worker) -> list[Epoch]:
    """Runs the train command, and `other` between its epochs."""
    cli.start_tensorflow()
    from tfgan_mnist.training import callbacks

    found = []

    def bare_step() -> float:
        return statistics.median(other.turn(SECONDS)["notes"]["step"])

    class Watched(callbacks.Checkpoint):
        """The last of what an epoch does, and then a look at the process."""

        def on_train_begin(self, logs=None):
            super().on_train_begin(logs)
            self.before = bare_step()

        def on_epoch_begin(self, epoch, logs=None):
            self.seconds = []

        def on_train_batch_begin(self, batch, logs=None):
            self.began = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            self.seconds.append(time.perf_counter() - self.began)

        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            resident = resident_bytes()
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            in_use, seconds = resident_bytes(), statistics.median(self.seconds)
            after = bare_step()
            found.append(Epoch(resident, in_use, seconds, (self.before + after) / 2))
            self.before = after

    original, callbacks.Checkpoint = callbacks.Checkpoint, Watched
    try:
        train.main(train.parser().parse_args(flags))
    finally:
        callbacks.Checkpoint = original
    return found


def main() -> None:
    """Prints the table, and exits with 1 when it is not flat."""
    if sys.argv[1:2] == ["--worker=bare"]:
        work(sys.argv[2:])
    try:
        settings = resolved([*FLAGS, *sys.argv[1:]])
    except UserError as error:
        sys.exit(f"error: {error}")
    with tempfile.TemporaryDirectory() as folder:
        places = [f"--run_root={folder}/runs", f"--export_root={folder}/saved_models"]
        flags = [*FLAGS, *places, *sys.argv[1:]]
        other = Worker("endurance", "bare", *flags)
        try:
            found = measure(flags, other)
        finally:
            other.close()
    settled = found[SETTLED - 1].in_use
    head = ("epoch", "steps", "resident, MB", "in use, MB", "ratio", "step, ms", "bare, ms", "pace")
    print("\n" + "".join(f"{each:>14}" for each in head))
    for number, epoch in enumerate(found, 1):
        cells = (
            f"{number}",
            f"{number * settings.steps_per_epoch:,}",
            f"{epoch.resident / 1e6:,.0f}",
            f"{epoch.in_use / 1e6:,.0f}",
            f"{epoch.in_use / settled:.3f}",
            f"{1e3 * epoch.seconds:.2f}",
            f"{1e3 * epoch.bare:.2f}",
            f"{epoch.pace:.3f}",
        )
        print("".join(f"{each:>14}" for each in cells))
    third = len(found) // 3
    parts = found[:third], found[-third:]
    first, last = (statistics.median(epoch.pace for epoch in part) for part in parts)
    print(f"Median pace of the first and the last {third} epochs: {first:.3f} and {last:.3f}")
    if found[-1].in_use > MAX_GROWTH * settled or last > MAX_SLOWDOWN * first:
        sys.exit("It is not flat.")


if __name__ == "__main__":
    main()
