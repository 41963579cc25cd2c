"""Tensors -> JSON: the bodies of TensorFlow Serving's answers."""

import base64
import json
from typing import Any

import numpy as np
import orjson

from tfgan_mnist.exports.request_errors import invalid


def answer(outputs: dict[str, np.ndarray], rows: bool) -> bytes:
    """The body of an answer: `predictions` in row format, else `outputs`.

    A float32 has the fewest digits that restore it. Python reads NaN and Infinity, JavaScript not.

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
    values = {name: _jsonable(name, array, rows) for name, array in outputs.items()}
    content: Any = values
    if len(values) == 1:
        (content,) = values.values()
    elif rows:
        content = [dict(zip(values, row)) for row in zip(*values.values())]
    document = {"predictions" if rows else "outputs": content}
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def error(message: str) -> bytes:
    """The body of a refusal."""
    return orjson.dumps({"error": message.encode(errors="replace").decode()})


def _jsonable(name: str, array: np.ndarray, rows: bool) -> Any:
    """The values of an output in a form that orjson writes; in row format, one item a row."""
    kind = array.dtype.name
    if kind == "object":
        text = _base64 if name.endswith("_bytes") else _text
        return np.frompyfunc(text, 1, 1)(array).tolist() if array.ndim else text(array.item())
    if (array.dtype.kind not in "biu" and kind not in ("float32", "float64")) or kind == "uint16":
        kind = "half" if kind == "float16" else kind
        raise invalid(f"Failed to write JSON value for tensor type: {kind}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return [_with_nan(row) for row in array] if rows else _with_nan(array)
    return np.ascontiguousarray(array) if array.ndim else array[()]


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _base64(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}


def _with_nan(values: Any) -> orjson.Fragment:
    """Numbers as JSON with NaN and infinities, which orjson writes as null."""
    shortest = np.asarray(values).astype(str).astype(np.float64)
    return orjson.Fragment(json.dumps(shortest.tolist()))
