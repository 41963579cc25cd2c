"""Images as numbers and as files: the only place that knows uint8 [0, 255] <-> float [-1, 1].

Images are (N, H, W, C) with C = 1 (grey) or 3 (RGB). TensorFlow is imported only where a tensor
comes in, so that commands which merely read or write pictures start at once.
"""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tfgan_mnist import files
from tfgan_mnist.errors import UserError

GIF_GREY_LEVELS = 32  # an error of 4 in 255 is not seen, and files are a third smaller than at 256


def to_float(images):
    """uint8 in [0, 255] -> float32 in [-1, 1]; same shape. Takes NumPy arrays and TF tensors."""
    if isinstance(images, np.ndarray):
        return images.astype(np.float32) / 127.5 - 1.0
    import tensorflow as tf

    return tf.cast(images, tf.float32) / 127.5 - 1.0


def to_uint8(images) -> np.ndarray:
    """float in [-1, 1] -> uint8 in [0, 255], rounded and clipped; same shape."""
    images = np.asarray(images, np.float32)
    return np.clip(np.rint((images + 1.0) * 127.5), 0, 255).astype(np.uint8)


def grid(images: np.ndarray, columns: int | None = None, padding: int = 2) -> np.ndarray:
    """One picture of many images, row by row, on black.

    Args:
      images: uint8 (N, H, W, C), N >= 1.
      columns: images per row; by default the picture is as near to square as full rows allow.
      padding: black pixels between neighbours and around the whole.

    Returns:
      uint8 (rows * (H + padding) + padding, columns * (W + padding) + padding, C).
    """
    _expect_images(images, rank=4)
    count, height, width, channels = images.shape
    if count == 0:
        raise ValueError("`images` must hold at least one image. Received: none")
    if columns is None:
        columns = math.ceil(math.sqrt(count))
    if columns < 1:
        raise ValueError(f"`columns` must be at least 1. Received: {columns}")
    rows = math.ceil(count / columns)

    # Every tile carries its padding below and to the right; the whole, above and to the left.
    tiles = np.zeros((rows * columns, height + padding, width + padding, channels), np.uint8)
    tiles[:count, :height, :width] = images
    tiles = tiles.reshape(rows, columns, *tiles.shape[1:])  # (rows, columns, H + p, W + p, C)
    tiles = tiles.swapaxes(1, 2)  # (rows, H + p, columns, W + p, C)
    picture = tiles.reshape(rows * (height + padding), columns * (width + padding), channels)
    return np.pad(picture, ((padding, 0), (padding, 0), (0, 0)))


def enlarge(images: np.ndarray, factor: int) -> np.ndarray:
    """(..., H, W, C) -> (..., factor * H, factor * W, C): every pixel becomes a sharp square."""
    return images.repeat(factor, axis=-3).repeat(factor, axis=-2)


def png_bytes(image: np.ndarray) -> bytes:
    """The PNG file of one image, uint8 (H, W, C)."""
    stream = io.BytesIO()
    _picture(image).save(stream, format="PNG")
    return stream.getvalue()


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes one image, uint8 (H, W, C); the file appears complete or not at all."""
    with files.write_atomically(path) as partial:
        partial.write_bytes(png_bytes(image))


def write_gif(
    path: str | os.PathLike,
    frames: Sequence[np.ndarray] | np.ndarray,
    milliseconds: int = 200,
    last_milliseconds: int = 2000,
) -> None:
    """Writes an animation that repeats for ever; the file appears complete or not at all.

    Args:
      path: the file.
      frames: uint8 (H, W, C) each, all of one shape, at least one.
      milliseconds: how long a frame is shown; GIF keeps time in steps of 10.
      last_milliseconds: how long the last one is, which is the one that people want to look at.
    """
    if len(frames) == 0:
        raise ValueError("`frames` must hold at least one frame. Received: none")
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError(f"Frames must share one shape. Received: {[f.shape for f in frames]}")
    first, *rest = [_gif_frame(frame) for frame in frames]
    with files.write_atomically(path) as partial:
        first.save(
            partial,
            format="GIF",
            save_all=True,
            append_images=rest,
            duration=[milliseconds] * len(rest) + [last_milliseconds],
            loop=0,
        )


def read(path: str | os.PathLike) -> np.ndarray:
    """Anybody's images -> uint8 (N, H, W, C), N >= 1.

    Args:
      path: an `.npz` file with an array `images`, uint8 (N, H, W, C) or (N, H, W); one picture
        (PNG, JPEG, whatever Pillow knows); or a folder of pictures of one size, read in the order
        of their names, hidden files passed over.

    Raises:
      UserError: nothing there, not images, more than one size, or values of another type or range.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"expected an .npz file, a picture or a folder of pictures: no {path}")
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".npz":
        return _read_npz(path)
    return _read_picture(path)[None]


def _read_folder(folder: Path) -> np.ndarray:
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if not paths:
        raise UserError(f"expected a folder of pictures, but {folder} is empty")
    images = [_read_picture(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            raise UserError(
                f"expected pictures of one size, but in {folder} {paths[0].name} is "
                f"{_size(images[0])} and {path.name} is {_size(image)}; bring them to one size"
            )
    return np.stack(images)


def _read_picture(path: Path) -> np.ndarray:
    """One picture file -> uint8 (H, W, C)."""
    try:
        with Image.open(path) as picture:
            picture.load()
            frames = getattr(picture, "n_frames", 1)
    except Exception as error:  # of Pillow's forty readers each raises what it comes to
        raise UserError(
            f"expected a picture, but {path} cannot be read as one ({error}); "
            "a folder of samples must hold nothing but pictures"
        ) from error
    if frames > 1:
        raise UserError(f"expected a picture, but {path} is an animation of {frames} frames")
    if picture.mode.startswith(("I", "F")):
        raise UserError(f"expected 8 bits per channel, but {path} has mode {picture.mode!r}")
    # What shows through is not in the file; white and black paper give different digits.
    if picture.has_transparency_data and np.asarray(picture.convert("RGBA"))[..., 3].min() < 255:
        raise UserError(f"{path} has transparent pixels; flatten it onto its background")
    pixels = np.asarray(picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB"))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _read_npz(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            images = archive["images"] if "images" in names else None
    except Exception as error:  # a damaged archive raises whatever it comes to
        raise UserError(f"{path} cannot be read as an .npz archive ({error})") from error
    if images is None:
        raise UserError(
            f"expected an array named 'images' in {path}, found {', '.join(names) or 'nothing'}; "
            "write it with np.savez_compressed(path, images=images)"
        )
    if not isinstance(images, np.ndarray):  # the member is no array file
        raise UserError(f"{path} cannot be read as an .npz archive ('images' is no array)")
    received = f"{path} has {images.dtype} of shape {images.shape}"
    if images.dtype != np.uint8:
        raise UserError(
            f"expected 'images' as uint8 in [0, 255], but {received}; convert it first: from "
            "[0, 1] by (255 * images).round(), from [-1, 1] by (127.5 * (images + 1)).round(), "
            "then .astype('uint8')"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.size == 0:
        raise UserError(
            "expected 'images' of shape (N, H, W) or (N, H, W, C), C = 1 or 3, at least one image, "
            f"but {received}"
        )
    return images


def _picture(image: np.ndarray) -> Image.Image:
    """uint8 (H, W, C) -> Pillow's grey or RGB image."""
    _expect_images(image, rank=3)
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _gif_frame(frame: np.ndarray) -> Image.Image:
    """A frame with its palette: GIF has no others."""
    picture = _picture(frame)
    if picture.mode == "RGB":
        return picture.quantize(256)
    # All grey frames share one short palette, which compresses better than one chosen per frame.
    levels = np.rint(np.linspace(0, 255, GIF_GREY_LEVELS)).astype(np.uint8)
    indices = np.rint(frame[..., 0] / 255 * (GIF_GREY_LEVELS - 1)).astype(np.uint8)
    picture = Image.fromarray(indices).convert("L")
    picture.putpalette(levels.repeat(3).tobytes())
    return picture


def _expect_images(images: np.ndarray, rank: int) -> None:
    shape = ("N", "H", "W", "C")[-rank:]
    if images.dtype != np.uint8 or images.ndim != rank or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"Expected uint8 of shape ({', '.join(shape)}), C = 1 or 3. "
            f"Received: {images.dtype} of shape {images.shape}"
        )


def _size(image: np.ndarray) -> str:
    height, width, channels = image.shape
    return f"{width}x{height} {'grey' if channels == 1 else 'RGB'}"
