"""Where files are kept, and outputs that appear complete or not at all."""

import contextlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfgan_mnist.errors import UserError

NEEDS_LOCKS = "this needs Linux or macOS; on Windows it works in WSL2 or in Colab"
PLACE = "Give another with --data_dir or the environment variable TFDS_DATA_DIR."


def data_folder(data_dir: str | os.PathLike | None = None) -> Path:
    """Where prepared data sets are, and what is kept beside them; by default TFDS's folder.

    Raises:
      UserError: it would be in the home folder of a user who has none.
    """
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    path = os.path.expanduser(folder)
    if path.startswith("~"):
        raise UserError(f"data_dir: expected a folder; {folder} needs a home folder. {PLACE}")
    return Path(path)


def read_text(path: str | os.PathLike) -> str:
    """The text in a file.

    Raises:
      OSError: it cannot be read.
      UserError: it is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected text in UTF-8; received: {error}") from error


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      OSError: it cannot be read.
      UserError: it is not a JSON object.
    """
    try:
        return {**json.loads(read_text(path))}
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: expected a JSON object; received: {error}") from error


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary sibling of `path` to write a file or folder to, and renames it at the end.

    When the block ends normally, the sibling is synced to disk and renamed to `path`: a reader
    finds the old content or the whole new one. When it raises, the sibling is removed and `path` is
    as it was. A file replaces an existing file; a folder replaces only an empty folder.

    Args:
      path: the final path. Its parent folders are created.

    Raises:
      OSError: from writing or renaming (disk full, read-only, folder exists); it names `path`.
    """
    path = Path(path)
    with temporary(path) as partial:
        try:
            yield partial
            for file in [partial, *partial.rglob("*")]:
                _sync(file)
            os.rename(partial, path)
            _sync(path.parent)
        except OSError as error:
            # Writing to an open file gives no name, and the temporary one means nothing to users.
            if error.filename in (None, str(partial)):
                error.filename = str(path)
            raise


@contextlib.contextmanager
def literal(path: str | os.PathLike) -> Iterator[Path]:
    """A path to `path` without `*`, `?`, `[` and backslashes, while the block runs.

    TensorFlow reads checkpoints and SavedModels by a path that it takes for a pattern.
    """
    path = Path(path)
    if not set(str(path)) & set("*?[\\"):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "link"
        link.symlink_to(path.resolve())
        yield link


@contextlib.contextmanager
def locked(folder: Path, wait: bool) -> Iterator[None]:
    """Locks a folder against other processes that lock it, until the block or the process ends.

    Raises:
      BlockingIOError: another process has it, and `wait` is false.
      OSError: the folder cannot be written.
      UserError: on Windows.
    """
    try:
        import fcntl
    except ImportError as error:
        raise UserError(NEEDS_LOCKS) from error
    with open(folder / ".lock", "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Makes a folder below the data folder and locks it; removes what killed commands left.

    Waits for other commands that have locked it.

    Raises:
      UserError: it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder, wait=True))
        except OSError as error:
            raise UserError(
                f"data_dir: expected a folder that can be written; received {folder}: "
                f"{error.strerror}. {PLACE}"
            ) from error
        remove_partial(folder)
        yield


def remove(folder: str | os.PathLike) -> None:
    """Removes a folder so that nobody, not even after a kill, finds a part of it.

    Raises:
      OSError: it is not there, or may not be removed.
    """
    with temporary(folder) as partial:
        os.rename(folder, partial)


@contextlib.contextmanager
def temporary(path: str | os.PathLike) -> Iterator[Path]:
    """Yields the name of a temporary sibling of `path`; whatever has it at the end is removed.

    A killed process leaves it: a hidden name, which every reader ignores.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept: writers choose a format by it.
    partial = path.with_name(f".{uuid.uuid4().hex[:8]}.partial.{path.name}")
    try:
        yield partial
    finally:
        _remove(partial)


def remove_partial(folder: Path) -> None:
    """Removes the temporary files of killed commands in a folder that nobody else writes to."""
    for path in folder.glob(f".{'[0-9a-f]' * 8}.partial.*"):  # names by `temporary`
        _remove(path)


def _remove(path: Path) -> None:
    """Removes a file or folder, if it is there and as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _sync(path: Path) -> None:
    """Brings a file's content, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
