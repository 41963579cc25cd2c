"""The numbered versions of a model under its base path, `saved_models/dcgan/`.

`3/` is a SavedModel, which TensorFlow Serving finds by its number. `3.onnx` and `3.tflite`, which
it ignores, hold the same weights in other formats; `3.keras` has the whole model, to train it on.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from tfgan_mnist.errors import UserError

SUFFIXES = {
    "onnx": ".onnx",
    "litert": ".tflite",
    "keras": ".keras",
}  # of the formats that are files


def versions(base_path: Path) -> dict[int, Path]:
    """Number -> folder of the versions under `base_path`; `00000123` is 123."""
    found = sorted(_numbered(base_path))
    return {number: path for number, path in found if path.is_dir() and not path.suffix}


def next_number(base_path: str | os.PathLike) -> int:
    """One above the highest number in use under `base_path`; 1 at first."""
    return 1 + max((number for number, _ in _numbered(Path(base_path))), default=0)


def find_version(path: Path) -> Path:
    """The folder of a version: `path` itself, or the highest version under it.

    Raises:
      UserError: neither.
    """
    found = {0: path} if (path / "saved_model.pb").exists() else versions(path)
    if not found:
        raise UserError(
            f"{path}: expected the folder of a SavedModel, or one of numbered versions; "
            "python -m tfgan_mnist.export makes them from runs"
        )
    return found[max(found)]


def _numbered(base_path: Path) -> Iterator[tuple[int, Path]]:
    """(number, path) of all that has a number as its name, with or without one of SUFFIXES."""
    for path in base_path.iterdir() if base_path.is_dir() else ():
        is_number = path.stem.isascii() and path.stem.isdigit() and int(path.stem) < 2**63
        if is_number and path.suffix in ("", *SUFFIXES.values()):
            yield int(path.stem), path
