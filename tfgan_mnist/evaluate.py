"""Compares samples of a run, of an export, or any images, with real images.

Samples:
  --run=RUN           --num samples of the checkpoint with the best evaluation, else of the newest
  --run RUN RUN ...   the same for each run, and a table that compares the runs
  --saved_model=DIR   --num samples of an export
  --images=PATH       .npz (with `labels` if known), .npy or pictures; --num: a random choice
  Conditional models make samples of classes as frequent as in the data.

Method:
  A classifier of the data set, made here where there is none, turns samples and test images into
  features and classes for the metrics, which metrics.py and neighbours.py define. Without labels or
  with few images the features are those of fixed random convolutions, whose scores stand beside
  those of a classifier otherwise: no recipe was chosen by them. "Real" is the real-data
  baseline: the same metric on as many training images, or on the test images for label accuracy and
  the nearest training image. Nearly all metrics depend on the number of samples and on the
  features: compare equal ones only. From 5,000 samples on, the FID is also extrapolated to
  infinitely many; its interval is what other samples of the same weights would give.

Output:
  A table; metrics.json (under "samples") and report.png in --output. The default is the run's
  folder; without a run nothing is written. Several runs: results for the same checkpoint, number
  and seed are read from a run's metrics.json. Runs that differ in the seed only share a column:
  mean and standard error. Groups of 2 to 10 seeds are compared with the first by a permutation test
  of their FIDs. --output receives comparison.md, and FID over time as comparison.png.
"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfgan_mnist import cli, data, generate, runs
from tfgan_mnist.data import arrays, pictures
from tfgan_mnist.errors import UserError
from tfgan_mnist.evaluation import comparison, protocol, report
from tfgan_mnist.exports import card, versions


class Samples(NamedTuple):
    """Samples to evaluate. `make` generates them, for a data set, after all other checks."""

    name: str
    dataset: str
    data_dir: str  # empty: TFDS's usual place
    image_shape: tuple[int, int, int]
    # Images uint8 (N, H, W, C), and labels, integers (N,).
    make: Callable[[data.ImageData], tuple[np.ndarray, np.ndarray | None]]
    reading: tuple[str, bool] = ("white", False)  # `background` and `skip_broken` of `data.load`


def of_run(run: Path, num: int | None, seed: int) -> Samples:
    """Samples of a run's best checkpoint, or of its newest if it has no evaluations."""
    config, facts = runs.read(run)
    source = generate.from_run(run)
    return Samples(
        source.name,
        config.dataset,
        config.data_dir,
        facts.image_shape,
        functools.partial(_generate, source, num, seed),
        (config.background, config.skip_broken),
    )


def of_saved_model(path: Path, num: int | None, seed: int) -> Samples:
    """Samples of an export; the data set is empty if its model card does not name one."""
    folder = versions.find_version(path)
    source = generate.from_saved_model(folder)
    print(f"{source.name}: {source.quality}")
    description = card.read(folder)
    dataset, shape = (
        description.get("config", {}).get("dataset", ""),
        tuple(description["image_shape"]),
    )
    make = functools.partial(_generate, source, num, seed)
    return Samples(source.name, dataset, "", shape, make)


def of_images(path: Path, num: int | None, seed: int) -> Samples:
    """Images of a file or folder, all or `num` of them, with their labels if there are any."""
    pixels, labels = pictures.read(path), None
    if path.suffix.lower() == ".npz":
        _, labels = arrays.load(path)
    count, height, width, _ = pixels.shape
    if labels is not None and labels.shape != (count,):
        raise UserError(f"{path}: expected {count} labels; received shape {labels.shape}")
    if height != width:
        raise UserError(f"{path}: expected square images; received {width} x {height} pixels")
    if num is not None:
        if num > count:
            raise UserError(f"--num: expected at most {count:,}, the images of {path}")
        chosen = np.random.default_rng(seed).choice(count, num, replace=False)
        pixels, labels = pixels[chosen], None if labels is None else labels[chosen]
    dataset = "mnist" if pixels.shape[1:] == (28, 28, 1) else ""
    return Samples(f"images {path.name}", dataset, "", pixels.shape[1:], lambda _: (pixels, labels))


def _generate(source: generate.Source, num: int | None, seed: int, data_set: data.ImageData):
    num, labels = num or protocol.NUM, None
    if source.num_classes and source.num_classes == data_set.num_classes:
        labels = protocol.draw_labels(data_set.train.labels, num, seed).tolist()
    plan = generate.independent(source, num, labels, seed)
    return generate.draw(source, plan), plan.labels


def evaluate(samples: Samples, output: Path | None, flags) -> dict[str, Any]:
    """Prints the table, writes metrics.json and report.png to `output`, and returns the results."""
    dataset, data_dir = flags.dataset or samples.dataset, flags.data_dir or samples.data_dir
    if not dataset:
        raise UserError(f"{samples.name}: unknown data set; give --dataset")
    cli.start_tensorflow()
    from tfgan_mnist.evaluation import choice

    # First what may fail at once.
    if output:
        output.mkdir(parents=True, exist_ok=True)
        runs.read_metrics(output)
    size, _, channels = samples.image_shape
    data_set = data.load(dataset, data_dir or None, None, size, channels, *samples.reading)
    protocol.check_real(data_set)
    extractor = choice.find(data_set, data_dir)
    found = protocol.evaluate(
        extractor,
        data_set,
        *samples.make(data_set),
        source=samples.name,
        seed=flags.seed,
        data_dir=data_dir,
        with_gan_train=flags.gan_train,
        second=choice.second(extractor, data_set),
    )
    print(report.describe(found.results))
    if output:
        protocol.write(found, output)
        print(f"Wrote {output / runs.METRICS} and {output / runs.REPORT}")
    return found.results


def compare(paths: list[Path], output: Path | None, flags) -> None:
    """Prints a table of several runs, and writes it with a picture to `output`."""
    for run in paths:  # first what may fail at once
        runs.read(run)
    evaluated = []
    for run in paths:
        results = _known_results(run, flags)
        if results is None:
            results = evaluate(of_run(run, flags.num, flags.seed), run, flags)
        evaluated.append(comparison.read(run, results))
    groups = comparison.group(evaluated)
    print(comparison.describe(groups))
    if output:
        comparison.write(groups, output)
        print(f"Wrote {output / comparison.TABLE} and {output / comparison.PICTURE}")


def _known_results(run: Path, flags) -> dict[str, Any] | None:
    """The results in a run's metrics.json, if they are those that the flags ask for."""
    results = runs.read_metrics(run).get("samples")
    wanted = {
        "source": runs.name_of(run, runs.best_step(run) or 0),
        "dataset": data.short_name(data.canonical(flags.dataset or runs.read(run)[0].dataset)),
        "generated": flags.num or protocol.NUM,
        "seed": flags.seed,
    }
    if not comparison.is_complete(results) or not wanted.items() <= results.items():
        return None
    scores = results["scores"]
    lacks_gan_train = "label_accuracy" in scores and "gan_train_accuracy" not in scores
    lacks_second = bool(results.get("class_histogram")) and "second" not in results
    return None if lacks_second or (flags.gan_train and lacks_gan_train) else results


def main(flags) -> None:
    """Evaluates what the flags name."""
    if flags.seed < 0:
        raise UserError(f"--seed: expected 0 or more; received {flags.seed}")
    if flags.num is not None:
        protocol.check_num("--num", flags.num)
    output = Path(flags.output) if flags.output else None
    paths = [Path(run) for run in flags.run or ()]
    if len(paths) > 1:
        compare(paths, output, flags)
    elif paths:
        evaluate(of_run(paths[0], flags.num, flags.seed), output or paths[0], flags)
    elif flags.saved_model is not None:
        evaluate(of_saved_model(Path(flags.saved_model), flags.num, flags.seed), output, flags)
    else:
        evaluate(of_images(Path(flags.images), flags.num, flags.seed), output, flags)


def parser() -> cli.Parser:
    """The flags of the command."""
    parser = cli.Parser("evaluate", __doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", nargs="+", help="folders of runs, such as runs/0003-dcgan")
    source.add_argument("--saved_model", metavar="DIR", help="folder of an export or a version")
    source.add_argument("--images", metavar="PATH", help="an .npz or .npy file, or pictures")
    parser.add_argument("--num", type=int, help=f"samples (default: {protocol.NUM}; images: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default: 0)")
    help_text = "also the accuracy of a classifier trained on labelled samples"
    parser.add_argument("--gan_train", action="store_true", help=help_text)
    parser.add_argument(
        "--dataset", default="", help="the run's, the export's, or mnist for images of 28x28x1"
    )
    parser.add_argument("--data_dir", default="", help="default: the run's, or TFDS's usual place")
    parser.add_argument("--output", default="", metavar="FOLDER", help="default: the run's folder")
    return parser


if __name__ == "__main__":
    cli.run(main, parser())
