"""One's own pictures, decoded once and kept beside the prepared data sets.

    tfgan_mnist_pictures/cats-1a2b3c4d/<state>-<asked>/train.npy         uint8 (N, S, S, C)
                                                       train_labels.npy  int32 (N,)
                                                       test.npy, test_labels.npy, about.json

<state> is a digest of the files' names, sizes and times, <asked> of the size, channels and
background. Images are mapped into memory instead of being read.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tfgan_mnist import files
from tfgan_mnist.data import arrays, folders, sources, squares
from tfgan_mnist.data.datasets import ImageData, Split, file_name
from tfgan_mnist.data.sources import Source
from tfgan_mnist.data.squares import Look
from tfgan_mnist.errors import UserError

FOLDER = "tfgan_mnist_pictures"
ABOUT = "about.json"
VERSION = 1  # increase it with any change to how pictures are decoded or split
MAX_NAMES_SHOWN = 5


def load(
    path: Path, data_dir: str | os.PathLike | None, look: Look, skip_broken: bool
) -> ImageData:
    """The pictures of a folder or of a NumPy file; see `datasets.load`."""
    if path.is_dir():
        root, names = path, folders.list_files(path)
    elif path.is_file() and path.suffix.lower() in arrays.SUFFIXES:
        root, names = path.parent, [path.name]
    else:
        what = "another file" if path.exists() else "no such file or folder"
        raise UserError(
            f"{path}: expected a folder of pictures, an .npz or an .npy file; received {what}"
        )
    stats = [os.stat(os.path.join(root, name)) for name in names]
    state = _digest([(name, s.st_size, s.st_mtime_ns) for name, s in zip(names, stats)])
    parent = files.data_folder(data_dir) / FOLDER / file_name(str(path))

    def folder_of(look: Look) -> Path:
        return parent / f"{state}-{_digest((VERSION, look, skip_broken))}"

    folder = folder_of(look)
    if not folder.is_dir():
        with files.alone(parent):
            if not folder.is_dir():  # nobody else made it meanwhile
                sys.stderr.write(f"Reading the pictures of {path}\n")
                Image.init()  # loads Pillow's formats, before there are threads
                source = (
                    folders.read(path, names, skip_broken) if path.is_dir() else arrays.read(path)
                )
                with files.write_atomically(folder) as partial:
                    chosen = _write(path, source, partial, look, skip_broken)
                with contextlib.suppress(OSError):  # for who asks later for what was chosen
                    folder_of(chosen).symlink_to(folder.name)
            for other in parent.iterdir():
                if not other.name.startswith((state, ".")):  # the pictures changed
                    files.remove(other)
    return _read(path, folder)


def _digest(value) -> str:
    return f"{sources.digest_of(repr(value).encode()):016x}"


def _write(path: Path, source: Source, folder: Path, look: Look, skip_broken: bool) -> Look:
    """Decodes all pictures into a new folder; returns the look with what was chosen."""
    if len(source.shapes) < 2:
        raise UserError(
            f"{path}: expected at least 2 pictures ({', '.join(folders.FORMATS)}); received "
            f"{len(source.shapes)}, and {len(source.others):,} other files"
        )
    folder.mkdir()
    size = look.size or squares.choose_size(source.shapes)
    decoded = look._replace(size=size, channels=look.channels or (1 if source.gray else 3))
    splits, broken = {}, list(source.broken)
    for name, rows in zip(("train", "test"), sources.split(source.digests, source.in_test)):
        splits[name], labels, left_out = _decode(source, rows, folder / name, decoded, skip_broken)
        np.save(folder / f"{name}_labels.npy", labels)
        broken += left_out
    if not look.channels and all(_is_gray(images) for images in splits.values()):
        decoded = decoded._replace(channels=1)
    for name, images in splits.items():
        np.save(folder / f"{name}.npy", images[..., : decoded.channels])
        (folder / name).unlink()
    about = {
        "path": str(path),
        "class_names": source.class_names,
        "test_split": "held-out" if source.in_test is None else "test",
        "notes": list(_notes(source, size, broken)),
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return decoded


def _decode(
    source: Source, rows: np.ndarray, file: Path, look: Look, skip_broken: bool
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Decodes some pictures into a file without a header.

    Returns:
      The images uint8 (N, S, S, C), mapped from the file; their labels; names of broken pictures.
    """

    def decode(row: int) -> np.ndarray | folders.BrokenPicture:
        try:
            return source.decode(row, look)
        except folders.BrokenPicture as error:
            if not skip_broken:
                raise
            return error

    written, broken = [], []
    with open(file, "wb") as stream:
        for row, image in sources.in_parallel(decode, rows.tolist(), "Decoding"):
            if isinstance(image, folders.BrokenPicture):
                broken.append(image.path.name)
            else:
                stream.write(image.tobytes())
                written.append(row)
    if not written:
        raise UserError(f"expected pictures of {file.name}; all {len(rows):,} are broken")
    shape = (len(written), look.size, look.size, look.channels)
    return np.memmap(file, np.uint8, "r", shape=shape), source.labels[written], broken


def _is_gray(images: np.ndarray) -> bool:
    """Whether the channels of all images (N, S, S, C) are equal; reads one image at a time."""
    return all((image == image[..., :1]).all() for image in images)


def _notes(source: Source, size: int, broken: list[str]) -> Iterator[str]:
    """What a user should know of how pictures were read."""
    if source.others:
        yield _list("other files ignored", source.others)
    if broken:
        yield _list("broken pictures left out", broken)
    oblong = sum(width != height for width, height in source.shapes)
    if oblong:
        yield f"{oblong:,} pictures are not square; of these the centred square is used"
    if set(source.shapes) != {(size, size)}:
        yield f"the pictures are resized to {size}x{size} pixels"


def _list(what: str, names: Sequence[str]) -> str:
    """Like "2 broken pictures: a.png, b.png", with `MAX_NAMES_SHOWN` names at most."""
    more = ", ..." if len(names) > MAX_NAMES_SHOWN else ""
    return f"{len(names):,} {what}: {', '.join(names[:MAX_NAMES_SHOWN])}{more}"


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
