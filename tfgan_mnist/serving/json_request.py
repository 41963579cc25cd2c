"""JSON -> tensors: TensorFlow Serving's row format ("instances") and columnar one ("inputs")."""

import base64
import itertools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from tfgan_mnist.exports.request_errors import RequestError, invalid
from tfgan_mnist.serving.batching import MAX_ROWS, Tensors

MAX_RANK = 32
SHOWN = 200  # characters of a value in a message
# Type -> the types of the JSON values that are taken.
INTEGERS = ("int8", "uint8", "int16", "int32", "uint32", "int64", "uint64")
TAKEN: dict[str, set[type]] = {
    "float32": {int, float},
    "float64": {int, float},
    "bool": {bool},
    "string": {str, dict},
    **{name: {int} for name in INTEGERS},
}
# TensorFlow Serving's names of those types that TensorFlow calls by another.
NAMES = {"float32": "float", "float64": "double", "float16": "half"}
JSON_TYPES = {type(None): "Null", bool: "Bool", dict: "Object", list: "Array", str: "String"}


def parse(body: bytes) -> dict[str, Any]:
    """The object that a request's body holds.

    Beyond JSON it may have NaN, Infinity and -Infinity, which Python's `json` writes, and a byte
    order mark.

    Raises:
      RequestError: not JSON, or not an object.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        try:
            document = json.loads(body.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            raise invalid(f"JSON Parse error: Invalid value. at offset: {error.pos}") from None
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_shown(document)} Is not object")
    return document


def signature_name(document: Mapping[str, Any]) -> str:
    """Raises RequestError when it is not a string."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        wrong = "not formatted correctly. 'signature_name' key must be a string value."
        raise invalid(f"JSON Value: {_shown(document)} {wrong}")
    return name


def tensors(document: Mapping[str, Any], dtypes: Mapping[str, str]) -> tuple[Tensors, bool]:
    """The inputs of a request by name, and whether they were in row format.

    `dtypes` has the type of each input, as TensorFlow calls it: float32, string...

    Raises:
      RequestError: they are not tensors of these names and types.
    """
    if "inputs" in document and "instances" not in document:
        return _from_columns(document["inputs"], dtypes), False
    if "instances" not in document:
        raise invalid("Missing 'inputs' or 'instances' key")
    rows, wrong = document["instances"], ""
    if "inputs" in document:
        wrong = "Not formatted correctly expecting only one of 'inputs' or 'instances' keys"
    elif not isinstance(rows, list):
        wrong = "Expecting 'instances' to be an list/array"
    elif not rows:
        wrong = "No values in 'instances' array"
    elif len(rows) > MAX_ROWS:  # before each is read
        wrong = f"Task size {len(rows)} is larger than maximum input batch size {MAX_ROWS}"
    if wrong:
        raise invalid(f"JSON Value: {_shown(document)} {wrong}")
    return _from_rows(rows, dtypes), True


def _from_rows(rows: list, dtypes: Mapping[str, str]) -> Tensors:
    named = _is_named(rows[0])
    if not named and len(dtypes) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input "
            "tensors required as per tensorinfo_map"
        )
    for item, row in enumerate(rows):
        if _is_named(row) != named:
            kinds = "object but got list" if named else "value/list but got object"
            raise invalid(f"Expecting {kinds} at item {item} of input list")
        if named and row.keys() != dtypes.keys():
            extra = [f"does not have named input: {key}"[:SHOWN] for key in row.keys() - dtypes]
            wrong = extra[0] if extra else f"keys must be equal to: {','.join(sorted(dtypes))}"
            where = f"Failed to process element: {item} of 'instances' list"
            raise invalid(f"{where}. JSON object: {_shown(row)} {wrong}")
    if not named:
        return {name: _stack(rows, dtype, "") for name, dtype in dtypes.items()}
    return {
        name: _stack([row[name] for row in rows], dtype, f" key: {name}")
        for name, dtype in dtypes.items()
    }


def _stack(rows: list, dtype: str, key: str) -> np.ndarray:
    """A tensor of rows, which must have equal shapes."""
    arrays: list[np.ndarray] = []
    try:
        for row in rows:
            array = _tensor(row, dtype)
            first = arrays[0] if arrays else array
            if array.size != first.size:
                raise invalid(f"Expecting tensor size: {first.size} but got: {array.size}")
            if array.shape != first.shape:
                shapes = [str(list(each.shape)).replace(" ", "") for each in (first, array)]
                raise invalid("Expecting shape {} but got: {}".format(*shapes))
            arrays.append(array)
    except RequestError as error:
        # In row format TensorFlow Serving makes an unsupported type INVALID_ARGUMENT too.
        where = f"Failed to process element: {len(arrays)}{key} of 'instances' list. Error: "
        raise invalid(where + error.message) from None
    return np.stack(arrays)


def _from_columns(columns: Any, dtypes: Mapping[str, str]) -> Tensors:
    if not _is_named(columns):
        if len(dtypes) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        columns = dict.fromkeys(dtypes, columns)
    for name in dtypes:
        if name not in columns:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    return {name: _tensor(columns[name], dtype) for name, dtype in dtypes.items()}


def _is_named(value: Any) -> bool:
    """Whether it is an object that names tensors, and not a base64 value."""
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: dict) -> bool:
    return len(value) == 1 and isinstance(value.get("b64"), str)


def _tensor(value: Any, dtype: str) -> np.ndarray:
    """A value or nested list as an array."""
    name = NAMES.get(dtype, dtype)
    if dtype not in TAKEN:
        message = f"Conversion of JSON Value: {_shown(value)} to type: {name}"
        raise RequestError("UNIMPLEMENTED", message)
    taken = TAKEN[dtype]
    nested = np.array(value, object)
    values = nested.ravel().tolist()
    for item in values if not set(map(type, values)) <= taken else ():
        if isinstance(item, list):  # of another length than its neighbours, or too deep
            raise invalid(f"Encountered list at unexpected size: {_shown(value)}")
        if type(item) not in taken:
            kind = JSON_TYPES.get(type(item), "Number")
            wrong = f"Type: {kind} is not of expected type: {name}"
            raise invalid(f"JSON Value: {_shown(item)} {wrong}")
    if nested.ndim >= MAX_RANK:
        raise invalid(f"Encountered list at unexpected level: {MAX_RANK} expected < {MAX_RANK}")
    if dtype == "string":
        return np.array([_bytes(item) for item in values], object).reshape(nested.shape)
    try:
        with np.errstate(over="ignore"):  # as in TensorFlow Serving: rounded, or infinite
            return np.array(values, dtype).reshape(nested.shape)
    except OverflowError as error:
        raise invalid(f"JSON Value: {error}; it is not of expected type: {name}") from None


def _bytes(value: str | dict) -> bytes:
    if isinstance(value, str):
        return value.encode(errors="replace")
    if not _is_base64(value):
        raise invalid(f"JSON Value: {_shown(value)} not formatted correctly for base64 data")
    text = "".join(value["b64"].split())  # line ends and missing padding are accepted
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise invalid("Unable to base64 decode") from None


def _shown(value: Any) -> str:
    """The beginning of a value as JSON, for messages."""
    pieces = json.JSONEncoder().iterencode(value)  # only as many as are shown
    return "".join(itertools.islice(pieces, SHOWN))[:SHOWN]
