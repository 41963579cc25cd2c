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
from tfgan_mnist.models.base import INFERENCE_BATCH
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
    fewest = min(len(image_data.train.images), len(image_data.test.images))
    if fewest < MIN_IMAGES:
        print(f"Samples are not evaluated: that takes {MIN_IMAGES:,} images, not {fewest:,}")
        return None
    if not num_held_out(len(image_data.train.images)):
        print(f"Samples are evaluated at the end only: before, it takes {MAX_SHARE * MIN_IMAGES:,}")
    try:
        classifier = classifiers.load(config.dataset, image_data.image_shape, config.data_dir)
        protocol.check_real(classifier, image_data)
        return classifier
    except UserError as error:
        print(f"Samples are not evaluated: {error}")
        return None


class Evaluation(keras.callbacks.Callback):
    """Compares samples with held-out training images every few epochs.

    Writes a row per evaluation to evaluations.csv: FID, precision, recall, classes covered, label
    accuracy of conditional models, the class histogram, and a lower bound on the Jensen-Shannon
    divergence. Adds `LOGGED` to the epoch's logs. The samples always have the same latents.

    Args:
      run: the run's folder.
      classifier: of the data set.
      held_out: images that training does not use; N >= MIN_IMAGES.
      every: epochs from one evaluation to the next.
      last_epoch: is always evaluated.
      class_names: by label; empty where they are the numbers.
    """

    def __init__(
        self,
        run: Path,
        classifier: classifiers.Classifier | classifiers.ChannelwiseClassifier,
        held_out: data.Split,
        every: int,
        last_epoch: int,
        class_names: tuple[str, ...] = (),
    ):
        super().__init__()
        self.path = run / runs.EVALUATIONS
        self.classifier = classifier
        self.held_out = held_out
        self.every = every
        self.last_epoch = last_epoch
        self.class_names = class_names
        self.reference: protocol.Reference = protocol.compute_reference(classifier, held_out.images)
        self.rows = runs.read_rows(self.path)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every and epoch + 1 != self.last_epoch:
            return
        row = {"epoch": epoch + 1, "step": self.model.steps_done} | self.evaluate()
        if logs is not None:
            logs.update({key: row[key] for key in LOGGED if key in row})
        self.rows.append(row)
        runs.write_rows(self.path, self.rows)

    def discard(self, epoch: int) -> None:
        """Removes the evaluation of an epoch whose weights a rollback discards."""
        self.rows = [row for row in self.rows if row["epoch"] != epoch]
        runs.write_rows(self.path, self.rows)

    def evaluate(self) -> runs.Row:
        """The scores of the model as it is, and the seconds that they took.

        The FID is NaN when a sample is not finite, the bound when a logit is not.
        """
        start = time.perf_counter()
        samples, labels = draw(self.model, len(self.held_out.images), SEED)
        features, logits = self.classifier.features_and_logits(pixels.to_uint8(samples))
        row = protocol.quick_scores(features, logits, self.reference)
        if not np.isfinite(samples).all():  # to_uint8 made them black
            row["fid"] = math.nan
        if labels is not None:
            row["label_accuracy"] = metrics.label_accuracy(logits, labels)
        # Fewer images, as the discriminator takes longer.
        real = data.Split(*(part[:BOUND] for part in self.held_out))
        few = labels if labels is None else labels[:BOUND]
        row["jsd_bound"] = jensen_shannon_bound(self.model, real, samples[:BOUND], few)
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

    Any function of an image gives a bound, whatever its loss; those that learn log p(real) /
    p(generated) give a tight one. A conditional model's is of images together with their labels.
    NaN when a logit is not finite.
    """
    real_labels = None if model.num_classes is None else real.labels
    parts = []
    for first in range(0, len(real.images), INFERENCE_BATCH):  # floats take four times the memory
        rows = slice(first, first + INFERENCE_BATCH)
        labels_of_part = None if real_labels is None else real_labels[rows]
        parts.append(model.logits(pixels.to_float(real.images[rows]), labels_of_part))
    of_real = np.concatenate(parts)
    of_fake = model.logits(samples, labels)
    with np.errstate(invalid="ignore"):
        loss = float(np.logaddexp(0.0, -of_real).mean() + np.logaddexp(0.0, of_fake).mean())
    return metrics.jensen_shannon_bound(loss) if math.isfinite(loss) else math.nan
