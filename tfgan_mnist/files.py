"""Where files are kept, and outputs that appear complete or not at all."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfgan_mnist.errors import UserError

# Of a file that is read into memory as a whole: thousands of times what is ever written, and little
# enough not to exhaust the memory when it is taken apart.
MAX_BYTES = 16 << 20

PARTIAL = re.compile(r"\.[0-9a-f]{8}\.partial\.")  # how names of temporary siblings begin


def data_folder(data_dir: str | os.PathLike | None = None) -> Path:
    """Where prepared data sets are, and what is kept beside them; by default TFDS's place."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def read_text(path: str | os.PathLike, most_bytes: int = MAX_BYTES) -> str:
    """The text in a file.

    Raises:
      OSError: it cannot be read.
      UserError: it has more than `most_bytes`, or is no UTF-8.
    """
    with open(path, "rb") as stream:
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise UserError(f"{path}: expected at most {most_bytes:,} bytes; it has more")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected text in UTF-8; received: {error}") from error


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      OSError: it cannot be read.
      UserError: it is too long, or no JSON object.
    """
    text = read_text(path)
    try:
        return {**json.loads(text)}
    # Not JSON or a number of 5,000 digits; no object; thousands of brackets.
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: expected a JSON object; received: {error}") from error


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike) -> Iterator[Path]:
    """Write beside, then rename: yields a temporary sibling of `path` to write a file or folder to.

    When the block ends normally, the sibling is synced to disk and renamed to `path`; a reader
    sees the old content or the whole new one. When it raises, the sibling is removed and `path` is
    as it was. A file replaces an existing file; a folder replaces no file and no folder but an
    empty one.

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
            # Writing to an open file tells no name, and the temporary one tells users nothing.
            if error.filename in (None, str(partial)):
                error.filename = str(path)
            raise


def remove(folder: str | os.PathLike) -> None:
    """Removes a folder so that nobody, not even after a kill, sees a part of it.

    Raises:
      OSError: it is not there, or may not be removed.
    """
    with temporary(folder) as partial:
        os.rename(folder, partial)


@contextlib.contextmanager
def temporary(path: str | os.PathLike) -> Iterator[Path]:
    """Yields the name of a temporary sibling of `path`; what has it at the block's end is removed.

    What a process that was killed has left is removed by the next one that writes beside it while
    nobody else does. Who writes holds a lock of the folder, which is the operating system's and
    goes with the process.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A leading dot hides the sibling from the shell (not from `Path.glob("*.png")`) and from
    # watchers that look for version numbers. The suffix is kept: writers choose a format by it.
    partial = path.with_name(f".{uuid.uuid4().hex[:8]}.partial.{path.name}")
    with _writing_in(path.parent):
        try:
            yield partial
        finally:
            _remove(partial)


def sweep(folder: str | os.PathLike) -> None:
    """Removes what killed processes have left directly in `folder`, if nobody writes there now.

    A folder that is not there has nothing to remove: a run killed early has not all of its own.
    """
    if os.path.isdir(folder):
        with _writing_in(Path(folder)):
            pass


@contextlib.contextmanager
def _writing_in(folder: Path) -> Iterator[None]:
    """Keeps others from sweeping `folder` in this block, and sweeps it where there are none."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Not where somebody writes, nor where the file system has no locks (NFS has none for what
        # cannot be opened to be written).
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in folder.glob(".*.partial.*"):
                if PARTIAL.match(path.name):
                    _remove(path)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


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
