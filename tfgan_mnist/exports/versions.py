"""The numbers of exports: folders of versions, and files of other formats beside them."""

import os
from pathlib import Path

from tfgan_mnist.errors import UserError

SUFFIXES = {"onnx": ".onnx", "litert": ".tflite"}  # of the formats that are files


def versions(base_path: Path) -> dict[int, Path]:
    """Number -> folder of the versions under `base_path`; `00000123` is 123. None: no folder."""
    if not base_path.is_dir():
        return {}
    numbered = (path for path in base_path.iterdir() if path.name.isascii() and path.name.isdigit())
    found = {int(path.name): path for path in sorted(numbered) if path.is_dir()}
    return {number: path for number, path in found.items() if number < 2**63}


def next_number(base_path: str | os.PathLike) -> int:
    """One above the highest version, or file of another format, under `base_path`; 1 at first."""
    suffixes = SUFFIXES.values()
    found = [path for suffix in suffixes for path in Path(base_path).glob(f"*{suffix}")]
    files_ = [int(path.stem) for path in found if path.stem.isascii() and path.stem.isdigit()]
    return 1 + max([*versions(Path(base_path)), *files_], default=0)


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
