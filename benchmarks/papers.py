"""Tables of papers for a conditional model on MNIST: what is learnt from its samples alone.

    python -m benchmarks.papers                                     # of the export that ships
    python -m benchmarks.papers --saved_model=saved_models/cdcgan --per_class 1000

1-nearest-neighbour error: the share of test images whose nearest sample, in pixels, has another
label. Radford et al. 2015, arXiv:1511.06434, section 8.1, with 5,000 and a million samples of each
class; "real" is the training images in place of the samples.

GAN-test and GAN-train: Shmelkov et al. 2018, arXiv:1807.09499, section 3. The accuracy on samples
of a classifier that learnt from real images, and on real images of one that learnt from samples.

Appends a line to results/papers.jsonl.
"""

from pathlib import Path

import numpy as np

from benchmarks import records
from tfgan_mnist import cli, data, generate

CHUNK = 50_000  # samples at a time


def nearest_neighbour_errors(test: data.Split, chunks, marks: list[int]) -> dict[str, float]:
    """Returns the error on the test images after each number of samples in `marks`.

    Args:
      test: images uint8 (M, H, W, C) and labels (M,).
      chunks: yields images uint8 (N, H, W, C) and labels (N,), until the last mark.
      marks: sums of N, ascending.
    """
    from tfgan_mnist.evaluation import neighbours

    distances, labels = np.full(len(test.labels), np.inf), np.zeros(len(test.labels), int)
    errors, seen = {}, 0
    for images, of_images in chunks:
        index, found = neighbours.nearest_images(test.images, images)
        labels = np.where(found < distances, of_images[index], labels)
        distances = np.minimum(found, distances)
        seen += len(images)
        if seen in marks:
            errors[f"{seen:,}"] = round(float(np.mean(labels != test.labels)), 4)
            print(f"1-NN error of {seen:,}: {errors[f'{seen:,}']:.2%}", flush=True)
    return errors


def samples(source: generate.Source, marks: list[int], num_classes: int):
    """Yields samples with equally many of each label, so that each mark ends a chunk."""
    start = 0
    for mark in marks:
        while start < mark:
            num = min(CHUNK, mark - start)
            labels = [(start + i) % num_classes for i in range(num)]
            # A seed for each chunk, as latents follow from seed and index.
            plan = generate.independent(source, num, labels, start)
            yield generate.draw(source, plan), plan.labels
            start += num


def main(arguments) -> None:
    """Measures an export and appends a line."""
    source = generate.from_saved_model(arguments.saved_model)
    from tfgan_mnist.evaluation import choice, classifier_training, metrics

    mnist = data.load("mnist")
    marks = sorted(num * mnist.num_classes for num in arguments.per_class)
    images, labels = next(samples(source, [CHUNK], mnist.num_classes))
    trained = [mnist.train, data.Split(images, labels)]
    gan_train = [
        classifier_training.gan_train_accuracy(*split, *mnist.test, mnist.num_classes)
        for split in trained
    ]
    _, logits = choice.find(mnist).features_and_logits(images)
    row = {
        "export": source.name,
        "gan_test": round(metrics.label_accuracy(logits, labels), 4),
        "gan_train": round(gan_train[1], 4),
        "gan_train_real": round(gan_train[0], 4),
        "real": nearest_neighbour_errors(mnist.test, [mnist.train], [len(mnist.train.labels)]),
        "nearest_neighbour_errors": nearest_neighbour_errors(
            mnist.test, samples(source, marks, mnist.num_classes), marks
        ),
    }
    print(row)
    records.append("papers", row)


def parser() -> cli.Parser:
    """Returns the flags."""
    parser = cli.Parser("papers", __doc__)
    parser.add_argument("--saved_model", type=Path, default=Path("saved_models/cdcgan"))
    parser.add_argument("--per_class", nargs="+", type=int, default=[5000, 10_000, 100_000])
    return parser


if __name__ == "__main__":
    cli.run(main, parser())
