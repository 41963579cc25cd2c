"""The recipes made tiny, and a batch or a data set to train them on."""

import keras
import numpy as np
import tensorflow as tf

from tfgan_mnist import data
from tfgan_mnist.config import resolve
from tfgan_mnist.models.gan import GAN
from tfgan_mnist.training.build import build

SHAPE = (8, 8, 1)
CLASSES = 3
WIDTHS = {
    "gan": {"g_hidden_widths": (12,), "d_hidden_widths": (12,)},
    "dcgan": {"g_width": 4, "d_width": 4},
    "cdcgan": {"g_width": 4, "d_width": 4},
}
MODELS = tuple(WIDTHS)


def tiny(model="dcgan", shape=SHAPE, classes=CLASSES, **options) -> GAN:
    """The recipe of `model` with few channels, compiled; always the same weights."""
    keras.utils.set_random_seed(0)
    sizes = {"model": model, "latent_dim": 6, "epochs": 1, "steps_per_epoch": 200}
    return build(resolve(sizes | WIDTHS[model] | options), shape, classes)


def batch(num=8, shape=SHAPE, classes=CLASSES) -> tuple:
    """Images float32 (num, H, W, C) in [-1, 1], labels int32 (num,), arrays."""
    images = np.random.default_rng(0).uniform(-1, 1, (num, *shape)).astype(np.float32)
    return images, np.arange(num, dtype=np.int32) % classes


def digits(num=64) -> data.ImageData:
    """Noise of 8x8 pixels with labels, in place of MNIST."""
    random = np.random.default_rng(0)
    train, test = (
        data.Split(
            random.integers(0, 256, (num, *SHAPE)).astype(np.uint8),
            np.arange(num, dtype=np.int32) % 10,
        )
        for _ in range(2)
    )
    return data.ImageData("mnist", train, test, 10, tuple("0123456789"))


def labels_for(model, num=8):
    """Labels (num,) where the model takes them, else None."""
    return None if model.num_classes is None else np.arange(num, dtype=np.int32) % CLASSES


def step(model, given=None) -> dict:
    """One training step on a batch; the logs as numbers."""
    given = tf.nest.map_structure(tf.constant, batch() if given is None else given)
    return {key: float(value) for key, value in model.train_step(given).items()}


def values(variables) -> list:
    return [np.array(variable) for variable in variables]


def changed(before, after) -> bool:
    """Whether any of two lists of arrays differ."""
    return any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def assert_same(first, second, **tolerance) -> None:
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)
