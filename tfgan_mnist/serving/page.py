"""What the page asks its server for, which TensorFlow Serving does not have.

GET  /, /app.js ...     the files of `assets/page`
GET  /models.json       the models that draw
GET  /real.png          real digits to compare with
GET  /onnx/NAME.onnx    a model, to run in the browser
"""

import contextlib
import json
import mimetypes
import re
from pathlib import Path

from tfgan_mnist.errors import UserError
from tfgan_mnist.exports import page
from tfgan_mnist.exports.request_errors import RequestError
from tfgan_mnist.serving.versions import Models

ONNX = re.compile(r"/onnx/(?P<name>[^/]+)\.onnx")

# A system's own table may lack these, or give other types.
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".onnx": "application/octet-stream",
}


def find(path: str, models: Models) -> tuple[bytes, str] | None:
    """The content of a path and its type; None if there is nothing.

    Raises:
      RequestError: there is no such model, or no ONNX file of it.
    """
    if path == f"/{page.MODELS}":
        listed = []
        for model in models.values():
            with contextlib.suppress(RequestError, UserError):  # not loaded, or not ours
                listed.append(page.facts(model.name, model.find().folder))
        return json.dumps({"models": listed}).encode(), "application/json"
    if path == f"/{page.REAL_DIGITS}":
        return page.real_digits(), "image/png"
    if match := ONNX.fullmatch(path):
        return _onnx(match["name"], models), TYPES[".onnx"]
    file = _file(path.removeprefix("/") or "index.html")
    guessed = file and mimetypes.guess_type(file)[0]
    return (file.read_bytes(), TYPES.get(file.suffix, guessed or "text/plain")) if file else None


def _onnx(name: str, models: Models) -> bytes:
    """The weights that are served, from `7.onnx` beside the version `7/`."""
    with models.use(name) as version:
        try:
            return version.folder.with_name(f"{version.folder.name}.onnx").read_bytes()
        except OSError:
            message = f"There is no ONNX file of version {version.number} of {name}"
            raise RequestError("NOT_FOUND", message) from None


def _file(name: str) -> Path | None:
    """A file in the page's folder, which neither `..` nor a link leaves."""
    if not {"", ".", ".."}.isdisjoint(name.split("/")):
        return None
    with contextlib.suppress(OSError, ValueError):  # not a possible file name
        path = (page.FOLDER / name).resolve()
        if path.is_relative_to(page.FOLDER.resolve()) and path.is_file():
            return path
    return None
