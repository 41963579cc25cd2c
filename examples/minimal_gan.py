"""A GAN on MNIST in one file: a Keras model with its own `train_step`, to copy and to change.

    pip install keras tensorflow pillow && python minimal_gan.py    # writes samples-1.png, ...

The step: Goodfellow et al. 2014, arXiv:1406.2661; the networks: Radford et al. 2015, 1511.06434.
"""

import keras
import tensorflow as tf
from keras import layers


def build_generator(latent_dim: int = 64, width: int = 32) -> keras.Model:
    """Latents (B, latent_dim) -> images (B, 28, 28, 1) in [-1, 1]."""
    x = latents = keras.Input((latent_dim,))
    x = layers.Dense(7 * 7 * 2 * width, use_bias=False)(x)
    x = layers.Reshape((7, 7, 2 * width))(layers.ReLU()(layers.BatchNormalization()(x)))
    x = layers.Conv2DTranspose(width, 4, strides=2, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))  # (B, 14, 14, width)
    images = layers.Conv2DTranspose(1, 4, strides=2, padding="same", activation="tanh")(x)
    return keras.Model(latents, images)


def build_discriminator(width: int = 32) -> keras.Model:
    """Images (B, 28, 28, 1) -> logits (B, 1). There is no sigmoid: the losses contain it."""
    x = images = keras.Input((28, 28, 1))
    x = layers.LeakyReLU(0.2)(layers.Conv2D(width, 4, strides=2, padding="same")(x))
    x = layers.LeakyReLU(0.2)(layers.Conv2D(2 * width, 4, strides=2, padding="same")(x))
    return keras.Model(images, layers.Dense(1)(layers.Flatten()(x)))


def discriminator_loss(real_logits, fake_logits):
    """-log D(x) - log(1 - D(G(z))), where softplus(-a) = -log sigmoid(a)."""
    return tf.reduce_mean(tf.nn.softplus(-real_logits) + tf.nn.softplus(fake_logits))


def generator_loss(fake_logits):
    """-log D(G(z)), the non-saturating loss."""
    return tf.reduce_mean(tf.nn.softplus(-fake_logits))


class GAN(keras.Model):
    """A generator and a discriminator that are trained against each other."""

    def __init__(self, generator: keras.Model, discriminator: keras.Model):
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.d_mean, self.g_mean = keras.metrics.Mean("d_loss"), keras.metrics.Mean("g_loss")
        self.latent_dim = generator.input_shape[-1]
        self.built = True  # both networks are; otherwise Keras would look for a `call`

    def compile(self, d_optimizer, g_optimizer):
        super().compile(optimizer=None)  # each network has an optimizer of its own
        self.d_optimizer, self.g_optimizer = d_optimizer, g_optimizer

    def train_step(self, reals):
        latents = keras.random.normal((tf.shape(reals)[0], self.latent_dim))

        # The discriminator learns to distinguish real images from generated ones.
        fakes = self.generator(latents, training=True)
        with tf.GradientTape() as tape:
            real_logits = self.discriminator(reals, training=True)
            fake_logits = self.discriminator(fakes, training=True)
            d_loss = discriminator_loss(real_logits, fake_logits)
        weights = self.discriminator.trainable_variables
        self.d_optimizer.apply(tape.gradient(d_loss, weights), weights)

        # The generator learns from the discriminator that was just updated.
        with tf.GradientTape() as tape:
            fakes = self.generator(latents, training=True)
            g_loss = generator_loss(self.discriminator(fakes, training=True))
        weights = self.generator.trainable_variables
        self.g_optimizer.apply(tape.gradient(g_loss, weights), weights)

        self.d_mean.update_state(d_loss)
        self.g_mean.update_state(g_loss)
        return {"d_loss": self.d_mean.result(), "g_loss": self.g_mean.result()}


class SampleGrid(keras.callbacks.Callback):
    """Writes a picture of 8 x 8 samples after every epoch, always of the same latents."""

    def on_epoch_end(self, epoch, logs=None):
        latents = keras.random.normal((64, self.model.latent_dim), seed=0)
        images = self.model.generator(latents, training=False)  # (64, 28, 28, 1)
        rows = tf.transpose(tf.reshape(images, (8, 8, 28, 28)), (0, 2, 1, 3))
        keras.utils.save_img(f"samples-{epoch + 1}.png", tf.reshape(rows, (8 * 28, 8 * 28, 1)))


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    (digits, _), _ = keras.datasets.mnist.load_data()
    digits = digits[..., None].astype("float32") / 127.5 - 1  # (60000, 28, 28, 1) in [-1, 1]
    model = GAN(build_generator(), build_discriminator())
    model.compile(keras.optimizers.Adam(5e-4, 0.5), keras.optimizers.Adam(1e-3, 0.5))
    model.fit(digits, batch_size=64, epochs=5, callbacks=[SampleGrid()])
    model.generator.save("generator.keras")
