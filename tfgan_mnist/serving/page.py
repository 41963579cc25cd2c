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

from tfgan_mnist.errors import UserError
from tfgan_mnist.exports import page
from tfgan_mnist.exports.request_errors import RequestError
from tfgan_mnist.serving.versions import Models

FILES = {
    f"/{file.relative_to(page.FOLDER).as_posix()}": file
    for file in page.FOLDER.rglob("*")
    if file.is_file()
}
ONNX = re.compile(r"/onnx/(?P<name>[^/]+)\.onnx")
TYPES = mimetypes.MimeTypes()  # not the system's table, which may lack some or give others


def find(path: str, models: Models) -> tuple[bytes, str] | None:
    """The content of a path and its type; None if there is nothing.

    Raises:
      RequestError: there is no such model, or no ONNX file of it.
    """
    if path == f"/{page.MODELS}":
        listed = []
        for model in models.values():
            with contextlib.suppress(RequestError, UserError):  # not loaded, or not ours
                listed.append(page.facts(model.name, models.find(model.name).folder))
        return json.dumps({"models": listed}).encode(), "application/json"
    if path == f"/{page.REAL_DIGITS}":
        return page.real_digits(), "image/png"
    if match := ONNX.fullmatch(path):
        with models.use(match["name"]) as version:  # `7.onnx` is beside the version `7/`
            onnx = version.folder.with_name(f"{version.folder.name}.onnx")
            if not onnx.exists():
                raise RequestError("NOT_FOUND", f"Version {version.number} has no ONNX file")
            return onnx.read_bytes(), "application/octet-stream"
    if file := FILES.get("/index.html" if path == "/" else path):
        return file.read_bytes(), TYPES.guess_type(file.name)[0] or "text/plain"
    return None
