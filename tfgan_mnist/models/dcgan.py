"""The deep convolutional GAN.

Radford, Metz & Chintala 2015, "Unsupervised Representation Learning with Deep Convolutional
Generative Adversarial Networks", arXiv:1511.06434. Its five guidelines: strided convolutions
instead of pooling; batch norm in both networks, but not at G's output nor D's input; no hidden
dense layers; ReLU and tanh in G; LeakyReLU in D.

By default `hidden_dense` adds a dense layer at the narrow end of each network, after the latents
and in place of D's last convolution, and keeps batch norm in D to that layer. Experiments showed a
gain (docs/recipes.md); `hidden_dense=False` is the paper's form.
"""

import itertools
from collections.abc import Sequence

import keras
from keras import layers

from tfgan_mnist.models import rules
from tfgan_mnist.models.gan import GAN
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
            "image_size: expected a square whose side is a multiple of 4, at least 8; "
            f"received {height}x{width}"
        )
    found = [height]
    while found[0] > 4:
        found.insert(0, found[0] // 2)
    return found


def doubling(coarse: int, fine: int, kernel_size: int) -> dict:
    """Arguments of the convolution, plain or transposed, with stride 2 between two sides."""
    common = {"strides": 2, "data_format": "channels_last"}  # whatever keras.json says
    if fine == 2 * coarse:
        return {"kernel_size": kernel_size, "padding": "same"} | common
    return {"kernel_size": 3, "padding": "valid"} | common  # fine == 2 * coarse + 1


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
    hidden_dense: bool = True,
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

    def normalised_relu(x):
        return layers.ReLU()(BatchNormalization(synchronized=sync_batch_norm)(x))

    if hidden_dense:
        x = normalised_relu(layers.Dense(2 * channels, use_bias=False, **kernel())(x))  # (B, 512)
    # "Project and reshape": the paper's first layer.
    x = layers.Dense(coarsest * coarsest * channels, use_bias=False, **kernel())(x)
    x = normalised_relu(layers.Reshape((coarsest, coarsest, channels))(x))  # (B, 3, 3, 256)
    for coarse, fine in itertools.pairwise([coarsest, *finer[:-1]]):
        channels //= 2
        options = doubling(coarse, fine, kernel_size) | kernel()
        x = Conv2DTranspose(channels, use_bias=False, **options)(x)
        x = normalised_relu(x)  # (B, 7, 7, 128), then (B, 14, 14, 64)
    options = doubling(finer[-1] // 2, finer[-1], kernel_size) | kernel()
    x = Conv2DTranspose(image_shape[-1], **options)(x)  # (B, 28, 28, 1)
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
    width: int = 48,
    kernel_size: int = 4,
    batch_norm: bool = True,
    dropout: float = 0.0,
    spectral_norm: bool = False,
    init_stddev: float = 0.0,
    hidden_dense: bool = True,
    sync_batch_norm: bool = False,
):
    """Images (B, H, W, any) -> features (B, F), by the mirror of `convolutional_generator`.

    With `hidden_dense` a dense layer with as many channels takes the place of the last convolution,
    unless it is the only one, and batch norm is in that layer alone. Without it, batch norm is in
    all convolutions but the first.

    Raises:
      ValueError: `hidden_dense` without batch norm, or sides that cannot be halved.
    """
    rules.check_hidden_dense(hidden_dense, batch_norm)

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
    x = layers.Flatten(data_format="channels_last")(x)
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
    """`GAN` with convolutional networks."""

    learning_rates = (5e-4, 3e-3)
    beta_1 = 0.0

    def default_generator(self, image_shape: Sequence[int]) -> keras.Model:
        return dcgan_generator(image_shape)

    def default_discriminator(self, image_shape: Sequence[int]) -> keras.Model:
        return dcgan_discriminator(image_shape)
