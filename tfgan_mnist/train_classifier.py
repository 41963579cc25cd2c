"""Trains the classifier that the metrics read, on a data set's training images.

It is judged on the test images and written to a folder that `evaluate` and `train` look in. The one
for MNIST at 28x28x1 comes with the package.
"""

import datetime
import time
from pathlib import Path

from tfgan_mnist import cli
from tfgan_mnist.errors import UserError

MAX_PIXELS = 1024  # a side


def train_classifier(
    dataset: str = "mnist",
    data_dir: str = "",
    manual_dir: str = "",
    image_size: int = 28,
    channels: int = 0,
    seed: int = 0,
    output: str = "",
) -> Path:
    """Trains, measures and saves a classifier, and returns its folder.

    Args:
      dataset: a TFDS image classification data set.
      data_dir: where prepared data sets are; empty: TFDS's usual place.
      manual_dir: folder with the data set's archives; empty: packaged or download.
      image_size: side of the images in pixels.
      channels: 1 gray, 3 colour, 0 as the data set has it.
      seed: of weights, order and augmentation.
      output: the folder; empty: where the metrics look for it.

    Raises:
      UserError: no such data set, one that needs no classifier, or the folder is there already.
    """
    if not 0 <= seed < 2**31:
        raise UserError(f"--seed: expected 0 to {2**31 - 1}; received {seed}")
    if not 8 <= image_size <= MAX_PIXELS:
        raise UserError(f"--image_size: expected 8 to {MAX_PIXELS:,}; received {image_size}")
    cli.start_tensorflow()
    import tensorflow as tf

    from tfgan_mnist import classifier, data, metrics

    # The data.
    if dataset == data.STACKED_MNIST:
        raise UserError(f"{dataset} is read by mnist's classifier, channel by channel; none needed")
    data_set = data.load(
        dataset, data_dir or None, manual_dir or None, image_size, channels or None
    )
    image_shape = data_set.train.images.shape[1:]
    for name, part, fewest in (
        ("training", data_set.train, classifier.BATCH_SIZE),
        ("test", data_set.test, 1),
    ):
        if len(part.images) < fewest:
            raise UserError(
                f"{dataset}: expected at least {fewest} {name} images; it has {len(part.images)}"
            )

    # Where it goes: found out before minutes are spent.
    folder = Path(output or classifier.folder_of(dataset, image_shape, data_dir))
    if folder.exists():
        raise UserError(f"{folder} exists; remove it, or give another place by --output")

    # Train.
    def log(step, steps, loss):
        print(f"\rstep {step:,} of {steps:,}  loss {loss:.4f}", end="", flush=True)

    start = time.monotonic()
    trained = classifier.train(*data_set.train, data_set.num_classes, seed=seed, log=log)
    seconds = time.monotonic() - start

    # Measure, on images that it has not seen.
    _, logits = trained.features_and_logits(data_set.test.images)
    accuracy = metrics.label_accuracy(logits, data_set.test.labels)
    print(f"\n{accuracy:.2%} of {len(logits):,} test images right, after {seconds:.0f} s")

    # Save, with what it takes to make it again.
    trained.about = {
        "name": classifier.name_of(dataset, image_shape),
        "dataset": dataset,
        "image_shape": list(image_shape),
        "num_classes": data_set.num_classes,
        "train_images": len(data_set.train.images),
        "test_images": len(logits),
        "test_accuracy": round(accuracy, 4),
        "seed": seed,
        "command": (
            f"python -m tfgan_mnist.train_classifier --dataset={dataset} "
            f"--image_size={image_shape[0]} --channels={image_shape[2]} --seed={seed}"
        ),
        "seconds": round(seconds),
        "date": datetime.date.today().isoformat(),
        "tensorflow": tf.__version__,
    }
    classifier.save(trained, folder)
    print(f"Saved: {folder}")
    return folder


def main(arguments) -> None:
    """Turns flags into a call of `train_classifier`."""
    train_classifier(**vars(arguments))


def parser() -> cli.Parser:
    """The flags of the command."""
    parser = cli.Parser("train_classifier", __doc__)
    parser.add_argument("--dataset", default="mnist", help="TFDS data set (default: %(default)s)")
    parser.add_argument("--data_dir", default="", help="prepared data sets; empty: TFDS's place")
    parser.add_argument("--manual_dir", default="", help="the data set's archives")
    parser.add_argument("--image_size", type=int, default=28, help="in pixels (default: 28)")
    parser.add_argument(
        "--channels", type=int, choices=(0, 1, 3), default=0, help="0: as the data set has it"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")
    parser.add_argument("--output", default="", metavar="DIR", help="empty: where metrics look")
    return parser


if __name__ == "__main__":
    cli.run(main, parser())
