"""The classifier whose features and logits the metrics read.

Inception, which gave the FID its features, was trained on photographs and has little to say about
digits. Samples are judged here by a small network trained on the GAN's own data set: on its
training split only. Its accuracy on the test split is a little flattered all the same, as that
split decided between a few recipes. The weights for MNIST ship with the package;
`python -m tfgan_mnist.train_classifier` made them, and makes those of any other data set.

A classifier is a folder, named by data set, image shape and version:

    mnist-28x1-v1/weights.npz     plain arrays, which any version of Keras takes
    mnist-28x1-v1/about.json      what they are, how good, how made, their SHA-256
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfgan_mnist import data, files, images, metrics
from tfgan_mnist.errors import UserError

# To be raised with any change to the network or its training: figures of two versions do not
# compare.
VERSION = "v1"

SHIPPED = Path(__file__).parent / "assets" / "classifier"
WEIGHTS = "weights.npz"
ABOUT = "about.json"

FEATURES = 128

# The training recipe. Ten passes give 99.55 % of MNIST's test images, four gave 99.4 %.
EPOCHS = 10
BATCH_SIZE = 128
PEAK_LEARNING_RATE = 3e-3
WARMUP_SHARE = 0.06  # of all steps
GAN_TRAIN_STEPS = 1000

# Small enough for the activations to stay in a CPU's cache.
INFERENCE_BATCH_SIZE = 250


def network(image_shape: tuple[int, int, int], num_classes: int, seed: int) -> keras.Model:
    """(B, H, W, C) float32 in [-1, 1] -> features (B, 128), logits (B, num_classes).

    497,066 parameters and 7.8 M multiplications for MNIST: 10,000 images take 2.3 s on two cores,
    so that evaluation costs little beside training.
    """
    # In float32 whatever the GAN's precision policy is: the yardstick must not change with it.
    float32 = {"dtype": "float32"}
    draws = keras.initializers.HeNormal(keras.random.SeedGenerator(seed))

    def convolution(x, filters, kernel, strides):
        layer = keras.layers.Conv2D(
            filters, kernel, strides, "same", use_bias=False, kernel_initializer=draws, **float32
        )
        return normalised_relu(layer(x))

    def normalised_relu(x):
        # Momentum 0.95: the last hundred steps decide, when the learning rate is nearly zero.
        x = keras.layers.BatchNormalization(momentum=0.95, **float32)(x)
        return keras.layers.ReLU(**float32)(x)

    inputs = keras.Input(image_shape, **float32)  # (B, 28, 28, 1)
    x = convolution(inputs, 32, kernel=5, strides=2)  # (B, 14, 14, 32)
    x = convolution(x, 64, kernel=3, strides=1)  # (B, 14, 14, 64)
    x = convolution(x, 64, kernel=3, strides=2)  # (B, 7, 7, 64)
    x = convolution(x, 64, kernel=3, strides=1)  # (B, 7, 7, 64)
    # Not pooled: where a stroke is, is much of what makes a digit. Seen: 99.4 % against 99.3 %.
    x = keras.layers.Flatten(**float32)(x)  # (B, 3136)
    x = keras.layers.Dense(FEATURES, use_bias=False, kernel_initializer=draws, **float32)(x)
    features = normalised_relu(x)  # (B, 128)
    logits = keras.layers.Dense(num_classes, kernel_initializer=draws, **float32)(features)
    return keras.Model(inputs, [features, logits], name="classifier")


class Classifier:
    """A trained network together with its identity.

    Attributes:
      image_shape: (H, W, C) of the images it takes.
      num_classes: K.
      about: JSON-able facts: `name`, and for a saved one how it was made, its accuracy and SHA-256.
    """

    def __init__(self, network: keras.Model, about: dict):
        self.network = network
        self.image_shape = network.input_shape[1:]
        self.num_classes = network.output_shape[1][-1]
        self.about = about
        self._infer = tf.function(
            lambda batch: network(images.to_float(batch), training=False),
            input_signature=[tf.TensorSpec((None, *self.image_shape), tf.uint8)],
            jit_compile=False,  # XLA's convolutions are several times slower on a CPU
        )

    @property
    def version(self) -> str:
        """Names the very weights, to stand beside every figure: "mnist-28x1-v1 (1a2b3c4d)"."""
        return f"{self.about['name']} ({self.about.get('sha256', 'unsaved')[:8]})"

    def features_and_logits(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, H, W, C) uint8 in [0, 255] -> features (N, 128), logits (N, K), both float32.

        Raises:
          ValueError: another shape or type. Samples in [-1, 1] go through `images.to_uint8` first,
            so that generated and real images have passed through the same 256 levels.
        """
        batch = np.asarray(batch)
        if batch.dtype != np.uint8 or batch.shape[1:] != self.image_shape or not len(batch):
            raise ValueError(
                f"expected images of shape (N >= 1, {', '.join(map(str, self.image_shape))}) "
                f"uint8, received {batch.shape} {batch.dtype}"
            )
        starts = range(0, len(batch), INFERENCE_BATCH_SIZE)
        outputs = [self._infer(batch[i : i + INFERENCE_BATCH_SIZE]) for i in starts]
        features, logits = zip(*outputs, strict=True)
        return np.concatenate(features), np.concatenate(logits)


class ChannelwiseClassifier:
    """Reads an image whose channels are independent gray images, as those of `stacked_mnist`.

    Features of the channels are put side by side. Class abc has the number a K^2 + b K + c, and as
    the channels are independent, log p(abc) = log p(a) + log p(b) + log p(c): logits just add.
    """

    def __init__(self, gray: Classifier, channels: int):
        self._gray = gray
        self.image_shape = (*gray.image_shape[:2], channels)
        self.num_classes = gray.num_classes**channels
        self.about = {**gray.about, "channels": channels}

    @property
    def version(self) -> str:
        return f"{self._gray.version} per channel"

    def features_and_logits(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, H, W, C) uint8 -> features (N, C 128), logits (N, K^C), both float32."""
        batch = np.asarray(batch)
        if batch.shape[1:] != self.image_shape:
            raise ValueError(
                f"expected images of shape (N, {', '.join(map(str, self.image_shape))}), "
                f"received {batch.shape}"
            )
        features, logits = [], np.zeros((len(batch), 1), np.float32)
        for channel in range(batch.shape[-1]):
            some = self._gray.features_and_logits(batch[..., channel : channel + 1])
            features.append(some[0])
            logits = (logits[:, :, None] + some[1][:, None, :]).reshape(len(batch), -1)
        return np.concatenate(features, axis=1), logits


# --- Training -------------------------------------------------------------------------------------


def train(
    train_images: np.ndarray,
    train_labels: np.ndarray,
    num_classes: int,
    *,
    steps: int | None = None,
    seed: int = 0,
    log: Callable[[int, int, float], None] | None = None,
) -> Classifier:
    """Trains a fresh classifier.

    Adam with a warm-up and a cosine down to zero, on randomly turned, scaled and shifted images.
    The same arguments on the same machine give the same weights.

    Args:
      train_images: (N, H, W, C) uint8, N >= 128.
      train_labels: (N,) integers in [0, num_classes).
      num_classes: K.
      steps: updates with 128 images each; None: `EPOCHS` passes.
      seed: of weights, order and augmentation.
      log: called as log(step, steps, loss) every 100 steps.
    """
    if train_images.dtype != np.uint8 or train_images.ndim != 4 or len(train_images) < BATCH_SIZE:
        raise ValueError(
            f"expected images of shape (N >= {BATCH_SIZE}, H, W, C) uint8, "
            f"received {train_images.shape} {train_images.dtype}"
        )
    if len(train_labels) != len(train_images):
        raise ValueError(f"expected {len(train_images)} labels, received {len(train_labels)}")
    metrics.class_histogram(train_labels, num_classes)  # only for its checks
    steps_per_epoch = len(train_images) // BATCH_SIZE
    steps = steps or EPOCHS * steps_per_epoch
    net = network(train_images.shape[1:], num_classes, seed)
    warmup = round(WARMUP_SHARE * steps)
    optimizer = keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(
            0.0, steps - warmup, warmup_target=PEAK_LEARNING_RATE, warmup_steps=warmup
        )
    )
    optimizer.build(net.trainable_variables)

    @tf.function(jit_compile=False)
    def update(batch, labels, step):
        inputs = _augment(images.to_float(batch), (seed, step))
        with tf.GradientTape() as tape:
            _, logits = net(inputs, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(loss, net.trainable_variables), net.trainable_variables)
        return loss

    for step in range(steps):
        epoch, position = divmod(step, steps_per_epoch)
        if position == 0:
            order = np.random.default_rng((seed, epoch)).permutation(len(train_images))
        rows = order[position * BATCH_SIZE :][:BATCH_SIZE]
        loss = update(train_images[rows], train_labels[rows], tf.constant(step))
        if log and (step + 1) % 100 == 0:
            log(step + 1, steps, float(loss))
    return Classifier(net, {"name": "unnamed"})


def _augment(batch: tf.Tensor, seed) -> tf.Tensor:
    """Turns by up to 11 degrees, scales by up to 10 %, shifts by up to 9 % (2.5 of 28 pixels).

    No flips: a mirrored digit is another one. What comes in from outside repeats the border.
    """
    count, height, width, _ = tf.unstack(tf.shape(batch))
    draws = tf.random.stateless_uniform((5, count), seed, -1.0, 1.0)
    angle, x_scale, y_scale = 0.15 * draws[0], 1.0 + 0.1 * draws[1], 1.0 + 0.1 * draws[2]
    x_middle, y_middle = tf.cast(width - 1, tf.float32) / 2.0, tf.cast(height - 1, tf.float32) / 2.0
    x_shift = (1.0 + 0.15 * draws[3]) * x_middle
    y_shift = (1.0 + 0.15 * draws[4]) * y_middle
    # Output (x, y) reads the input at (a x + b y + c, d x + e y + f), about the middle.
    a, b = x_scale * tf.cos(angle), -x_scale * tf.sin(angle)
    d, e = y_scale * tf.sin(angle), y_scale * tf.cos(angle)
    c = x_shift - a * x_middle - b * y_middle
    f = y_shift - d * x_middle - e * y_middle
    zero = tf.zeros_like(a)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=batch,
        transforms=tf.stack([a, b, c, d, e, f, zero, zero], axis=1),
        output_shape=(height, width),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )


def gan_train_accuracy(
    generated_images: np.ndarray,
    generated_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    num_classes: int,
    *,
    seed: int = 0,
) -> float:
    """GAN-train: accuracy on real images of a classifier that saw generated ones only.

    It falls when samples are unlike real images, when they vary less, and when they do not show
    what their label says. Compare with the same figure of as many real training images. GAN-test,
    the converse, is `metrics.label_accuracy` of a classifier trained on real images.

    Shmelkov et al. 2018, "How good is my GAN?", arXiv:1807.09499, section 3.

    Args:
      generated_images: (N, H, W, C) uint8, N >= 128.
      generated_labels: (N,) integers in [0, num_classes).
      test_images: (M, H, W, C) uint8, real ones.
      test_labels: (M,) integers in [0, num_classes).
      num_classes: K.
      seed: of the fresh classifier.
    """
    fresh = train(generated_images, generated_labels, num_classes, steps=GAN_TRAIN_STEPS, seed=seed)
    _, logits = fresh.features_and_logits(test_images)
    return metrics.label_accuracy(logits, test_labels)


# --- Files ----------------------------------------------------------------------------------------


def name_of(dataset: str, image_shape: tuple[int, int, int]) -> str:
    """("emnist/balanced", (28, 28, 1)) -> "emnist-balanced-28x1-v1"."""
    return f"{dataset.replace('/', '-')}-{image_shape[0]}x{image_shape[2]}-{VERSION}"


def folder_of(dataset: str, image_shape: tuple[int, int, int], data_dir: str = "") -> Path:
    """Where the classifier of a data set is, or has to be put: shipped, else beside the data.

    Args:
      data_dir: where prepared data sets are; empty: TFDS's usual place.
    """
    name = name_of(dataset, image_shape)
    if (SHIPPED / name).is_dir():
        return SHIPPED / name
    return files.data_folder(data_dir) / "tfgan_mnist_classifiers" / name


def save(classifier: Classifier, folder: str | os.PathLike) -> None:
    """Writes the folder, complete or not at all, and puts the weights' SHA-256 into `about`.

    Raises:
      OSError: the folder exists, or cannot be written.
    """
    with files.write_atomically(folder) as partial:
        partial.mkdir()
        np.savez(partial / WEIGHTS, *classifier.network.get_weights())
        classifier.about["sha256"] = hashlib.sha256((partial / WEIGHTS).read_bytes()).hexdigest()
        about = json.dumps(classifier.about, indent=2) + "\n"
        (partial / ABOUT).write_text(about, encoding="utf-8")


def read(folder: str | os.PathLike) -> Classifier:
    """The classifier that `save` wrote.

    Raises:
      UserError: a file is missing, is damaged, or is not a classifier's.
    """
    folder = Path(folder)
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


def load(
    dataset: str, image_shape: tuple[int, int, int], data_dir: str = ""
) -> Classifier | ChannelwiseClassifier:
    """The classifier of a data set: shipped, or trained before and kept beside the data.

    Raises:
      UserError: there is none yet, or its files are damaged.
    """
    stacked = dataset == data.STACKED_MNIST
    if stacked:
        dataset, shape = "mnist", (*image_shape[:2], 1)
    else:
        shape = image_shape
    folder = folder_of(dataset, shape, data_dir)
    if not folder.is_dir():
        raise UserError(
            f"no classifier for {dataset} at {'x'.join(map(str, shape))}: expected {folder}. "
            f"Make it with python -m tfgan_mnist.train_classifier --dataset={dataset} "
            f"--image_size={shape[0]} --channels={shape[2]}"
            + (f" --data_dir={data_dir}" if data_dir else "")
        )
    found = read(folder)
    return ChannelwiseClassifier(found, image_shape[2]) if stacked else found
