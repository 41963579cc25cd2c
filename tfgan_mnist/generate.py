"""Draws images with the generator of a run or of an export, and writes them to files.

How many, and which classes:
  Unconditional models make --num images, 100 by default. Conditional models make one image for each
  of --labels (numbers or names of classes), by default of all in order; with --num the labels are
  repeated or cut short. Image i depends on --seed, i and its label only: a larger --num keeps the
  images of a smaller one, and a run and its export make the same images.

Interpolation:
  --interpolate=STEPS makes that many images on the path from one latent to another, for a
  conditional model with each label.

Output:
  --output=FILE.png  one picture: a column for each label, or a row for each interpolation
  --output=FILE.gif  an animation of the interpolation there and back, the labels side by side
  --output=FILE.npz  `images`, uint8 (N, H, W, C), and `labels`, int32 (N,), where there are any
  --output=FOLDER/   a PNG for each image: 00000.png, or with its label 00000_7.png
  A file is replaced; a folder must be new or empty. Either appears complete or not at all.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfgan_mnist import cli, files, runs
from tfgan_mnist.data import class_names, pictures, pixels
from tfgan_mnist.errors import UserError
from tfgan_mnist.exports import card, saved_model, versions
from tfgan_mnist.models import latents

NUM = 100
BATCH = 500  # images per call of the generator
MAX_IMAGES = 100_000  # in memory: 78 MB at 28x28x1, 1.2 GB at 64x64x3
MAX_COLUMNS = 50  # labels side by side; more are laid out near to a square
GIF_MILLISECONDS = 80


class Source(NamedTuple):
    """Something that makes images."""

    name: str  # for reports
    latent_dim: int
    num_classes: int | None  # None: not conditional
    # latents (B, Z) float32, labels (B,) int32 or None -> images (B, H, W, C) float32 in [-1, 1]
    sample: Callable[[np.ndarray, np.ndarray | None], np.ndarray]
    quality: str = ""  # of an export, for the screen
    class_names: Sequence[str] = ()  # by label; empty where they are the numbers


class Plan(NamedTuple):
    """Latents and labels of the images, and their layout row by row."""

    latents: np.ndarray  # float32 (N, Z)
    labels: np.ndarray | None  # int32 (N,)
    columns: int


# Where images come from


def from_run(run: Path) -> Source:
    """The checkpoint of a run with the best evaluation, or the newest without any.

    Raises:
      UserError: not a run folder, or no readable checkpoint in it.
    """
    _, facts = runs.read(run)  # before TensorFlow's slow start
    cli.start_tensorflow()
    from tfgan_mnist.training import checkpoints

    _, model = checkpoints.restore_run(run)
    return Source(
        runs.name_of(run, model.steps_done),
        model.latent_dim,
        model.num_classes,
        model.sample,
        class_names=facts.class_names,
    )


def from_saved_model(path: Path) -> Source:
    """An export, without the code of its model. A SavedModel is code: load only those you trust.

    Args:
      path: the folder of a version, or a base path, of which the highest version is taken.

    Raises:
      UserError: no SavedModel there, a damaged one, or one without our signatures and card.
    """
    folder = versions.find_version(path)
    cli.start_tensorflow()
    import tensorflow as tf

    loaded = saved_model.load(folder)
    described = card.read(folder)

    def sample(latents, labels):
        inputs = {"latents": tf.constant(latents)}
        if labels is not None:
            inputs["labels"] = tf.constant(labels)
        # Through `loaded`: a signature alone does not keep its weights alive.
        outputs = loaded.signatures["serving_default"](**inputs)
        return outputs["images"].numpy() * 2.0 - 1.0

    return Source(
        f"export {'/'.join(folder.resolve().parts[-2:])}",
        described["latent_dim"],
        described["num_classes"],
        sample,
        card.describe_quality(described),
        described.get("class_names", ()),
    )


# What is made


def independent(source: Source, num: int | None, labels: list[int] | None, seed: int) -> Plan:
    """A plan in which each image has a latent of its own.

    Raises:
      UserError: labels that do not suit the model, or too many images.
    """
    classes = _classes(source, labels)
    num = num or len(labels or ()) or NUM
    _check_count(num)
    points = latents.draw(num, source.latent_dim, seed)
    square = math.ceil(math.sqrt(num))
    if classes is None:
        return Plan(points, None, square)
    columns = min(len(classes), num) if len(classes) <= MAX_COLUMNS else square
    return Plan(points, np.resize(classes, num), columns)  # resize repeats, or cuts


def interpolated(source: Source, steps: int, labels: list[int] | None, seed: int) -> Plan:
    """A plan of the path from one latent to another, a row for each label.

    Raises:
      UserError: labels that do not suit the model, or too many images.
    """
    classes = _classes(source, labels)
    rows = 1 if classes is None else len(classes)
    _check_count(rows * steps)
    start, end = latents.draw(2, source.latent_dim, seed)
    points = np.tile(latents.interpolate(start, end, steps), (rows, 1))
    return Plan(points, None if classes is None else classes.repeat(steps), steps)


def draw(source: Source, plan: Plan) -> np.ndarray:
    """The images of a plan, uint8 (N, H, W, C)."""
    batches = []
    for first in range(0, len(plan.latents), BATCH):
        rows = slice(first, first + BATCH)
        labels = None if plan.labels is None else plan.labels[rows]
        batches.append(pixels.to_uint8(source.sample(plan.latents[rows], labels)))
    return np.concatenate(batches)


def _classes(source: Source, labels: list[int] | None) -> np.ndarray | None:
    """Labels (K,) int32, as given or all classes; None for an unconditional model."""
    if source.num_classes is not None:
        return np.array(labels or range(source.num_classes), np.int32)
    if labels:
        raise UserError("--labels: expected none, since the model is not conditional")
    return None


def _check_count(count: int) -> None:
    if count > MAX_IMAGES:
        raise UserError(f"expected at most {MAX_IMAGES:,} images; received {count:,}")


# Where images go to


def write_picture(path: Path, images: np.ndarray, plan: Plan) -> None:
    """All images in one PNG."""
    pictures.write_png(path, pixels.enlarge(pixels.grid(images, plan.columns)))


def write_animation(path: Path, images: np.ndarray, plan: Plan) -> None:
    """A GIF with a frame for each step of an interpolation, there and back."""
    rows = len(images) // plan.columns
    by_step = images.reshape(rows, plan.columns, *images.shape[1:]).swapaxes(0, 1)
    columns = rows if rows <= MAX_COLUMNS else None
    there = [pixels.enlarge(pixels.grid(frame, columns)) for frame in by_step]
    # The ends are shown once, so that the loop does not stop at them.
    pictures.write_gif(path, there + there[-2:0:-1], GIF_MILLISECONDS, GIF_MILLISECONDS)


def write_arrays(path: Path, images: np.ndarray, plan: Plan) -> None:
    """The `.npz` file that `pictures.read` reads."""
    arrays: dict[str, Any] = {"images": images}
    if plan.labels is not None:
        arrays["labels"] = plan.labels
    with files.write_atomically(path) as partial, open(partial, "wb") as stream:
        np.savez_compressed(stream, **arrays)  # to a name NumPy would add ".npz" to ".NPZ"


def write_folder(path: Path, images: np.ndarray, plan: Plan) -> None:
    """A PNG for each image, named so that they sort in order."""
    with files.write_atomically(path) as partial:
        partial.mkdir()
        for i, image in enumerate(images):
            label = "" if plan.labels is None else f"_{plan.labels[i]}"
            (partial / f"{i:05d}{label}.png").write_bytes(pictures.png_bytes(image))


WRITERS = {".png": write_picture, ".gif": write_animation, ".npz": write_arrays}


def choose_output(name: str, interpolating: bool) -> tuple[Path, Callable]:
    """The path of `--output`, and which of the writers above writes images there.

    Raises:
      UserError: an unknown ending, no interpolation for an animation, or a folder in use.
    """
    path = Path(name).resolve()  # so that "." and links to folders have a name and a parent
    if name.endswith("/") or path.is_dir():
        if path.exists() and any(path.iterdir()):
            raise UserError(f"--output: expected a new or an empty folder; {name} has files in it")
        return path, write_folder
    kind = path.suffix.lower()
    if kind not in WRITERS:
        raise UserError(
            f"--output: expected FILE.png, FILE.gif, FILE.npz or FOLDER/; received {name!r}"
        )
    if kind == ".gif" and not interpolating:
        raise UserError("--output: expected --interpolate=STEPS with a .gif, which shows the steps")
    return path, WRITERS[kind]


def main(arguments) -> None:
    steps = arguments.interpolate
    if steps and arguments.num:
        raise UserError("--num: expected none with --interpolate, which says how many images")
    path, write = choose_output(arguments.output, interpolating=bool(steps))
    if arguments.run is not None:
        source = from_run(Path(arguments.run))
    else:
        source = from_saved_model(Path(arguments.saved_model))
    labels = arguments.labels
    if labels is not None:
        labels = class_names.parse(labels, source.class_names, source.num_classes)
    if steps:
        plan = interpolated(source, steps, labels, arguments.seed)
    else:
        plan = independent(source, arguments.num, labels, arguments.seed)
    write(path, draw(source, plan), plan)
    quality = f" ({source.quality})" if source.quality else ""
    print(f"Wrote {len(plan.latents):,} images of {source.name}{quality} to {arguments.output}")


def parser() -> cli.Parser:
    parser = cli.Parser("generate", __doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", help="folder of a run, such as runs/0003-dcgan")
    source.add_argument(
        "--saved_model",
        metavar="DIR",
        help="export: a version's folder, or its parent for the highest version",
    )
    parser.add_argument("--num", type=_integer(1), metavar="N", help=f"images (default: {NUM})")
    parser.add_argument(
        "--labels", metavar="N,N", help="classes, such as 2,0,2,6 or trouser,coat (default: all)"
    )
    parser.add_argument(
        "--seed", type=_integer(0), default=0, metavar="N", help="of the latents (default: 0)"
    )
    parser.add_argument(
        "--interpolate", type=_integer(2), metavar="STEPS", help="images from one latent to another"
    )
    parser.add_argument(
        "--output",
        default="samples.png",
        metavar="PATH",
        help="FILE.png, FILE.gif, FILE.npz or FOLDER/ (default: %(default)s)",
    )
    return parser


def _integer(at_least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < at_least:
            raise argparse.ArgumentTypeError(f"expected a number >= {at_least}; received {text!r}")
        return int(text)

    return parse


if __name__ == "__main__":
    cli.run(main, parser())
