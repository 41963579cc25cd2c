"""Pictures of any size, mode and orientation as equal squares, uint8 (S, S, C)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageOps

from tfgan_mnist.errors import UserError

SIZES = (28, 32, 64)  # chosen from where pictures differ in size or are larger
MIN_SIZE, MAX_SIZE = 8, 1024  # sides in pixels
GRAY_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L")


class Look(NamedTuple):
    """What pictures are to become."""

    size: int  # side in pixels; 0: by what they have
    channels: int  # 1 gray, 3 RGB; 0: 1 if all are gray, else 3
    background: str  # colour under transparent pixels


def check_color(text: str) -> None:
    """Raises UserError unless `text` is a name or a hexadecimal code of a colour."""
    try:
        ImageColor.getrgb(text)
    except ValueError as error:
        raise UserError(
            f"background: expected a colour such as white or #80c0ff; received {text!r:.100}"
        ) from error


def choose_size(shapes: Sequence[tuple[int, int]]) -> int:
    """The side of the squares that pictures of these widths and heights become.

    Squares of one size up to 64 keep it, rounded down to a multiple of 4. For others it is the
    largest of `SIZES` that half of the pictures reach.
    """
    width, height = shapes[0]
    if width == height and MIN_SIZE <= width <= SIZES[-1] and set(shapes) == {(width, height)}:
        return width - width % 4
    side = float(np.median([min(shape) for shape in shapes]))
    return max((size for size in SIZES if size <= side), default=SIZES[0])


def square(picture: Image.Image, look: Look) -> np.ndarray:
    """A loaded picture -> uint8 (S, S, C): its centred square, resized.

    The camera's orientation is applied, and transparent pixels are laid on the background.
    Resizing averages over areas (Lanczos); a picture that has the size keeps its bytes.

    Raises:
      ValueError: pixels that are neither bytes nor 16-bit numbers.
    """
    size, channels, background = look
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):
        picture = _from_16_bits(picture)
    if picture.has_transparency_data:
        paper = Image.new("RGBA", picture.size, (*ImageColor.getrgb(background)[:3], 255))
        picture = Image.alpha_composite(paper, picture.convert("RGBA"))
    picture = picture.convert("L" if channels == 1 else "RGB")
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    resized = picture.resize((size, size), Image.Resampling.LANCZOS, box, reducing_gap=3.0)
    return np.asarray(resized).reshape(size, size, channels)


def _from_16_bits(picture: Image.Image) -> Image.Image:
    """Gray in [0, 65535] -> "L" in [0, 255]."""
    pixels = np.asarray(picture)
    if picture.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"pixels {pixels.min()} to {pixels.max()}; expected 8 or 16 bits")
    return Image.fromarray(np.rint(pixels / 257).astype(np.uint8))
