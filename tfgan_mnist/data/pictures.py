"""Picture files: PNG, GIF, and whatever other people bring.

Images are uint8 (N, H, W, C) with C = 1 (gray) or 3 (RGB).
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tfgan_mnist import files
from tfgan_mnist.data import arrays
from tfgan_mnist.errors import UserError

NAME_HEIGHT, MAX_NAME = 14, 20  # of a class beside a grid, in pixels and letters
GIF_GRAY_LEVELS = 32  # an error of 4 in 255 is not seen, and files are a third smaller than at 256


def png_bytes(image: np.ndarray) -> bytes:
    """The PNG file of one image, uint8 (H, W, C)."""
    stream = io.BytesIO()
    to_picture(image).save(stream, format="PNG")
    return stream.getvalue()


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes one image, uint8 (H, W, C); the file appears complete or not at all."""
    with files.write_atomically(path) as partial:
        partial.write_bytes(png_bytes(image))


def name_rows(grid: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """A grid uint8 (H, W, C) of equally high rows, with the first letters of their names beside."""
    import matplotlib  # here, as it takes time; its font has more alphabets than Pillow's

    height, _, channels = grid.shape
    font_path = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    font = ImageFont.truetype(font_path, NAME_HEIGHT)
    names = [name[:MAX_NAME] for name in names]
    width = NAME_HEIGHT + round(max(font.getlength(name) for name in names))
    column = Image.new("L", (width, height))
    for row, name in enumerate(names):
        middle = NAME_HEIGHT // 2, (row + 0.5) * height / len(names)
        ImageDraw.Draw(column).text(middle, name, fill=255, font=font, anchor="lm")
    return np.hstack([np.asarray(column)[..., None].repeat(channels, axis=-1), grid])


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
    """Images of any source -> uint8 (N, H, W, C), N >= 1.

    Args:
      path: an `.npz` or `.npy` file (`arrays`); one picture (PNG, JPEG, whatever Pillow knows); or
        a folder of pictures of one size, read in the order of their names, without hidden files.

    Raises:
      UserError: nothing there, not images, more than one size, or values of another type or range.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"expected an .npz file, a picture or a folder of pictures: no {path}")
    if path.suffix.lower() in arrays.SUFFIXES:
        images, _ = arrays.load(path)
        images = images[..., None] if images.ndim == 3 else images
        if images.shape[-1] not in (1, 3):
            raise UserError(f"{path}: expected 1 or 3 channels; received shape {images.shape}")
        return images
    paths = [path]
    if path.is_dir():
        paths = sorted(each for each in path.iterdir() if not each.name.startswith("."))
    found = [_read_picture(each) for each in paths]
    shapes = {image.shape: each.name for each, image in zip(paths, found)}
    if len(shapes) != 1:
        received = ", ".join(f"{name} is {shape}" for shape, name in shapes.items()) or "none"
        raise UserError(f"{path}: expected pictures of one size (H, W, C); received: {received}")
    return np.stack(found)


def _read_picture(path: Path) -> np.ndarray:
    """One picture file -> uint8 (H, W, C)."""
    try:
        with Image.open(path) as picture:
            picture.load()
    except Exception as error:  # Pillow's forty readers raise errors of many types
        raise UserError(
            f"expected a picture, but {path} cannot be read as one ({error}); "
            "a folder of samples must hold nothing but pictures"
        ) from error
    if picture.mode.startswith(("I", "F")):
        raise UserError(f"expected 8 bits per channel, but {path} has mode {picture.mode!r}")
    # What shows through is not in the file; white and black paper give different digits.
    if picture.has_transparency_data and np.asarray(picture.convert("RGBA"))[..., 3].min() < 255:
        raise UserError(f"{path} has transparent pixels; flatten it onto its background")
    pixels = np.asarray(picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB"))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def to_picture(image: np.ndarray) -> Image.Image:
    """uint8 (H, W, C) -> Pillow's gray or RGB image."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _gif_frame(frame: np.ndarray) -> Image.Image:
    """A frame with its palette: GIF has no others."""
    picture = to_picture(frame)
    if picture.mode == "RGB":
        return picture.quantize(256)
    # All gray frames share one short palette, which compresses better than one chosen per frame.
    levels = np.rint(np.linspace(0, 255, GIF_GRAY_LEVELS)).astype(np.uint8)
    indices = np.rint(frame[..., 0] / 255 * (GIF_GRAY_LEVELS - 1)).astype(np.uint8)
    picture = Image.fromarray(indices).convert("L")
    picture.putpalette(levels.repeat(3).tobytes())
    return picture
