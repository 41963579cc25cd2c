"""Tensors -> JSON: the bodies of TensorFlow Serving's answers."""

import base64
import itertools
import json
from typing import Any

import numpy as np
import orjson

from tfgan_mnist.exports.request_errors import invalid

Tensors = dict[str, np.ndarray]


def answer(outputs: Tensors, rows: bool) -> bytes:
    """The body of an answer: `predictions` in row format, else `outputs`.

    A float32 has the shortest digits that give it back, and whole numbers end in `.0`. NaN and the
    infinities are `NaN`, `Infinity` and `-Infinity`, which Python reads and JavaScript does not.

    Raises:
      RequestError: an output of a type that JSON does not get, or rows that are none.
    """
    if rows:
        sizes = {name: array.shape[0] if array.ndim else None for name, array in outputs.items()}
        for name, size in sizes.items():
            if size is None:
                raise invalid(f"Tensor name: {name} has no shape information")
        if len(set(sizes.values())) > 1:
            raise invalid(f"Tensors have inconsistent batch size: {sizes}")
    values = {name: _jsonable(name, array, rows) for name, array in outputs.items()}
    if len(values) == 1:
        (content,) = values.values()
    elif rows:
        content = [dict(zip(values, row)) for row in zip(*values.values())]
    else:
        content = values
    document = {"predictions" if rows else "outputs": content}
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _jsonable(name: str, array: np.ndarray, rows: bool) -> Any:
    """What orjson writes as the values of an output: in rows, something with a length."""
    if array.dtype == object:
        as_text = _base64 if name.endswith("_bytes") else _text
        texts = [as_text(value) for value in array.ravel()]
        return _nested(texts, array.shape)
    kind = array.dtype.name
    if array.dtype.kind in "biu" or kind in ("float32", "float64"):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return [_with_nan(row) for row in array] if rows else _with_nan(array)
        return np.ascontiguousarray(array) if array.ndim else array[()]
    kind = {"float16": "half"}.get(kind, kind)
    raise invalid(f"Failed to write JSON value for tensor type: {kind}")


def _base64(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _nested(values: list, shape: tuple[int, ...]) -> Any:
    if not shape:
        return values[0]
    for size in reversed(shape[1:]):
        values = [values[i : i + size] for i in range(0, len(values), size)] if size else []
    return values


def _with_nan(values: Any) -> orjson.Fragment:
    """An array, or a number, as JSON with the numbers that orjson writes as null."""
    array = np.ascontiguousarray(values).reshape(np.shape(values))
    text = orjson.dumps(array if array.ndim else array[()], option=orjson.OPT_SERIALIZE_NUMPY)
    lacking = [json.dumps(number).encode() for number in array[~np.isfinite(array)].tolist()]
    pieces = zip(text.split(b"null"), [*lacking, b""])
    return orjson.Fragment(b"".join(itertools.chain.from_iterable(pieces)))


def error(message: str) -> bytes:
    """The body of a refusal."""
    return orjson.dumps({"error": message.encode(errors="replace").decode()})
