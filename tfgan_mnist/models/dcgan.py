"""The deep convolutional GAN.

Radford, Metz & Chintala 2015, "Unsupervised Representation Learning with Deep Convolutional
Generative Adversarial Networks", arXiv:1511.06434. Its five guidelines: strided convolutions
instead of pooling; batch norm in both networks, but not at G's output nor D's input; no hidden
dense layers; ReLU and tanh in G; LeakyReLU in D.

The recipe of `dcgan` departs from the third with a dense layer at the narrow end of each network,
after the latents and in place of D's last convolution, as TF-GAN's tutorial has them, and from the
second with batch norm in D in that layer only; without `hidden_dense` it is the paper's form. FID
after one of two epochs in batches of 32, G's rate 1e-3, beta_1 0.5, seed 0 (results/search.jsonl):
5.4 in the paper's form, 2.5 in this one; with batch norm in D's convolution too 186 (dense layers
of 512). G's layer alone made it collapse, whether D had batch norm (135, batches of 64) or none
(128).
"""

import itertools
from collections.abc import Sequence

import keras
from keras import layers

from tfgan_mnist.config import Config
from tfgan_mnist.models.gan import GAN, synchronises
from tfgan_mnist.models.layers import (
    BatchNormalization,
    Conv2D,
    Conv2DTranspose,
    Dropout,
    normalised,
)


def sides(image_shape: Sequence[int]) -> list[int]:
    """Sides of the feature maps from the coarsest to the image: [3, 7, 14, 28], [4, 8, 16, 32, 64].

    Halved down to 4 or less, as in the paper; an odd side 2n + 1 comes from n.

    Raises:
      ValueError: not square, or a side that is not a multiple of 4 from 8 on.
    """
    height, width, _ = image_shape
    if height != width or height % 4 or height < 8:
        raise ValueError(
            "image size: expected a square whose side is a multiple of 4, at least 8; "
            f"received {height}x{width}"
        )
    found = [height]
    while found[0] > 4:
        found.insert(0, found[0] // 2)
    return found


def doubling(coarse: int, fine: int, kernel_size: int) -> dict:
    """Arguments of the convolution, plain or transposed, with stride 2 between two sides."""
    if fine == 2 * coarse:
        return {"kernel_size": kernel_size, "strides": 2, "padding": "same"}
    return {"kernel_size": 3, "strides": 2, "padding": "valid"}  # fine == 2 * coarse + 1


def kernel_initializer(stddev: float):
    """N(0, stddev), the paper's with 0.02; Glorot's for 0."""
    if stddev:
        return keras.initializers.RandomNormal(stddev=stddev)
    return keras.initializers.GlorotUniform()


def convolutional_generator(
    inputs,
    x,
    image_shape: Sequence[int] = (28, 28, 1),
    width: int = Config.g_width,
    kernel_size: int = Config.kernel_size,
    init_stddev: float = Config.init_stddev,
    hidden_dense: bool = Config.hidden_dense,
    sync_batch_norm: bool = False,
) -> keras.Model:
    """`x` (B, any), computed from `inputs`, -> images (B, H, W, C) in [-1, 1], float32.

    Args:
      inputs: the model's inputs.
      x: what the first layer projects.
      image_shape: (H, W, C).
      width: channels of the finest hidden feature map; each coarser one has twice as many.
      kernel_size: of the transposed convolutions that double a side exactly; from n to 2n + 1 it
        is 3. The paper's is 5; a multiple of the stride 2 covers every pixel equally often and so
        makes no checkerboard.
      init_stddev: see `kernel_initializer`.
      hidden_dense: begin with a dense layer, as wide as the coarsest map has channels twice.
      sync_batch_norm: take batch norm's statistics over all replicas.
    """
    coarsest, *finer = sides(image_shape)
    channels = width * 2 ** (len(finer) - 1)

    def kernel() -> dict:
        # An initializer of its own for each layer: one that is shared draws the same numbers.
        return {"kernel_initializer": kernel_initializer(init_stddev)}

    if hidden_dense:
        x = layers.Dense(2 * channels, use_bias=False, **kernel())(x)  # (B, 512)
        x = BatchNormalization(synchronized=sync_batch_norm)(x)
        x = layers.ReLU()(x)
    # "Project and reshape": the paper's first layer.
    x = layers.Dense(coarsest * coarsest * channels, use_bias=False, **kernel())(x)
    x = layers.Reshape((coarsest, coarsest, channels))(x)  # (B, 3, 3, 256)
    x = BatchNormalization(synchronized=sync_batch_norm)(x)
    x = layers.ReLU()(x)
    for coarse, fine in itertools.pairwise([coarsest, *finer[:-1]]):
        channels //= 2
        x = Conv2DTranspose(
            channels, **doubling(coarse, fine, kernel_size), use_bias=False, **kernel()
        )(x)  # (B, 7, 7, 128), then (B, 14, 14, 64)
        x = BatchNormalization(synchronized=sync_batch_norm)(x)
        x = layers.ReLU()(x)
    x = Conv2DTranspose(
        image_shape[-1], **doubling(finer[-1] // 2, finer[-1], kernel_size), **kernel()
    )(x)  # (B, 28, 28, 1)
    images = layers.Activation("tanh", dtype="float32", name="images")(x)
    return keras.Model(inputs, images, name="generator")


def dcgan_generator(
    image_shape: Sequence[int] = (28, 28, 1), latent_dim: int = Config.latent_dim, **options
) -> keras.Model:
    """latents (B, latent_dim) -> images (B, H, W, C) in [-1, 1]; see `convolutional_generator`."""
    latents = keras.Input((latent_dim,), name="latents")
    return convolutional_generator(latents, latents, image_shape, **options)


def convolutional_features(
    x,
    image_shape: Sequence[int] = (28, 28, 1),
    width: int = Config.d_width,
    kernel_size: int = Config.kernel_size,
    batch_norm: bool = Config.d_batch_norm,
    dropout: float = Config.d_dropout,
    spectral_norm: bool = Config.spectral_norm,
    init_stddev: float = Config.init_stddev,
    hidden_dense: bool = Config.hidden_dense,
    sync_batch_norm: bool = False,
):
    """Images (B, H, W, any) -> features (B, F), by the mirror of `convolutional_generator`.

    With `hidden_dense` a dense layer with as many channels takes the place of the last convolution,
    unless it is the only one, and batch norm is in that layer alone; without, it is in all
    convolutions but the first.
    """

    def hidden(x, layer: type, channels: int, normalise: bool, **options):
        initializer = kernel_initializer(init_stddev)
        linear = layer(channels, **options, use_bias=not normalise, kernel_initializer=initializer)
        x = normalised(linear, spectral_norm)(x)
        if normalise:
            x = BatchNormalization(synchronized=sync_batch_norm)(x)
        x = layers.LeakyReLU(0.2)(x)
        return Dropout(dropout)(x) if dropout else x

    halvings = list(itertools.pairwise(reversed(sides(image_shape))))
    # An image of 8x8 keeps its only convolution.
    convolutions = (halvings[:-1] or halvings) if hidden_dense else halvings
    for level, (fine, coarse) in enumerate(convolutions):
        normalise = batch_norm and level > 0 and not hidden_dense
        options = doubling(coarse, fine, kernel_size)
        # (B, 14, 14, 48), then 7x7x96
        x = hidden(x, Conv2D, width * 2**level, normalise, **options)
    x = layers.Flatten()(x)
    if hidden_dense:
        x = hidden(x, layers.Dense, width * 2 ** len(convolutions), batch_norm)  # (B, 192)
    return x


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
    """`GAN` with convolutional networks, by default those of the recipe for 28x28 images."""

    recipe = "dcgan"

    @classmethod
    def networks(
        cls, settings: Config, image_shape: Sequence[int], num_classes: int
    ) -> tuple[keras.Model, keras.Model]:
        return (
            dcgan_generator(image_shape, settings.latent_dim, **generator_options(settings)),
            dcgan_discriminator(image_shape, **discriminator_options(settings)),
        )


def generator_options(settings: Config) -> dict:
    """What a configuration says of `convolutional_generator`."""
    return {"width": settings.g_width} | _both_options(settings)


def discriminator_options(settings: Config) -> dict:
    """What a configuration says of `convolutional_features`."""
    return _both_options(settings) | {
        "width": settings.d_width,
        "batch_norm": settings.d_batch_norm,
        "dropout": settings.d_dropout,
        "spectral_norm": settings.spectral_norm,
    }


def _both_options(settings: Config) -> dict:
    return {
        "kernel_size": settings.kernel_size,
        "init_stddev": settings.init_stddev,
        "hidden_dense": settings.hidden_dense,
        "sync_batch_norm": synchronises(settings),
    }
