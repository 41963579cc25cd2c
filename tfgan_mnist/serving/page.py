"""The files of the page that a server shows to people."""

import dataclasses
import functools
import mimetypes
import threading
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "assets" / "page"

# What a system's own table may lack, or call differently.
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
    ".gz": "application/gzip",
}

KEPT = 32  # files in memory, once each, however many connections fetch them
_lock = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Page:
    """A file as it is sent."""

    path: Path
    content_type: str
    gzipped: bool


def find(url_path: str) -> Page | None:
    """The file for a path such as `/` or `/app.js`; None where there is none.

    A file may be there as `app.js.gz` only, which every browser inflates. Nothing outside the
    folder is found, through `..` or a link, and nothing by another path than its own.
    """
    name = url_path.removeprefix("/") or "index.html"
    if not {"", ".", ".."}.isdisjoint(name.split("/")):
        return None
    root = FOLDER.resolve()
    for path, gzipped in ((root / name, False), (root / f"{name}.gz", True)):
        try:
            path = path.resolve()
            inside = path.is_relative_to(root) and path.is_file()
        except (OSError, ValueError):  # a name that no file can have
            return None
        if inside:
            suffix = Path(name).suffix
            guessed = mimetypes.guess_type(name)[0] or "application/octet-stream"
            return Page(path, TYPES.get(suffix, guessed), gzipped)
    return None


def content(path: Path) -> tuple[bytes, bytes]:
    """A file's content and its entity tag, which changes when the file does.

    Raises:
      OSError: it cannot be read.
    """
    stat = path.stat()
    with _lock:  # two who ask at a time are to have one copy
        body = _read(path, stat.st_mtime_ns, stat.st_size)
    return body, f'"{stat.st_mtime_ns:x}-{len(body):x}"'.encode()


@functools.lru_cache(KEPT)
def _read(path: Path, _mtime_ns: int, _size: int) -> bytes:
    return path.read_bytes()
