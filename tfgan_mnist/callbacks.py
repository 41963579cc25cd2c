"""What happens during `fit`: sample grids, the log, checkpoints, stopping, curves."""

import contextlib
import importlib.util
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfgan_mnist import checkpoints, curves, distribution, export, runs
from tfgan_mnist.data import pictures, pixels
from tfgan_mnist.errors import Stopped, UserError
from tfgan_mnist.models.gan import GAN

GRID_COLUMNS = 10
GRID_ROWS = 10  # unconditional, or when there are too many classes for a row each
MAX_CLASS_ROWS = 30
GRID_SCALE = 2  # a digit of 28 pixels is 56 on the screen
GIF_MILLISECONDS = 400


class SampleGrid(keras.callbacks.Callback):
    """Writes `samples/epoch_<n>.png` before training and after every epoch, from the same latents.

    Unconditional models: 10 x 10 samples. Conditional ones: a row per class, the same latents in
    every row, so that style (columns) and class (rows) can be told apart.
    """

    def __init__(self, run: Path, tensorboard: bool = False):
        super().__init__()
        self.folder = run / runs.SAMPLES
        self.writer = None
        if tensorboard:
            self.writer = tf.summary.create_file_writer(str(run / "tensorboard"))

    def on_train_begin(self, logs=None):
        if self.model.steps_done == 0:
            self.write(0)

    def on_epoch_end(self, epoch, logs=None):
        self.write(epoch + 1)

    def write(self, epoch: int) -> None:
        grid = pixels.enlarge(sample_grid(self.model), GRID_SCALE)
        pictures.write_png(self.folder / f"epoch_{epoch:03d}.png", grid)
        if self.writer:
            with self.writer.as_default():
                tf.summary.image("samples", grid[None], step=epoch)


def sample_grid(model: GAN) -> np.ndarray:
    """uint8 (H, W, C): samples of fixed latents, for conditional models a row per class."""
    if model.num_classes is None:
        latents, labels = model.latents(GRID_ROWS * GRID_COLUMNS), None
    else:
        few = model.num_classes <= MAX_CLASS_ROWS
        rows = model.num_classes if few else GRID_ROWS
        shown = np.linspace(0, model.num_classes - 1, rows).round().astype(np.int32)
        labels = np.repeat(shown, GRID_COLUMNS)
        latents = np.tile(model.latents(GRID_COLUMNS), (rows, 1))
    return pixels.grid(pixels.to_uint8(model.sample(latents, labels)), columns=GRID_COLUMNS)


class Log(keras.callbacks.Callback):
    """Keeps `log.csv`: a row per epoch with seconds, images per second and what the step reports.

    Seconds are those of the steps: sample grids and evaluations are not in them.
    """

    def __init__(self, run: Path, images_per_step: int):
        super().__init__()
        self.path = run / runs.LOG
        self.images_per_step = images_per_step
        self.rows = runs.read_rows(self.path)
        self.seconds = self.rows[-1]["seconds"] if self.rows else 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.began = self.ended = time.perf_counter()
        self.step_began = self.model.steps_done

    def on_train_batch_end(self, batch, logs=None):
        self.ended = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        seconds = self.ended - self.began
        self.seconds += seconds
        seen = (self.model.steps_done - self.step_began) * self.images_per_step
        row = {"epoch": epoch + 1, "seconds": self.seconds, "images_per_second": seen / seconds}
        self.rows.append(row | {key: float(value) for key, value in (logs or {}).items()})
        runs.write_rows(self.path, self.rows)


class Checkpoint(keras.callbacks.Callback):
    """Saves the state of training after every epoch. Put it after all that an epoch writes."""

    def __init__(self, run: Path):
        super().__init__()
        self.run = run

    def on_epoch_end(self, epoch, logs=None):
        checkpoints.save(self.run, self.model)


class RestoreBest(keras.callbacks.Callback):
    """At the end of training puts the checkpoint of the best evaluation back into the model."""

    def __init__(self, run: Path):
        super().__init__()
        self.run = run

    def on_train_end(self, logs=None):
        best = runs.best_step(self.run)
        if best not in (None, self.model.steps_done):
            checkpoints.restore(self.run, self.model, best)


class KeepMetrics(keras.callbacks.Callback):
    """Carries running means over a stop in mid-epoch, which `fit` resets when it begins an epoch.

    With it the resumed epoch reports the means over all its steps.
    """

    def __init__(self, model: GAN):
        super().__init__()
        self.values: list | None = [v.numpy() for v in model.training_state()["metrics"]]

    def on_epoch_begin(self, epoch, logs=None):
        if self.values is not None:
            for variable, value in zip(self.model.training_state()["metrics"], self.values):
                variable.assign(value)
            self.values = None


class StopOnSignal(keras.callbacks.Callback):
    """On SIGTERM or Ctrl-C finishes the step, saves a checkpoint and raises `Stopped`.

    A second signal acts as it would without this callback. Put it after `Checkpoint`.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, run: Path):
        super().__init__()
        self.run = run
        self.received: int | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are caught inside this context, which is to surround `fit`."""
        former = {number: signal.getsignal(number) for number in self.SIGNALS}

        def receive(number, frame):
            self.received = number
            for each, handler in former.items():
                signal.signal(each, handler)

        for number in self.SIGNALS:
            signal.signal(number, receive)
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def on_train_batch_end(self, batch, logs=None):
        # The last step of an epoch is left to `on_epoch_end`, after its log, grid and checkpoint.
        if self.received is not None and batch + 1 < self.params["steps"]:
            checkpoints.save(self.run, self.model)
            raise self.stopped(self.received)

    def on_epoch_end(self, epoch, logs=None):
        if self.received is not None:
            raise self.stopped(self.received)

    def stopped(self, number: int) -> Stopped:
        return Stopped(
            number,
            f"stopped after step {self.model.steps_done:,}, nothing is lost. Go on with\n"
            f"  python -m tfgan_mnist.train --resume={self.run}",
        )


class CopyFromChief(keras.callbacks.Callback):
    """At the end of training gives the chief's state to all workers, which need this callback too.

    Put it after `RestoreBest`, which is the chief's, and before what all workers take part in.
    """

    def __init__(self, placement: distribution.DistributionContext):
        super().__init__()
        self.placement = placement

    def on_train_end(self, logs=None):
        distribution.copy_from_chief(self.placement, self.model.training_state())


class Pictures(keras.callbacks.Callback):
    """At the end of training: `samples.gif` of the grids over time, `curves.png` of log.csv."""

    def __init__(self, run: Path):
        super().__init__()
        self.run = run

    def on_train_end(self, logs=None):
        # By number: epoch_1000 comes after epoch_999.
        found = (self.run / runs.SAMPLES).glob("epoch_*.png")
        paths = sorted(found, key=lambda path: (len(path.name), path.name))
        frames = [pictures.read(path)[0] for path in paths]
        pictures.write_gif(self.run / runs.GIF, frames, GIF_MILLISECONDS)
        curves.draw(*runs.read_history(self.run), self.run / runs.CURVES)


class ExportSavedModel(keras.callbacks.Callback):
    """At the end of training publishes the generator as the next version under `base_path`.

    Args:
      base_path: `saved_models/dcgan`, say.
      run: folder of the run, which the model card then describes.
      unless_there: a version that was made of the same will do.
    """

    def __init__(self, base_path: str | Path, run: Path | None = None, unless_there: bool = False):
        super().__init__()
        self.base_path = Path(base_path)
        self.run = run
        self.unless_there = unless_there
        self.exported: Path | None = None

    def on_train_end(self, logs=None):
        card = export.describe_run(self.run) if self.run else None
        self.exported = export.export(self.model, self.base_path, card, self.unless_there)


def expect_tensorboard() -> None:
    """Raises UserError when TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError("tensorboard: expected the package; pip install tensorboard")


class TensorBoard(keras.callbacks.TensorBoard):
    """Keras's, writing under the run's folder, without what it does in vain after each step.

    Each value of each step is handed to a writer that drops it, as only epochs are written. That
    leaves 5 kB a step behind (`python -m benchmarks.endurance`).
    """

    def __init__(self, run: Path):
        super().__init__(str(run / "tensorboard"), write_graph=False)

    def on_train_batch_end(self, batch, logs=None):
        pass
