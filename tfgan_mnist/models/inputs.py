"""What images and labels from outside have to be, and how they are converted."""

import keras
import numpy as np
import tensorflow as tf

from tfgan_mnist.data.pixels import to_float


def as_batch(data, image_shape: tuple[int, ...], num_classes: int | None) -> tuple:
    """A batch of Keras's data -> (images float32 (B, H, W, C) in [-1, 1], labels int32 (B,)).

    Converted are integers as pixels in [0, 255], gray images without a channel axis, and labels
    (B, 1). Labels of a model without classes are dropped.

    Args:
      data: images, or (images, labels), tensors.
      image_shape: (H, W, C) of the model.
      num_classes: of a conditional model, else None; labels are then None.

    Raises:
      ValueError: another shape or type; labels missing.
      tf.errors.InvalidArgumentError: labels that are no classes, in the step that receives them.
    """
    images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    if weights is not None:
        raise ValueError("sample_weight and class_weight: expected none; all images weigh the same")
    images = tf.convert_to_tensor(images)
    images = to_float(images) if images.dtype.is_integer else tf.cast(images, tf.float32)
    if images.shape.rank == 3 and image_shape[-1] == 1:
        images = images[..., None]
    if images.shape.rank != 4 or not images.shape[1:].is_compatible_with(image_shape):
        raise ValueError(f"images: expected shape {(None, *image_shape)}; received {images.shape}")
    if num_classes is None:
        return images, None
    if labels is None:
        raise ValueError("labels: expected (images, labels), one integer an image; received none")
    labels = tf.convert_to_tensor(labels)
    if labels.shape.rank == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    expected = f"labels: expected integers of shape (B,) in 0..{num_classes - 1}"
    if labels.shape.rank != 1 or not labels.dtype.is_integer:
        raise ValueError(f"{expected}; received {labels.dtype.name} of shape {labels.shape}")
    labels = tf.cast(labels, tf.int32)
    if tf.executing_eagerly():  # `check_values` has seen them all
        return images, labels
    # A lookup of -1 would wrap, and a one-hot vector of 10 would be all zeros.
    is_class = (labels >= 0) & (labels < num_classes)
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(is_class), [expected])]):
        return images, tf.identity(labels)


def check_values(x, y, image_shape: tuple[int, ...], num_classes: int | None) -> None:
    """Checks the values that `fit` is given: all of arrays, the first batch of a `tf.data.Dataset`.

    Raises:
      ValueError: as `as_batch` and `check_range`; labels that are no classes.
    """
    if isinstance(x, tf.data.Dataset):
        x = next(iter(x.take(1)), None)
        x, y, _ = keras.utils.unpack_x_y_sample_weight(x)
    if not isinstance(x, (np.ndarray, tf.Tensor)):
        return
    as_batch((x[:1], None if y is None else y[:1]), image_shape, num_classes)
    check_range(np.asarray(x))
    if num_classes is not None:
        labels = np.asarray(y)
        check_labels(labels.reshape(len(labels)), len(labels), num_classes)


def check_range(images: np.ndarray) -> None:
    """Raises ValueError for images that are not in [-1, 1], or in [0, 255] as integers.

    NaN passes: the logs show it.
    """
    if not images.size:
        return
    low, high = np.nanmin(images), np.nanmax(images)
    if np.issubdtype(images.dtype, np.integer):
        if not 0 <= low <= high <= 255 or high == 1:
            raise ValueError(f"images: expected integers in 0..255; received {low}..{high}")
    elif low < -1.001 or high > 1.001:
        raise ValueError(
            f"images: expected floats in [-1, 1], or integers in 0..255; received {low:.4g} to "
            f"{high:.4g}"
        )
    # Pixels k / 127.5 - 1 are never 0, those of [0, 1] usually are.
    elif low == 0 and high > 0.5:
        raise ValueError(
            f"images: expected floats in [-1, 1]; received {low:.4g} to {high:.4g}, which is "
            "[0, 1]. Give 2 * images - 1."
        )


def check_labels(labels, num: int, num_classes: int | None) -> np.ndarray | None:
    """Labels as int32 (num,); None for a model without classes.

    Raises:
      ValueError: labels missing, in excess, of another shape or type, or no classes.
    """
    if num_classes is None:
        if labels is not None:
            raise ValueError("labels: expected none, since the model is not conditional")
        return None
    expected = f"labels: expected {num} integers in 0..{num_classes - 1}"
    if labels is None:
        raise ValueError(f"{expected}; received none")
    labels = np.asarray(labels)
    if labels.shape != (num,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{expected}; received {labels.dtype} of shape {labels.shape}")
    if num and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"{expected}; received {labels.min()}..{labels.max()}")
    return labels.astype(np.int32)
