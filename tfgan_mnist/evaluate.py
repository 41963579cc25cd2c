"""Scores samples of a run, of an export, or anybody's, against real images.

What is judged:
  --run=RUN                   --num samples of the newest checkpoint
  --saved_model=DIR           --num samples of an export
  --images=FILE.npz|FOLDER    images as they are, with `labels` in the .npz where there are any;
                              with --num a random choice of so many
  Conditional models make equally many of each class.

How:
  A classifier of the data set turns samples and the test split into features and classes, from
  which the metrics follow; metrics.py has their definitions and papers. Beside each figure stands
  the floor, what real images get: a random draw of as many training images against the same test
  images, but for label accuracy and the distance to the nearest training image the test images
  themselves. Nearly all figures depend on the number of samples, so compare equal ones only. The
  floor and the features of the test images are kept beside the data.

Where to:
  A table on the screen; metrics.json, under "samples", and the pictures report.png in --output. The
  default is the run's folder; without a run nothing is written.
"""

import argparse
import contextlib
import functools
import json
import os
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfgan_mnist import cli, export, files, generate, images, metrics, report, runs
from tfgan_mnist.errors import UserError

if TYPE_CHECKING:
    from tfgan_mnist.classifier import ChannelwiseClassifier, Classifier
    from tfgan_mnist.data import ImageData

NUM = 10_000
MINIMUM = 1000  # samples: the subsets of KID, and FID at fewer is mostly bias
NEAREST = 1000  # samples whose nearest training image is sought: 2 s for MNIST
REPORT = "report.png"
CACHE = "tfgan_mnist_references"
CACHE_VERSION = 1  # to be raised with any change to the metrics or to what is kept


class Samples(NamedTuple):
    """What is to be judged, before it is made."""

    name: str
    dataset: str
    data_dir: str  # empty: TFDS's usual place
    image_shape: tuple[int, int, int]
    # -> images uint8 (N, H, W, C) and labels int32 (N,) or None
    make: Callable[[], tuple[np.ndarray, np.ndarray | None]]


class Reference(NamedTuple):
    """The test images as the classifier sees them, and what real images get."""

    manifold: metrics.Manifold  # of features (M, d)
    histogram: np.ndarray  # int (K,), of the classes that the classifier sees
    floor: dict[str, float]


# What is judged


def of_run(run: Path, num: int, seed: int, dataset: str = "", data_dir: str = "") -> Samples:
    """The newest checkpoint of a run; data set and place are the run's unless given."""
    config, facts = runs.read(run)
    make = functools.partial(_generated, generate.from_run(run), num, seed)
    # Not the run's path: reports go with exports to other machines.
    name, dataset = f"run {run.resolve().name}", dataset or config.dataset
    return Samples(name, dataset, data_dir or config.data_dir, facts.image_shape, make)


def of_saved_model(
    path: Path, num: int, seed: int, dataset: str = "", data_dir: str = ""
) -> Samples:
    """An export, of the data set that its model card tells unless one is given.

    Raises:
      UserError: no export there, or one without a model card that tells its data.
    """
    folder = export.find_version(path)
    make = functools.partial(_generated, generate.from_saved_model(folder), num, seed)
    try:
        card = json.loads((folder / export.CARD).read_text())
        height, width, channels = card["image_shape"]
        dataset = dataset or card["config"]["dataset"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{folder}: expected a {export.CARD} with image_shape and config.dataset (or give "
            f"--dataset); received: {error!r}"
        ) from error
    name = f"export {'/'.join(folder.resolve().parts[-2:])}"
    return Samples(name, dataset, data_dir, (height, width, channels), make)


def of_images(
    path: Path, num: int | None = None, seed: int = 0, dataset: str = "", data_dir: str = ""
) -> Samples:
    """Samples that somebody has made: all, or `num` of them.

    Raises:
      UserError: not images, fewer than `num`, not square, or `labels` that do not belong to them.
    """
    pixels = images.read(path)
    labels = _labels(path, len(pixels)) if path.suffix == ".npz" else None
    height, width, channels = pixels.shape[1:]
    if height != width:
        raise UserError(f"{path}: expected square images; received {width} x {height} pixels")
    if num is not None:
        if num > len(pixels):
            raise UserError(f"--num: expected at most {len(pixels):,}, as many as {path} has")
        # Not the first ones: files are often in the order of classes.
        chosen = np.random.default_rng(seed).choice(len(pixels), num, replace=False)
        pixels, labels = pixels[chosen], None if labels is None else labels[chosen]
    name, shape = f"images {path.name}", (height, width, channels)
    return Samples(name, dataset or "mnist", data_dir, shape, lambda: (pixels, labels))


def _generated(source: generate.Source, num: int, seed: int):
    plan = generate.independent(source, num, None, seed, generate.MOST_IMAGES)
    return generate.draw(source, plan), plan.labels


def _labels(path: Path, count: int) -> np.ndarray | None:
    """The `labels` of an .npz file, int32 (N,), or None when it has none."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            labels = archive["labels"] if "labels" in archive.files else None
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: 'labels' cannot be read ({error})") from error
    if labels is None:
        return None
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{path}: expected 'labels' as integers of shape ({count},), one for each image; "
            f"received {labels.dtype} of shape {labels.shape}"
        )
    return labels.astype(np.int32)


# How good it is


def scores(features: np.ndarray, logits: np.ndarray, real: Reference) -> dict[str, float]:
    """What features (N, d) and logits (N, K) tell; N >= MINIMUM."""
    x = real.manifold.features
    overlap = metrics.manifold_scores(real.manifold, metrics.manifold(features))
    histogram = metrics.class_histogram(logits.argmax(axis=1), logits.shape[1])
    subset = min(MINIMUM, len(x))
    return {
        "fid": metrics.frechet_distance(metrics.statistics(x), metrics.statistics(features)),
        "kid": metrics.kernel_distance(x, features, subset_size=subset).mean,
        "classifier_score": metrics.classifier_score(logits),
        **overlap._asdict(),
        "classes_covered": metrics.classes_covered(histogram),
        "histogram_divergence": metrics.histogram_divergence(histogram, real.histogram),
    }


def reference(
    judge: "Classifier | ChannelwiseClassifier", data_set: "ImageData", count: int, data_dir: str
) -> Reference:
    """The real side and the floor for `count` samples, read from beside the data or kept there."""
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    size, _, channels = judge.image_shape
    name = f"{data_set.name.replace('/', '-')}-{size}x{channels}-{judge.about['sha256'][:8]}"
    cache = Path(data_dir).expanduser() / CACHE / f"{name}-{count}-v{CACHE_VERSION}.npz"
    ks = (metrics.PRECISION_RECALL_K, metrics.DENSITY_COVERAGE_K)
    with (  # what cannot be read is made anew
        contextlib.suppress(OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile),
        np.load(cache, allow_pickle=False) as kept,
    ):
        manifold = metrics.Manifold(kept["features"], dict(zip(ks, kept["radii"])))
        return Reference(manifold, kept["histogram"], json.loads(str(kept["floor"])))

    train, test = data_set.train, data_set.test
    features, logits = judge.features_and_logits(test.images)
    histogram = metrics.class_histogram(logits.argmax(axis=1), judge.num_classes)
    random = np.random.default_rng(0)
    drawn = random.choice(len(train.images), min(count, len(train.images)), replace=False)
    some = test.images[random.permutation(len(test.images))[:NEAREST]]
    distances = metrics.nearest_images(some, train.images).distances
    real = Reference(metrics.manifold(features), histogram, {})
    real.floor.update(
        **scores(*judge.features_and_logits(train.images[drawn]), real),
        label_accuracy=metrics.label_accuracy(logits, test.labels),
        nearest_training_image=float(np.median(distances)),
    )
    radii = np.stack([real.manifold.radii[k] for k in ks])
    # Where nothing may be written, the next command takes its ten seconds too.
    with contextlib.suppress(OSError), files.publish(cache) as partial:
        floor = json.dumps(real.floor)
        np.savez(partial, features=features, radii=radii, histogram=histogram, floor=floor)
    return real


def evaluate(samples: Samples, seed: int = 0, output: Path | None = None) -> dict[str, Any]:
    """Judges samples, prints the table, and writes metrics.json and report.png.

    Args:
      samples: what is judged.
      seed: what they were drawn with.
      output: the folder to write to, made when it is not there; None: nothing is written.

    Returns:
      What stands under "samples" in metrics.json.

    Raises:
      UserError: too few samples, or of a size or a data set for which there is no classifier;
        labels that are no classes; or `output` has a metrics.json that is none.
      OSError: `output` cannot be written.
    """
    start = time.monotonic()
    cli.start_tensorflow()
    from tfgan_mnist import classifier, data

    # What can go wrong does so before minutes are spent.
    _former_report(output)
    judge = classifier.load(samples.dataset, samples.image_shape, samples.data_dir)

    # The samples, and the real images.
    pixels, labels = samples.make()
    if len(pixels) < MINIMUM:
        raise UserError(f"expected at least {MINIMUM:,} samples; received {len(pixels):,}")
    if labels is not None and not (labels.min() >= 0 and labels.max() < judge.num_classes):
        raise UserError(
            f"labels: expected classes of {samples.dataset}, 0..{judge.num_classes - 1}; "
            f"received {labels.min()}..{labels.max()}"
        )
    size, _, channels = samples.image_shape
    data_set = data.load(samples.dataset, samples.data_dir or None, None, size, channels)
    real = reference(judge, data_set, len(pixels), samples.data_dir)

    # The figures.
    features, logits = judge.features_and_logits(pixels)
    values = scores(features, logits, real)
    if labels is not None:
        values["label_accuracy"] = metrics.label_accuracy(logits, labels)
    some = pixels[np.random.default_rng(0).permutation(len(pixels))[:NEAREST]]
    nearest = metrics.nearest_images(some, data_set.train.images)
    values["nearest_training_image"] = float(np.median(nearest.distances))

    # What is told.
    told = {
        "source": samples.name,
        "dataset": samples.dataset,
        "split": "test",
        "generated": len(pixels),
        "real": len(real.manifold.features),
        "nearest_of": len(some),
        "pixel_range": "uint8 in [0, 255]",
        "classifier": judge.version,
        "seed": seed,
        "scores": _finite(values),
        "floor": _finite({key: real.floor[key] for key in values}),
        "class_histogram": np.bincount(logits.argmax(1), minlength=judge.num_classes).tolist(),
        "real_class_histogram": real.histogram.tolist(),
        "seconds": round(time.monotonic() - start, 1),
    }
    print(report.describe(told))
    if output:
        pairs = np.stack([some, data_set.train.images[nearest.indices]])
        report.draw(output / REPORT, told, pixels, pairs, real.manifold.features, features)
        with files.publish(output / runs.METRICS) as partial:
            whole = _former_report(output) | {"samples": told}
            partial.write_text(json.dumps(whole, indent=2) + "\n")
        print(f"Wrote {output / runs.METRICS} and {output / REPORT}")
    return told


def _former_report(output: Path | None) -> dict[str, Any]:
    """What metrics.json holds so far in a folder, which is made when it is not there."""
    if output is None:
        return {}
    output.mkdir(parents=True, exist_ok=True)
    file = output / runs.METRICS
    try:
        return {**json.loads(file.read_text())} if file.exists() else {}
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: expected a JSON object; received: {error}. Remove it.") from error


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no infinity, which the KL is when the real images lack a class."""
    return {key: value if np.isfinite(value) else None for key, value in values.items()}


def main(arguments) -> None:
    """Turns flags into a call of `evaluate`."""
    run, num, seed = arguments.run, arguments.num, arguments.seed
    if seed < 0:
        raise UserError(f"--seed: expected 0 or more; received {seed}")
    if num is not None and num < MINIMUM:
        raise UserError(f"--num: expected at least {MINIMUM:,} samples; received {num:,}")
    place = (arguments.dataset, arguments.data_dir)
    if run is not None:
        samples = of_run(Path(run), num or NUM, seed, *place)
    elif arguments.saved_model is not None:
        samples = of_saved_model(Path(arguments.saved_model), num or NUM, seed, *place)
    else:
        samples = of_images(Path(arguments.images), num, seed, *place)
    output = arguments.output or run
    evaluate(samples, seed, Path(output) if output else None)


def parser() -> cli.Parser:
    """The flags of the command."""
    parser = cli.Parser("evaluate", __doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", help="folder of a run, such as runs/0003-dcgan")
    what.add_argument("--saved_model", metavar="DIR", help="a version's folder, or its parent")
    what.add_argument("--images", metavar="PATH", help="anybody's: an .npz or a folder of pictures")
    parser.add_argument("--num", type=int, help=f"samples (default: {NUM}; of images: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default: 0)")
    parser.add_argument("--dataset", default="", help="default: the run's, the export's, or mnist")
    parser.add_argument("--data_dir", default="", help="default: the run's, or TFDS's usual place")
    parser.add_argument("--output", default="", metavar="FOLDER", help="default: the run's folder")
    return parser


if __name__ == "__main__":
    cli.run(main, parser())
