"""Scores samples of a run, of an export, or anybody's, against real images.

What is judged:
  --run=RUN                   --num samples of the checkpoint with the best evaluation, or of the
                              newest where there was no evaluation
  --run RUN RUN ...           the same of each, and a table that compares them
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

Several runs:
  Figures that a run's metrics.json holds already, of the same checkpoint, as many samples and the
  same seed, are taken from there. Runs that differ in their seeds only share a column: mean and
  standard error. With --output the table goes to comparison.md, and FID over training time to
  comparison.png.
"""

import argparse
import functools
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfgan_mnist import cli, comparison, export, generate, images, report, runs, scoring
from tfgan_mnist.errors import UserError


class Samples(NamedTuple):
    """What is to be judged, before it is made."""

    name: str
    dataset: str
    data_dir: str  # empty: TFDS's usual place
    image_shape: tuple[int, int, int]
    # -> images uint8 (N, H, W, C) and labels, integers (N,), or None
    make: Callable[[], tuple[np.ndarray, np.ndarray | None]]


# What is judged


def of_run(run: Path, num: int, seed: int, dataset: str = "", data_dir: str = "") -> Samples:
    """What a run has learnt; data set and place are the run's unless given."""
    config, facts = runs.read(run)
    source = generate.from_run(run)
    make = functools.partial(_generated, source, num, seed)
    dataset, data_dir = dataset or config.dataset, data_dir or config.data_dir
    return Samples(source.name, dataset, data_dir, facts.image_shape, make)


def of_saved_model(
    path: Path, num: int, seed: int, dataset: str = "", data_dir: str = ""
) -> Samples:
    """An export, of the data set that its model card tells unless one is given.

    Raises:
      UserError: no export there, or one without a model card that tells its data.
    """
    folder = export.find_version(path)
    source = generate.from_saved_model(folder)
    make = functools.partial(_generated, source, num, seed)
    card = export.read_card(folder)
    height, width, channels = card["image_shape"]
    results = card.get("config")
    dataset = dataset or (results.get("dataset", "") if isinstance(results, dict) else "")
    if not dataset or not isinstance(dataset, str):
        raise UserError(
            f"{folder / export.CARD}: expected the name of a data set as config.dataset; received "
            f"{reprlib.repr(dataset)}. Give --dataset."
        )
    return Samples(source.name, dataset, data_dir, (height, width, channels), make)


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
    plan = generate.independent(source, num, None, seed, generate.MAX_IMAGES)
    return generate.draw(source, plan), plan.labels


def _labels(path: Path, count: int) -> np.ndarray | None:
    """The `labels` of an .npz file, int64 (N,), or None when it has none."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            labels = archive["labels"] if "labels" in archive.files else None
    except Exception as error:  # a damaged archive raises whatever it comes to
        raise UserError(f"{path}: 'labels' cannot be read ({error})") from error
    if labels is None:
        return None
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{path}: expected 'labels' as integers of shape ({count},), one for each image; "
            f"received {labels.dtype} of shape {labels.shape}"
        )
    return labels.astype(np.int64)


# How good it is


def evaluate(
    samples: Samples, seed: int = 0, output: Path | None = None, gan_train: bool = False
) -> dict[str, Any]:
    """Judges samples, prints the table, and writes metrics.json and report.png.

    Args:
      samples: what is judged.
      seed: what they were drawn with.
      output: the folder to write to, made when it is not there; None: nothing is written.
      gan_train: also train a classifier on the samples; a minute or two.

    Returns:
      What stands under "samples" in metrics.json.

    Raises:
      UserError: too few samples, or of a size or a data set for which there is no classifier;
        labels that are no classes; or `output` has a metrics.json that is none.
      OSError: `output` cannot be written.
    """
    cli.start_tensorflow()
    from tfgan_mnist import classifier, data

    # What can go wrong does so before minutes are spent.
    if output:
        output.mkdir(parents=True, exist_ok=True)
        runs.read_metrics(output)
    judge = classifier.load(samples.dataset, samples.image_shape, samples.data_dir)

    pixels, labels = samples.make()
    size, _, channels = samples.image_shape
    found = scoring.evaluate(
        judge,
        data.load(samples.dataset, samples.data_dir or None, None, size, channels),
        pixels,
        labels,
        source=samples.name,
        seed=seed,
        data_dir=samples.data_dir,
        with_gan_train=gan_train,
    )
    print(report.describe(found.results))
    if output:
        scoring.write(found, output)
        print(f"Wrote {output / runs.METRICS} and {output / runs.REPORT}")
    return found.results


def compare(paths: list[Path], judge: Callable[[Path], dict], output: Path | None) -> None:
    """Prints a table of several runs, and writes it with a picture.

    Args:
      paths: folders of runs.
      judge: run -> what stands under "samples" in its metrics.json.
      output: the folder to write to, made when it is not there; None: nothing is written.

    Raises:
      UserError: not a run, or runs that were not judged alike.
      OSError: `output` cannot be written.
    """
    for path in paths:  # what can go wrong does so before minutes are spent
        runs.read(path)
    columns = comparison.group([comparison.read(path, judge(path)) for path in paths])
    print(comparison.describe(columns))
    if output:
        comparison.write(columns, output)
        print(f"Wrote {output / comparison.TABLE} and {output / comparison.PICTURE}")


def main(arguments) -> None:
    """Turns flags into a call of `evaluate`, or of `compare`."""
    num, seed, gan_train = arguments.num, arguments.seed, arguments.gan_train
    if seed < 0:
        raise UserError(f"--seed: expected 0 or more; received {seed}")
    if num is not None and num < scoring.MIN_SAMPLES:
        raise UserError(
            f"--num: expected at least {scoring.MIN_SAMPLES:,} samples; received {num:,}"
        )
    place = (arguments.dataset, arguments.data_dir)
    output = Path(arguments.output) if arguments.output else None

    def judge_run(run: Path, folder: Path) -> dict[str, Any]:
        return evaluate(of_run(run, num or scoring.NUM, seed, *place), seed, folder, gan_train)

    def known_or_judged(run: Path) -> dict[str, Any]:
        kept = runs.read_metrics(run).get("samples")
        results: dict[str, Any] = kept if comparison.is_complete(kept) else {}
        config, _ = runs.read(run)
        as_asked = {
            "source": runs.name_of(run, runs.best_step(run) or 0),
            "dataset": arguments.dataset or config.dataset,
            "generated": num or scoring.NUM,
            "seed": seed,
        }
        known = all(results.get(key) == value for key, value in as_asked.items())
        if known and gan_train and "label_accuracy" in results["scores"]:
            known = "gan_train_accuracy" in results["scores"]
        return results if known else judge_run(run, run)

    if arguments.run and len(arguments.run) > 1:
        compare([Path(run) for run in arguments.run], known_or_judged, output)
    elif arguments.run:
        run = Path(arguments.run[0])
        judge_run(run, output or run)
    elif arguments.saved_model is not None:
        samples = of_saved_model(Path(arguments.saved_model), num or scoring.NUM, seed, *place)
        evaluate(samples, seed, output, gan_train)
    else:
        samples = of_images(Path(arguments.images), num, seed, *place)
        evaluate(samples, seed, output, gan_train)


def parser() -> cli.Parser:
    """The flags of the command."""
    parser = cli.Parser("evaluate", __doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", nargs="+", help="folders of runs, such as runs/0003-dcgan")
    what.add_argument("--saved_model", metavar="DIR", help="a version's folder, or its parent")
    what.add_argument("--images", metavar="PATH", help="anybody's: an .npz or a folder of pictures")
    parser.add_argument("--num", type=int, help=f"samples (default: {scoring.NUM}; of images: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default: 0)")
    parser.add_argument(
        "--gan_train",
        action="store_true",
        help="also how well a classifier does that has learnt from labelled samples only",
    )
    parser.add_argument("--dataset", default="", help="default: the run's, the export's, or mnist")
    parser.add_argument("--data_dir", default="", help="default: the run's, or TFDS's usual place")
    parser.add_argument("--output", default="", metavar="FOLDER", help="default: the run's folder")
    return parser


if __name__ == "__main__":
    cli.run(main, parser())
