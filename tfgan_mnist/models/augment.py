"""Differentiable augmentation of what the discriminator sees, for few training images.

Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training", arXiv:2006.10738.
Real and generated images are altered alike, in D's update and in G's, so that D cannot learn the
training images by heart and G does not learn the alterations. Magnitudes are those of the authors'
code. Images are (B, H, W, C) float32 in [-1, 1]. Cut pixels become 0, the middle gray; a shifted
image goes on at its border as its outermost pixels do, where the authors' becomes gray.

D is weaker with it, so that G's learning rate has to be low for more than translation: with the
default recipe of `dcgan` and all three G collapses (docs/recipes.md).
"""

import tensorflow as tf

from tfgan_mnist.models import replicas

FEW_IMAGES = 2000  # `auto` augments below this number of training images (docs/recipes.md)
SHIFT = 0.125  # of a side, at most
CUT = 0.5  # of a side


def choose(augment: str, num_images: int) -> str:
    """The augmentations for so many training images, where they are "auto"."""
    if augment != "auto":
        return augment
    return "translation" if num_images < FEW_IMAGES else "none"


def alter(images, kinds: tuple[str, ...], seed: int, draw, use: int):
    """Images (B, H, W, C) as D sees them in a training step; all `use`s of a draw are independent.

    Args:
      images: float32 in [-1, 1].
      kinds: some of `rules.AUGMENTATIONS`, or none.
      seed: of the model.
      draw: number of D's update.
      use: 0, 1 or 2.
    """
    if not kinds:
        return images
    # Of the penalties' stream the negative numbers, which they do not draw.
    uniform, number = tf.random.stateless_uniform, -1 - (3 * draw + use)
    width = sum(NUMBERS[kind] for kind in kinds)
    return apply(
        images, kinds, replicas.draw(uniform, replicas.num_rows(images), width, ~seed, number)
    )


def apply(images, kinds: tuple[str, ...], numbers):
    """Images (B, H, W, C) -> the same shape, altered; differentiable.

    Args:
      images: float32 in [-1, 1].
      kinds: some of `rules.AUGMENTATIONS`.
      numbers: (B, sum of their `NUMBERS`) uniform in [0, 1).
    """
    first = 0
    for kind, function in FUNCTIONS.items():
        if kind in kinds:
            images = function(images, numbers[:, first : first + NUMBERS[kind]])
            first += NUMBERS[kind]
    return images


def _color(images, numbers):
    """Brightness by up to 0.5, saturation times 0 to 2, contrast times 0.5 to 1.5."""
    brightness, saturation, contrast = tf.unstack(numbers[:, :, None, None, None], axis=1)
    images += brightness - 0.5
    gray = tf.reduce_mean(images, axis=3, keepdims=True)
    images = (images - gray) * (2.0 * saturation) + gray
    mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
    return (images - mean) * (contrast + 0.5) + mean


def _translate(images, numbers):
    """Shifts by whole pixels, up to an eighth of a side in each direction; repeats the border."""
    for axis in (1, 2):
        side = images.shape[axis]
        most = int(side * SHIFT + 0.5)
        shift = tf.cast(tf.floor(numbers[:, axis - 1] * (2 * most + 1)), tf.int32) - most  # (B,)
        source = tf.range(side)[None] - shift[:, None]  # (B, side)
        source = tf.clip_by_value(source, 0, side - 1)
        images = tf.gather(images, source, axis=axis, batch_dims=1)
    return images


def _cut(images, numbers):
    """Cuts a square of half a side, centred anywhere in the image."""
    inside = []
    for axis in (1, 2):
        side = images.shape[axis]
        cut = int(side * CUT + 0.5)
        centre = tf.cast(tf.floor(numbers[:, axis - 1] * (side + 1 - cut % 2)), tf.int32)
        offset = tf.range(side)[None] - (centre - cut // 2)[:, None]  # (B, side)
        inside.append(tf.cast((offset >= 0) & (offset < cut), images.dtype))
    square = inside[0][:, :, None, None] * inside[1][:, None, :, None]  # (B, H, W, 1)
    return images * (1.0 - square)


FUNCTIONS = {"color": _color, "translation": _translate, "cutout": _cut}  # in this order
NUMBERS = {"color": 3, "translation": 2, "cutout": 2}  # random numbers that each takes for an image
