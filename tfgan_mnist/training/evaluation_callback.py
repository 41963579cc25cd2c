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
from tfgan_mnist.evaluation import choice, metrics, protocol
from tfgan_mnist.evaluation.extractor import Extractor
from tfgan_mnist.models.gan import GAN

NUM = 5000  # held-out images, and samples
MIN_IMAGES = protocol.MIN_REAL
MAX_SHARE = 4  # at most one in so many training images is held out
BOUND = 1000  # images of each kind for the bound on the Jensen-Shannon divergence
SEED = 1  # of the latents; the report on the test images draws others
LOGGED = ("fid", "kid", "precision", "recall", "classes_covered", "label_accuracy")


def num_held_out(num_images: int) -> int:
    """How many training images to hold out for evaluations; 0 when there are too few."""
    num = min(NUM, max(num_images // 12, MIN_IMAGES))
    return num if num * MAX_SHARE <= num_images else 0


def find_extractor(image_data: data.ImageData, config: Config) -> Extractor | None:
    """The features that score the run; None, with the reason printed, where none can."""
    if not config.epochs_per_evaluation:
        return None
    try:
        protocol.check_real(image_data)
        extractor = choice.find(image_data, config.data_dir)
    except UserError as error:
        print(f"Samples are not evaluated: {error}")
        return None
    num = num_held_out(len(image_data.train.images))
    when = f"during training against {num:,} held-out images"
    if not num:
        when = (
            f"only at the end: evaluations during training need at least "
            f"{MAX_SHARE * MIN_IMAGES:,} training images"
        )
    print(f"Samples are evaluated by the features {extractor.version}, {when}")
    return extractor


class Evaluation(keras.callbacks.Callback):
    """Compares samples with real images that training does not use, every few epochs.

    Adds `LOGGED` to the epoch's logs. The samples always have the same latents.

    Args:
      extractor: of the data set's features.
      real: the real images; N >= MIN_IMAGES.
      every: epochs from one evaluation to the next.
    """

    def __init__(self, extractor: Extractor, real: data.Split, every: int = 1):
        super().__init__()
        self.extractor = extractor
        self.real = real
        self.every = every
        self.reference: protocol.Reference = protocol.compute_reference(extractor, real.images)

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
        num = max(len(self.real.images), protocol.MIN_SAMPLES)
        samples, labels = draw(self.model, num, SEED, self.real.labels)
        features, logits = self.extractor.features_and_logits(pixels.to_uint8(samples))
        row = protocol.quick_scores(features, logits, self.reference)
        if len(self.real.images) < protocol.MIN_SAMPLES:
            row["kid"] = protocol.kernel_distance(features, self.reference)
        if not np.isfinite(samples).all():  # to_uint8 made them black
            row["fid"] = math.nan
        if labels is not None and self.extractor.num_classes:
            row["label_accuracy"] = metrics.label_accuracy(logits, labels)
        # Fewer images, as the discriminator takes longer.
        real = data.Split(*(part[:BOUND] for part in self.real))
        few = labels if labels is None else labels[:BOUND]
        row["jsd_bound"] = jensen_shannon_bound(self.model, real, samples[:BOUND], few)
        row["seconds"] = time.perf_counter() - start
        counts = protocol.predicted_classes(logits)
        return row | {f"class_{k}": int(count) for k, count in enumerate(counts)}


class RunEvaluation(Evaluation):
    """`Evaluation` of a run against held-out training images: a row of evaluations.csv each.

    A row has FID, with few images KID, precision, recall, classes covered, label accuracy of
    conditional models, the class histogram, and a lower bound on the Jensen-Shannon divergence.
    metrics.json names the features; the figures of a run are all of the same ones.

    Args:
      run: the run's folder.
      last_epoch: is always evaluated.
      class_names: by label; empty where they are the numbers.
    """

    def __init__(
        self,
        run: Path,
        extractor: Extractor,
        held_out: data.Split,
        every: int,
        last_epoch: int,
        class_names: tuple[str, ...] = (),
    ):
        super().__init__(extractor, held_out, every)
        self.class_names = class_names
        self.path = run / runs.EVALUATIONS
        self.last_epoch = last_epoch
        self.rows = runs.read_rows(self.path)
        features = extractor.version
        known = runs.read_metrics(run).get("evaluations", {}).get("features", features)
        if self.rows and known != features:
            raise UserError(
                f"{self.path}: has scores by the features {known}; expected {features}. Move the "
                "file away to start a new one."
            )
        runs.add_metrics(run, evaluations={"features": features})

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every and epoch + 1 != self.last_epoch:
            return
        self.rows.append(self.add(epoch, {} if logs is None else logs))
        runs.write_rows(self.path, self.rows)

    def discard(self, epoch: int) -> None:
        """Removes the evaluation of an epoch whose weights a rollback discards."""
        self.rows = [row for row in self.rows if row["epoch"] != epoch]
        runs.write_rows(self.path, self.rows)


def draw(
    model: GAN, num: int, seed: int, real_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Samples float32 (num, H, W, C) in [-1, 1], and labels (num,) as frequent as the real ones."""
    labels = model.labels(num)
    if labels is not None and real_labels.any():  # data without labels has zeros
        labels = protocol.draw_labels(real_labels, num, seed)
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
