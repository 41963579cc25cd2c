"""The protocol of an evaluation: how many samples, which real images, which metrics.

metrics.py and neighbours.py define the metrics. Each value is reported together with the real-data
baseline: the same metric on real images.
"""

import contextlib
import json
import math
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfgan_mnist import files, runs
from tfgan_mnist.errors import UserError
from tfgan_mnist.evaluation import memorisation, metrics, neighbours, report

if TYPE_CHECKING:  # commands check their flags before they import TensorFlow
    from tfgan_mnist.data import ImageData
    from tfgan_mnist.evaluation.extractor import Extractor

NUM = 10_000
MIN_SAMPLES = 1000  # KID takes subsets of this size, and FID of fewer is mostly bias
MIN_EXTRAPOLATED = 5000  # samples for `fid_infinity`, whose line is straight where many
MIN_REAL = 100  # real images in each split
NEAREST = 1000  # samples whose nearest training image is searched for: 2 s for MNIST
BASELINE_SEED = 0  # of the random choice of real images
QUANTILES = (0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0)
CACHE = "tfgan_mnist_references"
CACHE_VERSION = 6  # increase it with any change to the metrics or to what is cached


class Reference(NamedTuple):
    """Features and classes of real images, and the real-data baseline."""

    manifold: neighbours.Manifold  # of features (M, d)
    logits: np.ndarray  # float32 (M, K); K = 0: without classes
    # Empty unless a baseline was computed:
    baseline: dict[str, float]
    # Of some, NEAREST of them: float32 distances to their nearest training images, and classes.
    distances: np.ndarray = np.zeros(0)
    cells: np.ndarray = np.zeros(0)

    @property
    def statistics(self) -> metrics.Statistics:
        """Moments of the features."""
        return metrics.statistics(self.manifold.features)

    @property
    def histogram(self) -> np.ndarray:
        """int64 (K,), number of images of each predicted class."""
        return predicted_classes(self.logits)


def check_num(what: str, num: int) -> None:
    """Raises UserError for fewer than MIN_SAMPLES images."""
    if num < MIN_SAMPLES:
        raise UserError(f"{what}: expected at least {MIN_SAMPLES:,} images; received {num:,}")


def check_real(data_set: "ImageData") -> None:
    """Raises UserError for too few images in a split."""
    fewest = min(len(data_set.train.images), len(data_set.test.images))
    if fewest < MIN_REAL:
        raise UserError(
            f"{data_set.name}, the smaller split: expected at least {MIN_REAL:,} images to compare "
            f"samples with; received {fewest:,}"
        )


def draw_labels(real: np.ndarray, num: int, seed: int) -> np.ndarray:
    """Labels (num,) for conditional samples, as frequent as among the real ones (N,)."""
    return np.random.default_rng(seed).choice(real, num)


def compute_reference(extractor: "Extractor", images: np.ndarray) -> Reference:
    """Real images uint8 (M, H, W, C), M >= 6 -> a reference without a baseline."""
    features, logits = extractor.features_and_logits(images)
    return Reference(neighbours.manifold(features), logits, {})


def quick_scores(features: np.ndarray, logits: np.ndarray, real: Reference) -> dict[str, float]:
    """The fast metrics of features (N, d) and logits (N, K); one second for 5,000 samples."""
    fid = metrics.frechet_distance(real.statistics, metrics.statistics(features))
    overlap = neighbours.manifold_scores(real.manifold, neighbours.manifold(features))
    values = {"fid": fid, **overlap._asdict()}
    if not logits.shape[1]:
        return values
    histogram = predicted_classes(logits)
    return values | {
        "classes_covered": metrics.classes_covered(histogram),
        "histogram_divergence": metrics.histogram_divergence(histogram, real.histogram),
    }


def kernel_distance(features: np.ndarray, real: Reference) -> float:
    """The KID of features (N, d), over subsets of MIN_SAMPLES where there are as many."""
    of_real = real.manifold.features
    subset = min(MIN_SAMPLES, len(of_real), len(features))
    return metrics.kernel_distance(of_real, features, subset_size=subset)


def scores(features: np.ndarray, logits: np.ndarray, real: Reference) -> dict[str, float]:
    """All metrics of features (N, d) and logits (N, K), N >= MIN_SAMPLES."""
    values = quick_scores(features, logits, real) | {"kid": kernel_distance(features, real)}
    if len(features) >= MIN_EXTRAPOLATED:
        values["fid_infinity"] = metrics.frechet_distance_infinity(real.statistics, features)
    return values | ({"classifier_score": metrics.classifier_score(logits)} if logits.size else {})


def reference(
    extractor: "Extractor",
    data_set: "ImageData",
    count: int,
    data_dir: str = "",
    gan_train: bool = False,
    nearest: bool = True,
) -> Reference:
    """The test images as a reference with the baseline for `count` samples, cached in `data_dir`.

    With `nearest` also what is said of the nearest training images, which takes longest.

    The baseline is `count` random training images instead of samples; for label accuracy and the
    distance to the nearest training image it is the test images.
    """
    train, test = data_set.train, data_set.test
    # The name has digests, since a data set or classifier may be made anew under the same name.
    about = data_set.name, extractor.name, data_set.fingerprint[:8], extractor.digest, str(count)
    name = "-".join(about).replace("/", "-")
    name += f"{'-gan-train' * gan_train}{'-scores' * (not nearest)}-v{CACHE_VERSION}.npz"
    path = files.data_folder(data_dir) / CACHE / name
    damaged = (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile)
    with contextlib.suppress(*damaged), np.load(path, allow_pickle=False) as kept:
        manifold = neighbours.Manifold(kept["features"], kept["radii"])
        baseline = json.loads(str(kept["json"]))
        return Reference(manifold, kept["logits"], baseline, kept["distances"], kept["cells"])

    real = compute_reference(extractor, test.images)
    random = np.random.default_rng(BASELINE_SEED)
    drawn = random.choice(len(train.images), min(count, len(train.images)), replace=False)
    baseline = scores(*extractor.features_and_logits(train.images[drawn]), real)
    if nearest:
        half = min(NEAREST, len(test.images) // 2)
        some, others = np.split(random.permutation(len(test.images))[: 2 * half], [half])
        cells = _cells(real.logits)
        found, distances = neighbours.nearest_images(test.images[some], train.images)
        real = real._replace(distances=distances, cells=cells[some])
        _, of_others = neighbours.nearest_images(test.images[others], train.images)
        baseline |= _nearness(found, distances, train.images)
        baseline |= _copying(of_others, cells[others], real)
    if extractor.num_classes:
        baseline["label_accuracy"] = metrics.label_accuracy(real.logits, test.labels)
    if gan_train:
        labelled = train.images[drawn], train.labels[drawn]
        baseline["gan_train_accuracy"] = _gan_train_accuracy(*labelled, data_set)
    # A folder that is read-only costs time only.
    with contextlib.suppress(OSError), files.write_atomically(path) as partial:
        arrays = {"logits": real.logits, "distances": real.distances, "cells": real.cells}
        np.savez(partial, json=json.dumps(baseline), **(real.manifold._asdict() | arrays))
    return real._replace(baseline=baseline)


def evaluate(
    extractor: "Extractor",
    data_set: "ImageData",
    pixels: np.ndarray,  # uint8 (N, H, W, C), N >= MIN_SAMPLES
    labels: np.ndarray | None,  # integers (N,), the classes that the samples should show
    *,
    source: str,  # name of the generator, for the report
    seed: int,  # of the samples, for the report
    data_dir: str = "",  # where prepared data sets are and baselines are cached
    with_gan_train: bool = False,  # also train a classifier on labelled samples
    second: "Extractor | None" = None,  # other features, whose scores stand beside
) -> report.Evaluation:
    """Compares samples with the test images.

    Raises UserError for too few samples or real images, or labels that are no classes of the data.
    """
    start = time.monotonic()
    check_num("samples", len(pixels))
    check_real(data_set)
    train = data_set.train
    # Files of samples are often sorted by class, and some metrics take the first ones only.
    order = np.random.default_rng(0).permutation(len(pixels))
    pixels = pixels[order]
    if labels is not None:
        _check_labels(labels, len(pixels), extractor, data_set)
        labels = labels[order] if extractor.num_classes else None
    with_gan_train = with_gan_train and labels is not None
    real = reference(extractor, data_set, len(pixels), data_dir, with_gan_train)
    features, logits = extractor.features_and_logits(pixels)
    values = scores(features, logits, real)
    if labels is not None:
        values["label_accuracy"] = metrics.label_accuracy(logits, labels)
        if with_gan_train:
            values["gan_train_accuracy"] = _gan_train_accuracy(pixels, labels, data_set)
    some = pixels[:NEAREST]
    nearest, distances = neighbours.nearest_images(some, train.images)
    values |= _nearness(nearest, distances, train.images)
    values |= _copying(distances, _cells(logits)[:NEAREST], real)
    results = {
        "source": source,
        "dataset": data_set.name,
        "split": data_set.test_split,
        "generated": len(pixels),
        "real": len(real.logits),
        "nearest_of": len(some),
        "pixel_range": "uint8 in [0, 255]",
        "features": extractor.version,
        "seed": seed,
        "floor_seed": BASELINE_SEED,  # "floor" is the baseline in all versions of these files
        **_beside_real(values, features, real),
        "class_histogram": predicted_classes(logits).tolist(),
        "real_class_histogram": real.histogram.tolist(),
        "class_names": list(data_set.shown_class_names),
        "nearest_quantiles": {
            "quantiles": list(QUANTILES),
            "samples": np.quantile(distances, QUANTILES).round(3).tolist(),
            "real": np.quantile(real.distances, QUANTILES).round(3).tolist(),
        },
    }
    if second:
        results["second"] = _scores_by(second, data_set, pixels, data_dir)
    results["seconds"] = round(time.monotonic() - start, 1)
    pairs = np.stack([some, train.images[nearest]])
    outputs = logits, features, real.manifold.features
    return report.Evaluation(results, pixels, *outputs, pairs, distances, real.distances)


def _check_labels(
    labels: np.ndarray, num: int, extractor: "Extractor", data_set: "ImageData"
) -> None:
    """Raises UserError for labels that are not (num,) classes of the data."""
    if extractor.num_classes:
        try:
            metrics.check_labels(labels, num, extractor.num_classes)
        except ValueError as error:
            raise UserError(f"classes of {data_set.name}: {error}") from error


def _nearness(nearest: np.ndarray, distances: np.ndarray, training: np.ndarray) -> dict[str, float]:
    """Scores of images from their nearest training images (N,) and the distances (N,) to them."""
    _, between = neighbours.nearest_images(training[nearest], training, besides=nearest)
    return {
        "nearest_training_image": float(np.median(distances)),
        "authenticity": memorisation.authenticity(distances, between),
    }


def _copying(distances: np.ndarray, cells: np.ndarray, real: Reference) -> dict[str, float]:
    """`memorisation.copying` beside the test images; nothing where there are too few."""
    found = memorisation.copying(distances, cells, real.distances, real.cells)
    return {"data_copying": found} if math.isfinite(found) else {}


def _cells(logits: np.ndarray) -> np.ndarray:
    """(N, K) logits -> integers (N,), the predicted classes; zeros without classes."""
    return logits.argmax(axis=1) if logits.shape[1] else np.zeros(len(logits), int)


def _scores_by(
    extractor: "Extractor", data_set: "ImageData", pixels: np.ndarray, data_dir: str
) -> dict[str, Any]:
    """The scores of samples uint8 (N, H, W, C) by other features, for the report."""
    real = reference(extractor, data_set, len(pixels), data_dir, nearest=False)
    features, logits = extractor.features_and_logits(pixels)
    found = _beside_real(scores(features, logits, real), features, real)
    return {"features": extractor.version, **found}


def _beside_real(
    values: dict[str, float], features: np.ndarray, real: Reference
) -> dict[str, dict[str, float] | list[float]]:
    """The scores of features (N, d) that real images have too, and those of these."""
    both = values.keys() & real.baseline.keys()  # of few real images some cannot be computed
    return {
        "scores": {key: value for key, value in values.items() if key in both},
        "floor": {key: real.baseline[key] for key in values if key in both},
        "fid_interval": list(metrics.frechet_interval(real.statistics, features)),
    }


def write(found: report.Evaluation, folder: Path) -> None:
    """Writes report.png, and "samples" in metrics.json, whose other parts stay.

    Raises UserError if the folder has a metrics.json that is no JSON object.
    """
    report.draw(folder / runs.REPORT, found)
    runs.add_metrics(folder, samples=found.results)


def predicted_classes(logits: np.ndarray) -> np.ndarray:
    """(N, K) logits -> int64 (K,) histogram of the predicted classes."""
    if not logits.shape[1]:
        return np.zeros(0, np.int64)
    return metrics.class_histogram(logits.argmax(axis=1), logits.shape[1])


def _gan_train_accuracy(pixels: np.ndarray, labels: np.ndarray, data_set: "ImageData") -> float:
    from tfgan_mnist.evaluation.classifier_training import gan_train_accuracy

    return gan_train_accuracy(pixels, labels, *data_set.test, data_set.num_classes)
