"""Whether training stays as light and as fast as it began: memory and pace, epoch by epoch.

    python -m benchmarks.endurance

Runs the train command for 10,000 steps of a small `gan` with every callback on: sample grids, log,
an evaluation, the watch, TensorBoard and a checkpoint after each of 20 epochs. Prints the process's
resident memory and the time of a step (median over the epoch) after each epoch. "In use" is what
remains resident when the C library has given back what was freed, of which it can keep tens of MB
for the threads of the data pipeline.

A machine's own pace can change by half within minutes. So a second process does the same step on
one batch in memory for a second after each epoch, and sleeps otherwise: the pace is the ratio of
the two, and what slows the machine slows both.

Exits with 1 when the memory in use has grown by more than 2 % since epoch SETTLED, by when
TensorFlow has traced and allocated what it needs, or the median pace of the last SETTLED epochs is
a tenth slower than that of the first. Some three minutes on two cores.
"""

import ctypes
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.workers import Turns, Worker
from tfgan_mnist import cli, config, train

EPOCHS, STEPS = 20, 500
SETTLED = 5
MOST_GROWTH, MOST_SLOWDOWN = 1.02, 1.1
YARDSTICK, SECONDS = "--worker=yardstick", 1.0
FLAGS = ["--model=gan", "--g_hidden_widths=64,64", "--d_hidden_widths=64", "--tensorboard"]


def resident_bytes() -> int:
    """Of this process."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def work() -> None:
    """The second process: the bare step, whenever it is its turn."""
    turns = Turns()
    cli.start_tensorflow()
    import tensorflow as tf

    from tfgan_mnist import models

    flags = config.explicit_flags(train.parser().parse_args([*FLAGS, f"--steps_per_epoch={STEPS}"]))
    model = models.build(config.resolve(flags), (28, 28, 1), 10)
    batch = tf.zeros([64, 28, 28, 1]), tf.zeros([64], tf.int32)

    @tf.function
    def step():
        return model.train_step(batch)

    step()
    turns.begin({})
    while True:
        step()
        turns.tick(1)


def measure(flags: list[str], yardstick: Worker) -> list[tuple[int, int, float, float]]:
    """After each epoch of a run: bytes resident, bytes in use, seconds of its step and the other's.

    Of its own steps the median.
    """
    cli.start_tensorflow()
    from tfgan_mnist import callbacks

    found = []

    class Watched(callbacks.Checkpoint):
        """The last of what an epoch does, and then a look at the process."""

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
            used, pace = resident_bytes(), statistics.median(self.seconds)
            other = yardstick.turn(SECONDS)
            found.append((resident, used, pace, other["seconds"] / other["images"]))

    original, callbacks.Checkpoint = callbacks.Checkpoint, Watched
    try:
        train.main(train.parser().parse_args(flags))
    finally:
        callbacks.Checkpoint = original
    return found


def main() -> None:
    """Prints the table, and exits with 1 when it is not flat."""
    if sys.argv[1:] == [YARDSTICK]:
        work()
    yardstick = Worker("endurance", YARDSTICK.partition("=")[2])
    try:
        with tempfile.TemporaryDirectory() as folder:
            flags = [
                *FLAGS,
                f"--epochs={EPOCHS}",
                f"--steps_per_epoch={STEPS}",
                "--epochs_per_evaluation=1",
                f"--run_root={folder}/runs",
                f"--export_root={folder}/saved_models",
            ]
            found = measure([*flags, *sys.argv[1:]], yardstick)
    finally:
        yardstick.close()
    settled = found[min(SETTLED, len(found)) - 1][1]
    head = ("epoch", "steps", "resident, MB", "in use, MB", "ratio", "step, ms", "bare, ms", "pace")
    print("\n" + "".join(f"{each:>14}" for each in head))
    for epoch, (resident, used, seconds, bare) in enumerate(found, 1):
        cells = (
            f"{epoch}",
            f"{epoch * STEPS:,}",
            f"{resident / 1e6:,.0f}",
            f"{used / 1e6:,.0f}",
            f"{used / settled:.3f}",
            f"{1e3 * seconds:.2f}",
            f"{1e3 * bare:.2f}",
            f"{seconds / bare:.3f}",
        )
        print("".join(f"{each:>14}" for each in cells))
    first, last = (
        statistics.median(seconds / bare for _, _, seconds, bare in part)
        for part in (found[:SETTLED], found[-SETTLED:])
    )
    print(f"Median pace of the first and the last {SETTLED}: {first:.3f} and {last:.3f}")
    if found[-1][1] > MOST_GROWTH * settled or last > MOST_SLOWDOWN * first:
        sys.exit("It is not flat.")


if __name__ == "__main__":
    main()
