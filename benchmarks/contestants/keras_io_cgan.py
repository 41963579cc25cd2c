"""keras-io's "Conditional GAN" (examples/generative/conditional_gan), on MNIST.

As published: the layers below, no batch norm; latents of 128 normal numbers; both networks see the
label, G beside the latents, D as ten planes beside the image; images in [0, 1], batches of 64 from
a shuffle buffer of 1,024; binary cross-entropy of logits with fake = 1, D on fakes and reals in one
batch, G on new fakes; Adam 3e-4 with Keras's defaults; a `keras.Model` with a `train_step`, trained
by `fit`.

Departures: the planes are one-hot at every pixel, as its text says (its `repeat` without an axis
lays the label as a band of rows instead); the 10,000 test images, which it trains on too, are
whatever the caller keeps back. The progress bar is off.

published: `compile`'s default, jit_compile="auto". Keras 3.15 takes it for no XLA where there is
only a CPU, so that both ways are the same there; the first releases of Keras 3 took it for XLA, as
they all do where they see a GPU. Mended: no XLA anywhere.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from benchmarks.contestants.pacing import Paced

LATENT_DIM = 128
NUM_CLASSES = 10


class ConditionalGan(keras.Model):
    """The example's model: two networks that take one tensor each, and its training step."""

    def __init__(self, generator, discriminator, seed: int, latent_dim: int = LATENT_DIM):
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator
        self.latent_dim = latent_dim
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.d_loss = keras.metrics.Mean("d_loss")
        self.g_loss = keras.metrics.Mean("g_loss")

    def compile(self, d_optimizer, g_optimizer, loss, jit_compile) -> None:
        super().compile(jit_compile=jit_compile)
        self.d_optimizer, self.g_optimizer, self.loss_of = d_optimizer, g_optimizer, loss

    @property
    def metrics(self) -> list:
        return [self.d_loss, self.g_loss]

    def generate(self, num, one_hot):
        """Fakes (num, 28, 28, 1) of new latents, with these labels (num, 10)."""
        latents = keras.random.normal((num, self.latent_dim), seed=self.seed_generator)
        return self.generator(ops.concatenate([latents, one_hot], axis=1))

    def shown(self, images, one_hot):
        """What D is shown: images (B, 28, 28, 1) and ten planes beside them (B, 28, 28, 11)."""
        planes = ops.broadcast_to(one_hot[:, None, None, :], (*ops.shape(images)[:-1], NUM_CLASSES))
        return ops.concatenate([images, planes], axis=-1)

    def train_step(self, data) -> dict:
        """One update of D on fakes and reals together, then one of G on new fakes."""
        reals, one_hot = data
        num = ops.shape(reals)[0]
        fakes = self.generate(num, one_hot)
        both = ops.concatenate([self.shown(fakes, one_hot), self.shown(reals, one_hot)], axis=0)
        targets = ops.concatenate([ops.ones((num, 1)), ops.zeros((num, 1))], axis=0)
        with tf.GradientTape() as tape:
            d_loss = self.loss_of(targets, self.discriminator(both, training=True))
        self._apply(self.d_optimizer, tape, d_loss, self.discriminator.trainable_weights)

        with tf.GradientTape() as tape:
            fakes = self.generate(num, one_hot)
            verdict = self.discriminator(self.shown(fakes, one_hot), training=True)
            g_loss = self.loss_of(ops.zeros((num, 1)), verdict)
        self._apply(self.g_optimizer, tape, g_loss, self.generator.trainable_weights)

        self.d_loss.update_state(d_loss)
        self.g_loss.update_state(g_loss)
        return {"d_loss": self.d_loss.result(), "g_loss": self.g_loss.result()}

    @staticmethod
    def _apply(optimizer, tape, loss, weights) -> None:
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))


class Tick(keras.callbacks.Callback):
    """Tells how many images every step of `fit` saw, the last one of an epoch perhaps fewer."""

    def __init__(self, tick, num_images: int, batch_size: int):
        super().__init__()
        self.tick, self.num_images, self.batch_size = tick, num_images, batch_size

    def on_train_batch_end(self, batch, logs=None):
        self.tick(min(self.batch_size, self.num_images - batch * self.batch_size))


class KerasIoCgan(Paced):
    """The example as a `Contestant`."""

    batch_size = 64
    jit_compile: str | bool = "auto"  # as published

    def __init__(self, images: np.ndarray, labels: np.ndarray, seed: int, published: bool):
        super().__init__()
        keras.utils.set_random_seed(seed)
        self.num_images = len(images)
        self.dataset = self.data(images, labels).batch(self.batch_size)
        self.model = self.build(seed)
        self.model.compile(
            d_optimizer=keras.optimizers.Adam(3e-4),
            g_optimizer=keras.optimizers.Adam(3e-4),
            loss=keras.losses.BinaryCrossentropy(from_logits=True),
            jit_compile=self.jit_compile if published else False,
        )

    def data(self, images: np.ndarray, labels: np.ndarray) -> tf.data.Dataset:
        """Shuffled images in [0, 1] and one-hot labels."""
        pairs = (images.astype("float32") / 255, keras.utils.to_categorical(labels, NUM_CLASSES))
        return tf.data.Dataset.from_tensor_slices(pairs).shuffle(1024)

    def build(self, seed: int) -> keras.Model:
        """The model, not compiled."""
        return ConditionalGan(generator(), discriminator(), seed)

    def run(self, tick) -> None:
        callback = Tick(tick, self.num_images, self.batch_size)
        self.model.fit(self.dataset, epochs=10**6, callbacks=[callback], verbose=0)

    def sample(self, num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Contestant`."""
        labels = np.arange(num) % NUM_CLASSES
        latents = np.random.default_rng(seed).standard_normal((num, LATENT_DIM), np.float32)
        inputs = np.concatenate([latents, np.eye(NUM_CLASSES, dtype=np.float32)[labels]], axis=1)
        parts = [
            self.model.generator(inputs[first : first + 500], training=False).numpy()
            for first in range(0, num, 500)
        ]
        return np.rint(np.concatenate(parts) * 255).astype(np.uint8), labels

    def parameters(self) -> tuple[int, int]:
        """See `Contestant`."""
        return self.model.generator.count_params(), self.model.discriminator.count_params()


def generator() -> keras.Model:
    """Latents and one-hot label (B, 138) -> images (B, 28, 28, 1) in [0, 1]."""
    width = LATENT_DIM + NUM_CLASSES
    return keras.Sequential(
        [
            keras.Input((width,)),
            layers.Dense(7 * 7 * width),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Reshape((7, 7, width)),
            layers.Conv2DTranspose(128, 4, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2DTranspose(128, 4, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2D(1, 7, padding="same", activation="sigmoid"),
        ]
    )


def discriminator() -> keras.Model:
    """Images and label planes (B, 28, 28, 11) -> logits (B, 1), high for fakes."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1 + NUM_CLASSES)),
            layers.Conv2D(64, 3, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2D(128, 3, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.GlobalMaxPooling2D(),
            layers.Dense(1),
        ]
    )
