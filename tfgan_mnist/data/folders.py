"""Folders of pictures: their files, classes and splits, and how one is decoded.

pictures/cat/1.png  pictures/dog/2.jpg         a folder for each class
pictures/1.png      pictures/2.jpg             no classes
pictures/train/...  pictures/test/...          either of these, with a test split of its own
"""

import hashlib
import os
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from tfgan_mnist.data import squares
from tfgan_mnist.data.sources import (
    BrokenPicture,
    Source,
    describe_names,
    digest_of,
    in_parallel,
)
from tfgan_mnist.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# A file with such a name is a broken picture if it cannot be read, and not another file.
SUFFIXES = re.compile(r"\.(png|jpe?g|jfif|webp|bmp|gif|tiff?|p[pgb]m)", re.IGNORECASE)
TEST_NAMES = ("test", "validation", "val")


class File(NamedTuple):
    """A file below the folder."""

    name: str  # relative, with slashes
    size: int
    mtime_ns: int


class Header(NamedTuple):
    """What a picture's file says before it is decoded."""

    shape: tuple[int, int]  # width, height
    gray: bool


def list_files(root: Path) -> list[File]:
    """All files below a folder, sorted by name, without hidden ones; of a file, itself.

    Raises:
      OSError: a folder cannot be read.
    """
    if root.is_file():
        return [File(root.name, root.stat().st_size, root.stat().st_mtime_ns)]
    found = []

    def scan(folder: str, prefix: str) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith((".", "__MACOSX")):
                    continue
                if entry.is_dir():
                    scan(entry.path, f"{prefix}{entry.name}/")
                elif entry.is_file():
                    stat = entry.stat()
                    found.append(File(prefix + entry.name, stat.st_size, stat.st_mtime_ns))

    scan(str(root), "")
    return sorted(found)


def state_of(found: list[File]) -> str:
    """A digest of the files' names, sizes and times."""
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def read(root: Path, names: list[str], skip_broken: bool) -> Source:
    """The pictures among the files of a folder.

    Raises:
      UserError: no pictures, some in folders and some not, or a broken one.
    """
    kept, headers, others, broken = [], [], [], []
    found = in_parallel(lambda name: _header(root / name), names, "Checking", skip_broken)
    for name, header in found:
        if header is None:
            others.append(name)
        elif isinstance(header, BrokenPicture):
            broken.append(name)
        else:
            kept.append(name)
            headers.append(header)
    if len(kept) < 2:
        raise UserError(
            f"{root}: expected pictures ({', '.join(FORMATS)}), at least 2; received {len(kept)}, "
            f"and {len(others):,} other files"
        )
    labels, class_names, in_test = _arrange(root, kept)
    notes = []
    if others:
        notes.append(describe_names(len(others), "other files ignored", others))
    if broken:
        notes.append(describe_names(len(broken), "broken pictures left out", broken))
    return Source(
        lambda i, look: decode(root / kept[i], look),
        [header.shape for header in headers],
        all(header.gray for header in headers),
        labels,
        class_names,
        np.array([digest_of(os.fsencode(name)) for name in kept], np.uint64),
        in_test,
        tuple(notes),
    )


def _header(path: Path) -> Header | None:
    """The header of a picture; None for a file of another kind."""
    try:
        with Image.open(path, formats=FORMATS) as picture:
            return Header(picture.size, picture.mode in squares.GRAY_MODES)
    except UnidentifiedImageError as error:
        if not SUFFIXES.fullmatch(path.suffix):
            return None
        raise BrokenPicture(path, f"not one of {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow's readers raise errors of many types
        raise BrokenPicture(path, error) from error


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
