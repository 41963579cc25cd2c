"""Trains the classifier for the metrics on the training images of a data set, and tests it.

It is written to a folder where `evaluate` and `train` look, which train one themselves where there
is none. The package has one for MNIST.
"""

import contextlib
from pathlib import Path

from tfgan_mnist import cli, files
from tfgan_mnist.errors import UserError

MAX_PIXELS = 1024  # a side


def main(flags) -> None:
    """Trains, tests and saves a classifier."""
    if not 0 <= flags.seed < 2**31:
        raise UserError(f"--seed: expected 0 to {2**31 - 1}; received {flags.seed}")
    if flags.image_size and not 8 <= flags.image_size <= MAX_PIXELS:
        raise UserError(f"--image_size: expected 8 to {MAX_PIXELS:,}; received {flags.image_size}")
    cli.start_tensorflow()
    from tfgan_mnist import data
    from tfgan_mnist.evaluation import classifier, classifier_training

    if flags.dataset == data.STACKED_MNIST:
        raise UserError(f"{flags.dataset} needs none: mnist's classifier is used for each channel")
    places = flags.data_dir or None, flags.manual_dir or None
    look = flags.image_size or None, flags.channels or None
    images = data.load(flags.dataset, *places, *look, flags.background, flags.skip_broken)
    if images.num_classes < 2:
        raise UserError(
            f"{flags.dataset}: expected pictures of 2 classes or more; received "
            f"{images.num_classes or 'pictures without labels'}"
        )
    folder = classifier.folder_of(images.key, images.image_shape, flags.data_dir)
    folder = Path(flags.output or folder)
    # `train` may be making it at this moment.
    with contextlib.nullcontext() if flags.output else files.alone(folder.parent):
        if folder.exists():
            raise UserError(f"{folder} exists; give a new folder with --output")
        classifier_training.make(images, folder, flags.seed)


def parser() -> cli.Parser:
    """The flags of the command."""
    parser = cli.Parser("train_classifier", __doc__)
    help_text = "TFDS data set, or a path of own pictures (default: %(default)s)"
    parser.add_argument("--dataset", default="mnist", help=help_text)
    parser.add_argument("--data_dir", default="", help="prepared data sets; empty: TFDS's place")
    parser.add_argument("--manual_dir", default="", help="the data set's archives")
    help_text = "in pixels; 0: 28, own pictures as they are (default: 0)"
    parser.add_argument("--image_size", type=int, default=0, help=help_text)
    help_text = "1 gray, 3 colour, 0 as in the data set (default: 0)"
    parser.add_argument("--channels", type=int, choices=(0, 1, 3), default=0, help=help_text)
    help_text = "colour under transparent pixels (default: %(default)s)"
    parser.add_argument("--background", default="white", help=help_text)
    help_text = "go on without own pictures that cannot be decoded"
    parser.add_argument("--skip_broken", action="store_true", help=help_text)
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")
    parser.add_argument("--output", default="", metavar="DIR", help="empty: where `evaluate` looks")
    return parser


if __name__ == "__main__":
    cli.run(main, parser())
