"""Outputs that appear complete or not at all."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def publish(path: str | os.PathLike) -> Iterator[Path]:
    """Write beside, then rename: yields a temporary sibling of `path` to write a file or folder to.

    When the block ends normally, the sibling is synced to disk and renamed to `path`; a reader
    sees the old content or the whole new one. When it raises, the sibling is removed and `path` is
    as it was. A file replaces an existing file; a folder replaces no file and no folder but an
    empty one.

    Args:
      path: the final path. Its parent folders are created.

    Raises:
      OSError: from writing or renaming (disk full, read-only, folder exists).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A leading dot hides the sibling from the shell (not from `Path.glob("*.png")`) and from
    # watchers that look for version numbers. The suffix is kept: writers choose a format by it.
    partial = path.with_name(f".{uuid.uuid4().hex[:8]}.partial.{path.name}")
    try:
        yield partial
        for file in [partial, *partial.rglob("*")]:
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        os.rename(partial, path)
    except BaseException:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
        raise
