"""The tutorial of TF-GAN, a library for TensorFlow 1 (tensorflow/gan, tfgan_tutorial).

As published: the layers below, L2 of 2.5e-5 on their kernels and biases; latents of 64 normal
numbers; images in [-1, 1], repeated before a shuffle buffer of 10,000, batches of 32; Wasserstein
losses without clipping or penalty; Adam with beta_1 0.5, G 1e-3 that is halved after 1,000 steps,
D 2e-4, both with TF 1's epsilon of 1e-8. The library needs `tf.estimator`, which TensorFlow 2 no
longer has: here the step is a `tf.function` in a Python loop.

One difference, in its favour: both networks learn from one batch and one forward pass, as in the
library's joint training. The tutorial's Estimator uses a batch for each.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from benchmarks.baselines.joint_update import JointUpdate

DECAY = 2.5e-5


class TfGan(JointUpdate):
    """The tutorial in training."""

    batch_size = 32
    latent_dim = 64

    def __init__(self, images: np.ndarray, labels: np.ndarray, seed: int):
        super().__init__()
        keras.utils.set_random_seed(seed)
        pixels = (images.astype("float32") - 127.5) / 127.5
        dataset = tf.data.Dataset.from_tensor_slices(pixels).repeat().shuffle(10_000)
        dataset = dataset.batch(self.batch_size, drop_remainder=True)
        noise = tf.data.Dataset.from_tensors([self.batch_size, self.latent_dim]).repeat()
        noise = noise.map(tf.random.normal)
        self.dataset = tf.data.Dataset.zip((noise, dataset.prefetch(tf.data.AUTOTUNE)))
        self.generator, self.discriminator = self.networks()
        halved = keras.optimizers.schedules.PiecewiseConstantDecay([999], [1e-3, 5e-4])
        self.g_optimizer = keras.optimizers.Adam(halved, beta_1=0.5, epsilon=1e-8)
        self.d_optimizer = keras.optimizers.Adam(2e-4, beta_1=0.5, epsilon=1e-8)

    def networks(self) -> tuple[keras.Model, keras.Model]:
        """The generator and the discriminator."""
        return generator(self.latent_dim), discriminator()

    def run(self, tick) -> None:
        for noise, images in self.dataset:
            self.step(noise, images)
            tick(self.batch_size)

    @tf.function
    def step(self, noise, images):
        """One update of both networks."""
        with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
            fakes = self.generator(noise, training=True)
            real = self.discriminator(images, training=True)
            fake = self.discriminator(fakes, training=True)
            g_loss = -tf.reduce_mean(fake) + tf.add_n(self.generator.losses or [0.0])
            d_loss = tf.reduce_mean(fake) - tf.reduce_mean(real)
            d_loss += tf.add_n(self.discriminator.losses or [0.0])
        self.update(g_tape, d_tape, g_loss, d_loss)


def decayed() -> dict:
    """Returns the arguments for a layer's weight decay."""
    decay = keras.regularizers.L2(DECAY)
    return {"kernel_regularizer": decay, "bias_regularizer": decay}


def generator(latent_dim: int) -> keras.Model:
    """latents (B, latent_dim) -> images (B, 28, 28, 1) in [-1, 1]."""
    return keras.Sequential(
        [
            keras.Input((latent_dim,)),
            layers.Dense(1024, **decayed()),
            layers.BatchNormalization(momentum=0.999),
            layers.ReLU(),
            layers.Dense(7 * 7 * 256, **decayed()),
            layers.BatchNormalization(momentum=0.999),
            layers.ReLU(),
            layers.Reshape((7, 7, 256)),
            layers.Conv2DTranspose(64, 4, 2, "same", activation="relu", **decayed()),
            layers.Conv2DTranspose(64, 4, 2, "same", activation="relu", **decayed()),
            layers.Conv2D(1, 4, padding="same", activation="tanh"),
        ]
    )


def discriminator() -> keras.Model:
    """Images (B, 28, 28, 1) -> how real they look (B, 1)."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(64, 4, 2, "same", **decayed()),
            layers.LeakyReLU(negative_slope=0.01),
            layers.Conv2D(128, 4, 2, "same", **decayed()),
            layers.LeakyReLU(negative_slope=0.01),
            layers.Flatten(),
            layers.Dense(1024, **decayed()),
            layers.BatchNormalization(momentum=0.999),
            layers.LeakyReLU(negative_slope=0.01),
            layers.Dense(1, **decayed()),
        ]
    )
