"""The classifier that turns images into features and logits for the metrics.

The FID's usual features are those of Inception, which was trained on photographs. Here a small
network is trained on the GAN's own data set (`classifier_training.py`), on the training split only;
its test accuracy is slightly too high, since the test split decided between a few recipes. The
weights for MNIST are part of the package.

A classifier is a folder, named by data set, image shape and version:

    mnist-28x1-v1/weights.npz     plain arrays, readable by any version of Keras
    mnist-28x1-v1/about.json      data set, accuracy, how it was trained, SHA-256 of the weights
"""

import hashlib
import json
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfgan_mnist import data, files
from tfgan_mnist.data import pixels
from tfgan_mnist.errors import UserError
from tfgan_mnist.evaluation.extractor import Extractor
from tfgan_mnist.models import layers

# Increase it with any change to the network. Beside every value stands a digest of the weights.
VERSION = "v1"

SHIPPED = Path(__file__).parents[1] / "assets" / "classifier"
WEIGHTS = "weights.npz"
ABOUT = "about.json"

FEATURES = 128


def network(image_shape: tuple[int, int, int], num_classes: int, seed: int) -> keras.Model:
    """(B, H, W, C) float32 in [-1, 1] -> features (B, 128), logits (B, num_classes).

    For MNIST 497,066 parameters and 7.8 M multiplications: 10,000 images take 2.3 s on two cores.
    """
    # float32 under any precision policy of the GAN, so that the metrics do not depend on it.
    float32, channels_last = {"dtype": "float32"}, {"data_format": "channels_last"}
    initializer = keras.initializers.HeNormal(keras.random.SeedGenerator(seed))
    linear = {"use_bias": False, "kernel_initializer": initializer, **float32}

    def normalised_relu(x):
        # Momentum 0.95: statistics of the last hundred steps, at a learning rate near zero.
        x = layers.BatchNormalization(momentum=0.95, **float32)(x)
        return keras.layers.ReLU(**float32)(x)

    def convolution(x, filters, kernel, strides):
        layer = keras.layers.Conv2D(filters, kernel, strides, "same", **channels_last, **linear)
        return normalised_relu(layer(x))

    inputs = keras.Input(image_shape, **float32)  # (B, 28, 28, 1)
    x = convolution(inputs, 32, kernel=5, strides=2)  # (B, 14, 14, 32)
    x = convolution(x, 64, kernel=3, strides=1)  # (B, 14, 14, 64)
    x = convolution(x, 64, kernel=3, strides=2)  # (B, 7, 7, 64)
    x = convolution(x, 64, kernel=3, strides=1)  # (B, 7, 7, 64)
    # Not pooled, as positions matter.
    x = keras.layers.Flatten(**channels_last, **float32)(x)  # (B, 3136)
    features = normalised_relu(keras.layers.Dense(FEATURES, **linear)(x))  # (B, 128)
    logits = keras.layers.Dense(num_classes, **linear | {"use_bias": True})(features)
    return keras.Model(inputs, [features, logits], name="classifier")


class Classifier(Extractor):
    """A trained network and its description."""

    def __init__(self, network: keras.Model, about: dict):
        def infer(batch):
            return network(pixels.to_float(batch), training=False)

        super().__init__(infer, network.input_shape[1:], network.output_shape[1][-1])
        self.network = network
        self.about = about  # the contents of about.json

    @property
    def name(self) -> str:
        return self.about["name"]

    @property
    def digest(self) -> str:
        return self.about.get("sha256", "unsaved")[:8]

    def fits(self, data_set: data.ImageData) -> bool:
        """Whether its classes are those of the data set, which change with one's own pictures."""
        names = list(data_set.class_names)
        known = self.about.get("class_names", names)  # older ones lack the names
        return (self.num_classes, known) == (data_set.num_classes, names)


class ChannelwiseClassifier(Extractor):
    """A classifier of images whose channels are independent gray images: `stacked_mnist`.

    The features are those of all channels. Class abc has the number a K^2 + b K + c. The channels
    are independent, so log p(abc) = log p(a) + log p(b) + log p(c): the logits are sums.
    """

    def __init__(self, gray: Extractor, channels: int):
        def infer(batch):
            outputs = [gray.infer(channel) for channel in tf.split(batch, channels, axis=-1)]
            features, logits = zip(*outputs)  # each (B, 128), each (B, K)
            total = tf.zeros([tf.shape(batch)[0], 1])
            for each in logits:
                total = total[:, :, None] + each[:, None, :]
                total = tf.reshape(total, [-1, total.shape[1] * total.shape[2]])
            return tf.concat(features, axis=1), total  # (B, 128 C), (B, K^C)

        shape = (*gray.image_shape[:2], channels)
        super().__init__(infer, shape, gray.num_classes**channels)
        self._gray = gray

    @property
    def name(self) -> str:
        return self._gray.name

    @property
    def digest(self) -> str:
        return self._gray.digest

    @property
    def version(self) -> str:
        return f"{super().version} per channel"


def name_of(dataset: str, image_shape: tuple[int, int, int]) -> str:
    """("emnist/balanced", (28, 28, 1)) -> "emnist-balanced-28x1-v1"."""
    return f"{data.file_name(dataset)}-{image_shape[0]}x{image_shape[2]}-{VERSION}"


def folder_of(dataset: str, image_shape: tuple[int, int, int], data_dir: str = "") -> Path:
    """The folder for the classifier of a data set: in the package, or else in `data_dir`."""
    name = name_of(dataset, image_shape)
    if (SHIPPED / name).is_dir():
        return SHIPPED / name
    return files.data_folder(data_dir) / "tfgan_mnist_classifiers" / name


def save(classifier: Classifier, folder: Path) -> None:
    """Writes a new folder, complete or not at all, and adds the weights' SHA-256 to `about`."""
    with files.write_atomically(folder) as partial:
        partial.mkdir()
        np.savez(partial / WEIGHTS, *classifier.network.get_weights())
        classifier.about["sha256"] = hashlib.sha256((partial / WEIGHTS).read_bytes()).hexdigest()
        about = json.dumps(classifier.about, indent=2) + "\n"
        (partial / ABOUT).write_text(about, encoding="utf-8")


def read(folder: Path) -> Classifier:
    """The classifier that `save` wrote; UserError if a file is missing or damaged."""
    try:
        about = files.read_json(folder / ABOUT)
        sha256 = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        if sha256 != about["sha256"]:
            raise ValueError(f"expected {WEIGHTS} with SHA-256 {about['sha256']}, found {sha256}")
        net = network(tuple(about["image_shape"]), about["num_classes"], seed=0)
        with np.load(folder / WEIGHTS) as arrays:
            net.set_weights([arrays[name] for name in arrays.files])
    except (OSError, ValueError, KeyError, TypeError, UserError) as error:
        raise UserError(
            f"{folder} is not a usable classifier ({error}). Remove the folder and make it again "
            "with python -m tfgan_mnist.train_classifier"
        ) from error
    return Classifier(net, about)
