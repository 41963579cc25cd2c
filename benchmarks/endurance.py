"""Whether training stays as light and as fast as it began: memory and pace, epoch by epoch.

    python -m benchmarks.endurance

Runs the train command for 10,000 steps of a small `gan` with every callback on: sample grids, log,
an evaluation, the watch, TensorBoard and a checkpoint after each of 20 epochs. Prints the process's
resident memory and the time of a step (median over the epoch) after each epoch, beside those of
epoch SETTLED, by when TensorFlow has traced and allocated what it needs. "In use" is what remains
resident when the C library has given back what was freed, of which it can keep tens of MB for the
threads of the data pipeline. Exits with 1 when that has grown by more than 2 % since, or a step is
a quarter slower in the fastest of the last SETTLED epochs than in that of the first. Some two
minutes on two cores.
"""

import ctypes
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tfgan_mnist import cli, train

EPOCHS, STEPS = 20, 500
SETTLED = 5
MOST_GROWTH, MOST_SLOWDOWN = 1.02, 1.25
FLAGS = ["--model=gan", "--g_hidden_widths=64,64", "--d_hidden_widths=64", "--tensorboard"]


def resident_bytes() -> int:
    """Of this process."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def measure(flags: list[str]) -> list[tuple[int, int, float]]:
    """Bytes resident, bytes in use and the median step's seconds, after each epoch of a run."""
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
            found.append((resident, resident_bytes(), statistics.median(self.seconds)))

    original, callbacks.Checkpoint = callbacks.Checkpoint, Watched
    try:
        train.main(train.parser().parse_args(flags))
    finally:
        callbacks.Checkpoint = original
    return found


def main() -> None:
    """Prints the table, and exits with 1 when it is not flat."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [
            *FLAGS,
            f"--epochs={EPOCHS}",
            f"--steps_per_epoch={STEPS}",
            "--epochs_per_evaluation=1",
            f"--run_root={folder}/runs",
            f"--export_root={folder}/saved_models",
        ]
        found = measure([*flags, *sys.argv[1:]])
    _, settled, pace = found[min(SETTLED, len(found)) - 1]
    head = ("epoch", "steps", "resident, MB", "in use, MB", "ratio", "step, ms", "ratio")
    print("\n" + "".join(f"{each:>14}" for each in head))
    for epoch, (resident, used, seconds) in enumerate(found, 1):
        cells = (
            f"{epoch}",
            f"{epoch * STEPS:,}",
            f"{resident / 1e6:,.0f}",
            f"{used / 1e6:,.0f}",
            f"{used / settled:.3f}",
            f"{1e3 * seconds:.2f}",
            f"{seconds / pace:.3f}",
        )
        print("".join(f"{each:>14}" for each in cells))
    first, last = (min(each[2] for each in part) for part in (found[:SETTLED], found[-SETTLED:]))
    print(f"Fastest of the first and the last {SETTLED}: {1e3 * first:.2f} and {1e3 * last:.2f} ms")
    if found[-1][1] > MOST_GROWTH * settled or last > MOST_SLOWDOWN * first:
        sys.exit("It is not flat.")


if __name__ == "__main__":
    main()
