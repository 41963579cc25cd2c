"""JSON -> tensors: TensorFlow Serving's row format ("instances") and columnar one ("inputs").

A tensor is a nested list. It is checked and converted level by level with functions that loop in C,
since requests hold thousands of numbers.
"""

import base64
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfgan_mnist.exports.request_errors import RequestError, invalid
from tfgan_mnist.serving.json_reader import SHOWN, shown

Tensors = dict[str, np.ndarray]

MAX_RANK = 32
# Type -> NumPy's, and the types of the JSON values that are taken.
INTEGERS = ("int8", "uint8", "int16", "int32", "uint32", "int64", "uint64")
KINDS: dict[str, tuple[Any, set[type]]] = {
    "float": (np.float32, {int, float}),
    "double": (np.float64, {int, float}),
    "bool": (np.bool_, {bool}),
    "string": (object, {str, dict}),
    **{name: (name, {int}) for name in INTEGERS},
}
JSON_TYPES = {type(None): "Null", bool: "Bool", dict: "Object", list: "Array", str: "String"}


def signature_name(document: Mapping[str, Any]) -> str:
    """Raises RequestError when it is not a string."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {shown(document)} not formatted correctly. "
            "'signature_name' key must be a string value."
        )
    return name


def tensors(document: Mapping[str, Any], dtypes: Mapping[str, str]) -> tuple[Tensors, bool]:
    """The inputs of a request by name, and whether they were in row format.

    Args:
      document: the request, with a key `instances` or `inputs`.
      dtypes: input name -> type as TensorFlow Serving calls it: float, half, int32, string...

    Raises:
      RequestError: they are not tensors of these names and types.
    """
    if "instances" in document and "inputs" in document:
        raise invalid(
            f"JSON Value: {shown(document)} Not formatted correctly expecting only one of "
            "'inputs' or 'instances' keys to exist"
        )
    if "inputs" in document:
        return _from_columns(document["inputs"], dtypes), False
    if "instances" not in document:
        raise invalid("Missing 'inputs' or 'instances' key")
    rows = document["instances"]
    if not isinstance(rows, list):
        raise invalid(f"JSON Value: {shown(document)} Expecting 'instances' to be an list/array")
    if not rows:
        raise invalid(f"JSON Value: {shown(document)} No values in 'instances' array")
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
            where = f"Failed to process element: {item}"
            for key in row.keys() - dtypes.keys():
                raise invalid(
                    f"{where} key: {key[:SHOWN]} of 'instances' list. Error: JSON object: "
                    f"does not have named input: {key[:SHOWN]}"
                )
            raise invalid(
                f"{where} of 'instances' list. JSON object: {shown(row)} "
                f"keys must be equal to: {','.join(sorted(dtypes))}"
            )
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
                shapes = _shape(first.shape), _shape(array.shape)
                raise invalid("Expecting shape {} but got: {}".format(*shapes))
            arrays.append(array)
    except RequestError as error:
        # In row format TensorFlow Serving makes an unsupported type INVALID_ARGUMENT too.
        where = f"Failed to process element: {len(arrays)}{key} of 'instances' list. Error: "
        raise invalid(where + error.message) from None
    return np.stack(arrays)


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"


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
    """A nested list as an array."""
    shape: list[int] = []
    level = [value]
    while level and isinstance(level[0], list):
        depth = len(shape)
        if depth == MAX_RANK:
            raise invalid(f"Encountered list at unexpected level: {depth} expected < {MAX_RANK}")
        for item in level if set(map(type, level)) != {list} else ():
            if not isinstance(item, list):
                raise invalid(
                    f"JSON Value: {shown(item)} found at incorrect level: {depth} in the JSON DOM"
                )
        sizes = set(map(len, level))
        if len(sizes) > 1:
            other = next(len(item) for item in level if len(item) != len(level[0]))
            raise invalid(
                f"Encountered list at unexpected size: {other} at level: {depth} "
                f"expected size: {len(level[0])}"
            )
        shape.append(len(level[0]))
        level = list(itertools.chain.from_iterable(level))
    types = set(map(type, level))
    if list in types:
        raise invalid(f"Encountered list at unexpected level: {len(shape)} expected < {len(shape)}")
    return _array(level, types, dtype).reshape(shape)


def _array(values: list, types: set[type], dtype: str) -> np.ndarray:
    """Values that are not lists, as an array (N,)."""
    if dtype not in KINDS:
        value = shown(values[0] if values else [])
        raise RequestError("UNIMPLEMENTED", f"Conversion of JSON Value: {value} to type: {dtype}")
    array_dtype, taken = KINDS[dtype]
    for value in values if not types <= taken else ():
        if type(value) not in taken:
            raise _wrong_type(value, dtype)
    if dtype == "string":
        values = [_bytes(value) for value in values]
    if dtype == "float":
        with np.errstate(over="ignore"):  # as in TensorFlow Serving: rounded, or infinite
            return np.array(values, np.float64).astype(array_dtype)
    try:
        return np.array(values, array_dtype)
    except OverflowError:
        limits = np.iinfo(array_dtype)
        wrong = next(value for value in values if not limits.min <= value <= limits.max)
        raise _wrong_type(wrong, dtype) from None


def _bytes(value: str | dict) -> bytes:
    if isinstance(value, str):
        try:
            return value.encode(errors="surrogateescape")
        except UnicodeEncodeError:  # half of a surrogate pair, "\\ud800"
            raise invalid(f"JSON Value: {shown(value)} is not valid Unicode") from None
    if not _is_base64(value):
        raise invalid(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    # As Abseil reads it: white space anywhere, padding entire or absent.
    text = "".join(value["b64"].split())
    digits = text.rstrip("=")
    padding = "=" * (-len(digits) % 4)
    try:
        if text not in (digits, digits + padding):
            raise ValueError("padding")
        return base64.b64decode(digits + padding, validate=True)
    except ValueError:
        raise invalid("Unable to base64 decode") from None


def _wrong_type(value: Any, dtype: str) -> RequestError:
    kind = JSON_TYPES.get(type(value), "Number")
    return invalid(f"JSON Value: {shown(value)} Type: {kind} is not of expected type: {dtype}")
