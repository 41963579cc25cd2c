"""A conditional GAN on MNIST in one file: `minimal_gan.py` with the digit as an input.

Mirza & Osindero 2014, arXiv:1411.1784; the projection in D: Miyato & Koyama 2018, 1802.05637.
"""

import keras
import tensorflow as tf
from keras import layers


def build_generator(classes: int = 10, latent_dim: int = 64, width: int = 32) -> keras.Model:
    """Latents (B, latent_dim), labels (B,) -> images (B, 28, 28, 1) in [-1, 1]."""
    latents, labels = keras.Input((latent_dim,)), keras.Input((), dtype="int32")
    x = layers.Concatenate()([latents, keras.ops.one_hot(labels, classes)])
    x = layers.Dense(7 * 7 * 2 * width, use_bias=False)(x)
    x = layers.Reshape((7, 7, 2 * width))(layers.ReLU()(layers.BatchNormalization()(x)))
    x = layers.Conv2DTranspose(width, 4, strides=2, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))  # (B, 14, 14, width)
    images = layers.Conv2DTranspose(1, 4, strides=2, padding="same", activation="tanh")(x)
    return keras.Model([latents, labels], images)


def build_discriminator(classes: int = 10, width: int = 32) -> keras.Model:
    """Images (B, 28, 28, 1), labels (B,) -> logits (B, 1): is it a real image of this class?"""
    images, labels = keras.Input((28, 28, 1)), keras.Input((), dtype="int32")
    x = layers.LeakyReLU(0.2)(layers.Conv2D(width, 4, strides=2, padding="same")(images))
    x = layers.LeakyReLU(0.2)(layers.Conv2D(2 * width, 4, strides=2, padding="same")(x))
    features = layers.Flatten()(x)
    of_class = layers.Embedding(classes, features.shape[-1])(labels)
    projection = layers.Dot(axes=1)([features, of_class])
    return keras.Model([images, labels], layers.Dense(1)(features) + projection)


def discriminator_loss(real_logits, fake_logits):
    """-log D(x|y) - log(1 - D(G(z|y)|y)), where softplus(-a) = -log sigmoid(a)."""
    return tf.reduce_mean(tf.nn.softplus(-real_logits) + tf.nn.softplus(fake_logits))


def generator_loss(fake_logits):
    """-log D(G(z|y)|y), the non-saturating loss."""
    return tf.reduce_mean(tf.nn.softplus(-fake_logits))


class ConditionalGAN(keras.Model):
    """A generator and a discriminator that know the label, trained against each other."""

    def __init__(self, generator: keras.Model, discriminator: keras.Model):
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.d_mean, self.g_mean = keras.metrics.Mean("d_loss"), keras.metrics.Mean("g_loss")
        self.latent_dim = generator.input_shape[0][-1]
        self.built = True  # both networks are; otherwise Keras would look for a `call`

    def compile(self, d_optimizer, g_optimizer):
        super().compile(optimizer=None)  # each network has an optimizer of its own
        self.d_optimizer, self.g_optimizer = d_optimizer, g_optimizer

    def train_step(self, data):
        reals, labels = data
        latents = keras.random.normal((tf.shape(reals)[0], self.latent_dim))

        # The discriminator learns to distinguish real images from generated ones.
        fakes = self.generator([latents, labels], training=True)
        with tf.GradientTape() as tape:
            real_logits = self.discriminator([reals, labels], training=True)
            fake_logits = self.discriminator([fakes, labels], training=True)
            d_loss = discriminator_loss(real_logits, fake_logits)
        weights = self.discriminator.trainable_variables
        self.d_optimizer.apply(tape.gradient(d_loss, weights), weights)

        # The generator learns from the discriminator that was just updated.
        with tf.GradientTape() as tape:
            fakes = self.generator([latents, labels], training=True)
            g_loss = generator_loss(self.discriminator([fakes, labels], training=True))
        weights = self.generator.trainable_variables
        self.g_optimizer.apply(tape.gradient(g_loss, weights), weights)

        self.d_mean.update_state(d_loss)
        self.g_mean.update_state(g_loss)
        return {"d_loss": self.d_mean.result(), "g_loss": self.g_mean.result()}


class SampleGrid(keras.callbacks.Callback):
    """Writes a picture after every epoch: a row per digit, in each column the same latent."""

    def on_epoch_end(self, epoch, logs=None):
        latents = tf.tile(keras.random.normal((8, self.model.latent_dim), seed=0), (10, 1))
        images = self.model.generator([latents, tf.repeat(tf.range(10), 8)], training=False)
        rows = tf.transpose(tf.reshape(images, (10, 8, 28, 28)), (0, 2, 1, 3))
        keras.utils.save_img(f"samples-{epoch + 1}.png", tf.reshape(rows, (10 * 28, 8 * 28, 1)))


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    (digits, labels), _ = keras.datasets.mnist.load_data()
    digits = digits[..., None].astype("float32") / 127.5 - 1  # (60000, 28, 28, 1) in [-1, 1]
    model = ConditionalGAN(build_generator(), build_discriminator())
    model.compile(keras.optimizers.Adam(5e-4, 0.5), keras.optimizers.Adam(1e-3, 0.5))
    model.fit(digits, labels.astype("int32"), batch_size=64, epochs=5, callbacks=[SampleGrid()])
    model.generator.save("generator.keras")
