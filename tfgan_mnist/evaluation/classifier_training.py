"""Training of the classifier, and GAN-train, which trains one on generated images."""

import datetime
import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfgan_mnist.data import ImageData, pixels
from tfgan_mnist.errors import UserError
from tfgan_mnist.evaluation import classifier, metrics
from tfgan_mnist.evaluation.classifier import Classifier, network

MINUTES = 5  # on 2 cores at most, by the next two
MAX_PIXELS = 6 * 60_000 * 28 * 28  # to train on, of all images and passes together
MAX_PASSES = 20  # where images are few
BATCH_SIZE = 128
PEAK_LEARNING_RATE = 3e-3
WARMUP_SHARE = 0.06  # of all steps
GAN_TRAIN_STEPS = 1000


def train(
    train_images: np.ndarray,  # uint8 (N, H, W, C), N >= 128
    train_labels: np.ndarray,  # integers (N,) in [0, num_classes)
    num_classes: int,
    *,
    steps: int | None = None,  # updates with 128 images each; None: `num_steps`
    seed: int = 0,  # of weights, order and augmentation
    log: Callable[[int, int, float], None] | None = None,  # (step, steps, loss), every 100 steps
) -> Classifier:
    """Trains a new classifier.

    Adam with a warm-up and a cosine decay to zero, on randomly rotated, scaled and shifted images.
    Equal arguments on the same machine give equal weights.
    """
    if len(train_images) < BATCH_SIZE:
        raise UserError(f"expected at least {BATCH_SIZE} images; received {len(train_images)}")
    metrics.check_labels(train_labels, len(train_images), num_classes)
    steps_per_epoch = len(train_images) // BATCH_SIZE
    steps = steps or num_steps(train_images.shape)
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
        inputs = augment(pixels.to_float(batch), (seed, step))
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


def num_steps(shape: tuple[int, ...]) -> int:
    """How many batches to train on with images of shape (N, H, W, C)."""
    images = min(MAX_PASSES * shape[0], MAX_PIXELS // (shape[1] * shape[2]))
    return max(1, images // BATCH_SIZE)


def make(data_set: ImageData, folder: Path, seed: int = 0) -> Classifier:
    """Trains the classifier of a data set, tests it and writes it to a new folder."""

    def show(step, steps, loss):
        sys.stderr.write(f"\rstep {step:,} of {steps:,}  loss {loss:.4f}")
        sys.stderr.flush()

    sys.stderr.write(
        f"Training the classifier of {data_set.name}, whose features score samples: once, at most "
        f"{MINUTES} minutes on 2 cores\n"
    )
    start = time.monotonic()
    trained = train(*data_set.train, data_set.num_classes, seed=seed, log=show)
    seconds = round(time.monotonic() - start)
    _, logits = trained.features_and_logits(data_set.test.images)
    accuracy = metrics.label_accuracy(logits, data_set.test.labels)
    sys.stderr.write(f"\n{accuracy:.2%} of {len(logits):,} test images right, after {seconds} s\n")
    trained.about = {
        "name": classifier.name_of(data_set.key, data_set.image_shape),
        "dataset": data_set.name,
        "image_shape": list(data_set.image_shape),
        "num_classes": data_set.num_classes,
        "class_names": list(data_set.class_names),
        "train_images": len(data_set.train.images),
        "test_images": len(logits),
        "test_accuracy": round(accuracy, 4),
        "seed": seed,
        "steps": num_steps(data_set.train.images.shape),
        "seconds": seconds,
        "date": datetime.date.today().isoformat(),
        "tensorflow": tf.__version__,
    }
    classifier.save(trained, folder)
    sys.stderr.write(f"Saved: {folder}\n")
    return trained


def augment(batch: tf.Tensor, seed) -> tf.Tensor:
    """Rotates by up to 11 degrees, scales by up to 10 %, shifts by up to 9 % (2.5 of 28 pixels).

    (B, H, W, C) float32 in [-1, 1] -> the same. Pixels from outside repeat the border. No flips,
    which would turn digits into other characters.
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
    generated_images: np.ndarray,  # uint8 (N, H, W, C), N >= 128
    generated_labels: np.ndarray,  # integers (N,) in [0, num_classes)
    test_images: np.ndarray,  # uint8 (M, H, W, C), real ones
    test_labels: np.ndarray,  # integers (M,) in [0, num_classes)
    num_classes: int,
    *,
    seed: int = 0,
) -> float:
    """GAN-train: accuracy on real images of a classifier trained on generated images only.

    It is low when samples differ from real images, lack diversity, or do not show their label.
    Compare with the accuracy after training on as many real images. The converse, GAN-test, is
    `metrics.label_accuracy` of a classifier trained on real images.

    Shmelkov et al. 2018, "How good is my GAN?", arXiv:1807.09499, section 3.
    """
    trained = train(
        generated_images, generated_labels, num_classes, steps=GAN_TRAIN_STEPS, seed=seed
    )
    _, logits = trained.features_and_logits(test_images)
    return metrics.label_accuracy(logits, test_labels)
