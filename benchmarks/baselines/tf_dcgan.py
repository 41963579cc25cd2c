"""TensorFlow's tutorial "Deep Convolutional Generative Adversarial Network" (tutorials/generative).

As published: the layers below; latents of 100 normal numbers; images in [-1, 1], all of them
shuffled, batches of 256; binary cross-entropy of logits, non-saturating for G; both gradients from
one forward pass and applied together; Adam 1e-4 with Keras's defaults; a Python loop over a
`tf.function`. The last batch of an epoch is smaller; its number of fakes is not.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from benchmarks.baselines.joint_update import JointUpdate


class TfDcgan(JointUpdate):
    """The tutorial in training."""

    batch_size = 256
    latent_dim = 100

    def __init__(self, images: np.ndarray, labels: np.ndarray, seed: int):
        super().__init__()
        keras.utils.set_random_seed(seed)
        self.num_images = len(images)
        pixels = (images.astype("float32") - 127.5) / 127.5
        dataset = tf.data.Dataset.from_tensor_slices(pixels)
        self.dataset = dataset.shuffle(len(images)).batch(self.batch_size)
        self.generator, self.discriminator = self.networks()
        self.cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)
        self.g_optimizer = keras.optimizers.Adam(1e-4)
        self.d_optimizer = keras.optimizers.Adam(1e-4)

    def networks(self) -> tuple[keras.Model, keras.Model]:
        """The generator and the discriminator."""
        return generator(self.latent_dim), discriminator()

    def run(self, tick) -> None:
        while True:
            for first, images in zip(
                range(0, self.num_images, self.batch_size), self.dataset, strict=True
            ):
                self.step(images)
                tick(min(self.batch_size, self.num_images - first))

    @tf.function
    def step(self, images):
        """One update of both networks."""
        noise = tf.random.normal([self.batch_size, self.latent_dim])
        with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
            fakes = self.generator(noise, training=True)
            real = self.discriminator(images, training=True)
            fake = self.discriminator(fakes, training=True)
            g_loss = self.cross_entropy(tf.ones_like(fake), fake)
            d_loss = self.cross_entropy(tf.ones_like(real), real)
            d_loss += self.cross_entropy(tf.zeros_like(fake), fake)
        self.update(g_tape, d_tape, g_loss, d_loss)


def generator(latent_dim: int) -> keras.Model:
    """latents (B, latent_dim) -> images (B, 28, 28, 1) in [-1, 1]."""
    return keras.Sequential(
        [
            keras.Input((latent_dim,)),
            layers.Dense(7 * 7 * 256, use_bias=False),
            layers.BatchNormalization(),
            layers.LeakyReLU(),
            layers.Reshape((7, 7, 256)),
            layers.Conv2DTranspose(128, 5, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.LeakyReLU(),
            layers.Conv2DTranspose(64, 5, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.LeakyReLU(),
            layers.Conv2DTranspose(
                1, 5, strides=2, padding="same", use_bias=False, activation="tanh"
            ),
        ]
    )


def discriminator() -> keras.Model:
    """Images (B, 28, 28, 1) -> logits (B, 1)."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(64, 5, strides=2, padding="same"),
            layers.LeakyReLU(),
            layers.Dropout(0.3),
            layers.Conv2D(128, 5, strides=2, padding="same"),
            layers.LeakyReLU(),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )
