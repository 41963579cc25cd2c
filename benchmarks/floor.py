"""How far apart parts of MNIST are: what an FID can at best be.

    python -m benchmarks.floor

Draws disjoint parts of 10,000 training images, and prints their Frechet distances to the test
images and to each other. A minute.
"""

import itertools

import numpy as np

from tfgan_mnist import cli
from tfgan_mnist.evaluation import metrics

PARTS = 4
SIZE = 10_000


def main() -> None:
    """Prints the distances."""
    cli.start_tensorflow()
    from tfgan_mnist import data
    from tfgan_mnist.evaluation import classifier

    mnist = data.load()
    judge = classifier.load("mnist", mnist.train.images.shape[1:])
    order = np.random.default_rng(0).permutation(len(mnist.train.images))

    def moments(images):
        return metrics.statistics(judge.features_and_logits(images)[0])

    parts = [moments(mnist.train.images[order[i * SIZE : (i + 1) * SIZE]]) for i in range(PARTS)]
    test = moments(mnist.test.images)
    to_test = [metrics.frechet_distance(test, part) for part in parts]
    apart = [metrics.frechet_distance(a, b) for a, b in itertools.combinations(parts, 2)]
    print(f"classifier {judge.version}, {SIZE:,} images in each part")
    for name, distances in (("training to test", to_test), ("training to training", apart)):
        print(f"{name:21}", *(f"{distance:.3f}" for distance in distances))


if __name__ == "__main__":
    main()
