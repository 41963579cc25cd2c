"""The protocol of an evaluation: which samples meet which real images, and what is reported.

metrics.py has the definitions. Here is decided how many images they get, of which split, with which
classifier, and what stands beside each figure: its floor, which real images get.
"""

import contextlib
import json
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfgan_mnist import files, metrics, report, runs
from tfgan_mnist.errors import UserError

if TYPE_CHECKING:  # commands check their flags before they start TensorFlow
    from tfgan_mnist.classifier import ChannelwiseClassifier, Classifier
    from tfgan_mnist.data import ImageData

    Judge = Classifier | ChannelwiseClassifier

NUM = 10_000
MIN_SAMPLES = 1000  # samples: the subsets of KID, and FID at fewer is mostly bias
NEAREST = 1000  # samples whose nearest training image is sought: 2 s for MNIST
FLOOR_SEED = 0  # of the draw of real images
QUANTILES = (0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0)
# TF-GAN's figures are of 32 logits at a time; 300 covariances of 1000 classes would take minutes.
MAX_CLASSES_IN_SMALL_BATCHES = 100
CACHE = "tfgan_mnist_references"
CACHE_VERSION = 2  # to be raised with any change to the metrics or to what is kept


class Reference(NamedTuple):
    """Real images as the classifier sees them, and what other real images get against them."""

    manifold: metrics.Manifold  # of features (M, d)
    logits: np.ndarray  # float32 (M, K)
    # Empty when they were not asked for:
    floor: dict[str, float]
    distances: np.ndarray  # float32 (NEAREST,), of some to the nearest training image

    @property
    def histogram(self) -> np.ndarray:
        """int (K,), of the classes that the classifier sees."""
        return metrics.class_histogram(self.logits.argmax(axis=1), self.logits.shape[1])


class Evaluation(NamedTuple):
    """What was found, and what the picture of it shows."""

    results: dict[str, Any]  # what stands under "samples" in metrics.json
    pixels: np.ndarray  # uint8 (N, H, W, C), the samples
    logits: np.ndarray  # float32 (N, K)
    features: np.ndarray  # float32 (N, d)
    real_features: np.ndarray  # float32 (M, d)
    pairs: np.ndarray  # uint8 (2, n, H, W, C): samples, and the nearest training image of each
    distances: np.ndarray  # float32 (n,), between them
    real_distances: np.ndarray  # float32 (m,), of test images to their nearest training image


def compute_reference(judge: "Judge", images: np.ndarray) -> Reference:
    """Real images uint8 (M, H, W, C), M >= 6, as a reference without a floor."""
    features, logits = judge.features_and_logits(images)
    return Reference(metrics.manifold(features), logits, {}, np.zeros(0, np.float32))


def quick_scores(features: np.ndarray, logits: np.ndarray, real: Reference) -> dict[str, float]:
    """What features (N, d) and logits (N, K) tell; one second for 5,000 against 5,000."""
    of_real, of_samples = metrics.statistics(real.manifold.features), metrics.statistics(features)
    overlap = metrics.manifold_scores(real.manifold, metrics.manifold(features))
    histogram = metrics.class_histogram(logits.argmax(axis=1), logits.shape[1])
    return {
        "fid": metrics.frechet_distance(of_real, of_samples),
        **overlap._asdict(),
        "classes_covered": metrics.classes_covered(histogram),
        "histogram_divergence": metrics.histogram_divergence(histogram, real.histogram),
    }


def scores(features: np.ndarray, logits: np.ndarray, real: Reference) -> dict[str, float]:
    """All that features (N, d) and logits (N, K) tell; N >= MIN_SAMPLES."""
    of_real = real.manifold.features
    subset = min(MIN_SAMPLES, len(of_real))
    values = quick_scores(features, logits, real) | {
        "kid": metrics.kernel_distance(of_real, features, subset_size=subset).mean,
        "classifier_score": metrics.classifier_score(logits),
    }
    if logits.shape[1] <= MAX_CLASSES_IN_SMALL_BATCHES:
        count = min(len(real.logits), len(logits))
        small = metrics.small_batch_scores(real.logits[:count], logits[:count])
        values["small_batch_frechet"] = small.frechet_distance
        values["small_batch_score"] = small.classifier_score
    return values


def reference(
    judge: "Judge",
    data_set: "ImageData",
    count: int,
    data_dir: str = "",
) -> Reference:
    """The test images and the floor for `count` samples, read from beside the data or kept there.

    The floor is what a random draw of as many training images gets against the test images. For
    label accuracy and the distance to the nearest training image it is what test images get.
    """
    path = _cache(judge, data_set, data_dir, f"{count}-v{CACHE_VERSION}")
    ks = (metrics.PRECISION_RECALL_K, metrics.DENSITY_COVERAGE_K)
    with (  # what cannot be read is made anew
        contextlib.suppress(OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile),
        np.load(path, allow_pickle=False) as kept,
    ):
        manifold = metrics.Manifold(kept["features"], dict(zip(ks, kept["radii"])))
        floor = json.loads(str(kept["floor"]))
        return Reference(manifold, kept["logits"], floor, kept["distances"])

    train, test = data_set.train, data_set.test
    real = compute_reference(judge, test.images)
    random = np.random.default_rng(FLOOR_SEED)
    drawn = random.choice(len(train.images), min(count, len(train.images)), replace=False)
    some = test.images[random.permutation(len(test.images))[:NEAREST]]
    real = real._replace(distances=metrics.nearest_images(some, train.images).distances)
    real.floor.update(
        **scores(*judge.features_and_logits(train.images[drawn]), real),
        label_accuracy=metrics.label_accuracy(real.logits, test.labels),
        nearest_training_image=float(np.median(real.distances)),
    )
    # Where nothing may be written, the next command takes its ten seconds too.
    with contextlib.suppress(OSError), files.write_atomically(path) as partial:
        np.savez(
            partial,
            features=real.manifold.features,
            radii=np.stack([real.manifold.radii[k] for k in ks]),
            logits=real.logits,
            floor=json.dumps(real.floor),
            distances=real.distances,
        )
    return real


def gan_train(
    judge: "Judge",
    data_set: "ImageData",
    pixels: np.ndarray,
    labels: np.ndarray,
    data_dir: str = "",
) -> tuple[float, float]:
    """GAN-train accuracy of labelled samples, and that of as many real training images.

    A minute each on two cores; the second is kept beside the data.
    """
    from tfgan_mnist import classifier

    test, num_classes = data_set.test, data_set.num_classes

    def accuracy(images, labels):
        return classifier.gan_train_accuracy(images, labels, *test, num_classes)

    path = _cache(judge, data_set, data_dir, f"gan-train-{len(pixels)}-v{CACHE_VERSION}")
    try:
        floor = float(np.load(path, allow_pickle=False)["accuracy"])
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile):
        count = min(len(pixels), len(data_set.train.images))
        random = np.random.default_rng(FLOOR_SEED)
        drawn = random.choice(len(data_set.train.images), count, replace=False)
        floor = accuracy(*(part[drawn] for part in data_set.train))
        with contextlib.suppress(OSError), files.write_atomically(path) as partial:
            np.savez(partial, accuracy=floor)
    return accuracy(pixels, labels), floor


def evaluate(
    judge: "Judge",
    data_set: "ImageData",
    pixels: np.ndarray,
    labels: np.ndarray | None,
    *,
    source: str,
    seed: int,
    data_dir: str = "",
    with_gan_train: bool = False,
) -> Evaluation:
    """Judges samples against the test images.

    Args:
      judge: the classifier of the data set.
      data_set: where the real images come from.
      pixels: uint8 (N, H, W, C), N >= MIN_SAMPLES.
      labels: (N,) integers that the samples were asked to show, or None.
      source: what made them, for the report.
      seed: what they were drawn with, for the report.
      data_dir: where prepared data sets are; the floor is kept there.
      with_gan_train: also train a classifier on the samples, if they have labels.

    Raises:
      UserError: too few samples or real images, or labels that are no classes of the data set.
    """
    start = time.monotonic()
    if len(pixels) < MIN_SAMPLES:
        raise UserError(f"expected at least {MIN_SAMPLES:,} samples; received {len(pixels):,}")
    fewest = min(len(data_set.train.images), len(data_set.test.images))
    if fewest < MIN_SAMPLES:
        raise UserError(
            f"{data_set.name}: expected at least {MIN_SAMPLES:,} images of each split to compare "
            f"with; received {fewest:,}"
        )
    if labels is not None and not (labels.min() >= 0 and labels.max() < judge.num_classes):
        raise UserError(
            f"labels: expected classes of {data_set.name}, 0..{judge.num_classes - 1}; "
            f"received {labels.min()}..{labels.max()}"
        )
    # Others' files are often in the order of classes, which figures of small batches would show.
    order = np.random.default_rng(0).permutation(len(pixels))
    pixels, labels = pixels[order], None if labels is None else labels[order]
    real = reference(judge, data_set, len(pixels), data_dir)
    floor = dict(real.floor)
    features, logits = judge.features_and_logits(pixels)
    values = scores(features, logits, real)
    if labels is not None:
        values["label_accuracy"] = metrics.label_accuracy(logits, labels)
    if with_gan_train and labels is not None:
        accuracy, of_real = gan_train(judge, data_set, pixels, labels, data_dir)
        values["gan_train_accuracy"], floor["gan_train_accuracy"] = accuracy, of_real
    some = pixels[:NEAREST]
    nearest = metrics.nearest_images(some, data_set.train.images)
    values["nearest_training_image"] = float(np.median(nearest.distances))
    results = {
        "source": source,
        "dataset": data_set.name,
        "split": data_set.test_split,
        "generated": len(pixels),
        "real": len(real.logits),
        "nearest_of": len(some),
        "pixel_range": "uint8 in [0, 255]",
        "classifier": judge.version,
        "seed": seed,
        "floor_seed": FLOOR_SEED,
        "scores": values,
        "floor": {key: floor[key] for key in values},
        "class_histogram": np.bincount(logits.argmax(1), minlength=judge.num_classes).tolist(),
        "real_class_histogram": real.histogram.tolist(),
        # Does it copy? Then samples are nearer to training images than unseen real images are.
        "nearest_quantiles": {
            "quantiles": list(QUANTILES),
            "samples": np.quantile(nearest.distances, QUANTILES).round(3).tolist(),
            "real": np.quantile(real.distances, QUANTILES).round(3).tolist(),
        },
        "seconds": round(time.monotonic() - start, 1),
    }
    return Evaluation(
        results=results,
        pixels=pixels,
        logits=logits,
        features=features,
        real_features=real.manifold.features,
        pairs=np.stack([some, data_set.train.images[nearest.indices]]),
        distances=nearest.distances,
        real_distances=real.distances,
    )


def write(found: Evaluation, folder: Path) -> None:
    """Writes metrics.json, of which what is not about samples stays, and report.png.

    Raises:
      UserError: the folder has a metrics.json that is none.
      OSError: the folder cannot be written.
    """
    report.draw(folder / runs.REPORT, **found._asdict())
    runs.add_metrics(folder, samples=found.results)


def _cache(judge: "Judge", data_set: "ImageData", data_dir: str, name: str) -> Path:
    size, _, channels = judge.image_shape
    # Of these very images: a data set may be prepared anew under the same name, as another one.
    images = f"{data_set.name.replace('/', '-')}-{size}x{channels}-{data_set.fingerprint[:8]}"
    by = judge.about["sha256"][:8]
    return files.data_folder(data_dir) / CACHE / f"{images}-{by}-{name}.npz"
