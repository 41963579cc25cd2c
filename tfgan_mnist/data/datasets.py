"""Labelled images in memory, as uint8."""

import hashlib
import os
from typing import NamedTuple

import numpy as np

from tfgan_mnist.errors import UserError

STACKED_MNIST = "stacked_mnist"
# The numbers of Lin et al. 2018 ("PacGAN"): 128 stacks for each of the 1,000 labels; 301 MB.
STACKS = {"train": 128_000, "test": 26_000}


class Split(NamedTuple):
    """The images of a split and their labels, in a fixed order."""

    images: np.ndarray  # uint8 (N, H, W, C) in [0, 255]
    labels: np.ndarray  # int32 (N,) in [0, num_classes)


class ImageData(NamedTuple):
    """A data set in memory."""

    name: str
    train: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...]  # by label
    test_split: str = "test"  # some data sets have a validation split instead

    @property
    def fingerprint(self) -> str:
        """The same for the same images and labels in the same order; 0.2 s for MNIST."""
        digest = hashlib.sha256()
        for array in (*self.train, *self.test):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]


def load(
    name: str = "mnist",
    data_dir: str | os.PathLike | None = None,
    manual_dir: str | os.PathLike | None = None,
    image_size: int = 28,
    channels: int | None = None,
) -> ImageData:
    """A data set of labelled images, prepared on disk at its first use.

    Args:
      name: a TFDS image classification data set like "fashion_mnist" or "emnist/letters", or
        "stacked_mnist": three MNIST digits in three channels, 1,000 classes (Metz et al. 2017).
      data_dir: the folder of prepared data sets. Default: TFDS's, $TFDS_DATA_DIR or
        ~/tensorflow_datasets.
      manual_dir: folder with the data set's archives, read when it has to be prepared. Default: for
        MNIST the packaged ones, for others what TFDS downloads.
      image_size: height and width in pixels. Images of this size keep their bytes; others are
        resized, whatever their aspect ratio.
      channels: 1 for gray (the luma of colours), 3 for colour (gray repeated); None for the data
        set's own.

    Raises:
      UserError: an unknown data set, or one without images and labels; archives that are missing,
        damaged or out of reach; a `data_dir` that cannot be written or holds damaged files.
    """
    from tfgan_mnist.data import tfds

    if name != STACKED_MNIST:
        return tfds.load(name, data_dir, manual_dir, image_size, channels)
    if channels not in (None, 3):
        raise UserError(f"{name}: has 3 channels; received channels={channels}")
    return _stacked(tfds.load("mnist", data_dir, manual_dir, image_size, channels=1))


def _stacked(mnist: ImageData) -> ImageData:
    """Three random digits as the channels of an image; the label reads them: 100 r + 10 g + b."""

    def stack(digits: Split, num: int) -> Split:
        chosen = np.random.default_rng(0).integers(len(digits.labels), size=(num, 3))
        images = np.empty((num, *digits.images.shape[1:3], 3), np.uint8)
        for channel in range(3):
            images[..., channel] = digits.images[chosen[:, channel], ..., 0]
        return Split(images, digits.labels[chosen] @ np.array([100, 10, 1], np.int32))

    return ImageData(
        STACKED_MNIST,
        stack(mnist.train, STACKS["train"]),
        stack(mnist.test, STACKS["test"]),
        num_classes=1000,
        class_names=tuple(f"{label:03d}" for label in range(1000)),
    )
