"""Callbacks of `fit` that keep a run's files, stop it on a signal and detect failures."""

import contextlib
import math
import shlex
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from tfgan_mnist import files, runs
from tfgan_mnist.data import pictures, pixels
from tfgan_mnist.errors import Stopped, UserError
from tfgan_mnist.evaluation import metrics
from tfgan_mnist.exports import saved_model
from tfgan_mnist.models.gan import GAN
from tfgan_mnist.training import checkpoints, diagnostics
from tfgan_mnist.training.evaluation_callback import RunEvaluation

MAX_CLASS_ROWS = 30
MAX_ROLLBACKS = 3  # of one command


class Callbacks(keras.callbacks.CallbackList):
    """Keras's, but the logs after a step are tensors: reading them makes a GPU wait."""

    def on_train_batch_end(self, batch, logs=None):
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs)


class SampleGrid(keras.callbacks.Callback):
    """Writes `samples/epoch_<n>.png` before training and after every epoch, from fixed latents.

    Args:
      folder: a run's, or any other, in which `samples` is made.
      grid: rows and columns.
      tensorboard: also write the grids for TensorBoard.
      class_names: by label, written beside the rows of classes; empty: none.
    """

    def __init__(
        self,
        folder: str | Path,
        grid: str = "10x10",
        tensorboard: bool = False,
        class_names: Sequence[str] = (),
    ):
        super().__init__()
        self.class_names = class_names
        self.rows, self.columns = map(int, grid.split("x"))
        self.folder = Path(folder) / runs.SAMPLES
        self.writer = None
        if tensorboard:
            self.writer = tf.summary.create_file_writer(str(Path(folder) / "tensorboard"))

    def on_train_begin(self, logs=None):
        if self.model.steps_done == 0:
            self.write(0)

    def on_epoch_end(self, epoch, logs=None):
        self.write(epoch + 1)

    def write(self, epoch: int) -> None:
        grid = pixels.enlarge(sample_grid(self.model, self.rows, self.columns))
        if self.class_names and self.model.num_classes:
            labels = classes_of_rows(self.model.num_classes, self.rows)
            grid = pictures.name_rows(grid, [self.class_names[label] for label in labels])
        pictures.write_png(self.folder / f"epoch_{epoch:03d}.png", grid)
        if self.writer:
            with self.writer.as_default():
                tf.summary.image("samples", grid[None], step=epoch)


def classes_of_rows(num_classes: int, rows: int) -> np.ndarray:
    """Labels int32 of a grid's rows: all classes, or `rows` of them where there are too many."""
    rows = num_classes if num_classes <= MAX_CLASS_ROWS else rows
    return np.linspace(0, num_classes - 1, rows).round().astype(np.int32)


def sample_grid(model: GAN, rows: int = 10, columns: int = 10) -> np.ndarray:
    """uint8 (H, W, C): a grid of samples; of a conditional model rows of classes.

    The rows of a conditional model have the same latents, which shows style by column.
    """
    if model.num_classes is None:
        latents, labels = model.latents(rows * columns), None
    else:
        shown = classes_of_rows(model.num_classes, rows)
        labels = np.repeat(shown, columns)
        latents = np.tile(model.latents(columns), (len(shown), 1))
    return pixels.grid(pixels.to_uint8(model.sample(latents, labels)), columns)


class Log(keras.callbacks.Callback):
    """Writes `log.csv`: a row per epoch with seconds, images per second and the epoch's logs.

    Put it first: seconds are those of the steps, without sample grids and evaluations. Adds
    `skipped` to the logs: the share of the epoch's updates of both networks that the optimizers
    skipped.
    """

    def __init__(self, run: Path, images_per_step: int):
        super().__init__()
        self.path = run / runs.LOG
        self.images_per_step = images_per_step
        self.rows = runs.read_rows(self.path)
        self.seconds = self.rows[-1]["seconds"] if self.rows else 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()
        self.first_step = self.model.steps_done
        self.skipped_before = self.model.skipped_updates

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        seconds = time.perf_counter() - self.began
        self.seconds += seconds
        steps = self.model.steps_done - self.first_step
        updates = steps * (self.model.discriminator_steps + 1)
        logs["skipped"] = (self.model.skipped_updates - self.skipped_before) / updates
        row = {
            "epoch": epoch + 1,
            "seconds": self.seconds,
            "images_per_second": steps * self.images_per_step / seconds,
        }
        self.rows.append(row | {key: float(value) for key, value in logs.items()})
        runs.write_rows(self.path, self.rows)


class TrainingDiagnostics(keras.callbacks.Callback):
    """Logs one line when training goes wrong, and acts as configured.

    Put it after `Log` and `Evaluation`, whose rows it reads, and before `Checkpoint`.

    Args:
      run: the run's folder.
      action: "warn" logs a problem, once as long as it lasts; "stop" saves and ends training;
        "rollback" goes back to the best evaluation before, at most `MAX_ROLLBACKS` times. When the
        model is no longer finite, or an epoch made no update, "warn" and "stop" end training and
        save nothing.
      evaluation: has the real images' statistics; None: only the log is examined.
    """

    def __init__(self, run: Path, action: str = "warn", evaluation: RunEvaluation | None = None):
        super().__init__()
        self.run = run
        self.action = action
        self.evaluation = evaluation
        self.histogram, self.spread = np.zeros(0), math.nan
        self.class_names: tuple[str, ...] = ()
        if evaluation is not None:
            real = evaluation.reference
            self.histogram, self.class_names = real.histogram, evaluation.class_names
            self.spread = float(metrics.statistics(real.manifold.features).covariance.trace())
        self.warned: str | None = None
        self.rollbacks = 0

    def on_epoch_end(self, epoch, logs=None):
        log, evaluations = runs.read_history(self.run)
        evaluated = bool(evaluations) and evaluations[-1]["epoch"] == epoch + 1
        if fatal := self.fatal(log[-1]):
            self.act(epoch, diagnostics.non_finite(fatal), fatal=True)
        elif found := diagnostics.diagnose(
            log, evaluations, self.histogram, self.spread, self.class_names
        ):
            self.act(epoch, found)
        elif evaluated or not evaluations:
            self.warned = None

    def fatal(self, row: runs.Row) -> str | None:
        """What was observed when training cannot go on from the model as it is."""
        if row["skipped"] == 1:
            return "all gradients of the epoch were NaN or infinite, and all updates were skipped"
        return checkpoints.describe_non_finite(self.model)

    def act(self, epoch: int, diagnosis: diagnostics.Diagnosis, fatal: bool = False) -> None:
        """Warns, rolls back, or raises UserError to end training."""
        message = f"Problem at step {self.model.steps_done:,}: {diagnosis}"
        if self.action == "rollback" and self.rollbacks < MAX_ROLLBACKS:
            if self.evaluation is not None:
                self.evaluation.discard(epoch + 1)  # no rollback to these weights
            try:
                step = checkpoints.roll_back(self.run, self.model)
            except UserError as error:
                raise UserError(
                    f"{message} Stopped, as no rollback is possible: {error}."
                ) from error
            self.model.reset_metrics()
            self.rollbacks += 1
            logging.warning("%s Going on with the weights of step %s.", message, f"{step:,}")
        elif fatal:
            raise UserError(
                f"{message} Stopped. Nothing was saved; the last checkpoint is as it was."
            )
        elif self.action != "warn":
            checkpoints.save(self.run, self.model)
            raise UserError(f"{message} Stopped.")
        elif self.warned != diagnosis.kind:
            self.warned = diagnosis.kind
            logging.warning("%s", message)


class Checkpoint(keras.callbacks.Callback):
    """Saves the state of training after every epoch, and on SIGTERM or Ctrl-C after the step.

    Then it raises `Stopped`. Put it after all that an epoch writes. Where one call makes several
    steps, a signal waits for all of them.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, run: Path):
        super().__init__()
        self.run = run
        self.received: int | None = None

    @contextlib.contextmanager
    def saving_on_signals(self) -> Iterator[None]:
        """Receives the first signal in this block, which is to contain `fit`.

        Python gives signals to its main thread only; in another one nothing is changed.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = {number: signal.getsignal(number) for number in self.SIGNALS}

        def restore():
            for number, handler in former.items():
                signal.signal(number, handler)

        def receive(number, frame):
            self.received = number
            restore()

        for number in self.SIGNALS:
            signal.signal(number, receive)
        try:
            yield
        finally:
            restore()

    def on_train_batch_end(self, batch, logs=None):
        # The last step's checkpoint is the epoch's, once log and grid are written.
        if self.received is not None and batch + 1 < self.params["steps"]:
            self.on_epoch_end(0)

    def on_epoch_end(self, epoch, logs=None):
        checkpoints.save(self.run, self.model)
        if self.received is not None:
            raise Stopped(
                self.received,
                f"stopped after step {self.model.steps_done:,}; the state is saved. Go on with\n"
                f"  python -m tfgan_mnist.train --resume={shlex.quote(str(self.run))}",
            )


class KeepModels(keras.callbacks.Callback):
    """Writes `models/epoch_<n>.keras` every few epochs, which `load_model` goes on from."""

    def __init__(self, run: Path, every: int):
        super().__init__()
        self.folder = run / runs.MODELS
        self.every = every

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0:
            with files.write_atomically(self.folder / f"epoch_{epoch + 1:03d}.keras") as partial:
                self.model.save(partial)


class KeepMetrics(keras.callbacks.Callback):
    """Keeps the running means when `fit` goes on within an epoch, and would reset them."""

    def __init__(self, model: GAN):
        super().__init__()
        self.values = [variable.numpy() for variable in model.training_state()["metrics"]]

    def on_epoch_begin(self, epoch, logs=None):
        for variable, value in zip(self.model.training_state()["metrics"], self.values):
            variable.assign(value)


class ExportSavedModel(keras.callbacks.Callback):
    """At the end of training exports the generator as the next version under `base_path`."""

    def __init__(self, base_path: str | Path):
        super().__init__()
        self.base_path = Path(base_path)
        self.exported: Path | None = None

    def on_train_end(self, logs=None):
        self.exported = saved_model.export(self.model, self.base_path)


class TensorBoard(keras.callbacks.TensorBoard):
    """Keras's, writing under the run's folder, and without its work after each step.

    That work writes nothing, as only epochs are logged, and its memory grows with every step.
    """

    def __init__(self, run: Path):
        super().__init__(str(run / "tensorboard"), write_graph=False)

    def on_train_batch_end(self, batch, logs=None):
        pass
