"""Random numbers of the training step, a function of (seed, draw, replica)."""

from collections.abc import Callable

import tensorflow as tf

from tfgan_mnist.models import replicas


def draw(distribution: Callable, num, width: int, seed: int, number):
    """(num, width) random numbers of this replica.

    Every replica draws those of the global batch and keeps its rows, so that the number of replicas
    does not change what is drawn.

    Args:
      distribution: `tf.random.stateless_normal` or `tf.random.stateless_uniform`.
      num: the replica's examples.
      width: numbers for each.
      seed: of the stream.
      number: of the draw within the stream.
    """
    first, total = replicas.place_of(num)
    numbers = distribution(
        [total, width],
        seed=tf.stack([tf.constant(seed, tf.int64), tf.cast(number, tf.int64)]),
        alg="philox",  # the default depends on the device, and on XLA
    )
    return numbers[first : first + num]
