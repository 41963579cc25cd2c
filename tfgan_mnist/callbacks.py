"""What happens during `fit`: sample grids, the log, checkpoints, stopping, curves."""

import contextlib
import csv
import importlib.util
import io
import json
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfgan_mnist import checkpoints, data, export, files, images, runs
from tfgan_mnist.errors import Stopped, UserError
from tfgan_mnist.models import GAN
from tfgan_mnist.models.gan import SAMPLE_BATCH

GRID_COLUMNS = 10
GRID_ROWS = 10  # unconditional, or when there are too many classes for a row each
MOST_CLASS_ROWS = 30
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
        grid = images.enlarge(sample_grid(self.model), GRID_SCALE)
        images.write_png(self.folder / f"epoch_{epoch:03d}.png", grid)
        if self.writer:
            with self.writer.as_default():
                tf.summary.image("samples", grid[None], step=epoch)


def sample_grid(model: GAN) -> np.ndarray:
    """uint8 (H, W, C): samples of fixed latents, for conditional models a row per class."""
    if model.num_classes is None:
        latents, labels = model.latents(GRID_ROWS * GRID_COLUMNS), None
    else:
        few = model.num_classes <= MOST_CLASS_ROWS
        rows = model.num_classes if few else GRID_ROWS
        shown = np.linspace(0, model.num_classes - 1, rows).round().astype(np.int32)
        labels = np.repeat(shown, GRID_COLUMNS)
        latents = np.tile(model.latents(GRID_COLUMNS), (rows, 1))
    return images.grid(images.to_uint8(model.sample(latents, labels)), columns=GRID_COLUMNS)


class Log(keras.callbacks.Callback):
    """Keeps `log.csv`: a row per epoch with seconds, images per second and what the step reports.

    The file is replaced as a whole, so that it never ends in half a row. On a resumed run the rows
    after the checkpoint are dropped, since their epochs are trained again.
    """

    def __init__(self, run: Path, first_epoch: int, images_per_step: int):
        super().__init__()
        self.path = run / runs.LOG
        self.images_per_step = images_per_step
        self.rows = [row for row in read_log(self.path) if row["epoch"] <= first_epoch]
        self.seconds = self.rows[-1]["seconds"] if self.rows else 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()
        self.step_began = self.model.steps_done

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.perf_counter() - self.began
        self.seconds += seconds
        seen = (self.model.steps_done - self.step_began) * self.images_per_step
        row = {"epoch": epoch + 1, "seconds": self.seconds, "images_per_second": seen / seconds}
        self.rows.append(row | {key: float(value) for key, value in (logs or {}).items()})
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.rows[-1]), extrasaction="ignore")
        writer.writeheader()
        writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in self.rows)
        with files.publish(self.path) as partial:
            partial.write_text(text.getvalue())


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a `log.csv`; none when there is no file yet."""
    if not path.exists():
        return []
    with open(path, newline="") as stream:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]


class Checkpoint(keras.callbacks.Callback):
    """Saves the state of training after every epoch. Put it after all that an epoch writes."""

    def __init__(self, run: Path):
        super().__init__()
        self.run = run

    def on_epoch_end(self, epoch, logs=None):
        checkpoints.save(self.run, self.model)


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


class StopOnNonFinite(keras.callbacks.Callback):
    """Stops when a loss is NaN or infinite. Keras's own TerminateOnNaN watches only "loss"."""

    def on_train_batch_end(self, batch, logs=None):
        for key, value in (logs or {}).items():
            if not math.isfinite(value):
                raise UserError(
                    f"{key} became {value} at step {self.model.steps_done:,}. Start again with "
                    "lower learning rates, another loss, or --precision=float32."
                )


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


class TestScores(keras.callbacks.Callback):
    """At the end of training: `metrics.json` with what `evaluate` says of the test images.

    For a discriminator with a class head that includes its accuracy on them. All workers take part:
    Keras divides the images among them.
    """

    def __init__(self, run: Path, test: data.Split):
        super().__init__()
        self.run = run
        self.test = test

    def on_train_end(self, logs=None):
        batches = tf.data.Dataset.from_tensor_slices(tuple(self.test)).batch(SAMPLE_BATCH)
        batches = batches.map(lambda pixels, labels: (images.to_float(pixels), labels))
        scores = self.model.evaluate(batches, verbose=0, return_dict=True)
        report = {"test_images": len(self.test.labels), "test": scores}
        with files.publish(self.run / runs.METRICS) as partial:
            partial.write_text(json.dumps(report, indent=2) + "\n")


class Pictures(keras.callbacks.Callback):
    """At the end of training: `samples.gif` of the grids over time and `curves.png` of the log."""

    def __init__(self, run: Path):
        super().__init__()
        self.run = run

    def on_train_end(self, logs=None):
        # By number: epoch_1000 comes after epoch_999.
        found = (self.run / runs.SAMPLES).glob("epoch_*.png")
        paths = sorted(found, key=lambda path: (len(path.name), path.name))
        frames = [images.read(path)[0] for path in paths]
        images.write_gif(self.run / runs.GIF, frames, GIF_MILLISECONDS)
        draw_curves(read_log(self.run / runs.LOG), self.run / runs.CURVES)


def draw_curves(rows: list[dict[str, float]], path: Path) -> None:
    """Draws losses above and D's accuracies below, over epochs, as a PNG."""
    # Imported here: it takes half a second and is wanted once. `Figure` needs no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    epochs = [row["epoch"] for row in rows]
    for panel, ending in zip(panels, ("loss", "accuracy")):
        for key in (key for key in rows[-1] if key.endswith(ending)):
            panel.plot(epochs, [row.get(key, math.nan) for row in rows], marker=".", label=key)
        panel.set_ylabel(ending)
        panel.grid(alpha=0.3)
        panel.legend()
    panels[1].set_ylim(0, 1)
    panels[1].set_xlabel("epoch")
    with files.publish(path) as partial:
        figure.savefig(partial, dpi=100)


class ExportSavedModel(keras.callbacks.Callback):
    """At the end of training publishes the generator as the next version under `base_path`.

    Args:
      base_path: `saved_models/dcgan`, say.
      run: folder of the run, which the model card then describes.
    """

    def __init__(self, base_path: str | Path, run: Path | None = None):
        super().__init__()
        self.base_path = Path(base_path)
        self.run = run
        self.exported: Path | None = None

    def on_train_end(self, logs=None):
        card = export.describe_run(self.run) if self.run else None
        self.exported = export.export(self.model, self.base_path, card)


def expect_tensorboard() -> None:
    """Raises UserError when TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError("tensorboard: expected the package; pip install tensorboard")


def tensorboard(run: Path) -> keras.callbacks.Callback:
    """Keras's TensorBoard callback, writing under the run's folder."""
    return keras.callbacks.TensorBoard(str(run / "tensorboard"), write_graph=False)
