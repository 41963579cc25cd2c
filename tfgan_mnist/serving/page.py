"""The page's files: those of `assets/page`, the list of models, and real digits to compare with."""

import functools
import gzip
import io
import json
import mimetypes
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tfgan_mnist import files
from tfgan_mnist.exports import card as cards

ASSETS = Path(__file__).parents[1] / "assets"
FOLDER = ASSETS / "page"
MODELS, REAL_DIGITS = "models.json", "real.png"  # beside the files of FOLDER
EXAMPLES = 16  # real digits of each class

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


def facts(name: str, version: Path) -> dict[str, Any]:
    """What the page needs to know of a model.

    Raises:
      UserError: the version is no export of tfgan_mnist.
    """
    card = cards.read(version)
    return {
        "name": name,
        "latentDim": card["latent_dim"],
        "classes": card["num_classes"],
        "classNames": card.get("class_names"),
        "data": card.get("config", {}).get("dataset"),
    }


@functools.cache
def real_digits() -> bytes:
    """A PNG with a row for each digit: test images of MNIST, white on black."""
    images, labels = (
        np.frombuffer(
            gzip.decompress((ASSETS / "mnist" / f"t10k-{name}.gz").read_bytes()), np.uint8
        )
        for name in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    images, labels = images[16:].reshape(-1, 28, 28), labels[8:]
    rows = [np.hstack(images[labels == digit][:EXAMPLES]) for digit in range(10)]
    stream = io.BytesIO()
    Image.fromarray(np.vstack(rows)).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def build(folder: Path, version: Path, onnx: Path) -> None:
    """Writes the page with a model to a folder that any web server can show.

    A folder that has the page keeps its other models.

    Args:
      folder: where to write.
      version: the model's version, `saved_models/cdcgan/1`.
      onnx: its ONNX file, which the browser runs.

    Raises:
      OSError: nothing can be written there.
      UserError: the version is no export of tfgan_mnist.
    """
    model = facts(version.parent.name, version)
    shutil.copytree(FOLDER, folder, dirs_exist_ok=True)
    (folder / "onnx").mkdir(exist_ok=True)
    shutil.copyfile(onnx, folder / "onnx" / f"{model['name']}.onnx")
    (folder / REAL_DIGITS).write_bytes(real_digits())
    listed = folder / MODELS
    models = files.read_json(listed)["models"] if listed.exists() else []
    models = [each for each in models if each["name"] != model["name"]] + [model]
    listed.write_text(json.dumps({"static": True, "models": models}, indent=2) + "\n")
