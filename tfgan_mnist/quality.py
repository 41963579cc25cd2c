"""Callbacks that say how good the samples are, and when training goes wrong."""

import math
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from tfgan_mnist import checkpoints, data, metrics, protocol, runs, watch
from tfgan_mnist.classifier import ChannelwiseClassifier, Classifier
from tfgan_mnist.data import pixels
from tfgan_mnist.errors import UserError
from tfgan_mnist.models.base import INFERENCE_BATCH
from tfgan_mnist.models.gan import GAN

NUM = 5000  # images on either side; of MNIST's 60,000 training images so many are held out
SEED = 1  # of the latents; the report on the test images draws others
MIN_IMAGES = protocol.MIN_SAMPLES
MAX_ROLLBACKS = 3  # of one command; what fails a fourth time will not heal
# Steps in a row with an update that is not made. A float16 loss scale that begins at 2^15 is halved
# 15 times until it is 1: after that it is not the scale.
MAX_SKIPPED = 20


def num_held_out(num_images: int) -> int:
    """How many of the training images evaluations are made against; 0 when there are too few."""
    num = min(NUM, num_images // 12)
    return num if num >= MIN_IMAGES else 0


class Evaluation(keras.callbacks.Callback):
    """Every so many epochs compares samples with held-out training images.

    Adds FID, precision, recall, classes covered and for conditional models label accuracy to the
    epoch's logs, for the callbacks after it, and keeps them with the class histogram and a lower
    bound on the Jensen-Shannon divergence in evaluations.csv, a row per evaluation. The samples
    always have the same latents, so that the weights alone make the difference.

    Args:
      run: the run's folder.
      judge: the classifier of the data set.
      held_out: images that training never sees; N >= MIN_IMAGES.
      every: epochs from one evaluation to the next.
      last_epoch: has one in any case.
    """

    LOGGED = ("fid", "precision", "recall", "classes_covered", "label_accuracy")

    def __init__(
        self,
        run: Path,
        judge: Classifier | ChannelwiseClassifier,
        held_out: data.Split,
        every: int,
        last_epoch: int,
    ):
        super().__init__()
        self.path = run / runs.EVALUATIONS
        self.judge = judge
        self.held_out = held_out
        self.every = every
        self.last_epoch = last_epoch
        self.reference: protocol.Reference = protocol.compute_reference(judge, held_out.images)
        self.rows = runs.read_rows(self.path)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every and epoch + 1 != self.last_epoch:
            return
        row = {"epoch": epoch + 1, "step": self.model.steps_done} | self.evaluate()
        if logs is not None:
            logs.update({key: row[key] for key in self.LOGGED if key in row})
        self.rows.append(row)
        runs.write_rows(self.path, self.rows)

    def forget(self, epoch: int) -> None:
        """Drops what was found of an epoch whose weights are given up."""
        self.rows = [row for row in self.rows if row["epoch"] != epoch]
        runs.write_rows(self.path, self.rows)

    def evaluate(self) -> runs.Row:
        """What is found of the model as it is, and the seconds it took.

        The FID is NaN when a sample is not finite, and the bound when a logit is not.
        """
        start = time.perf_counter()
        samples, labels = draw(self.model, len(self.held_out.images), SEED)
        features, logits = self.judge.features_and_logits(pixels.to_uint8(samples))
        row = protocol.quick_scores(features, logits, self.reference)
        if not np.isfinite(samples).all():  # they became black pixels
            row["fid"] = math.nan
        if labels is not None:
            row["label_accuracy"] = metrics.label_accuracy(logits, labels)
        # Of fewer images, as the discriminator is the larger half of a step's cost.
        real = data.Split(*(part[:MIN_IMAGES] for part in self.held_out))
        few = labels if labels is None else labels[:MIN_IMAGES]
        row["jsd_bound"] = jensen_shannon_bound(self.model, real, samples[:MIN_IMAGES], few)
        row["seconds"] = time.perf_counter() - start
        counts = metrics.class_histogram(logits.argmax(axis=1), logits.shape[1])
        return row | {f"class_{k}": int(count) for k, count in enumerate(counts)}


def draw(model: GAN, num: int, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Samples float32 (num, H, W, C) in [-1, 1], and labels (num,), equally many of each class."""
    labels = None
    if model.num_classes is not None:
        labels = np.arange(num, dtype=np.int32) % model.num_classes
    return model.sample(model.latents(num, seed), labels), labels


def jensen_shannon_bound(model: GAN, real: data.Split, samples, labels) -> float:
    """`metrics.jensen_shannon_bound` of the discriminator on images it was not trained on.

    Any function of an image gives a bound, whatever loss it was trained with; only those that learn
    log p(real) / p(generated) give a good one. That of a conditional model is of images together
    with their labels. NaN when a logit is not finite.
    """
    of_real = model.logits(pixels.to_float(real.images), _known(model, real.labels))
    of_fake = model.logits(samples, labels)
    with np.errstate(invalid="ignore"):
        loss = float(np.logaddexp(0.0, -of_real).mean() + np.logaddexp(0.0, of_fake).mean())
    return metrics.jensen_shannon_bound(loss) if math.isfinite(loss) else math.nan


def _known(model: GAN, labels: np.ndarray) -> np.ndarray | None:
    return None if model.num_classes is None else labels


class TrainingDiagnostics(keras.callbacks.Callback):
    """Tells in one line when training goes wrong, and does what was asked for then.

    Put it after `Log` and `Evaluation`, whose rows it reads, and before `Checkpoint`.

    Args:
      run: the run's folder.
      action: "warn" says what is seen, once as long as it lasts; "stop" ends training; "rollback"
        goes back to the best evaluation but this one, at most `MAX_ROLLBACKS` times.
      evaluation: which knows the real images; None: only the log is watched.
      on_nonfinite: what to do about updates that the step leaves out, since their gradients are not
        finite. "rollback" and "stop" act at the first one, which under float16's loss scales is the
        `MAX_SKIPPED`th in a row. "skip" goes on, until after so many in a row nothing can come of
        it; then it is for `action` to say, and "warn" stops as well.
    """

    def __init__(
        self,
        run: Path,
        action: str = "warn",
        evaluation: Evaluation | None = None,
        on_nonfinite: str = "skip",
    ):
        super().__init__()
        self.run = run
        self.action = action
        self.evaluation = evaluation
        self.on_nonfinite = on_nonfinite
        self.skipped: float | None = None  # updates of the epoch so far; None: not asked yet
        self.in_a_row = 0  # steps with such an update
        self.histogram, self.spread = np.zeros(0), math.nan
        if evaluation is not None:
            real = evaluation.reference
            self.histogram = real.histogram
            self.spread = float(metrics.statistics(real.manifold.features).covariance.trace())
        self.warned: str | None = None
        self.rollbacks = 0

    def on_epoch_end(self, epoch, logs=None):
        log, evaluations = runs.read_history(self.run)
        diagnosis = watch.diagnose(log, evaluations, self.histogram, self.spread)
        evaluated = bool(evaluations) and evaluations[-1]["epoch"] == epoch + 1
        if diagnosis:
            if evaluated and self.evaluation is not None and self.action == "rollback":
                self.evaluation.forget(epoch + 1)
            self.act(diagnosis, self.action)
        elif evaluated or not evaluations:
            self.warned = None

    def act(self, diagnosis: watch.Diagnosis, action: str, hopeless: bool = False) -> None:
        """Does with a diagnosis what was asked for.

        Args:
          diagnosis: the trouble.
          action: "warn", "stop" or "rollback".
          hopeless: "warn" stops too, and the state is not saved: the last checkpoint is a better
            one to go on from.

        Raises:
          UserError: training is to end.
        """
        step = self.model.steps_done
        message = f"Trouble at step {step:,}: {diagnosis}"
        if action == "rollback" and self.rollbacks < MAX_ROLLBACKS:
            try:
                back_to = checkpoints.roll_back(self.run, self.model)
            except UserError as error:
                raise UserError(f"{message} Stopped, as {error}.") from error
            self.model.reset_metrics()
            self.rollbacks += 1
            logging.warning("%s Going on with the weights of step %s.", message, f"{back_to:,}")
        elif action != "warn" or hopeless:
            if not hopeless:
                checkpoints.save(self.run, self.model)
            raise UserError(f"{message} Stopped.")
        elif self.warned != diagnosis.kind:
            self.warned = diagnosis.kind
            logging.warning("%s", message)


class TestReport(keras.callbacks.Callback):
    """At the end of training: metrics.json and report.png of the model on the test images.

    Under "test" what `model.evaluate` says of the discriminator, its class head included, and the
    bound of `jensen_shannon_bound`; under "samples" what the evaluate command says of the
    generator. Put it after `RestoreBest`: the test images have no part in the choice. All workers
    need it: Keras divides the test images among them for the first. The rest needs no partner.

    Args:
      run: the run's folder.
      data_set: with the test images.
      judge: the classifier of the data set; None: the samples are not judged.
      data_dir: where prepared data sets are; floors are kept there.
    """

    def __init__(
        self,
        run: Path,
        data_set: data.ImageData,
        judge: Classifier | ChannelwiseClassifier | None,
        data_dir: str = "",
    ):
        super().__init__()
        self.run = run
        self.data_set = data_set
        self.judge = judge
        self.data_dir = data_dir
        self.results: dict[str, Any] | None = None

    def on_train_end(self, logs=None):
        test = self.data_set.test
        batches = tf.data.Dataset.from_tensor_slices(tuple(test)).batch(INFERENCE_BATCH)
        batches = batches.map(lambda pixels, labels: (pixels.to_float(pixels), labels))
        of_discriminator = self.model.evaluate(batches, verbose=0, return_dict=True)
        samples, labels = draw(self.model, protocol.NUM, seed=0)
        of_discriminator["jsd_bound"] = jensen_shannon_bound(self.model, test, samples, labels)
        runs.add_metrics(self.run, test_images=len(test.labels), test=of_discriminator)
        if self.judge is not None:
            found = protocol.evaluate(
                self.judge,
                self.data_set,
                pixels.to_uint8(samples),
                labels,
                source=runs.name_of(self.run, self.model.steps_done),
                seed=0,
                data_dir=self.data_dir,
            )
            protocol.write(found, self.run)
            self.results = found.results
