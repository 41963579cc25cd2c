"""Images in a NumPy file: `.npy`, or `.npz` with `images` and, where known, `labels`."""

from pathlib import Path

import numpy as np
from PIL import Image

from tfgan_mnist.data import squares
from tfgan_mnist.data.sources import Source, digest_of
from tfgan_mnist.errors import UserError

SUFFIXES = (".npy", ".npz")


def load(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Images uint8 (N, H, W) or (N, H, W, C), C = 1 to 4, and what is stored as their labels.

    Raises:
      UserError: a damaged file, or images of another type or shape.
    """
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            arrays = {"images": loaded}
        else:
            with loaded:
                names = [name for name in loaded.files if name in ("images", "labels")]
                arrays = {name: np.asarray(loaded[name]) for name in names}
    except Exception as error:  # damaged files raise errors of many types
        raise UserError(
            f"{path}: cannot be read as arrays of NumPy ({error}). Labels are expected as integers "
            "or strings; of objects by labels.astype(str)"
        ) from error
    if "images" not in arrays:
        raise UserError(
            f"{path}: expected an array named images; it has {', '.join(loaded) or 'none'}. Write "
            "it with np.savez(path, images=images, labels=labels)"
        )
    images = arrays["images"]
    received = f"received {images.dtype} of shape {images.shape}"
    if images.dtype != np.uint8:
        raise UserError(
            f"{path}: expected images as uint8 in [0, 255]; {received}. Convert them: from [0, 1] "
            "by (255 * images).round(), from [-1, 1] by (127.5 * (images + 1)).round(), then "
            ".astype('uint8')"
        )
    channels = images.shape[3] if images.ndim == 4 else 1
    if images.ndim not in (3, 4) or not 1 <= channels <= 4 or not images.size:
        raise UserError(
            f"{path}: expected images of shape (N, H, W) or (N, H, W, C), C = 1 to 4; {received}"
        )
    return images, arrays.get("labels")


def read(path: Path) -> Source:
    """The images of a file, and classes: the values, integers or strings, of its labels (N,)."""
    images, values = load(path)
    class_names: tuple[str, ...] = ()
    labels = np.zeros(len(images), np.int64)
    if values is not None:
        if values.shape != labels.shape or values.dtype.kind not in "iuU":
            raise UserError(
                f"{path}: expected labels as {len(images):,} integers or strings; received "
                f"{values.dtype} of shape {values.shape}"
            )
        classes, labels = np.unique(values, return_inverse=True)
        class_names = tuple(map(str, classes))
    return Source(
        lambda i, look: _decode(images[i], look),
        [(images.shape[2], images.shape[1])] * len(images),
        images.ndim == 3 or images.shape[3] == 1,
        labels.astype(np.int32),
        class_names,
        np.array([digest_of(np.ascontiguousarray(image)) for image in images], np.uint64),
    )


def _decode(image: np.ndarray, look: squares.Look) -> np.ndarray:
    """One image uint8 (H, W) or (H, W, C) -> (S, S, C); 2 and 4 channels end with alpha."""
    image = image[..., 0] if image.shape[2:] == (1,) else image
    return squares.square(Image.fromarray(np.ascontiguousarray(image)), look)
