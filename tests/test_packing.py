"""Packing: the discriminator sees several images joined along the channels (PacGAN)."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_training import SHAPE, assert_same, batch, changed, step, tiny, values

from tfgan_mnist import CDCGAN, DCGAN, GAN
from tfgan_mnist.models.mlp import mlp_discriminator, mlp_generator

PENALISED = {"d_dropout": 0.0, "loss": "relativistic", "r1": 2.0, "r2": 1.0, "packing": 2}


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
    assert model.image_shape == (2, 1, 3)


def test_a_step_on_packs_is_that_of_a_reference():
    """Losses and penalties are of packs: gamma / 2 |dD/dx|^2 by the whole input of D."""
    model = tiny("gan", **PENALISED)
    rate = 0.1
    model.compile(
        keras.optimizers.SGD(rate), keras.optimizers.SGD(rate), "relativistic", r1=2.0, r2=1.0
    )
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


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gan", {"gradient_penalty": 1.0, "d_dropout": 0.0}),
        ("dcgan", {"augment": "translation,color", "discriminator_steps": 2}),
    ],
)
def test_packed_models_train_and_go_on_from_a_file(name, options, tmp_path):
    model = tiny(name, packing=2, **options)
    images = batch(11)[0]
    model.fit(images, batch_size=4, verbose=0)  # the last batch has three
    model.save(tmp_path / "packed.keras")
    again = keras.models.load_model(tmp_path / "packed.keras")
    assert again.packing == 2 and again.image_shape == SHAPE
    fit = {"batch_size": 4, "shuffle": False, "verbose": 0}
    logs = [each.fit(images, **fit).history for each in (model, again)]
    assert logs[0] == logs[1] and np.isfinite(list(logs[0].values())).all()
    assert not changed(model.get_weights(), again.get_weights())
    assert np.isfinite(list(model.evaluate(images, verbose=0).values())).all()


def test_every_image_has_the_logit_of_its_pack():
    model = tiny("gan", packing=2, d_dropout=0.0)
    images = batch(5)[0]
    expected = np.array(model.discriminate(model.packed(tf.constant(images))).logits)
    np.testing.assert_allclose(model.logits(images), expected[[0, 0, 1, 1, 2]], atol=1e-6)


def test_the_default_discriminator_is_made_for_packs():
    model = DCGAN(image_shape=(8, 8, 3), packing=2)
    assert model.discriminator.inputs[0].shape[1:] == (8, 8, 6)
    given = DCGAN(discriminator=model.discriminator, packing=2)
    assert given.image_shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CDCGAN(packing=2), "packing: expected 1, since the model is conditional"),
        (lambda: GAN(packing=0), "packing: expected >= 1; received 0"),
        (
            lambda: GAN(mlp_generator(SHAPE), mlp_discriminator(SHAPE), packing=2),
            "discriminator: expected images of 2 times the generator's channels.*received 1",
        ),
        (
            lambda: GAN(mlp_generator((8, 8, 3)), mlp_discriminator((8, 8, 2)), packing=2),
            r"expected images of one shape; received generator \(8, 8, 3\), disc.*\(8, 8, 1\)",
        ),
    ],
)
def test_networks_that_packing_does_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
