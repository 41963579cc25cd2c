"""Features of images of any kind, without labels and without training.

A network with fixed random weights describes an image at three scales; principal components of the
real training images make the 64 features, of equal weight. No recipe here was chosen by them.
`python -m benchmarks.resolution` measures which changes of real images they notice.

Random weights as features: Saxe et al. 2011, "On Random Weights and Unsupervised Feature Learning";
in scores of generated images: Naeem et al. 2020, arXiv:2002.09797.
"""

import numpy as np
import tensorflow as tf

from tfgan_mnist.data import ImageData, pixels
from tfgan_mnist.evaluation.extractor import Extractor

VERSION = "v1"  # increase it with any change here: values are comparable within a version only
LAYERS = ((16, 5), (32, 3), (64, 3))  # filters, and the side of their kernels
GRID = 2  # responses are averaged over the cells of a grid of this side
FEATURES = 64
FITTED = 3000  # training images at most, for the principal components
SMOOTHING = 0.1  # times the mean variance, so that components without any are not blown up


class RandomFeatures(Extractor):
    """Random features, with the principal components of a data set's training images."""

    def __init__(self, data_set: ImageData):
        self._data_set = data_set.fingerprint
        images = data_set.train.images
        super().__init__(_responses(images.shape[-1]), images.shape[1:], num_classes=0)
        chosen = np.random.default_rng(0).permutation(len(images))[:FITTED]
        responses, _ = super().features_and_logits(images[np.sort(chosen)])
        responses = responses.astype(np.float64)
        self._mean = responses.mean(axis=0)
        deviation = responses.std(axis=0)
        scale = 1.0 / np.maximum(deviation, 1e-3 * deviation.max() + 1e-12)
        covariance = np.cov((responses - self._mean) * scale, rowvar=False)
        values, vectors = np.linalg.eigh(covariance)
        values, vectors = np.maximum(values[-FEATURES:], 0.0), vectors[:, -FEATURES:]
        lengths = np.sqrt(values + SMOOTHING * values.mean() + 1e-12)
        self._components = scale[:, None] * vectors / lengths  # (responses, features)

    @property
    def name(self) -> str:
        size, _, channels = self.image_shape
        return f"random-{size}x{channels}-{VERSION}"

    @property
    def digest(self) -> str:
        return self._data_set[:8]  # they are a function of it, but for rounding

    def features_and_logits(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        responses, logits = super().features_and_logits(batch)
        return ((responses - self._mean) @ self._components).astype(np.float32), logits


def _responses(channels: int):
    """A function of images (B, H, W, C) uint8: mean responses (B, 448), and no logits (B, 0)."""
    random = np.random.default_rng(0)
    kernels = []
    for filters, side in LAYERS:
        normal = random.standard_normal((side, side, channels, filters))
        kernels.append(tf.constant(normal * np.sqrt(2.0 / (side * side * channels)), tf.float32))
        channels = filters

    def responses(batch):
        x = pixels.to_float(batch)
        means: list[tf.Tensor] = []
        for kernel in kernels:
            if means:
                x = tf.nn.avg_pool2d(x, 2, 2, "SAME")  # half the size, (B, 14, 14, C)
            x = tf.nn.leaky_relu(tf.nn.conv2d(x, kernel, 1, "SAME"), 0.2)
            cell = [-(-side // GRID) for side in x.shape[1:3]]
            cells = tf.nn.avg_pool2d(x, cell, cell, "SAME")  # (B, 2, 2, C)
            means.append(tf.reshape(cells, [tf.shape(x)[0], GRID * GRID * x.shape[-1]]))
        return tf.concat(means, axis=1), tf.zeros([tf.shape(x)[0], 0])

    return responses
