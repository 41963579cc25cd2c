"""The deep convolutional GAN.

Radford, Metz & Chintala 2015, "Unsupervised Representation Learning with Deep Convolutional
Generative Adversarial Networks", arXiv:1511.06434. Its five guidelines: strided convolutions
instead of pooling; batch norm in both networks, but not at G's output nor D's input; no hidden
dense layers; ReLU and tanh in G; LeakyReLU in D.
"""

from collections.abc import Sequence

import keras
from keras import layers

from tfgan_mnist.models.gan import GAN, normalised


def scales(image_shape: Sequence[int]) -> tuple[int, int]:
    """(side of the coarsest feature map, number of doublings from there to the image's side).

    28 -> (7, 2), 32 -> (4, 3), 64 -> (4, 4), as in the paper: halved down to 4 or to an odd side.

    Raises:
      ValueError: not square, or a side that is not a multiple of 4 from 8 on.
    """
    height, width, _ = image_shape
    if height != width or height % 4 or height < 8:
        raise ValueError(
            "image size: expected a square whose side is a multiple of 4, at least 8; "
            f"received {height}x{width}"
        )
    side, doublings = height, 0
    while side % 2 == 0 and side > 4:
        side, doublings = side // 2, doublings + 1
    return side, doublings


def kernel_initializer(stddev: float):
    """N(0, stddev), the paper's with 0.02; Glorot's for 0."""
    if stddev:
        return keras.initializers.RandomNormal(stddev=stddev)
    return keras.initializers.GlorotUniform()


def convolutional_generator(
    inputs,
    x,
    image_shape: Sequence[int] = (28, 28, 1),
    width: int = 64,
    kernel_size: int = 4,
    init_stddev: float = 0.0,
) -> keras.Model:
    """`x` (B, any), computed from `inputs`, -> images (B, H, W, C) in [-1, 1], float32.

    Args:
      width: channels of the finest hidden feature map; each coarser one has twice as many.
      kernel_size: of the transposed convolutions. The paper's is 5; a multiple of the stride 2
        covers every pixel equally often and so makes no checkerboard.
    """
    side, doublings = scales(image_shape)
    channels = width * 2 ** (doublings - 1)

    def initializer():
        return kernel_initializer(init_stddev)

    # "Project and reshape": the paper's first layer, a matrix product and no hidden dense layer.
    x = layers.Dense(side * side * channels, use_bias=False, kernel_initializer=initializer())(x)
    x = layers.Reshape((side, side, channels))(x)  # (B, 7, 7, 128)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    for _ in range(doublings - 1):
        channels //= 2
        x = layers.Conv2DTranspose(
            channels,
            kernel_size,
            strides=2,
            padding="same",
            use_bias=False,
            kernel_initializer=initializer(),
        )(x)  # (B, 14, 14, 64)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
    x = layers.Conv2DTranspose(
        image_shape[-1],
        kernel_size,
        strides=2,
        padding="same",
        kernel_initializer=initializer(),
    )(x)  # (B, 28, 28, 1)
    images = layers.Activation("tanh", dtype="float32", name="images")(x)
    return keras.Model(inputs, images, name="generator")


def dcgan_generator(
    image_shape: Sequence[int] = (28, 28, 1), latent_dim: int = 100, **options
) -> keras.Model:
    """latents (B, latent_dim) -> images (B, H, W, C) in [-1, 1]; see `convolutional_generator`."""
    latents = keras.Input((latent_dim,), name="latents")
    return convolutional_generator(latents, latents, image_shape, **options)


def convolutional_features(
    x,
    image_shape: Sequence[int] = (28, 28, 1),
    width: int = 64,
    kernel_size: int = 4,
    batch_norm: bool = True,
    dropout: float = 0.0,
    spectral_norm: bool = False,
    init_stddev: float = 0.0,
):
    """Images (B, H, W, any) -> features (B, F), by the mirror of `convolutional_generator`."""
    _, halvings = scales(image_shape)
    for level in range(halvings):
        first = level == 0
        x = normalised(
            layers.Conv2D(
                width * 2**level,
                kernel_size,
                strides=2,
                padding="same",
                use_bias=first or not batch_norm,
                kernel_initializer=kernel_initializer(init_stddev),
            ),
            spectral_norm,
        )(x)  # (B, 14, 14, 64), then (B, 7, 7, 128)
        if batch_norm and not first:
            x = layers.BatchNormalization()(x)
        x = layers.LeakyReLU(0.2)(x)
        if dropout:
            x = layers.Dropout(dropout)(x)
    return layers.Flatten()(x)  # (B, 6272)


def dcgan_discriminator(image_shape: Sequence[int] = (28, 28, 1), **options) -> keras.Model:
    """images (B, H, W, C) in [-1, 1] -> logits (B, 1) float32; see `convolutional_features`."""
    images = keras.Input(tuple(image_shape), name="images")
    features = convolutional_features(images, image_shape, **options)
    logits = normalised(
        layers.Dense(1, dtype="float32"), options.get("spectral_norm", False), name="logits"
    )(features)
    return keras.Model(images, logits, name="discriminator")


@keras.saving.register_keras_serializable("tfgan_mnist")
class DCGAN(GAN):
    """`GAN` with convolutional networks, the paper's at a quarter of its width for 28x28 images."""

    @staticmethod
    def default_generator() -> keras.Model:
        return dcgan_generator()

    @staticmethod
    def default_discriminator() -> keras.Model:
        return dcgan_discriminator()
