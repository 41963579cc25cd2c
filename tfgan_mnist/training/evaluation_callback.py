"""Evaluation of a model during training, on held-out training images."""

import math
import time
from pathlib import Path

import keras
import numpy as np

from tfgan_mnist import data, runs
from tfgan_mnist.config import Config
from tfgan_mnist.data import pixels
from tfgan_mnist.errors import UserError
from tfgan_mnist.evaluation import classifier as classifiers
from tfgan_mnist.evaluation import metrics, protocol
from tfgan_mnist.models.gan import GAN

NUM = 5000  # held-out images, and samples
MIN_IMAGES = protocol.MIN_REAL
MAX_SHARE = 4  # at most one in so many training images is held out
BOUND = 1000  # images of each kind for the bound on the Jensen-Shannon divergence
SEED = 1  # of the latents; the report on the test images draws others
LOGGED = ("fid", "precision", "recall", "classes_covered", "label_accuracy")


def num_held_out(num_images: int) -> int:
    """How many training images to hold out for evaluations; 0 when there are too few."""
    num = min(NUM, max(num_images // 12, MIN_IMAGES))
    return num if num * MAX_SHARE <= num_images else 0


def find_classifier(image_data: data.ImageData, config: Config):
    """The classifier of the data set; None, with the reason printed, where there is none."""
    if not config.epochs_per_evaluation:
        return None
    if image_data.num_classes < 2:
        print("Samples are not evaluated: that takes a classifier, and so pictures with labels")
        return None
    num = min(len(image_data.train.images), len(image_data.test.images))
    if num < MIN_IMAGES:
        print(f"Samples are not evaluated: that takes {MIN_IMAGES:,} images, not {num:,}")
        return None
    if not num_held_out(len(image_data.train.images)):
        print(
            "Samples are evaluated only at the end: evaluations during training need at least "
            f"{MAX_SHARE * MIN_IMAGES:,} training images"
        )
    try:
        classifier = classifiers.load(config.dataset, image_data.image_shape, config.data_dir)
        protocol.check_real(classifier, image_data)
        return classifier
    except UserError as error:
        print(f"Samples are not evaluated: {error}")
        return None


class Evaluation(keras.callbacks.Callback):
    """Compares samples with real images that training does not use, every few epochs.

    Adds `LOGGED` to the epoch's logs. The samples always have the same latents.

    Args:
      classifier: of the data set.
      real: the real images; N >= MIN_IMAGES.
      every: epochs from one evaluation to the next.
    """

    def __init__(self, classifier: classifiers.AnyClassifier, real: data.Split, every: int = 1):
        super().__init__()
        self.classifier = classifier
        self.real = real
        self.every = every
        self.reference: protocol.Reference = protocol.compute_reference(classifier, real.images)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0:
            self.add(epoch, {} if logs is None else logs)

    def add(self, epoch: int, logs: dict) -> runs.Row:
        """Evaluates the model, adds to the logs, and returns the whole row."""
        row = {"epoch": epoch + 1, "step": self.model.steps_done} | self.evaluate()
        logs.update({key: row[key] for key in LOGGED if key in row})
        return row

    def evaluate(self) -> runs.Row:
        """The scores of the model as it is, and the seconds that they took.

        The FID is NaN when a sample is not finite, the bound when a logit is not.
        """
        start = time.perf_counter()
        samples, labels = draw(self.model, len(self.real.images), SEED)
        features, logits = self.classifier.features_and_logits(pixels.to_uint8(samples))
        row = protocol.quick_scores(features, logits, self.reference)
        if not np.isfinite(samples).all():  # to_uint8 made them black
            row["fid"] = math.nan
        if labels is not None:
            row["label_accuracy"] = metrics.label_accuracy(logits, labels)
        # Fewer images, as the discriminator takes longer.
        real = data.Split(*(part[:BOUND] for part in self.real))
        few = labels if labels is None else labels[:BOUND]
        row["jsd_bound"] = jensen_shannon_bound(self.model, real, samples[:BOUND], few)
        row["seconds"] = time.perf_counter() - start
        counts = metrics.class_histogram(logits.argmax(axis=1), logits.shape[1])
        return row | {f"class_{k}": int(count) for k, count in enumerate(counts)}


class RunEvaluation(Evaluation):
    """`Evaluation` of a run against held-out training images: a row of evaluations.csv each.

    A row has FID, precision, recall, classes covered, label accuracy of conditional models, the
    class histogram, and a lower bound on the Jensen-Shannon divergence.

    Args:
      run: the run's folder.
      last_epoch: is always evaluated.
      class_names: by label; empty where they are the numbers.
    """

    def __init__(
        self,
        run: Path,
        classifier: classifiers.AnyClassifier,
        held_out: data.Split,
        every: int,
        last_epoch: int,
        class_names: tuple[str, ...] = (),
    ):
        super().__init__(classifier, held_out, every)
        self.class_names = class_names
        self.path = run / runs.EVALUATIONS
        self.last_epoch = last_epoch
        self.rows = runs.read_rows(self.path)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every and epoch + 1 != self.last_epoch:
            return
        self.rows.append(self.add(epoch, {} if logs is None else logs))
        runs.write_rows(self.path, self.rows)

    def discard(self, epoch: int) -> None:
        """Removes the evaluation of an epoch whose weights a rollback discards."""
        self.rows = [row for row in self.rows if row["epoch"] != epoch]
        runs.write_rows(self.path, self.rows)


def draw(model: GAN, num: int, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Samples float32 (num, H, W, C) in [-1, 1], and labels (num,), equally many of each class."""
    labels = model.labels(num)
    return model.sample(model.latents(num, seed), labels), labels


def jensen_shannon_bound(model: GAN, real: data.Split, samples, labels) -> float:
    """`metrics.jensen_shannon_bound` of the discriminator on images it was not trained on.

    Any function of an image gives a bound, whatever its loss; those that learn log p(real) /
    p(generated) give a tight one. A conditional model's is of images together with their labels.
    Of packs it is a bound on `packing` times the divergence. NaN when a logit is not finite.
    """
    real_labels = None if model.num_classes is None else real.labels
    of_real = model.logits(real.images, real_labels)
    of_fake = model.logits(samples, labels)
    with np.errstate(invalid="ignore"):
        loss = float(np.logaddexp(0.0, -of_real).mean() + np.logaddexp(0.0, of_fake).mean())
    if not math.isfinite(loss):
        return math.nan
    return metrics.jensen_shannon_bound(loss) / model.packing
