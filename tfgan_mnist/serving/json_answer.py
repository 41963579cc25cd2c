"""Tensors -> JSON: the bodies of TensorFlow Serving's answers."""

import base64
import json
from typing import Any

import numpy as np
import orjson

from tfgan_mnist.exports.request_errors import invalid


def answer(outputs: dict[str, np.ndarray], rows: bool) -> bytes:
    """The body of an answer: `predictions` in row format, else `outputs`.

    A float32 has the fewest digits that restore it. NaN and Infinity are written as such: Python
    reads them, JavaScript does not.

    Raises:
      RequestError: an output of a type that JSON lacks, or outputs without equal numbers of rows.
    """
    if rows:
        for name, array in outputs.items():
            if not array.ndim:
                raise invalid(f"Tensor name: {name} has no shape information")
        sizes = {name: len(array) for name, array in outputs.items()}
        if len(set(sizes.values())) > 1:
            raise invalid(f"Tensors have inconsistent batch size: {sizes}")
    values = {name: _jsonable(name, array) for name, array in outputs.items()}
    content: Any = values
    if len(values) == 1:
        (content,) = values.values()
    elif rows:
        content = [dict(zip(values, row)) for row in zip(*values.values())]
    document = {"predictions" if rows else "outputs": content}
    floats = [array for array in outputs.values() if array.dtype.kind == "f"]
    if all(np.isfinite(array).all() for array in floats):
        return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    # orjson would write null. By way of text a float32 keeps its few digits.
    return json.dumps(document, default=_shortest).encode()


def error(message: str) -> bytes:
    """The body of a refusal."""
    return json.dumps({"error": message}).encode()


def _jsonable(name: str, array: np.ndarray) -> Any:
    """An output in a form that JSON's writers take: numbers stay an array, strings become lists."""
    if array.dtype == object:
        text = _base64 if name.endswith("_bytes") else _text
        return np.frompyfunc(text, 1, 1)(array).tolist() if array.ndim else text(array.item())
    if array.dtype.kind not in "biuf" or array.dtype == np.float16:
        dtype = "half" if array.dtype == np.float16 else array.dtype
        raise invalid(f"Failed to write JSON value for tensor type: {dtype}")
    return array if array.ndim else array[()]


def _shortest(array: np.ndarray) -> Any:
    return (array.astype(str).astype(float) if array.dtype.kind == "f" else array).tolist()


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _base64(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}
