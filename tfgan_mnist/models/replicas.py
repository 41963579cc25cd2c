"""Which rows of the global batch a replica has, and its random numbers for them."""

from collections.abc import Callable

import tensorflow as tf


def num_rows(batch):
    """The number of rows: an int where it is known when the step is traced, else a tensor."""
    return batch.shape[0] if batch.shape[0] is not None else tf.shape(batch)[0]


def place_of(num) -> tuple:
    """The first of this replica's `num` rows in the global batch, and how many that has.

    The last batch of an epoch may not divide evenly. Then its size is not known when the step is
    traced, and the replicas exchange their sizes.
    """
    context = tf.distribute.get_replica_context()
    replicas, index = context.num_replicas_in_sync, context.replica_id_in_sync_group
    if replicas == 1 or isinstance(num, int):
        return num * index, num * replicas
    own = num * tf.one_hot(index, replicas, dtype=tf.int32)
    sizes = context.all_reduce(tf.distribute.ReduceOp.SUM, own)
    return tf.reduce_sum(sizes[:index]), tf.reduce_sum(sizes)


def share_of_mean(per_example):
    """This replica's share of the global batch's mean: their sum over replicas is the mean."""
    if tf.distribute.get_replica_context().num_replicas_in_sync == 1:
        return tf.reduce_mean(per_example)
    num = num_rows(per_example)
    _, total = place_of(num)
    share = tf.cast(num, tf.float32) / tf.cast(total, tf.float32)
    return tf.math.multiply_no_nan(tf.reduce_mean(per_example), share)  # 0 without rows


def draw(distribution: Callable, num, width: int, seed: int, number):
    """(num, width) random numbers of this replica, a function of (seed, number).

    Every replica draws those of the global batch and keeps its rows, so that the number of replicas
    does not change what is drawn.

    Args:
      distribution: `tf.random.stateless_normal` or `tf.random.stateless_uniform`.
      num: the replica's examples.
      width: numbers for each.
      seed: of the stream.
      number: of the draw within the stream.
    """
    first, total = place_of(num)
    numbers = distribution(
        [total, width],
        seed=tf.stack([tf.constant(seed, tf.int64), tf.cast(number, tf.int64)]),
        alg="philox",  # the default depends on the device, and on XLA
    )
    return numbers[first : first + num]
