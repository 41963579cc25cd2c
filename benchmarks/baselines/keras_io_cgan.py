"""keras-io's "Conditional GAN" (examples/generative/conditional_gan), on MNIST.

As published: the layers below, no batch norm; latents of 128 normal numbers; both networks see the
label, G beside the latents, D as ten planes beside the image; images in [0, 1], batches of 64 from
a shuffle buffer of 1,024; binary cross-entropy of logits with fake = 1, D on fakes and reals in one
batch, G on new fakes; Adam 3e-4 with Keras's defaults; a `keras.Model` with a `train_step`, trained
by `fit`.

Differences: the planes are one-hot at every pixel, as its text says (its code, a `repeat` without
an axis, encodes the label as a band of rows); it trains on the training images only; XLA and the
progress bar are off.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from benchmarks.baselines.joint_update import draw
from benchmarks.timed import TimedTraining

LATENT_DIM = 128
NUM_CLASSES = 10


class ConditionalGan(keras.Model):
    """The example's model: two networks that take one tensor each, and its training step."""

    def __init__(self, generator, discriminator, seed: int, latent_dim: int):
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

    def with_labels(self, images, one_hot):
        """images (B, 28, 28, 1) -> D's input (B, 28, 28, 11), with ten planes for the label."""
        planes = ops.broadcast_to(one_hot[:, None, None, :], (*ops.shape(images)[:-1], NUM_CLASSES))
        return ops.concatenate([images, planes], axis=-1)

    def train_step(self, data) -> dict:
        """One update of D on fakes and reals together, then one of G on new fakes."""
        reals, one_hot = data
        num = ops.shape(reals)[0]
        fakes = self.generate(num, one_hot)
        both = ops.concatenate(
            [self.with_labels(fakes, one_hot), self.with_labels(reals, one_hot)], axis=0
        )
        targets = ops.concatenate([ops.ones((num, 1)), ops.zeros((num, 1))], axis=0)
        with tf.GradientTape() as tape:
            d_loss = self.loss_of(targets, self.discriminator(both, training=True))
        self._apply(self.d_optimizer, tape, d_loss, self.discriminator.trainable_weights)

        with tf.GradientTape() as tape:
            fakes = self.generate(num, one_hot)
            logits = self.discriminator(self.with_labels(fakes, one_hot), training=True)
            g_loss = self.loss_of(ops.zeros((num, 1)), logits)
        self._apply(self.g_optimizer, tape, g_loss, self.generator.trainable_weights)

        self.d_loss.update_state(d_loss)
        self.g_loss.update_state(g_loss)
        return {"d_loss": self.d_loss.result(), "g_loss": self.g_loss.result()}

    @staticmethod
    def _apply(optimizer, tape, loss, weights) -> None:
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))


class KerasIoCgan(TimedTraining):
    """The example in training."""

    batch_size = 64
    latent_dim = LATENT_DIM
    gan = ConditionalGan

    def __init__(self, images: np.ndarray, labels: np.ndarray, seed: int):
        super().__init__()
        keras.utils.set_random_seed(seed)
        self.num_images = len(images)
        pairs = (images.astype("float32") / 255, keras.utils.to_categorical(labels, NUM_CLASSES))
        dataset = tf.data.Dataset.from_tensor_slices(pairs).shuffle(1024)
        self.dataset = dataset.batch(self.batch_size)
        self.generator, self.discriminator = self.networks()
        self.model = self.gan(self.generator, self.discriminator, seed, self.latent_dim)
        self.model.compile(
            d_optimizer=keras.optimizers.Adam(3e-4),
            g_optimizer=keras.optimizers.Adam(3e-4),
            loss=keras.losses.BinaryCrossentropy(from_logits=True),
            jit_compile=False,
        )

    def networks(self) -> tuple[keras.Model, keras.Model]:
        """Returns the generator and the discriminator."""
        return generator(), discriminator()

    def run(self, tick) -> None:
        def end(batch, logs):  # an epoch's last batch may be smaller
            tick(min(self.batch_size, self.num_images - batch * self.batch_size))

        callback = keras.callbacks.LambdaCallback(on_train_batch_end=end)
        self.model.fit(self.dataset, epochs=10**6, callbacks=[callback], verbose=0)

    def sample(self, num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(num) % NUM_CLASSES
        latents = np.random.default_rng(seed).standard_normal((num, LATENT_DIM), np.float32)
        inputs = np.concatenate([latents, np.eye(NUM_CLASSES)[labels]], axis=1)
        return draw(self.generator, inputs, scale=255, offset=0), labels


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
