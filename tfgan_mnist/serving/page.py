"""The files of the page."""

import functools
import mimetypes
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parents[1] / "assets" / "page"

# A system's own table may lack these, or give other types.
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
}


class Page(NamedTuple):
    """A file and how it is sent."""

    path: Path
    content_type: str
    gzipped: bool


def find(url_path: str) -> Page | None:
    """The file for a path such as `/` or `/app.js`; None if there is none.

    A file may exist as `app.js.gz` only, which every browser inflates. Nothing outside the folder
    is found, neither by `..` nor by a link.
    """
    name = url_path.removeprefix("/") or "index.html"
    if not {"", ".", ".."}.isdisjoint(name.split("/")):
        return None
    root = FOLDER.resolve()
    for path, gzipped in ((root / name, False), (root / f"{name}.gz", True)):
        try:
            path = path.resolve()
            if path.is_relative_to(root) and path.is_file():
                guessed = mimetypes.guess_type(name)[0] or "application/octet-stream"
                return Page(path, TYPES.get(Path(name).suffix, guessed), gzipped)
        except (OSError, ValueError):  # not a possible file name
            return None
    return None


def content(path: Path) -> tuple[bytes, bytes]:
    """A file's content and its entity tag, which changes when the file does.

    Raises:
      OSError: it cannot be read.
    """
    stat = path.stat()
    state = (stat.st_mtime_ns, stat.st_size)
    return _read(path, state), '"{:x}-{:x}"'.format(*state).encode()


@functools.lru_cache(32)
def _read(path: Path, _state: tuple[int, int]) -> bytes:
    return path.read_bytes()
