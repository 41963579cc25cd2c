"""Tests a server against TensorFlow Serving's REST contract, case by case.

    python deploy/serving/smoke.py --url http://localhost:8501 --model cdcgan

It needs only Python, and accepts any server of an export of this project: the official image, or
`python -m tfgan_mnist.serve`. Messages are compared in part, as details vary between releases.
"""

import argparse
import base64
import gzip
import http.client
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple

TIMEOUT_SECONDS = 60
CLASSES = 10


class Case(NamedTuple):
    """A request and the expected answer."""

    name: str
    method: str
    path: str
    body: bytes | None
    status: int
    expected: str | Callable[[Any], bool] | None  # a part of the error, or a check of the JSON
    headers: tuple[tuple[str, str], ...] = ()


def ask(url: str, case: Case) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (lower case) and body of the answer."""
    headers = {"Content-Type": "application/json"} | dict(case.headers)
    request = urllib.request.Request(url + case.path, case.body, headers, method=case.method)
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        received = {name.lower(): value for name, value in answer.headers.items()}
        return answer.status, received, answer.read()


def fault(url: str, case: Case) -> str | None:
    """What is wrong with the answer to a case; None if nothing is."""
    try:
        status, headers, body = ask(url, case)
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {error!r}"
    shown = body[:300].decode(errors="replace")
    if status != case.status:
        return f"expected status {case.status}; received {status}: {shown}"
    if case.expected is None:
        return None
    if headers.get("content-type", "").partition(";")[0] != "application/json":
        return f"expected application/json; received {headers.get('content-type')}"
    try:
        document = json.loads(body)
    except ValueError:
        return f"expected JSON; received {shown}"
    if callable(case.expected):
        try:
            return None if case.expected(document) else f"not the expected answer: {shown}"
        except Exception as error:  # the answer has another form than the check expects
            return f"not the expected answer ({error!r}): {shown}"
    message = document.get("error") if isinstance(document, dict) else None
    if not isinstance(message, str) or len(document) > 1 or case.expected not in message:
        return f"expected an error with {case.expected!r}; received {shown}"
    return None


def signatures(url: str, model: str) -> dict[str, Any]:
    """Signature name -> its inputs and outputs, from the server's metadata."""
    status, _, body = ask(url, Case("", "GET", f"/v1/models/{model}/metadata", None, 200, None))
    if status != 200:
        sys.exit(f"{url} does not serve {model}: {body.decode(errors='replace')}")
    return json.loads(body)["metadata"]["signature_def"]["signature_def"]


def cases(model: str, described: dict[str, Any]) -> list[Case]:
    """The cases for an export with these signatures."""
    inputs = described["serving_default"]["inputs"]
    width = int(inputs["latents"]["tensor_shape"]["dim"][1]["size"])
    label = {"labels": 3} if "labels" in inputs else {}
    base = f"/v1/models/{model}"
    found = _of_paths(model, base, _json(_png(label)))
    for name, body, status, expected in [
        *_of_malformed_requests(label),
        *_of_values(width, label),
        *_of_answers(width, label),
    ]:
        content = body if isinstance(body, bytes) else _json(body)
        found.append(Case(name, "POST", f"{base}:predict", content, status, expected))
    return found


def _json(body: Any) -> bytes:
    return json.dumps(body).encode()


def _png(label: dict, *seeds: int) -> dict[str, Any]:
    return {"signature_name": "png", "instances": [{"seed": seed} | label for seed in seeds or [1]]}


def _pngs(number: int, key: str = "predictions") -> Callable[[Any], bool]:
    def holds(answer: Any) -> bool:
        decoded = [base64.b64decode(row["b64"]) for row in answer[key]]
        only = all(set(row) == {"b64"} for row in answer[key]) and set(answer) == {key}
        return only and [png[:6] for png in decoded] == [b"\x89PNG\r\n"] * number

    return holds


def _images(key: str, number: int) -> Callable[[Any], bool]:
    def holds(answer: Any) -> bool:
        pixels = [value for image in answer[key] for row in image for px in row for value in px]
        floats = all(isinstance(value, float) and 0 <= value <= 1 for value in pixels)  # R1
        return len(answer[key]) == number and floats and len(pixels) % number == 0

    return holds


def _status(answer: Any) -> bool:
    entries = answer["model_version_status"]
    numbers = [int(entry["version"]) for entry in entries]
    ok = {"error_code": "OK", "error_message": ""}
    available = [entry for entry in entries if entry["state"] == "AVAILABLE"]
    good = all(isinstance(e["version"], str) and e["status"] == ok for e in available)
    return numbers == sorted(numbers, reverse=True) and good


def _metadata(answer: Any) -> bool:
    png = answer["metadata"]["signature_def"]["signature_def"]["png"]
    seed = png["inputs"]["seed"]
    return (
        answer["model_spec"]["version"].isdigit()
        and seed["dtype"] == "DT_INT32"
        and seed["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}]
        and png["method_name"] == "tensorflow/serving/predict"
    )


def _of_paths(model: str, base: str, good: bytes) -> list[Case]:
    malformed = [
        ("U7", "GET", f"{base}:predict"), ("U7", "POST", f"{base}/metadata"), ("U7", "POST", base),
        ("U7", "POST", "/v1/foo"), ("U7", "GET", "/v1/foo"), ("U7", "GET", "/v1/models/a/b"),
        ("U8", "POST", f"{base}/versions/abc:predict"), ("U8", "POST", f"{base}/version/1:predict"),
        ("U8", "POST", f"{base}/label/x:predict"),
        ("U8", "POST", f"{base}/versions/1/labels/x:predict"),
        ("U11", "PUT", base), ("U11", "DELETE", base), ("U11", "PATCH", base),
        ("U13", "POST", f"{base}:predict?x=1"), ("U13", "GET", f"{base}/"),
    ]  # fmt: skip
    encoded = f"/v1/models/%{ord(model[0]):x}{model[1:]}"
    bodies = {"POST": good, "PUT": b"{}", "PATCH": b"{}"}
    origin, zipped = (("Origin", "http://localhost"),), (("Content-Encoding", "gzip"),)
    return [
        Case(f"{name} {method} {path}", method, path, bodies.get(method), 400,
             f"Malformed request: {method} {path}")
        for name, method, path in malformed
    ] + [
        Case("U1 predict", "POST", f"{base}:predict", good, 200, _pngs(1)),
        Case("U4 unknown label", "POST", f"{base}/labels/nope:predict", good, 400,
             "servable version label: nope"),
        Case("U5 unknown model", "POST", "/v1/models/nope:predict", good, 404,
             "Servable not found for request: Latest(nope)"),
        Case("U6 unknown version", "POST", f"{base}/versions/999999:predict", good, 404,
             f"Specific({model}, 999999)"),
        Case("U10 all models", "GET", "/v1/models", None, 400, "Missing model name in request."),
        Case("U11 HEAD", "HEAD", base, None, 400, None),
        Case("U12 outside", "GET", "/healthz", None, 404, None),
        Case("U15 case", "POST", f"/V1/MODELS/{model}:predict", good, 200, _pngs(1)),
        Case("U17 percent-encoded", "POST", f"{encoded}:predict", good, 200, _pngs(1)),
        Case("U18 version beyond int64", "POST", f"{base}/versions/{2**64 - 1}:regress", good, 400,
             "Failed to convert version"),
        Case("U16 gzip", "POST", f"{base}:predict", gzip.compress(good), 200, _pngs(1), zipped),
        Case("CORS preflight", "OPTIONS", f"{base}:predict", None, 200, None, origin),
        Case("CORS without origin", "OPTIONS", f"{base}:predict", None, 400, None),
        Case("S1 status", "GET", base, None, 200, _status),
        Case("S3 unknown model", "GET", "/v1/models/nope", None, 404,
             "Could not find any versions of model nope"),
        Case("S4 unknown version", "GET", f"{base}/versions/999999", None, 404,
             f"Could not find version 999999 of model {model}"),
        Case("S6 metadata", "GET", f"{base}/metadata", None, 200, _metadata),
        Case("S7 metadata of an unknown model", "GET", "/v1/models/nope/metadata", None, 404,
             "Servable not found for request"),
    ]  # fmt: skip


# Below: name, body of a predict request, status, expected answer.


def _of_malformed_requests(label: dict) -> list[tuple]:
    png, row = {"signature_name": "png"}, {"seed": 1} | label
    found = [
        ("P7 unknown signature", {"signature_name": "nosuch", "instances": [row]},
         'Serving signature name: "nosuch" not found in signature def'),
        ("P8 signature of a wrong type", {"signature_name": 100, "instances": [row]},
         "'signature_name' key must be a string value."),
        ("P9 empty", b"", "JSON Parse error: The document is empty"),
        ("P10 not JSON", b"instances = [1]", "JSON Parse error: Invalid value"),
        ("P10 offset", b"instances = [1]", "at offset:"),
        ("P10 truncated", b'{"instances": [{"se', "JSON Parse error"),
        ("P11 a list", [1, 2], "Is not object"),
        ("P12 nothing", {}, "Missing 'inputs' or 'instances' key"),
        ("P13 both", png | {"instances": [row], "inputs": {}}, "expecting only one of"),
        ("P14 no list", png | {"instances": 5}, "'instances' to be an list/array"),
        ("P15 no rows", png | {"instances": []}, "No values in 'instances' array"),
        ("P18 a missing key", png | {"instances": [row, {}]}, "keys must be equal to: "),
        ("P19 an extra key", png | {"instances": [row | {"foo": 1}]}, "not have named input: foo"),
        ("P20 a missing column", png | {"inputs": {"foo": [1]}}, "Missing named input: "),
        ("P21 a list and an object", png | {"instances": [row, [1]]}, "Expecting object"),
    ]  # fmt: skip
    if label:
        found += [
            ("P16 a plain list", png | {"instances": [[1, 2]]},
             "instances is a plain list, but expecting list of objects"),
            ("P17 plain inputs", png | {"inputs": [1, 2]},
             "inputs is a plain value/list, but expecting an object"),
        ]  # fmt: skip
    return [(name, body, 400, expected) for name, body, expected in found]


def _of_values(width: int, label: dict) -> list[tuple]:
    good, kind = [0.5] * width, "is not of expected type: "
    of_latents = [
        ("P21 ragged rows", [good, [3.0]], f"Expecting tensor size: {width} but got: 1"),
        ("P21 ragged row", [[good, good[:-1]]], "Encountered list at unexpected size"),
        ("P23 a string", [["1.0", *good[1:]]], kind + "float"),
        ("P23 a boolean", [[True, *good[1:]]], kind + "float"),
        ("P26 null", [[None, *good[1:]]], "Type: Null " + kind),
        ("P27 a wrong width", [good[:-1]], ""),
        ("R4 base64 for a number", [[{"b64": "AAAA"}, *good[1:]]], kind),
    ]
    of_seeds = [
        ("P21 a list for a value", [1, [1]], "Expecting shape [] but got: [1]"),
        ("P24 3.0 for an integer", [3.0], kind + "int32"),
        ("P24 true for an integer", [True], kind + "int32"),
        ("P25 beyond int32", [2**31], kind + "int32"),
        ("P25 a huge integer", [10**40], kind + "int32"),
        ("P26 null for an integer", [None], "Type: Null " + kind),
    ]
    found = [
        (name, {"instances": [{"latents": value} | label for value in values]}, 400, expected)
        for name, values, expected in of_latents
    ] + [(name, _png(label, *values), 400, expected) for name, values, expected in of_seeds]
    for value in (-1, CLASSES) if label else ():
        wrong = _png({"labels": value})
        found.append((f"P27 label {value}", wrong, 400, "expected 0..9; received"))
    return found


def _of_answers(width: int, label: dict) -> list[tuple]:
    rows = [{"latents": [0.1 * i] * width} | label for i in range(3)]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    seeds = {"seed": [1, 2]} | {name: [value] * 2 for name, value in label.items()}

    def same_seed_same_image(answer: Any) -> bool:
        first, second, third = answer["predictions"]
        return first == third != second

    found = [
        ("P5 rows", {"instances": rows}, _images("predictions", 3)),
        ("P4 columns", {"inputs": columns}, _images("outputs", 3)),
        ("P4 an extra column", {"inputs": columns | {"foo": 1}}, _images("outputs", 3)),
        ("P6 sample", _png(label, 7, 8) | {"signature_name": "sample"}, _images("predictions", 2)),
        (
            "P22 rounded or infinite",
            {"instances": [rows[0] | {"latents": [2**24 + 1] * width}]},
            _images("predictions", 1),
        ),
        ("R5 png", _png(label, *range(12)), _pngs(12)),
        ("R5 png columns", {"signature_name": "png", "inputs": seeds}, _pngs(2, "outputs")),
        ("same seed, same image", _png(label, 7, 8, 7), same_seed_same_image),
    ]
    good = _json(_png(label))
    found += [
        ("R2 NaN in an unused key", b'{"note": [NaN, Infinity, -Infinity],' + good[1:], _pngs(1)),
        ("R3 byte order mark", b"\xef\xbb\xbf" + good, _pngs(1)),
    ]
    if not label:
        plain = {"signature_name": "png", "instances": [1, 2]}
        found.append(("P1 plain rows", plain, _pngs(2)))
        plain = {"signature_name": "png", "inputs": [1, 2]}
        found.append(("P3 plain columns", plain, _pngs(2, "outputs")))
    return [(name, body, 200, expected) for name, body, expected in found]


def main() -> int:
    """Runs all cases; the exit status is 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", default="http://localhost:8501", help="(default: %(default)s)")
    parser.add_argument("--model", default="cdcgan", help="(default: %(default)s)")
    arguments = parser.parse_args()
    url, failed = arguments.url.rstrip("/"), 0
    listed = cases(arguments.model, signatures(url, arguments.model))
    for case in listed:
        wrong = fault(url, case)
        failed += wrong is not None
        print(f"{'FAIL' if wrong else 'pass'}  {case.name}{f': {wrong}' if wrong else ''}")
    print(f"{len(listed) - failed} of {len(listed)} cases pass")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
