"""One line that shows how training goes, for a terminal of 60 columns or more."""

import shutil
import sys
import time

import keras

SECONDS = 0.2  # between two versions of the line


class Progress(keras.callbacks.Callback):
    """Prints a line per epoch; on a terminal the line shows each moment of the epoch.

    Put it after the callbacks that add to the epoch's logs.
    """

    def __init__(self, epochs: int):
        super().__init__()
        self.epochs = epochs
        self.moving = sys.stdout.isatty()
        self.open = False  # whether the line has no end yet

    def on_epoch_begin(self, epoch, logs=None):
        self.heading = f"epoch {epoch + 1}/{self.epochs}"
        self.began = self.shown = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        now = time.monotonic()
        if not self.moving or now - self.shown < SECONDS:
            return
        self.shown = now
        steps = self.params["steps"]
        done = min(batch + 1, steps)  # the last execution may be shorter than `batch` says
        left = (now - self.began) / done * (steps - done)
        self.show(f"step {done:,}/{steps:,}  {_losses(logs)}  {left:,.0f} s left", end="")

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.monotonic() - self.began
        fid = f"  FID {logs['fid']:.3g}" if logs and "fid" in logs else ""
        self.show(f"{seconds:,.0f} s  {_losses(logs)}{fid}", end="\n")

    def show(self, text: str, end: str) -> None:
        """Prints the line, over its former version on a terminal."""
        line = f"{self.heading}  {text}"
        if self.moving:
            width = shutil.get_terminal_size().columns - 1
            line = f"\r{line[:width]:{width}}"
        print(line, end=end, flush=True)
        self.open = not end

    def end_line(self) -> None:
        """Ends the line of an epoch that was stopped, for what is printed next."""
        if self.open:
            print(flush=True)
            self.open = False


def _losses(logs) -> str:
    return f"d_loss {logs['d_loss']:.3g}  g_loss {logs['g_loss']:.3g}" if logs else ""
