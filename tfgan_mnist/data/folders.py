"""Folders of pictures: their files, classes and splits, and how one is decoded.

pictures/cat/1.png  pictures/dog/2.jpg         a folder for each class
pictures/1.png      pictures/2.jpg             no classes
pictures/train/...  pictures/test/...          either of these, with a test split of its own
"""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from tfgan_mnist.data import squares
from tfgan_mnist.data.sources import Source, digest_of, in_parallel
from tfgan_mnist.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# A file with such a name is a broken picture if it cannot be read, and not another file.
SUFFIXES = re.compile(r"\.(png|jpe?g|jfif|webp|bmp|gif|tiff?|p[pgb]m)", re.IGNORECASE)
TEST_NAMES = ("test", "validation", "val")


class BrokenPicture(UserError):
    """A picture that cannot be decoded."""

    def __init__(self, path: Path, reason: Any):
        super().__init__(
            f"{path}: a broken picture ({reason}). Replace or remove it, or go on without it by "
            "--skip_broken (in Python skip_broken=True)"
        )
        self.path = path


def list_files(root: Path) -> list[str]:
    """The names of all files below a folder, relative to it, sorted, without hidden ones.

    Raises:
      OSError: a folder cannot be read.
    """

    def refuse(error: OSError):
        raise error

    found: list[str] = []
    for folder, below, names in os.walk(root, onerror=refuse, followlinks=True):
        below[:] = [name for name in below if not name.startswith(".")]
        paths = (os.path.join(folder, name) for name in names if not name.startswith("."))
        found += (os.path.relpath(path, root) for path in paths if os.path.isfile(path))
    return sorted(found)


def read(root: Path, names: list[str], skip_broken: bool) -> Source:
    """The pictures among the files of a folder.

    Raises:
      UserError: some pictures are in folders and some not.
      BrokenPicture: one whose header cannot be read, unless `skip_broken`.
    """
    kept, shapes, grays, others, broken = [], [], [], [], []
    for name, header in in_parallel(lambda name: _header(root / name), names, "Checking"):
        if header is None:
            others.append(name)
        elif header[0]:
            kept.append(name)
            shapes.append(header[0])
            grays.append(header[1])
        else:
            broken.append(name)
            if not skip_broken:
                decode(root / name, squares.Look(squares.MIN_SIZE, 1, "white"))  # says the reason
    labels, class_names, in_test = _arrange(root, kept)
    return Source(
        lambda i, look: decode(root / kept[i], look),
        shapes,
        all(grays),
        labels,
        class_names,
        np.array([digest_of(os.fsencode(name)) for name in kept], np.uint64),
        in_test,
        others,
        broken,
    )


def _header(path: Path) -> tuple[tuple[int, int] | None, bool] | None:
    """The (width, height) of a picture, and whether it is stored as gray.

    The size is None for a broken picture, all of it for a file of another kind.
    """
    try:
        with Image.open(path, formats=FORMATS) as picture:
            return picture.size, picture.mode in squares.GRAY_MODES
    except UnidentifiedImageError:
        return (None, True) if SUFFIXES.fullmatch(path.suffix) else None
    except Exception:  # Pillow's readers raise errors of many types
        return None, True


def decode(path: Path, look: squares.Look) -> np.ndarray:
    """A picture file -> uint8 (S, S, C); of an animation the first frame.

    Raises:
      BrokenPicture: it cannot be decoded.
    """
    try:
        with Image.open(path, formats=FORMATS) as picture:
            picture.draft(None, (2 * look.size, 2 * look.size))  # JPEG is decoded at a fraction
            picture.load()
            return squares.square(picture, look)
    except Exception as error:  # Pillow's readers raise errors of many types
        raise BrokenPicture(path, error) from error


def _arrange(root: Path, names: list[str]) -> tuple[np.ndarray, tuple[str, ...], np.ndarray | None]:
    """Labels, class names and the test split of pictures, by their names below the folder."""
    parts = [PurePosixPath(name).parts for name in names]
    tops = {part[0] for part in parts if len(part) > 1}
    in_test = None
    for test in TEST_NAMES:
        if tops == {"train", test} and all(part[0] in tops for part in parts):
            in_test = np.array([part[0] == test for part in parts])
            parts = [part[1:] for part in parts]
    flat = [len(part) == 1 for part in parts]
    if all(flat):
        return np.zeros(len(names), np.int32), (), in_test
    if any(flat):
        raise UserError(
            f"{root}: expected a folder of pictures for each class, or pictures without folders; "
            f"it has both: {sum(flat):,} pictures beside folders, such as "
            f"{names[flat.index(True)]}"
        )
    class_names = tuple(sorted({part[0] for part in parts}))
    number = {name: label for label, name in enumerate(class_names)}
    return np.array([number[part[0]] for part in parts], np.int32), class_names, in_test
