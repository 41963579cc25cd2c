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


def test_the_middle_of_all_numbers_leaves_colours_alone():
    same = augment.apply(IMAGES, ("color",), numbers(0.5, 0.5, 0.5))
    np.testing.assert_allclose(same, IMAGES, atol=1e-6)


def test_brightness_saturation_and_contrast():
    brighter = augment.apply(IMAGES, ("color",), numbers(0.75, 0.5, 0.5))
    np.testing.assert_allclose(brighter, IMAGES + 0.25, atol=1e-6)
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
    draws = np.random.default_rng(0).random((5, augment.width_of(kinds))).astype(np.float32)
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


@pytest.mark.parametrize("model", ["gan", "dcgan", "cdcgan"])
def test_a_step_with_augmentation(model):
    plain, first, second = (tiny(model, augment=kinds) for kinds in ("none", ALL, ALL))
    weights = values(plain.discriminator.weights)
    for network in plain, first, second:
        logs = [step(network) for _ in range(2)]
        assert np.isfinite(list(logs[-1].values())).all()
    # D sees other images than without it, the same ones with the same seed, and G still learns.
    assert changed(values(plain.discriminator.weights), values(first.discriminator.weights))
    assert_same(values(first.discriminator.weights), values(second.discriminator.weights))
    assert_same(values(first.generator.weights), values(second.generator.weights))
    assert changed(weights, values(first.discriminator.weights))


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


def test_a_saved_model_keeps_its_augmentation(tmp_path):
    import keras

    tiny("gan", augment="translation").save(tmp_path / "gan.keras")
    assert keras.saving.load_model(tmp_path / "gan.keras").augmentations == ("translation",)


def test_few_images_switch_it_on():
    assert augment.choose("auto", augment.FEW_IMAGES - 1) == ALL
    assert augment.choose("auto", augment.FEW_IMAGES) == "none"
    assert augment.choose("none", 5) == "none"
    assert augment.choose("cutout", 10**6) == "cutout"


def test_wrong_augmentations():
    with pytest.raises(UserError, match="augment: expected some of translation,.*'cutuot'"):
        config.resolve({"augment": "cutuot"})
    with pytest.raises(ValueError, match="augment: expected some of"):
        tiny("gan").compile(augment="color,flip")


def test_runs_of_before_have_none():
    assert config.from_saved({"model": "dcgan"}).augment == "none"
