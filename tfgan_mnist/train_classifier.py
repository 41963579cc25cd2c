"""Trains the classifier for the metrics on the training images of a data set, and tests it.

It is written to a folder where `evaluate` and `train` look. The package has one for MNIST.
"""

import datetime
import time
from pathlib import Path

from tfgan_mnist import cli
from tfgan_mnist.errors import UserError

MAX_PIXELS = 1024  # a side


def main(flags) -> None:
    """Trains, tests and saves a classifier."""
    if not 0 <= flags.seed < 2**31:
        raise UserError(f"--seed: expected 0 to {2**31 - 1}; received {flags.seed}")
    if flags.image_size and not 8 <= flags.image_size <= MAX_PIXELS:
        raise UserError(f"--image_size: expected 8 to {MAX_PIXELS:,}; received {flags.image_size}")
    cli.start_tensorflow()
    import tensorflow as tf

    from tfgan_mnist import data
    from tfgan_mnist.evaluation import classifier, classifier_training, metrics

    if flags.dataset == data.STACKED_MNIST:
        raise UserError(f"{flags.dataset} needs none: mnist's classifier is used for each channel")
    dataset = data.canonical(flags.dataset)
    places = flags.data_dir or None, flags.manual_dir or None
    look = flags.image_size or None, flags.channels or None
    images = data.load(dataset, *places, *look, flags.background, flags.skip_broken)
    if images.num_classes < 2:
        raise UserError(
            f"{flags.dataset}: expected pictures of 2 classes or more; received "
            f"{images.num_classes or 'pictures without labels'}"
        )
    shape = images.image_shape
    folder = Path(flags.output or classifier.folder_of(dataset, shape, flags.data_dir))
    if folder.exists():
        raise UserError(f"{folder} exists; give a new folder with --output")

    def log(step, steps, loss):
        print(f"\rstep {step:,} of {steps:,}  loss {loss:.4f}", end="", flush=True)

    start = time.monotonic()
    trained = classifier_training.train(*images.train, images.num_classes, seed=flags.seed, log=log)
    seconds = round(time.monotonic() - start)
    _, logits = trained.features_and_logits(images.test.images)
    accuracy = metrics.label_accuracy(logits, images.test.labels)
    print(f"\n{accuracy:.2%} of {len(logits):,} test images right, after {seconds} s")

    trained.about = {
        "name": classifier.name_of(dataset, shape),
        "dataset": data.short_name(dataset),
        "image_shape": list(shape),
        "num_classes": images.num_classes,
        "train_images": len(images.train.images),
        "test_images": len(logits),
        "test_accuracy": round(accuracy, 4),
        "seed": flags.seed,
        "command": (
            f"python -m tfgan_mnist.train_classifier --dataset={flags.dataset} "
            f"--image_size={shape[0]} --channels={shape[2]} --seed={flags.seed}"
        ),
        "seconds": seconds,
        "date": datetime.date.today().isoformat(),
        "tensorflow": tf.__version__,
    }
    classifier.save(trained, folder)
    print(f"Saved: {folder}")


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
