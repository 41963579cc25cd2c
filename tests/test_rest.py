"""TensorFlow Serving's REST contract, asked of the embedded server over its socket."""

import contextlib
import gzip
import json
import socket
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
from serving import (
    BODY,
    HEAD,
    TYPES,
    ask,
    eventually,
    exchange,
    port_of,
    predict,
    save_half_plus,
    smoke,
    start,
    start_with_models,
)

from benchmarks.malformed import read_answer
from tfgan_mnist.exports import page, session
from tfgan_mnist.exports.request_errors import RequestError
from tfgan_mnist.serving import json_answer, json_reader
from tfgan_mnist.serving.metrics import METRICS_PATH

JAVASCRIPT = ("text/javascript", "application/javascript")
T = "T%20x"  # a model's name as paths have it


@pytest.fixture(scope="module")
def server(exports, tmp_path_factory):
    with start_with_models(tmp_path_factory.mktemp("models"), exports) as running:
        yield running


@pytest.mark.parametrize("model", ["gan", "dcgan", "cdcgan"])
def test_the_contract(server, model):
    listed = smoke.cases(model, smoke.signatures(server.rest_url, model))
    assert len(listed) > 75
    faults = {case.name: smoke.fault(server.rest_url, case) for case in listed}
    assert {name: fault for name, fault in faults.items() if fault} == {}


def test_the_smoke_command_fails_where_the_contract_is_broken(server, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["smoke", "--url", server.rest_url, "--model", "gan"])
    broken = smoke.Case("broken", "GET", "/v1/models/gan", None, 200, "no error")
    other = broken._replace(name="other", expected=lambda answer: answer["predictions"])
    monkeypatch.setattr(smoke, "cases", lambda *_: [broken, other])
    assert smoke.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(";")[0].partition(": {")[0] for line in lines] == [
        "FAIL  broken: expected an error with 'no error'",
        "FAIL  other: not the expected answer (KeyError('predictions'))",
        "0 of 2 cases pass",
    ]


# Values


@pytest.mark.parametrize("rank", range(4))
@pytest.mark.parametrize("dtype", TYPES)
def test_tensors_of_all_types_and_ranks(server, dtype, rank):
    shape = [(), (4,), (2, 2), (1, 2, 2)][rank]
    values = np.array(TYPES[dtype], object)[: np.prod(shape, dtype=int)].reshape(shape)
    request = {"signature_name": dtype, "inputs": values.tolist()}
    assert predict(server, T, request) == (200, {"outputs": values.tolist()})
    if rank:
        request = {"signature_name": dtype, "instances": values.tolist()}
        assert predict(server, T, request) == (200, {"predictions": values.tolist()})


DEEP = b"[" * 9000 + b"]" * 9000
ANSWERS = [
    ("H", {"instances": [1.0, 2.0, 5.0]}, {"predictions": [2.5, 3.0, 4.5]}),
    ("H", {"instances": [[1, 2], [3, 4]]}, {"predictions": [[2.5, 3.0], [3.5, 4.0]]}),
    ("H", {"instances": [{"x": 1.0}]}, {"predictions": [2.5]}),
    ("H", {"inputs": {"x": [3.0]}}, {"outputs": [3.5]}),
    # Rounded, or infinite.
    ("H", {"instances": [2**24 + 1, 1e39]}, {"predictions": [8388610.0, np.inf]}),
    ("H", {"instances": [2**64, 10**30]}, {"predictions": [9.223372e18, 5e29]}),
    # Beyond JSON, as TensorFlow Serving's reader takes it.
    ("H", b'{"inputs": [Inf, -Inf, Infinity, -Infinity]}', {"outputs": [np.inf, -np.inf] * 2}),
    ("H", b'{"inputs": [NaN, -NaN], "note": "Inf \\" NaN"}', {"outputs": [np.nan] * 2}),
    ("H", b'\xef\xbb\xbf{"inputs": [1]}', {"outputs": [2.5]}),
    ("H", b'{"inputs": [1]} and more', {"outputs": [2.5]}),
    ("H", b'{"inputs": [1], "inputs": [2]}', {"outputs": [2.5]}),
    ("H", b'{"instances": [{"x": 1, "x": 2}]}', {"predictions": [2.5]}),
    ("H", b'{"inputs": {"x": 1, "x": 2}}', {"outputs": 2.5}),
    ("H", b'{"note": %b, "inputs": [1]}' % DEEP, {"outputs": [2.5]}),
    ("H", b'{"note": "\xff", "inputs": [1]}', {"outputs": [2.5]}),
    (T, b'{"signature_name": "text", "instances": ["\xff\xc3\xa9"]}',
     {"predictions": [{"s": "\ufffdé", "s_bytes": {"b64": "/8Op"}}]}),
    # Base64: whole, without padding, with line ends.
    (T, {"signature_name": "text", "inputs": ["a", {"b64": "aGVsbG8="}]},
     {"outputs": {"s": ["a", "hello"], "s_bytes": [{"b64": "YQ=="}, {"b64": "aGVsbG8="}]}}),
    (T, {"signature_name": "string", "inputs": [{"b64": "aGVsbG8"}, {"b64": "aGVs\r\n bG8="}]},
     {"outputs": ["hello", "hello"]}),
    (T, {"signature_name": "string", "inputs": {"b64": "aGVsbG8="}}, {"outputs": "hello"}),
    (T, {"signature_name": "total", "inputs": [1, 2]}, {"outputs": 3.0}),
    (T, {"signature_name": "total", "inputs": []}, {"outputs": 0.0}),
]  # fmt: skip


@pytest.mark.parametrize(("model", "request_body", "answer"), ANSWERS)
def test_answers(server, model, request_body, answer):
    status, received = predict(server, model, request_body)
    assert status == 200, received
    np.testing.assert_equal(received, answer)


REFUSALS = [
    ("H", {"instances": [1.0, [1.0]]}, 400, "Expecting shape [] but got: [1]"),
    ("H", {"instances": [[1.0], [1.0, 2.0]]}, 400, "Expecting tensor size: 1 but got: 2"),
    ("H", {"instances": [[[1.0], [1.0, 2.0]]]}, 400, "Encountered list at unexpected size: 2"),
    ("H", {"instances": [1.0, {"x": 1.0}]}, 400, "Expecting value/list but got object at item 1"),
    ("H", {"instances": [{"x": 1.0}, 1.0]}, 400, "Expecting object but got list at item 1"),
    ("H", b'{"instances": [%b]}' % (b"9" * 400), 400, "Number too big to be stored in double"),
    ("H", b'{"instances": [NaN, %b]}' % (b"9" * 5000), 400, "Number too big"),
    ("H", b'{"instances": [1e400]}', 400, "Number too big"),
    ("H", b'{"instances": %b}' % DEEP, 400, "unexpected level"),
    ("H", b'{"instances": [NaN, %b]}' % DEEP, 400, "unexpected level: 32"),
    ("H", b'{"instances": [NaN, ]}', 400, "JSON Parse error: Invalid value. at offset:"),
    ("H", b'{"instances": [NaN}', 400, "at offset: 18"),
    ("H", b'{"instances": [NaN], 5}', 400, "at offset: 20"),
    ("H", b'{"note": ["' + b"x" * 5000 + b'"], "instances": 5}', 400, "Expecting 'instances' to"),
    ("H", b'{"note": "\\ux", "instances": [NaN]}', 400, "Invalid escape"),
    ("H", {"instances": ["x" * 5000]}, 400, "xxx... Type: String is not of expected type: float"),
    ("H", {"instances": [1.0] * 300}, 400, "Task size 300 is larger than maximum input batch"),
    ("H", {"inputs": [1.0] * 300}, 400, "Task size 300 is larger than maximum input batch"),
    ("H", {"signature_name": "__saved_model_init_op", "inputs": {}}, 400, "Failed to get input"),
    (T, {"instances": [1]}, 400, '"serving_default" not found in signature def'),
    (T, b'{"signature_name": "string", "inputs": ["\\ud800"], "note": NaN}', 400, "Unicode"),
    (T, b'{"signature_name": "\\ud800", "inputs": [NaN]}', 400, "not found in signature def"),
    (T, {"signature_name": "text", "inputs": [1]}, 400, "is not of expected type: string"),
    (T, {"signature_name": "text", "inputs": [{"b64": 1}]}, 400, "formatted correctly for base64"),
    *((T, {"signature_name": "text", "inputs": [{"b64": wrong}]}, 400, "Unable to base64 decode")
      for wrong in ("?", "a", "aGVsbG8==", "aG=VsbG8", "é")),
    *((T, {"signature_name": dtype, "inputs": value}, 400, f"is not of expected type: {dtype}")
      for dtype in ("int8", "int16", "int32", "int64", "uint8", "uint32", "uint64")
      for value in (1.0, True, "1", None, 2**65, -(2**65))),
    (T, {"signature_name": "half_in", "inputs": [1.0]}, 501, "to type: half"),
    (T, {"signature_name": "half_in", "instances": [1.0]}, 400, "to type: half"),
    (T, {"signature_name": "half_out", "instances": [1.0]}, 400, "for tensor type: half"),
    (T, {"signature_name": "uint16", "inputs": [1]}, 501, "to type: uint16"),
    (T, {"signature_name": "total", "instances": [1.0]}, 400,
     "Tensor name: total has no shape information"),
    (T, {"signature_name": "total", "inputs": [[1.0]]}, 400, "x: expected shape [-1]; received"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "request_body", "status", "message"), REFUSALS)
def test_refusals(server, model, request_body, status, message):
    received, answer = predict(server, model, request_body)
    assert (received, list(answer)) == (status, ["error"])
    assert message in answer["error"]
    assert len(answer["error"]) < 1500


def test_floats_are_those_of_the_model():
    values = np.array([3, 0, 0.1, 1 / 3, 9e6, 3e-5, 16777215, 1e-38, 3e38, -0.0], np.float32)
    text = json_answer.answer({"y": values}, rows=False).decode()
    assert np.array_equal(np.array(json.loads(text)["outputs"], np.float32), values)
    assert all(isinstance(value, float) for value in json.loads(text)["outputs"])
    assert len(text) < 120
    with_nan = json_answer.answer({"y": np.append(values, np.float32("nan"))}, rows=False)
    assert json.loads(with_nan)["outputs"][3] == 0.33333334
    assert b"NaN" in with_nan


ODD = np.array([[1, np.nan], [-np.inf, np.inf]], np.float32)
NAMES = np.array([b"null", b"NaN"], object)


@pytest.mark.parametrize(
    ("outputs", "rows", "expected"),
    [
        ({"a": ODD}, True, {"predictions": ODD.tolist()}),
        ({"a": ODD[0, 1:].reshape(())}, False, {"outputs": np.nan}),
        ({"a": ODD.T, "names": NAMES}, False,
         {"outputs": {"a": ODD.T.tolist(), "names": ["null", "NaN"]}}),
        ({"a": ODD[:, 0], "names": NAMES}, True,
         {"predictions": [{"a": 1.0, "names": "null"}, {"a": -np.inf, "names": "NaN"}]}),
    ],
)  # fmt: skip
def test_numbers_that_json_does_not_have(outputs, rows, expected):
    np.testing.assert_equal(json.loads(json_answer.answer(outputs, rows)), expected)


def test_a_string_without_end_is_read_in_one_go():
    body = b'{"note": NaN, "s": "' + rb"\"" * (1 << 15)
    began = time.process_time()
    with pytest.raises(RequestError, match="JSON Parse error"):
        json_reader.parse(body)
    assert time.process_time() - began < 5  # once per quote would be a minute
    with pytest.raises(RequestError, match="not plain JSON, and larger than 1 MiB"):
        json_reader.parse(b"[NaN" + b",1" * (1 << 20))


# Paths


@pytest.mark.parametrize(
    ("method", "path", "status", "expected"),
    [
        ("POST", "/versions/1:predict", 200, '{"predictions":[1.5]}'),
        ("POST", "/versions/2:predict", 200, '{"predictions":[2.5]}'),
        ("POST", "/labels/stable:predict", 200, '{"predictions":[2.5]}'),
        ("POST", "/labels/a%20b:predict", 200, '{"predictions":[1.5]}'),
        ("POST", "/labels/a%2520b:predict", 400, "servable version label: a%20b"),
        ("GET", "/labels/stable", 200, '[{"version":"2",'),
        ("GET", "/versions/1", 200, '[{"version":"1",'),
        ("GET", f"/versions/{'0' * 5000}2", 200, '[{"version":"2",'),
        ("GET", f"/versions/{'0' * 5000}", 404, "Could not find version 0 of model H"),
        ("GET", "/labels/stable/metadata", 200, '"version":"2"'),
        ("GET", "/versions/1/metadata", 200, '"version":"1"'),
        ("GET", f"/versions/{'9' * 25}", 400, "Failed to convert version"),
        ("POST", "/versions/18446744073709551615:regress", 400, "Failed to convert version"),
        ("POST", ":regress", 501, "regress"),
        ("POST", ":PREDICT", 400, "Malformed request"),
    ],
)
def test_versions_and_labels(server, method, path, status, expected):
    body = {"instances": [1.0]} if method == "POST" else None
    received, _, content = ask(server, method, f"/v1/models/H{path}", body)
    assert (received, expected in content) == (status, True), content


def test_names_are_percent_decoded(server):
    status, _, content = ask(server, "GET", "/v1/models/%54%20x/metadata")
    assert (status, json.loads(content)["model_spec"]["name"]) == (200, "T x")
    assert "Latest(a/b)" in ask(server, "GET", "/v1/models/a%2Fb/metadata")[2]


def test_metadata(server):
    _, _, content = ask(server, "GET", "/v1/models/H/metadata")
    signatures = json.loads(content)["metadata"]["signature_def"]["signature_def"]
    assert "__saved_model_init_op" in signatures
    (x,) = signatures["serving_default"]["inputs"].values()
    assert x["dtype"] == "DT_FLOAT"
    assert x["tensor_shape"] == {"dim": [], "unknown_rank": True}
    assert signatures["serving_default"]["defaults"] == {}


def test_headers(server):
    status, headers, _ = ask(server, "POST", "/v1/models/H:predict", b"")
    assert status == 400
    assert headers["access-control-allow-origin"] == "*"
    assert headers["access-control-allow-methods"] == "POST, GET"
    assert headers["access-control-allow-headers"] == "Content-Type"
    for path in ("/", "/app.js", "/nope", METRICS_PATH):
        assert ask(server, "GET", path)[1]["x-content-type-options"] == "nosniff"


OWN = ["localhost:8501", "LOCALHOST", "127.0.0.1:8501", "[::1]:8501", socket.gethostname()]
OTHERS = ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[", ""]


@pytest.mark.parametrize(
    ("allowed", "accepted", "refused"),
    [
        ("", OWN, OTHERS),
        ("a.example,B.example", [*OWN, "a.example", "b.example:80"], OTHERS),
        ("*", OWN + OTHERS[:3], []),
    ],
)
def test_names_of_other_hosts_are_refused(tmp_path, allowed, accepted, refused):
    with start(model_base_path=str(tmp_path), allowed_hosts=allowed) as server:
        for host in accepted + refused:
            answer = exchange(server, f"GET /app.js HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert int(answer.split(b" ", 2)[1]) == (200 if host in accepted else 403), host


def test_metrics(server):
    def counts():
        _, headers, text = ask(server, "GET", METRICS_PATH)
        assert headers["content-type"] == "text/plain"
        return dict(line.rpartition(" ")[::2] for line in text.splitlines() if line[0] != "#")

    ok = ':tensorflow:serving:request_count{model_name="H",status="OK"}'
    refused = ':tensorflow:serving:request_count{model_name="H",status="INVALID_ARGUMENT"}'
    nobody = ':tensorflow:serving:request_count{model_name="",status="NOT_FOUND"}'
    latency = ':tensorflow:serving:request_latency_%s{model_name="H",API="Predict",'
    latency += 'entrypoint="REST"%s}'
    snapshots = []
    for unknown in ("nobody", "nobody-else"):
        predict(server, "H", {"instances": [1.0]})
        predict(server, "H", {})
        predict(server, unknown, {})
        snapshots.append(counts())
    before, after = snapshots
    assert [int(after[name]) - int(before[name]) for name in (ok, refused, nobody)] == [1, 1, 1]
    assert int(after[latency % ("count", "")]) - int(before[latency % ("count", "")]) == 2
    assert after[latency % ("bucket", ',le="+Inf"')] == after[latency % ("count", "")]
    assert float(after[latency % ("sum", "")]) > float(before[latency % ("sum", "")])
    status, _, text = ask(server, "GET", METRICS_PATH + "?x")
    assert (status, text.startswith("Unexpected path")) == (400, True)


def test_files_of_the_page(server, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "FOLDER", tmp_path / "page")
    assert ask(server, "GET", "/")[0] == 404
    (tmp_path / "page").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "page" / "index.html").write_text("<p>digits")
    (tmp_path / "page" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "page" / "app.js").write_text("0")
    status, headers, content = ask(server, "GET", "/")
    assert (status, content) == (200, "<p>digits")
    assert headers["content-type"] == "text/html"
    assert ask(server, "GET", "/app.js")[1]["content-type"] in JAVASCRIPT
    assert headers["cache-control"] == "no-cache"
    (tmp_path / "page" / "app.js").write_text("10")
    assert ask(server, "GET", "/app.js")[2] == "10"
    for path in ("/../secret", "/%2e%2e/secret", "/link", "/.", "//etc/passwd", "/%00", "/x" * 999):
        answer = exchange(server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 404"), path


# Limits


def test_connections_stay_open(server):
    with socket.create_connection(("127.0.0.1", port_of(server)), 20) as connection:
        for _ in range(3):
            connection.sendall(HEAD % len(BODY) + BODY)
            assert read_answer(connection).endswith(b"[2.5]}")


def test_sizes_are_bounded(server):
    for body, headers, status in [
        (b" " * (2 << 20), {}, 413),
        (gzip.compress(b" " * (2 << 20)), {"Content_Encoding": "gzip"}, 413),
        (gzip.compress(BODY)[:-3], {"Content_Encoding": "gzip"}, 400),
        (gzip.compress(BODY) + b"more", {"Content_Encoding": "gzip"}, 400),
    ]:
        received, _, content = ask(server, "POST", "/v1/models/H:predict", body, **headers)
        assert (received, list(json.loads(content))) == (status, ["error"])
    bomb = gzip.compress(b" " * (50 << 20))
    tracemalloc.start()
    ask(server, "POST", "/v1/models/H:predict", bomb, Content_Encoding="gzip")
    assert tracemalloc.get_traced_memory()[1] < 10 << 20  # at its peak
    tracemalloc.stop()
    answer = b""
    with contextlib.suppress(ConnectionResetError):  # the rest of the head is not read
        answer = exchange(server, b"GET /v1/models/H HTTP/1.1\r\nX: " + b"x" * 300_000)
    assert answer[:12] in (b"", b"HTTP/1.1 400")


def test_times_are_bounded(tmp_path, monkeypatch):
    (tmp_path / "H").mkdir()
    save_half_plus(tmp_path / "H" / "1", 1)
    goes_on, run = threading.Event(), session.SavedModel.run
    monkeypatch.setattr(session.SavedModel, "run", lambda *args: goes_on.wait(20) and run(*args))
    with start(model_base_path=str(tmp_path / "H"), rest_api_timeout_in_ms=300) as quick:
        answer = exchange(quick, HEAD % 100 + BODY)  # the rest of the body does not arrive
        assert answer.startswith(b"HTTP/1.1 408") and b'{"error":' in answer
        assert predict(quick, "H", {"instances": [1.0]})[0] == 504
        goes_on.set()
        eventually(lambda: predict(quick, "H", {"instances": [1.0]})[0] == 200)
