"""Packing: the discriminator sees several images joined along the channels (PacGAN)."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_training import assert_same, batch, step, tiny, values

from tfgan_mnist import GAN
from tfgan_mnist.models.mlp import mlp_discriminator, mlp_generator


def test_neighbours_are_joined_and_a_batch_is_filled_up():
    model = GAN(mlp_generator((2, 1, 3)), mlp_discriminator((2, 1, 9)), packing=3)
    images = np.arange(7 * 2 * 3, dtype=np.float32).reshape(7, 2, 1, 3)
    packed = np.array(model.packed(tf.constant(images)))
    rows = [[0, 1, 2], [3, 4, 5], [6, 0, 1]]
    expected = [np.concatenate(list(images[row]), axis=-1) for row in rows]
    np.testing.assert_array_equal(packed, expected)
    # The same where the size of the batch is not known.
    unknown = tf.function(model.packed, input_signature=[tf.TensorSpec((None, 2, 1, 3))])
    np.testing.assert_array_equal(unknown(images), expected)
    assert unknown(images[:1]).shape == (1, 2, 1, 9)


def test_a_step_on_packs_is_that_of_a_reference():
    """Losses and penalties are of packs: gamma / 2 |dD/dx|^2 by the whole input of D."""
    model = tiny("gan", d_dropout=0.0, packing=2)
    rate = 0.1
    plain = keras.optimizers.SGD(rate), keras.optimizers.SGD(rate)
    model.compile(*plain, "relativistic", r1=2.0, r2=1.0)
    d = keras.models.clone_model(model.discriminator)
    d.set_weights(model.discriminator.get_weights())
    images = tf.constant(batch()[0])
    state = model.generator.get_weights()
    fakes = model.generator(model._draw_latents(8, 0), training=True)
    model.generator.set_weights(state)

    def packs(images):
        return tf.concat([images[0::2], images[1::2]], axis=-1)

    def squared(packed):
        with tf.GradientTape() as tape:
            tape.watch(packed)
            logits = d(packed, training=True)
        return tf.reduce_sum(tf.square(tape.gradient(logits, packed)), axis=(1, 2, 3))

    real, fake = packs(images), packs(fakes)
    with tf.GradientTape() as tape:
        difference = d(fake, training=True) - d(real, training=True)
        loss = tf.reduce_mean(tf.math.softplus(difference[:, 0]))
        loss += tf.reduce_mean(squared(real) + 0.5 * squared(fake))
    gradients = tape.gradient(loss, d.trainable_variables)
    expected = [v - rate * g for v, g in zip(d.trainable_variables, gradients)]
    logs = step(model)
    assert logs["d_loss"] == pytest.approx(float(loss), rel=1e-4)
    assert_same(values(model.discriminator.trainable_variables), expected, atol=1e-5)
    # G's loss is of D after its update, by pairs of packs.
    d_real, d_fake = (model.discriminator(each, training=True) for each in (real, fake))
    g_loss = tf.reduce_mean(tf.math.softplus(d_real - d_fake))
    assert logs["g_loss"] == pytest.approx(float(g_loss), rel=1e-4)
