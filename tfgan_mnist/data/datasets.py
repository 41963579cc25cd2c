"""Labelled images in memory, as uint8."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfgan_mnist.data import squares
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
    num_classes: int  # 0: without labels, which are zeros then
    class_names: tuple[str, ...]  # by label
    test_split: str = "test"  # some data sets have a validation split instead
    path: str = ""  # of one's own pictures

    @property
    def key(self) -> str:
        """The name that finds the classifier: of one's own pictures the path."""
        return self.path or self.name

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @property
    def shown_class_names(self) -> tuple[str, ...]:
        """The class names; empty where they are the numbers of the classes, as those of digits."""
        numbers = [f"{label:0{len(name)}d}" for label, name in enumerate(self.class_names)]
        return () if list(self.class_names) == numbers else self.class_names

    @property
    def fingerprint(self) -> str:
        """The same for the same images and labels in the same order; 0.2 s for MNIST."""
        digest = hashlib.sha256()
        for array in (*self.train, *self.test):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]


def is_path(name: str) -> bool:
    """Whether the name of a data set is a path, there or not: ./cats, ~/cats, cats.npz.

    So is a name with a slash, or one of a file or folder that is there, unless TFDS has a data set
    of that name.
    """
    if name.startswith((".", "~", os.sep)) or name.lower().endswith((".npz", ".npy")):
        return True
    if name in ("mnist", STACKED_MNIST) or not (os.sep in name or os.path.exists(name)):
        return False
    from tfgan_mnist.data import tfds

    return not tfds.is_known(name)


def canonical(name: str) -> str:
    """The absolute path of one's own pictures; any other name as it is."""
    return os.path.abspath(os.path.expanduser(name)) if is_path(name) else name


def short_name(name: str) -> str:
    """The name for tables and model cards: of a path the last part."""
    return os.path.basename(name) if os.path.isabs(name) else name


def file_name(name: str) -> str:
    """The name for files about a data set: emnist-balanced, cats-1a2b3c4d for an absolute path."""
    if not os.path.isabs(name):
        return name.replace("/", "-")
    return f"{short_name(name)}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


def load(
    name: str = "mnist",
    data_dir: str | os.PathLike | None = None,
    manual_dir: str | os.PathLike | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    background: str = "white",
    skip_broken: bool = False,
) -> ImageData:
    """A data set of images, prepared on disk at its first use.

    Args:
      name: a TFDS image classification data set like "fashion_mnist" or "emnist/letters";
        "stacked_mnist": three MNIST digits in three channels, 1,000 classes (Metz et al. 2017); or
        the path of one's own pictures: a folder of pictures, or of a folder for each class
        (`folders`), or an .npz or .npy file (`arrays`). `is_path` distinguishes them.
      data_dir: the folder of prepared data sets. Default: TFDS's, $TFDS_DATA_DIR or
        ~/tensorflow_datasets.
      manual_dir: folder with the data set's archives, read when it has to be prepared. Default: for
        MNIST the packaged ones, for others what TFDS downloads.
      image_size: height and width in pixels. Images of this size keep their bytes; of others the
        centred square is resized. None: 28; for one's own pictures, what they have (`squares`).
      channels: 1 for gray (the luma of colours), 3 for colour (gray repeated); None for the data
        set's own.
      background: the colour under transparent pixels.
      skip_broken: go on without pictures of one's own that cannot be decoded.

    Raises:
      UserError: an unknown data set, or one without images and labels; archives or pictures that
        are missing, damaged or out of reach; a `data_dir` that cannot be written or holds damaged
        files.
    """
    squares.check_color(background)
    if image_size and not squares.MIN_SIZE <= image_size <= squares.MAX_SIZE:
        raise UserError(
            f"image_size: expected {squares.MIN_SIZE} to {squares.MAX_SIZE}; received {image_size}"
        )
    if channels not in (None, 0, 1, 3):
        raise UserError(f"channels: expected 1 or 3; received {channels}")
    look = squares.Look(image_size or 0, channels or 0, background)
    name = canonical(name)
    if os.path.isabs(name):
        from tfgan_mnist.data import cache

        return cache.load(Path(name), data_dir, look, skip_broken)
    from tfgan_mnist.data import tfds

    if name != STACKED_MNIST:
        return tfds.load(name, data_dir, manual_dir, look)
    if channels not in (None, 3):
        raise UserError(f"{name}: has 3 channels; received channels={channels}")
    return _stacked(tfds.load("mnist", data_dir, manual_dir, look._replace(channels=1)))


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
