"""Differentiable augmentation: what it does to images, and what a step does with it."""

import numpy as np
import pytest
import tensorflow as tf
from tiny_training import assert_same, batch, changed, step, tiny, values

from tfgan_mnist import config
from tfgan_mnist.errors import UserError
from tfgan_mnist.models import augment, rules

ALL = "translation,cutout,color"
IMAGES = np.random.default_rng(0).uniform(-1, 1, (5, 16, 16, 3)).astype(np.float32)


def numbers(*row):
    return tf.constant([row] * len(IMAGES), tf.float32)


def test_brightness_saturation_and_contrast():
    for brightness in (0.5, 0.75):  # the middle of all numbers alters nothing
        brighter = augment.apply(IMAGES, ("color",), numbers(brightness, 0.5, 0.5))
        np.testing.assert_allclose(brighter, IMAGES + brightness - 0.5, atol=1e-6)
    gray = augment.apply(IMAGES, ("color",), numbers(0.5, 0.0, 0.5)).numpy()
    assert np.ptp(gray, axis=3).max() < 1e-6
    np.testing.assert_allclose(gray[..., 0], IMAGES.mean(3), atol=1e-6)
    flat = augment.apply(IMAGES, ("color",), numbers(0.5, 0.5, 0.0)).numpy()
    np.testing.assert_allclose(flat.std((1, 2, 3)), IMAGES.std((1, 2, 3)) / 2, rtol=1e-4)


@pytest.mark.parametrize(
    ("row", "down", "right"), [((0.5, 0.5), 0, 0), ((0.99, 0.5), 2, 0), ((0.0, 0.99), -2, 2)]
)
def test_translation_shifts_by_whole_pixels(row, down, right):
    shifted = augment.apply(IMAGES, ("translation",), numbers(*row)).numpy()
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)), "edge")
    expected = padded[:, 2 - down : 18 - down, 2 - right : 18 - right]
    np.testing.assert_array_equal(shifted, expected)


def test_cutout_cuts_a_square():
    cut = augment.apply(IMAGES, ("cutout",), numbers(0.5, 0.0)).numpy()
    expected = IMAGES.copy()
    expected[:, 4:12, :4] = 0  # centred on the left edge
    np.testing.assert_array_equal(cut, expected)


def test_images_are_altered_one_by_one_and_gradients_pass():
    kinds = rules.augmentations(ALL)
    draws = np.random.default_rng(0).random((5, 7)).astype(np.float32)
    images = tf.constant(IMAGES)
    with tf.GradientTape() as tape:
        tape.watch(images)
        altered = augment.apply(images, kinds, tf.constant(draws))
        one = tf.reduce_sum(altered[2] ** 2)
    assert altered.shape == IMAGES.shape
    gradient = tape.gradient(one, images).numpy()
    assert np.abs(gradient[2]).max() > 0
    assert np.abs(gradient[[0, 1, 3, 4]]).max() == 0
    alone = augment.apply(images[2:3], kinds, tf.constant(draws[2:3]))
    np.testing.assert_allclose(alone[0], altered[2], atol=1e-6)


def test_a_step_with_augmentation():
    plain, first, second = (tiny("dcgan", augment=kinds) for kinds in ("none", ALL, ALL))
    for model in plain, first, second:
        assert np.isfinite(list(step(model).values())).all()
    # D sees other images than without it, and the same ones with the same seed.
    assert changed(values(plain.discriminator.weights), values(first.discriminator.weights))
    assert_same(first.get_weights(), second.get_weights())


def test_both_kinds_of_images_are_altered_in_both_updates(monkeypatch):
    seen = []

    def record(images, kinds, numbers):
        seen.append(numbers.numpy())
        return images

    monkeypatch.setattr(augment, "apply", record)
    model = tiny("dcgan", augment="cutout", loss="relativistic")
    for _ in range(2):
        model.train_step(tuple(map(tf.constant, batch())))
    assert len(seen) == 8  # D: real and generated; G: generated, and real for a relativistic loss
    np.testing.assert_array_equal(seen[0], seen[3])
    different = [seen[k].tobytes() for k in (0, 1, 2, 4, 5, 6)]
    assert len(set(different)) == 6


def test_few_images_switch_it_on():
    assert augment.choose("auto", augment.FEW_IMAGES - 1) == "translation"
    assert augment.choose("auto", augment.FEW_IMAGES) == "none"
    assert augment.choose("none", 5) == "none"
    assert augment.choose("cutout", 10**6) == "cutout"


def test_wrong_augmentations():
    with pytest.raises(UserError, match="augment: expected some of translation,.*'cutuot'"):
        config.resolve({"augment": "cutuot"})
