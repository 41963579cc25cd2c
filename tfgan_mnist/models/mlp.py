"""Multilayer perceptrons, the networks of the first GAN paper.

Goodfellow et al. 2014, "Generative Adversarial Nets", arXiv:1406.2661.
"""

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from tfgan_mnist.models.layers import BatchNormalization, Dropout, normalised


def mlp_generator(
    image_shape: Sequence[int] = (28, 28, 1),
    latent_dim: int = 100,
    hidden_widths: Sequence[int] = (256, 512, 1024),
    batch_norm: bool = True,
    sync_batch_norm: bool = False,
) -> keras.Model:
    """latents (B, latent_dim) -> ReLU layers -> tanh images (B, H, W, C) in [-1, 1], float32.

    A tanh over [-1, 1] is the paper's sigmoid over [0, 1] with its logit halved.
    `sync_batch_norm` computes batch norm's statistics over all replicas.
    """
    x = latents = keras.Input((latent_dim,), name="latents")
    for width in hidden_widths:
        x = layers.Dense(width, use_bias=not batch_norm)(x)
        if batch_norm:
            # A ReLU and a Dense follow: no scale.
            x = BatchNormalization(scale=False, synchronized=sync_batch_norm)(x)
        x = layers.ReLU()(x)
    x = layers.Dense(int(np.prod(image_shape)))(x)
    x = layers.Reshape(tuple(image_shape))(x)
    # float32 whatever the policy: tanh saturates, and half precision would quantise the images.
    images = layers.Activation("tanh", dtype="float32", name="images")(x)
    return keras.Model(latents, images, name="generator")


def mlp_discriminator(
    image_shape: Sequence[int] = (28, 28, 1),
    hidden_widths: Sequence[int] = (512, 256),
    batch_norm: bool = False,
    dropout: float = 0.3,
    spectral_norm: bool = False,
    sync_batch_norm: bool = False,
) -> keras.Model:
    """images (B, H, W, C) in [-1, 1] -> LeakyReLU layers -> logits (B, 1), float32.

    The paper's hidden layers are maxout with dropout; a leaky ReLU is today's plain stand-in.
    """
    images = keras.Input(tuple(image_shape), name="images")
    x = layers.Flatten(data_format="channels_last")(images)
    for width in hidden_widths:
        x = normalised(layers.Dense(width, use_bias=not batch_norm), spectral_norm)(x)
        if batch_norm:
            x = BatchNormalization(synchronized=sync_batch_norm)(x)
        x = layers.LeakyReLU(0.2)(x)
        if dropout:
            x = Dropout(dropout)(x)
    logits = normalised(layers.Dense(1, dtype="float32"), spectral_norm, name="logits")(x)
    return keras.Model(images, logits, name="discriminator")
