"""Means of what the training step reports."""

from collections.abc import Sequence

import keras
import tensorflow as tf


class RunningMeans(keras.metrics.Metric):
    """Means since the epoch began, one for each of `keys`; NaN for a key without values.

    `keras.metrics.Mean` keeps apart what each replica has seen, so that all workers are needed to
    read it or save it. Here all hold the same: sums are taken over replicas as they come.

    Values of `finite_keys` that are NaN or infinite are left out, those of other keys are not.
    """

    def __init__(self, keys: Sequence[str], finite_keys: Sequence[str]):
        super().__init__(name="means")
        self.keys, self.finite_keys = tuple(keys), tuple(finite_keys)
        # For each key the total and the count.
        self.sums = [
            keras.Variable(0.0, dtype="float32", trainable=False) for _ in range(2 * len(keys))
        ]

    def update_state(self, values: dict) -> None:
        """Adds this replica's values of some keys: (B,) per example, or () per step."""
        own = []
        for key in self.keys:
            value = tf.cast(values.get(key, tf.zeros([0])), tf.float32)
            count = tf.cast(tf.size(value), tf.float32)
            if key in self.finite_keys:
                is_finite = tf.math.is_finite(value)
                count = tf.reduce_sum(tf.cast(is_finite, tf.float32))
                value = tf.where(is_finite, value, 0.0)
            own += [tf.reduce_sum(value), count]
        context = tf.distribute.get_replica_context()
        # In one message, whose latency is its cost.
        over_replicas = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack(own))
        for variable, amount in zip(self.sums, tf.unstack(over_replicas)):
            variable.assign_add(amount)

    def result(self) -> dict:
        """Key -> mean."""
        pairs = zip(self.keys, self.sums[::2], self.sums[1::2])
        return {key: total.value / count.value for key, total, count in pairs}
