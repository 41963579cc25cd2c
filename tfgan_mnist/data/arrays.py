"""Images in a NumPy file: `.npy`, or `.npz` with `images` and, where known, `labels`."""

from pathlib import Path

import numpy as np
from PIL import Image

from tfgan_mnist.data import squares
from tfgan_mnist.data.sources import Source, digest_of
from tfgan_mnist.errors import UserError

SUFFIXES = (".npy", ".npz")


def read(path: Path) -> Source:
    """Images uint8 (N, H, W) or (N, H, W, C), C = 1 to 4, and their labels.

    Labels are integers or strings (N,); the classes are the sorted values that occur.

    Raises:
      UserError: a damaged file, or arrays of another type or shape.
    """
    arrays = _load(path)
    images, labels = arrays["images"], arrays.get("labels")
    _check(path, images)
    digests = [digest_of(np.ascontiguousarray(image)) for image in images]
    class_names: tuple[str, ...] = ()
    if labels is None:
        labels = np.zeros(len(images), np.int32)
    elif labels.shape != images.shape[:1] or labels.dtype.kind not in "iuU":
        raise UserError(
            f"{path}: expected labels as {len(images):,} integers or strings; received "
            f"{labels.dtype} of shape {labels.shape}"
        )
    else:
        values, labels = np.unique(labels, return_inverse=True)
        class_names = tuple(map(str, values))
    return Source(
        lambda i, look: decode(images[i], look),
        [(images.shape[2], images.shape[1])] * len(images),
        images.ndim == 3 or images.shape[3] == 1,
        labels.astype(np.int32),
        class_names,
        np.array(digests, np.uint64),
    )


def decode(image: np.ndarray, look: squares.Look) -> np.ndarray:
    """One image uint8 (H, W) or (H, W, C) -> (S, S, C); 2 and 4 channels end with alpha."""
    image = image[..., 0] if image.shape[2:] == (1,) else image
    return squares.square(Image.fromarray(np.ascontiguousarray(image)), look)


def _load(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that has images."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"images": loaded}
        with loaded:
            names = loaded.files
            found = {name: loaded[name] for name in ("images", "labels") if name in names}
    except Exception as error:  # damaged files raise errors of many types
        raise UserError(f"{path}: cannot be read as arrays of NumPy ({error})") from error
    if "images" not in found:
        raise UserError(
            f"{path}: expected an array named images; it has {', '.join(names) or 'none'}. Write "
            "it with np.savez(path, images=images, labels=labels)"
        )
    return found


def _check(path: Path, images: np.ndarray) -> None:
    received = f"received {images.dtype} of shape {images.shape}"
    if images.dtype != np.uint8:
        raise UserError(
            f"{path}: expected images as uint8 in [0, 255]; {received}. Convert them: from [0, 1] "
            "by (255 * images).round().astype('uint8')"
        )
    channels = images.shape[3] if images.ndim == 4 else 1
    if images.ndim not in (3, 4) or not 1 <= channels <= 4 or not images.size or len(images) < 2:
        raise UserError(
            f"{path}: expected images of shape (N, H, W) or (N, H, W, C), at least 2, C = 1 to 4; "
            f"{received}"
        )
