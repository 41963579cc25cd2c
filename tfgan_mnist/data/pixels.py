"""Pixels and their ranges: the only place that converts uint8 [0, 255] <-> float [-1, 1].

Images are (N, H, W, C) with C = 1 (gray) or 3 (RGB). TensorFlow is imported only for tensors, so
that commands which merely read or write pictures start at once.
"""

import math

import numpy as np

SCALE = 2  # of pictures on the screen: a digit of 28 pixels is 56


def to_float(images):
    """uint8 in [0, 255] -> float32 in [-1, 1]; same shape. Takes NumPy arrays and TF tensors."""
    if isinstance(images, np.ndarray):
        return images.astype(np.float32) / 127.5 - 1.0
    import tensorflow as tf

    return tf.cast(images, tf.float32) / 127.5 - 1.0


def to_uint8(images) -> np.ndarray:
    """float in [-1, 1] -> uint8 in [0, 255], rounded and clipped; same shape."""
    scaled = np.asarray(images, np.float32) + np.float32(1.0)
    scaled *= np.float32(127.5)  # in place: ten thousand colour images are half a gigabyte
    return np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled).astype(np.uint8)


def grid(images: np.ndarray, columns: int | None = None, padding: int = 2) -> np.ndarray:
    """One picture of many images, row by row, on black.

    Args:
      images: uint8 (N, H, W, C), N >= 1.
      columns: images per row; by default the picture is as near to square as full rows allow.
      padding: black pixels between neighbours and around the whole.

    Returns:
      uint8 (rows * (H + padding) + padding, columns * (W + padding) + padding, C).
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ValueError(
            f"Expected shape (N, H, W, C), N >= 1, C = 1 or 3. Received: {images.shape}"
        )
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)

    # Every tile carries its padding below and to the right; the whole, above and to the left.
    tiles = np.zeros((rows * columns, height + padding, width + padding, channels), np.uint8)
    tiles[:count, :height, :width] = images
    tiles = tiles.reshape(rows, columns, *tiles.shape[1:])  # (rows, columns, H + p, W + p, C)
    tiles = tiles.swapaxes(1, 2)  # (rows, H + p, columns, W + p, C)
    picture = tiles.reshape(rows * (height + padding), columns * (width + padding), channels)
    return np.pad(picture, ((padding, 0), (padding, 0), (0, 0)))


def enlarge(images: np.ndarray, factor: int = SCALE) -> np.ndarray:
    """(..., H, W, C) -> (..., factor * H, factor * W, C): every pixel becomes a sharp square."""
    return images.repeat(factor, axis=-3).repeat(factor, axis=-2)
