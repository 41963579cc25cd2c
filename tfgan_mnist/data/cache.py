"""One's own pictures, decoded once and kept beside the prepared data sets.

    tfgan_mnist_pictures/cats-1a2b3c4d/<state>-<asked>/train.npy         uint8 (N, S, S, C)
                                                       train_labels.npy  int32 (N,)
                                                       test.npy, test_labels.npy, about.json

<state> is a digest of the files' names, sizes and times, <asked> of the size, channels and
background. Images are mapped into memory instead of being read.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from tfgan_mnist import files
from tfgan_mnist.data import arrays, folders, sources, squares
from tfgan_mnist.data.datasets import ImageData, Split, file_name
from tfgan_mnist.data.sources import BrokenPicture, Source, describe_names
from tfgan_mnist.errors import UserError

FOLDER = "tfgan_mnist_pictures"
ABOUT = "about.json"
VERSION = 1  # increase it with any change to how pictures are decoded or split


class Asked(NamedTuple):
    """How pictures are to be read."""

    image_size: int | None  # side in pixels; None: by what they have
    channels: int | None  # 1 or 3; None: 1 if all are gray, else 3
    background: str  # colour under transparent pixels
    skip_broken: bool  # leave broken pictures out

    def name(self, state: str) -> str:
        """The name of the folder for files in this state."""
        return f"{state}-{hashlib.sha256(f'{VERSION} {self}'.encode()).hexdigest()[:8]}"


def load(path: Path, data_dir: str | os.PathLike | None, asked: Asked) -> ImageData:
    """The pictures of a folder or of a NumPy file; see `datasets.load`."""
    if not path.is_dir() and not (path.is_file() and path.suffix.lower() in arrays.SUFFIXES):
        what = "another file" if path.exists() else "no such file or folder"
        raise UserError(
            f"{path}: expected a folder of pictures, an .npz or an .npy file; received {what}"
        )
    squares.parse_color(asked.background)
    if asked.image_size is not None and asked.image_size < squares.MIN_SIZE:
        raise UserError(f"image_size: expected >= {squares.MIN_SIZE}; received {asked.image_size}")
    found = folders.list_files(path)
    state = folders.state_of(found)
    parent = files.data_folder(data_dir) / FOLDER / file_name(str(path))
    folder = parent / asked.name(state)
    if not folder.is_dir():
        with files.alone(parent):
            if not folder.is_dir():  # nobody else made it meanwhile
                made = _prepare(path, [file.name for file in found], folder, asked)
                # Who asks later for the size that was chosen finds it too.
                with contextlib.suppress(OSError):
                    (parent / made.name(state)).symlink_to(folder.name)
            for other in parent.iterdir():
                if not other.name.startswith((state, ".")):  # the pictures changed
                    files.remove(other)
    return _read(path, folder)


def _prepare(path: Path, names: list[str], folder: Path, asked: Asked) -> Asked:
    """Decodes all pictures into `folder`, which appears complete or not at all.

    Returns:
      What was asked, with the size and the channels that were chosen.
    """
    sys.stderr.write(f"Reading the pictures of {path}\n")
    Image.init()  # loads Pillow's formats, before there are threads
    source = folders.read(path, names, asked.skip_broken) if path.is_dir() else arrays.read(path)
    size = asked.image_size or squares.choose_size(source.shapes)
    channels = asked.channels or (1 if source.gray else 3)
    look = squares.Look(size, channels, squares.parse_color(asked.background))
    with files.write_atomically(folder) as partial:
        partial.mkdir()
        broken = []
        for name, rows in zip(("train", "test"), sources.split(source.digests, source.in_test)):
            broken += _write_split(partial / name, source, rows, look, asked.skip_broken)
        splits = [partial / "train.npy", partial / "test.npy"]
        if not asked.channels and channels == 3 and _drop_equal_channels(splits):
            channels = 1
        about = {
            "path": str(path),
            "class_names": source.class_names,
            "test_split": "held-out" if source.in_test is None else "test",
            "notes": [*source.notes, *_notes(source, size, broken)],
        }
        (partial / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return asked._replace(image_size=size, channels=channels)


def _notes(source: Source, size: int, broken: list[str]) -> Iterator[str]:
    oblong = sum(width != height for width, height in source.shapes)
    if oblong:
        yield f"{oblong:,} pictures are not square; of these the centred square is used"
    if set(source.shapes) != {(size, size)}:
        yield f"the pictures are resized to {size}x{size} pixels"
    if broken:
        yield describe_names(len(broken), "broken pictures left out", broken)


def _write_split(
    stem: Path, source: Source, rows: np.ndarray, look: squares.Look, skip_broken: bool
) -> list[str]:
    """Writes images and labels of some rows; returns the names of pictures that are left out."""
    written, broken = [], []
    with open(stem.with_suffix(".npy"), "wb") as stream:
        _write_header(stream, (0, look.size, look.size, look.channels))

        def decode(row):
            return source.decode(row, look)

        for row, image in sources.in_parallel(decode, rows.tolist(), "Decoding", skip_broken):
            if isinstance(image, BrokenPicture):
                broken.append(os.path.basename(image.path))
            else:
                stream.write(image.tobytes())
                written.append(row)
        if not written:
            raise UserError(f"expected pictures of {stem.name}; all {len(rows):,} are broken")
        _write_header(stream, (len(written), look.size, look.size, look.channels))
    np.save(f"{stem}_labels.npy", source.labels[written])
    return broken


def _write_header(stream: BinaryIO, shape: tuple[int, ...]) -> None:
    """The header of an .npy file, whose length does not depend on the number of images."""
    stream.seek(0)
    description = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, description)


def _drop_equal_channels(paths: list[Path]) -> bool:
    """Makes images (N, H, W, 3) into (N, H, W, 1) if all of them are gray, and says whether."""
    splits = [np.load(path, mmap_mode="r") for path in paths]
    if any((image != image[..., :1]).any() for images in splits for image in images):
        return False
    for path, images in zip(paths, splits):
        partial = path.with_suffix(".gray")
        with open(partial, "wb") as stream:
            _write_header(stream, (*images.shape[:3], 1))
            for image in images:
                stream.write(image[..., 0].tobytes())
        os.replace(partial, path)
    return True


def _read(path: Path, folder: Path) -> ImageData:
    about = files.read_json(folder / ABOUT)
    for line in about["notes"]:
        sys.stderr.write(f"{path.name}: {line}\n")

    def split(name: str) -> Split:
        # Copy-on-write, as TensorFlow does not share read-only memory.
        images = np.load(folder / f"{name}.npy", mmap_mode="c")
        return Split(images, np.load(folder / f"{name}_labels.npy"))

    train, test, names = split("train"), split("test"), tuple(about["class_names"])
    shape = "x".join(map(str, train.images.shape[1:]))
    classes = f"{len(names):,} classes" if names else "no classes"
    sys.stderr.write(
        f"{path.name}: {len(train.labels):,} pictures to train on and {len(test.labels):,} held "
        f"out, {shape}, {classes}\n"
    )
    return ImageData(path.name, train, test, len(names), names, about["test_split"], str(path))
