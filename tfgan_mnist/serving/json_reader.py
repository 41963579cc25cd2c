"""JSON -> Python, as TensorFlow Serving's reader takes it.

Beyond JSON it accepts NaN, Inf and Infinity with either sign, a byte order mark, bytes that are not
UTF-8, and text after the object. Of equal keys the first counts. Nesting has no limit.
"""

import json
import math
import re
from typing import Any

import orjson

from tfgan_mnist.exports.request_errors import invalid

SHOWN = 200  # characters of a value in a message

# Possessive strings: otherwise one without an end would be scanned once per quote in it.
_TOKEN = re.compile(
    rb"""[ \t\n\r]*+(?:(?P<list>\[)|(?P<object>\{)|(?P<end_list>\])|(?P<end_object>\})
    |(?P<comma>,)|(?P<colon>:)
    |(?P<text>"(?:[^"\\\x00-\x1f]++|\\.)*+")
    |(?P<integer>-?(?:0|[1-9]\d*+))(?![\d.eE])
    |(?P<decimal>-?(?:0|[1-9]\d*+)(?:\.\d+)?(?:[eE][+-]?\d+)?)
    |(?P<word>true|false|null|-?NaN|-?Inf(?:inity)?))""",
    re.VERBOSE,
)
_WORDS = {b"true": True, b"false": False, b"null": None}
_VALUE = {"list", "object", "text", "integer", "decimal", "word"}


def parse(body: bytes) -> dict[str, Any]:
    """The object that a request's body holds; bytes that are not UTF-8 as lone surrogates.

    Raises:
      RequestError: not JSON, or not an object.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = orjson.loads(body)
        if isinstance(document, dict) and body.count(b":") > _number_of_keys(document):
            document = _read(body)  # it may have equal keys, of which orjson takes the last
    except orjson.JSONDecodeError:
        document = _read(body)
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {shown(document)} Is not object")
    return document


def _number_of_keys(document: dict[str, Any]) -> int:
    """How many keys a document has, without those in objects that few requests have."""
    rows = document.get("instances")
    objects = [document, document.get("inputs"), *(rows if isinstance(rows, list) else ())]
    return sum(len(each) for each in objects if isinstance(each, dict))


def _read(body: bytes) -> Any:
    """The first value in a body. In Python, without recursion: for what orjson refuses."""
    if len(body) > 1 << 20:  # a second's work
        raise invalid("JSON Parse error: Invalid value. Or not plain JSON, and larger than 1 MiB")
    position = 3 if body.startswith(b"\xef\xbb\xbf") else 0  # a byte order mark
    opened: list[Any] = []  # lists and objects that are not closed yet
    keys: list[str | None] = []  # of the value that comes next in each of them; None in a list
    allowed = _VALUE
    while match := _TOKEN.match(body, position):
        kind = str(match.lastgroup)
        if kind not in allowed:
            break
        position = match.end()
        if kind in ("list", "object"):
            opened.append({} if kind == "object" else [])
            keys.append(None)
            allowed = {"text", "end_object"} if kind == "object" else _VALUE | {"end_list"}
        elif kind == "comma":
            allowed = {"text"} if isinstance(opened[-1], dict) else _VALUE
        elif kind == "colon":
            allowed = _VALUE
        elif kind == "text" and "word" not in allowed:
            keys[-1], allowed = _value(kind, match[kind]), {"colon"}
        else:
            value = _value(kind, match[kind]) if kind in _VALUE else opened.pop()
            del keys[len(opened) :]
            if not opened:
                return value
            if isinstance(opened[-1], dict):
                opened[-1].setdefault(keys[-1], value)
                allowed = {"comma", "end_object"}
            else:
                opened[-1].append(value)
                allowed = {"comma", "end_list"}
    raise invalid(f"JSON Parse error: Invalid value. at offset: {position}")


def _value(kind: str, token: bytes) -> Any:
    if kind == "text":
        try:
            return json.loads(token.decode(errors="surrogateescape"))
        except ValueError:
            raise invalid("JSON Parse error: Invalid escape character in string.") from None
    if kind == "word":
        return _WORDS[token] if token in _WORDS else float(token)
    if kind == "integer" and len(token) <= 20 and -(2**63) <= int(token) < 2**64:
        return int(token)
    value = float(token)
    if not math.isfinite(value):
        raise invalid("JSON Parse error: Number too big to be stored in double.")
    return value


def shown(value: Any) -> str:
    """The beginning of a value as JSON, for messages."""
    text = ""
    # Piece by piece: a message needs neither megabytes nor the deepest level.
    for piece in json.JSONEncoder().iterencode(value):
        text += piece
        if len(text) > SHOWN:
            return text[:SHOWN] + "..."
    return text
