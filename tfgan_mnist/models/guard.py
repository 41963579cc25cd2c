"""What is not finite is kept out of a model: an update by such gradients is not made.

One NaN would stay for good: in the weights, in Adam's slots, in moving averages, and in what the
forward pass itself writes before any gradient is known. Here an update is made as a whole, or
leaves everything as it was.
"""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf


def written_in_passes(*networks: keras.Model) -> list[keras.Variable]:
    """What a forward pass in training writes, but for dropout's seeds, which are integers.

    Batch norm's statistics and, under spectral normalisation, its vectors and the divided kernels.
    """
    written = []
    for network in networks:
        floats = [v for v in network.non_trainable_variables if tf.as_dtype(v.dtype).is_floating]
        normalised = [
            layer.kernel
            for layer in network.layers
            if isinstance(layer, keras.layers.SpectralNormalization)
        ]
        written += floats + normalised
    return written


def update(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence,
    variables: Sequence[keras.Variable],
    loss: tf.Tensor,
    norm: tf.Tensor,
    written: Sequence[keras.Variable],
    before: Sequence[tf.Tensor],
) -> tf.Tensor:
    """Updates `variables` by this replica's share of the gradients, if loss and all is finite.

    If not on any replica, then on none: what the forward pass has written becomes what it was, and
    a loss scale is halved. To be called where all replicas call it.

    Args:
      optimizer: of `variables`.
      gradients: of the scaled loss, in the order of the variables.
      variables: what to update.
      loss: (), the scaled one.
      norm: () of the gradients. Not finite too when their squares overflow, which Adam keeps.
      written: see `written_in_passes`, of all networks that the gradients came through.
      before: their values before the forward pass.

    Returns:
      1.0 () when the update was made, 0.0 when it was left out.
    """
    context = tf.distribute.get_replica_context()
    # A statistic can be infinite where the gradient is zero for just that reason.
    values = [tf.stack([loss, norm]), *(tf.reshape(variable.value, [-1]) for variable in written)]
    finite = tf.reduce_all(tf.math.is_finite(tf.concat(values, axis=0)))
    if context.num_replicas_in_sync > 1:
        others = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(finite, 0.0, 1.0))
        finite = tf.equal(others, 0.0)

    def make(gradients):
        optimizer.apply_gradients(zip(gradients, variables))

    def leave_out(before):
        for variable, value in zip(written, before):
            variable.assign(value)
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            optimizer.apply_gradients([(tf.fill(v.shape, np.nan), v) for v in variables])

    # Among replicas: a condition around an update has to stand outside of them.
    def decide(strategy, finite, gradients, before):
        def on_each(function, values):
            strategy.extended.call_for_each_replica(function, args=(values,))
            return tf.constant(0)  # both branches have to return something

        tf.cond(
            strategy.experimental_local_results(finite)[0],
            lambda: on_each(make, gradients),
            lambda: on_each(leave_out, before),
        )

    context.merge_call(decide, args=(finite, list(gradients), list(before)))
    return tf.cast(finite, tf.float32)
