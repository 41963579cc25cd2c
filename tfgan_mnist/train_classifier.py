"""Trains the classifier for the metrics on the training images of a data set, and tests it.

It is written to a folder where `evaluate` and `train` look, which train one themselves where there
is none. The package has one for MNIST.
"""

import contextlib
from pathlib import Path

from tfgan_mnist import cli, config, files, flags
from tfgan_mnist.errors import UserError

# Fields of the configuration that are flags here as well.
OF_DATA = ("dataset", "data_dir", "manual_dir", "image_size", "channels", "background")


def main(arguments) -> None:
    """Trains, tests and saves a classifier."""
    asked = config.resolve(flags.explicit(arguments))
    cli.start_tensorflow()
    from tfgan_mnist import data
    from tfgan_mnist.evaluation import classifier, classifier_training

    if asked.dataset == data.STACKED_MNIST:
        raise UserError(f"{asked.dataset} needs none: mnist's classifier is used for each channel")
    images = data.load(*asked.data_source)
    if images.num_classes < 2:
        raise UserError(
            f"{asked.dataset}: expected pictures of 2 classes or more; received "
            f"{images.num_classes or 'pictures without labels'}"
        )
    folder = classifier.folder_of(images.key, images.image_shape, asked.data_dir)
    folder = Path(arguments.output or folder)
    # `train` may be making it at this moment.
    with contextlib.nullcontext() if arguments.output else files.alone(folder.parent):
        if folder.exists():
            raise UserError(f"{folder} exists; give a new folder with --output")
        classifier_training.make(images, folder, asked.seed)


def parser() -> cli.Parser:
    """The flags of the command."""
    parser = cli.Parser("train_classifier", __doc__)
    for name in (*OF_DATA, "skip_broken", "seed"):
        parser.add_argument(f"--{name}", **flags.details(name))
    parser.add_argument("--output", default="", metavar="DIR", help="empty: where `evaluate` looks")
    return parser


if __name__ == "__main__":
    cli.run(main, parser())
