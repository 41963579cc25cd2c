"""JSON -> tensors: TensorFlow Serving's row format ("instances") and columnar one ("inputs")."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfgan_mnist.exports.request_errors import RequestError, invalid
from tfgan_mnist.serving.batching import MAX_ROWS
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
        wrong = "not formatted correctly. 'signature_name' key must be a string value."
        raise invalid(f"JSON Value: {shown(document)} {wrong}")
    return name


def tensors(document: Mapping[str, Any], dtypes: Mapping[str, str]) -> tuple[Tensors, bool]:
    """The inputs of a request by name, and whether they were in row format.

    `dtypes` has the type of each input as TensorFlow Serving calls it: float, half, int32...

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
        raise invalid(f"JSON Value: {shown(document)} {wrong}")
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
            raise invalid(f"{where}. JSON object: {shown(row)} {wrong}")
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
    """A nested list as an array, of the shape that its first elements have."""
    shape: list[int] = []
    first = value
    while isinstance(first, list):
        if len(shape) == MAX_RANK:
            raise invalid(f"Encountered list at unexpected level: {MAX_RANK} expected < {MAX_RANK}")
        shape.append(len(first))
        first = first[0] if first else None
    values: list[Any] = []
    _flatten(value, shape, 0, values)
    return _array(values, dtype).reshape(shape)


def _flatten(value: Any, shape: list[int], level: int, values: list[Any]) -> None:
    """Appends what is in the lists of a value to `values`."""
    if level == len(shape):
        if isinstance(value, list):
            raise invalid(f"Encountered list at unexpected level: {level} expected < {level}")
        values.append(value)
        return
    if not isinstance(value, list):
        where = f"found at incorrect level: {level} in the JSON DOM"
        raise invalid(f"JSON Value: {shown(value)} {where}")
    if len(value) != shape[level]:
        where = f"at level: {level} expected size: {shape[level]}"
        raise invalid(f"Encountered list at unexpected size: {len(value)} {where}")
    for item in value:
        _flatten(item, shape, level + 1, values)


def _array(values: list, dtype: str) -> np.ndarray:
    """Values that are not lists, as an array (N,)."""
    if dtype not in KINDS:
        value = shown(values[0] if values else [])
        raise RequestError("UNIMPLEMENTED", f"Conversion of JSON Value: {value} to type: {dtype}")
    array_dtype, taken = KINDS[dtype]
    for value in values if not set(map(type, values)) <= taken else ():
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
