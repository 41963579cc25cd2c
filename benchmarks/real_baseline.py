"""Frechet distances between parts of MNIST: the best FID that samples can be expected to reach.

    python -m benchmarks.real_baseline

Draws disjoint parts of 10,000 training images and prints their distances to the test images and to
each other. A minute.
"""

import itertools

import numpy as np

from tfgan_mnist import cli
from tfgan_mnist.evaluation import metrics

PARTS, SIZE = 4, 10_000


def main() -> None:
    """Prints the distances."""
    cli.start_tensorflow()
    from tfgan_mnist import data
    from tfgan_mnist.evaluation import classifier

    mnist = data.load()
    features = classifier.load("mnist", mnist.train.images.shape[1:])
    order = np.random.default_rng(0).permutation(len(mnist.train.images))

    def statistics(images):
        return metrics.statistics(features.features_and_logits(images)[0])

    parts = [statistics(mnist.train.images[order[i * SIZE :][:SIZE]]) for i in range(PARTS)]
    test = statistics(mnist.test.images)
    to_test = [metrics.frechet_distance(test, part) for part in parts]
    between = [metrics.frechet_distance(a, b) for a, b in itertools.combinations(parts, 2)]
    print(f"classifier {features.version}, {SIZE:,} images in each part")
    print("training to test    ", *(f"{distance:.3f}" for distance in to_test))
    print("training to training", *(f"{distance:.3f}" for distance in between))


if __name__ == "__main__":
    main()
