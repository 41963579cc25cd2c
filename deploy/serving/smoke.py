"""Asks a server what it must be able to answer: TensorFlow Serving's REST contract, case by case.

    python deploy/serving/smoke.py --url http://localhost:8501 --model cdcgan

It needs nothing but Python, and takes any server that serves an export of this project: the
official image, or `python -m tfgan_mnist.serve`, whose tests run these same cases. Messages are
looked for as parts of the error's text, since node names and positions vary between releases.
"""

import argparse
import base64
import gzip
import http.client
import json
import random
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple

TIMEOUT_SECONDS = 60
CLASSES = 10


class Case(NamedTuple):
    """A request and what is expected of its answer."""

    name: str
    method: str
    path: str
    body: bytes | None
    status: int
    expected: str | Callable[[Any], bool] | None  # in the error's text, or of the JSON that came
    headers: tuple[tuple[str, str], ...] = ()


def ask(url: str, case: Case) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (lower case) and body of the answer."""
    headers = {"Content-Type": "application/json"} | dict(case.headers)
    request = urllib.request.Request(
        url + case.path, data=case.body, headers=headers, method=case.method
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            return answer.status, _lowered(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _lowered(error.headers), error.read()


def _lowered(headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def fault(url: str, case: Case) -> str | None:
    """What is wrong with the answer to a case; None when it is right."""
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
        except Exception as error:  # of another form than the one that is looked into
            return f"not the expected answer ({error!r}): {shown}"
    message = document.get("error") if isinstance(document, dict) else None
    if not isinstance(message, str) or len(document) > 1 or case.expected not in message:
        return f"expected an error with {case.expected!r}; received {shown}"
    return None


def signatures(url: str, model: str) -> dict[str, Any]:
    """Signature name -> its inputs and outputs, as the server's metadata has them."""
    status, _, body = ask(url, Case("", "GET", f"/v1/models/{model}/metadata", None, 200, None))
    if status != 200:
        sys.exit(f"{url} does not serve {model}: {body.decode(errors='replace')}")
    return json.loads(body)["metadata"]["signature_def"]["signature_def"]


def cases(model: str, described: dict[str, Any]) -> list[Case]:
    """The cases that hold for an export with these signatures."""
    latents = described["serving_default"]["inputs"]["latents"]
    width = int(latents["tensor_shape"]["dim"][1]["size"])
    conditional = "labels" in described["serving_default"]["inputs"]
    return (
        _of_paths(model, conditional)
        + _of_malformed_requests(model, conditional)
        + _of_values(model, width, conditional)
        + _of_answers(model, width, conditional)
        + _of_descriptions(model)
    )


def _rows(seeds, conditional: bool) -> list[dict[str, int]]:
    labels = [{"labels": seed % CLASSES} if conditional else {} for seed in seeds]
    return [{"seed": seed} | label for seed, label in zip(seeds, labels)]


def _columns(seeds, conditional: bool) -> dict[str, list[int]]:
    rows = _rows(seeds, conditional)
    return {name: [row[name] for row in rows] for name in rows[0]}


def _png(seeds, conditional: bool) -> dict[str, Any]:
    return {"signature_name": "png", "instances": _rows(seeds, conditional)}


def _post(model: str, name: str, body: Any, status: int, expected, path: str = "") -> Case:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Case(name, "POST", path or f"/v1/models/{model}:predict", content, status, expected)


def _is_png(value: Any) -> bool:
    return set(value) == {"b64"} and base64.b64decode(value["b64"]).startswith(b"\x89PNG\r\n")


def _pngs(number: int) -> Callable[[Any], bool]:
    def holds(answer: Any) -> bool:
        rows = answer["predictions"]
        return set(answer) == {"predictions"} and len(rows) == number and all(map(_is_png, rows))

    return holds


def _of_paths(model: str, conditional: bool) -> list[Case]:
    good = json.dumps(_png([1], conditional)).encode()
    base = f"/v1/models/{model}"

    def malformed(name, method, path, body=None):
        return Case(name, method, path, body, 400, f"Malformed request: {method} {path}")

    return [
        Case("U1 predict", "POST", f"{base}:predict", good, 200, _pngs(1)),
        _post(model, "U4 unknown label", good, 400, "servable version label: nope",
              f"{base}/labels/nope:predict"),
        _post(model, "U5 unknown model", good, 404, "Servable not found for request: Latest(nope)",
              "/v1/models/nope:predict"),
        _post(model, "U6 unknown version", good, 404, f"Specific({model}, 999999)",
              f"{base}/versions/999999:predict"),
        malformed("U7 GET predict", "GET", f"{base}:predict"),
        malformed("U7 POST metadata", "POST", f"{base}/metadata", b"{}"),
        malformed("U7 POST model", "POST", base, b"{}"),
        malformed("U7 POST foo", "POST", "/v1/foo", b"{}"),
        malformed("U7 GET foo", "GET", "/v1/foo"),
        malformed("U7 GET too deep", "GET", "/v1/models/a/b"),
        malformed("U8 version abc", "POST", f"{base}/versions/abc:predict", good),
        malformed("U8 version", "POST", f"{base}/version/1:predict", good),
        malformed("U8 label", "POST", f"{base}/label/x:predict", good),
        malformed("U8 version and label", "POST", f"{base}/versions/1/labels/x:predict", good),
        Case("U10 all models", "GET", "/v1/models", None, 400, "Missing model name in request."),
        malformed("U11 PUT", "PUT", base, b"{}"),
        malformed("U11 DELETE", "DELETE", base),
        malformed("U11 PATCH", "PATCH", base, b"{}"),
        Case("U11 HEAD", "HEAD", base, None, 400, None),
        Case("U12 outside", "GET", "/healthz", None, 404, None),
        malformed("U13 query", "POST", f"{base}:predict?x=1", good),
        malformed("U13 trailing slash", "GET", f"{base}/"),
        Case("U15 case", "POST", f"/V1/MODELS/{model}:predict", good, 200, _pngs(1)),
        Case("U16 gzip", "POST", f"{base}:predict", gzip.compress(good), 200, _pngs(1),
             (("Content-Encoding", "gzip"),)),
        Case("CORS preflight", "OPTIONS", f"{base}:predict", None, 200, None,
             (("Origin", "http://localhost"),)),
        Case("CORS without origin", "OPTIONS", f"{base}:predict", None, 400, None),
    ]  # fmt: skip


def _of_malformed_requests(model: str, conditional: bool) -> list[Case]:
    rows = _rows([1, 2], conditional)

    def refused(name, body, expected):
        return _post(model, name, body, 400, expected)

    def png(**body):
        return {"signature_name": "png"} | body

    return [
        refused("P7 unknown signature", {"signature_name": "nosuch", "instances": rows},
                'Serving signature name: "nosuch" not found in signature def'),
        refused("P8 signature of a wrong type", {"signature_name": 100, "instances": rows},
                "'signature_name' key must be a string value."),
        refused("P9 empty", b"", "JSON Parse error: The document is empty"),
        refused("P10 not JSON", b"instances = [1]", "JSON Parse error: Invalid value"),
        refused("P10 offset", b"instances = [1]", "at offset:"),
        refused("P10 truncated", b'{"instances": [{"se', "JSON Parse error"),
        refused("P11 a list", [1, 2], "Is not object"),
        refused("P12 nothing", {}, "Missing 'inputs' or 'instances' key"),
        refused("P13 both", png(instances=rows, inputs={}), "expecting only one of"),
        refused("P14 no list", png(instances=5), "'instances' to be an list/array"),
        refused("P15 no rows", png(instances=[]), "No values in 'instances' array"),
        refused("P18 a key lacks", png(instances=[rows[0], {}]), "keys must be equal to: "),
        refused("P19 a key too many", png(instances=[rows[0] | {"foo": 1}]),
                "does not have named input: foo"),
        refused("P20 a column lacks", png(inputs={"foo": [1]}), "Missing named input: "),
        refused("P21 a list and an object", png(instances=[rows[0], [1]]), "Expecting object"),
    ] + [
        refused("P16 a plain list", png(instances=[[1, 2]]),
                "instances is a plain list, but expecting list of objects"),
        refused("P17 plain inputs", png(inputs=[1, 2]),
                "inputs is a plain value/list, but expecting an object"),
    ] * conditional  # fmt: skip


def _of_values(model: str, width: int, conditional: bool) -> list[Case]:
    label = {"labels": 3} if conditional else {}
    draws = random.Random(0)
    good = [round(draws.gauss(0, 1), 6) for _ in range(width)]

    def latents(name, row, expected):
        body = {"instances": [{"latents": row} | label]}
        return _post(model, name, body, 400, expected)

    def seed(name, value, expected):
        body = {"signature_name": "sample", "instances": [{"seed": value} | label]}
        return _post(model, name, body, 400, expected)

    found = [
        _post(model, "P21 ragged rows",
              {"instances": [{"latents": good} | label, {"latents": [3.0]} | label]},
              400, f"Expecting tensor size: {width} but got: 1"),
        _post(model, "P21 a list for a value",
              {"signature_name": "png", "instances": [{"seed": 1} | label, {"seed": [1]} | label]},
              400, "Expecting shape [] but got: [1]"),
        latents("P21 ragged row", [good, good[:-1]], "Encountered list at unexpected size"),
        latents("P23 a string", ["1.0", *good[1:]], "is not of expected type: float"),
        latents("P23 a boolean", [True, *good[1:]], "is not of expected type: float"),
        latents("P26 null", [None, *good[1:]], "Type: Null is not of expected type"),
        latents("P27 a wrong width", good[:-1], ""),
        latents("R4 base64 for a number", [{"b64": "AAAA"}, *good[1:]], "is not of expected type"),
        seed("P24 3.0 for an integer", 3.0, "is not of expected type: int32"),
        seed("P24 true for an integer", True, "is not of expected type: int32"),
        seed("P25 beyond int32", 2**31, "is not of expected type: int32"),
        seed("P25 a huge integer", 10**40, "is not of expected type: int32"),
        seed("P26 null for an integer", None, "Type: Null is not of expected type"),
    ]  # fmt: skip
    if conditional:
        for value in (-1, CLASSES):
            body = {"signature_name": "png", "instances": [{"seed": 1, "labels": value}]}
            found.append(_post(model, f"P27 label {value}", body, 400, "expected 0..9; received"))
    return found


def _of_answers(model: str, width: int, conditional: bool) -> list[Case]:
    draws = random.Random(1)
    rows = [
        {"latents": [round(draws.gauss(0, 1), 6) for _ in range(width)]}
        | ({"labels": i} if conditional else {})
        for i in range(3)
    ]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    seeds = [7, 8, 7]

    def images(key: str, number: int) -> Callable[[Any], bool]:
        def holds(answer: Any) -> bool:
            values = [
                value for image in answer[key] for row in image for pixel in row for value in pixel
            ]
            # R1: a float has a point or an exponent, so that it is read as one.
            floats = all(isinstance(value, float) and 0 <= value <= 1 for value in values)
            return len(answer[key]) == number and floats and len(values) % number == 0

        return holds

    def same_seed_same_image(answer: Any) -> bool:
        first, second, third = answer["predictions"]
        return first == third != second

    # A conditional model is asked for the same digit, as the label is part of what is drawn.
    alike = [{"seed": seed} | ({"labels": 3} if conditional else {}) for seed in seeds]
    found = [
        _post(model, "P5 rows", {"instances": rows}, 200, images("predictions", 3)),
        _post(model, "P4 columns", {"inputs": columns}, 200, images("outputs", 3)),
        _post(model, "P4 an extra column", {"inputs": columns | {"foo": 1}}, 200,
              images("outputs", 3)),
        _post(model, "P6 sample", {"signature_name": "sample", "instances": alike}, 200,
              images("predictions", 3)),
        _post(model, "R5 png", _png(range(12), conditional), 200, _pngs(12)),
        _post(model, "R5 png columns",
              {"signature_name": "png", "inputs": _columns([1, 2], conditional)}, 200,
              lambda answer: all(map(_is_png, answer["outputs"]))),
        _post(model, "same seed, same image", {"signature_name": "png", "instances": alike}, 200,
              same_seed_same_image),
    ]  # fmt: skip
    if not conditional:
        found += [
            _post(model, "P1 plain rows", {"signature_name": "png", "instances": [1, 2]}, 200,
                  _pngs(2)),
            _post(model, "P3 plain columns", {"signature_name": "png", "inputs": [1, 2]}, 200,
                  lambda answer: len(answer["outputs"]) == 2),
        ]  # fmt: skip
    return found


def _of_descriptions(model: str) -> list[Case]:
    def status(answer: Any) -> bool:
        entries = answer["model_version_status"]
        numbers = [int(entry["version"]) for entry in entries]
        available = [entry for entry in entries if entry["state"] == "AVAILABLE"]
        ok = {"error_code": "OK", "error_message": ""}
        return numbers == sorted(numbers, reverse=True) and all(
            isinstance(entry["version"], str) and entry["status"] == ok for entry in available
        )

    def metadata(answer: Any) -> bool:
        described = answer["metadata"]["signature_def"]["signature_def"]
        seed = described["png"]["inputs"]["seed"]
        return (
            answer["model_spec"]["name"] == model
            and re.fullmatch(r"\d+", answer["model_spec"]["version"]) is not None
            and seed["dtype"] == "DT_INT32"
            and seed["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}]
            and described["png"]["method_name"] == "tensorflow/serving/predict"
        )

    base = f"/v1/models/{model}"
    return [
        Case("S1 status", "GET", base, None, 200, status),
        Case("S3 unknown model", "GET", "/v1/models/nope", None, 404,
             "Could not find any versions of model nope"),
        Case("S4 unknown version", "GET", f"{base}/versions/999999", None, 404,
             f"Could not find version 999999 of model {model}"),
        Case("S6 metadata", "GET", f"{base}/metadata", None, 200, metadata),
        Case("S7 metadata of an unknown model", "GET", "/v1/models/nope/metadata", None, 404,
             "Servable not found for request"),
    ]  # fmt: skip


def main() -> int:
    """Runs all cases; the exit status is 1 when one fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", default="http://localhost:8501", help="(default: %(default)s)")
    parser.add_argument("--model", default="cdcgan", help="(default: %(default)s)")
    arguments = parser.parse_args()
    url = arguments.url.rstrip("/")
    failed = 0
    listed = cases(arguments.model, signatures(url, arguments.model))
    for case in listed:
        wrong = fault(url, case)
        failed += wrong is not None
        print(f"{'FAIL' if wrong else 'pass'}  {case.name}{f': {wrong}' if wrong else ''}")
    print(f"{len(listed) - failed} of {len(listed)} cases pass")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
