"""A program for two logical CPUs: the train command with the given flags, then an overflow.

In float16 one replica alone overflows, by images that are far from [-1, 1]. Both have to skip the
update and to halve their loss scales.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

from tfgan_mnist import train
from tfgan_mnist.config import resolve
from tfgan_mnist.training import distribution
from tfgan_mnist.training.build import build


def main() -> None:
    (cpu,) = tf.config.list_physical_devices("CPU")
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    context = distribution.start("mirrored", 0)
    distribution.start = lambda *_: context
    train.main(train.parser().parse_args(sys.argv[1:]))

    keras.config.set_dtype_policy("mixed_float16")
    strategy, copies = context.strategy, context.strategy.experimental_local_results
    with strategy.scope():
        sizes = {"g_width": 2, "d_width": 2, "latent_dim": 4, "steps_per_epoch": 4}
        model = build(resolve({"model": "dcgan", "discriminator_steps": 2} | sizes), (8, 8, 1), 10)
    before = model.discriminator.get_weights()

    def images(context):
        overflowing = 1e30 * context.replica_id_in_sync_group
        return tf.fill((4, 8, 8, 1), tf.cast(overflowing, tf.float32))

    def scales(optimizer) -> list[float]:
        return [float(copy) for copy in copies(optimizer.dynamic_scale.value)]

    (full, _) = scales(model.d_optimizer)
    batch = strategy.experimental_distribute_values_from_function(images)
    tf.function(lambda: strategy.run(model.train_step, args=(batch,)))()
    assert scales(model.d_optimizer) == [full / 4] * 2  # two updates
    assert len(set(scales(model.g_optimizer))) == 1
    for old, variable in zip(before, model.discriminator.weights, strict=True):
        if variable.trainable:
            for copy in copies(variable.value):
                np.testing.assert_array_equal(old, copy)


if __name__ == "__main__":
    main()
