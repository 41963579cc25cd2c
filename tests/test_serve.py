"""The embedded server, asked as its users ask it: over its sockets."""

import base64
import contextlib
import gzip
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import urllib.error
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

from tfgan_mnist import cli, serve
from tfgan_mnist.errors import UserError
from tfgan_mnist.exports import session, warmup
from tfgan_mnist.exports import versions as versions_of
from tfgan_mnist.exports.request_errors import RequestError
from tfgan_mnist.serving import (
    batching,
    json_answer,
    json_request,
    page,
    settings,
    versions,
)
from tfgan_mnist.serving.settings import Bounds, ServerConfig

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy" / "serving"

spec = importlib.util.spec_from_file_location("smoke", DEPLOY / "smoke.py")
smoke = importlib.util.module_from_spec(spec)
sys.modules["smoke"] = smoke
spec.loader.exec_module(smoke)


# Models to ask, beside the exports


def save(folder, **signatures):
    """Publishes a SavedModel of these functions, which have input signatures."""
    module = tf.Module()
    module.scale = tf.Variable(0.5)  # so that there are variables to restore
    functions = {}
    for name, (function, *specs) in signatures.items():
        functions[name] = tf.function(function, input_signature=specs)
        setattr(module, name, functions[name])
    partial = folder.with_name(f".{folder.name}.partial")
    module.unused = tf.function(lambda: module.scale.read_value(), input_signature=[])
    tf.saved_model.save(module, str(partial), signatures=functions)
    partial.rename(folder)
    return folder


def tensor(dtype, name, shape=None):
    return tf.TensorSpec(shape, dtype, name=name)


def save_half_plus(folder, number):
    """y = x / 2 + number, for any shape."""
    variable = tf.Variable(0.5)

    def half(x):
        return {"y": x * variable + float(number)}

    module = tf.Module()
    module.variable = variable
    module.half = tf.function(half, input_signature=[tensor(tf.float32, "x")])
    partial = folder.with_name(f".{folder.name}.partial")
    tf.saved_model.save(module, str(partial), signatures={"serving_default": module.half})
    partial.rename(folder)
    return folder


def save_types(folder):
    """Signatures of types and shapes that the exports do not have."""

    def numbers(i8, i64, flag, wide):
        return {"i8": i8, "i64": i64, "flag": flag, "wide": wide}

    return save(
        folder,
        numbers=(
            numbers,
            tensor(tf.int8, "i8", [None]),
            tensor(tf.int64, "i64", [None]),
            tensor(tf.bool, "flag", [None]),
            tensor(tf.float64, "wide", [None]),
        ),
        text=(lambda s: {"s": s, "s_bytes": s}, tensor(tf.string, "s", [None])),
        half_in=(lambda h: {"y": tf.cast(h, tf.float32)}, tensor(tf.float16, "h", [None])),
        half_out=(lambda x: {"h": tf.cast(x, tf.float16)}, tensor(tf.float32, "x", [None])),
        total=(lambda x: {"total": tf.reduce_sum(x)}, tensor(tf.float32, "x", [None])),
        logarithm=(lambda x: {"y": tf.math.log(x)}, tensor(tf.float32, "x", [None])),
    )


@pytest.fixture(scope="module")
def base_path(tmp_path_factory):
    """The base path of H with the versions 1 and 2, and that of T."""
    root = tmp_path_factory.mktemp("models")
    (root / "H").mkdir()
    (root / "T").mkdir()
    save_half_plus(root / "H" / "1", 1)
    save_half_plus(root / "H" / "00000002", 2)
    save_types(root / "T" / "1")
    return root


@pytest.fixture(scope="module")
def server(base_path, exports):
    """A server of the exports, H and T, with CORS."""
    entries = [(name, exports / name, "") for name in ("gan", "dcgan", "cdcgan")]
    policy = "model_version_policy { all {} } version_labels { key: 'stable' value: 2 }"
    entries += [("H", base_path / "H", policy), ("T", base_path / "T", "")]
    config = base_path / "models.config"
    listed = [
        f"config {{ name: '{name}' base_path: '{path}' {more} }}" for name, path, more in entries
    ]
    config.write_text(f"model_config_list {{ {' '.join(listed)} }}")
    chosen = ServerConfig(
        model_config_file=str(config),
        rest_api_enable_cors_support=True,
        rest_api_timeout_in_ms=10_000,
        rest_api_max_body_bytes=1 << 20,
    )
    with start(chosen) as running:
        yield running


def start(chosen):
    ports = {"port": 0, "rest_api_port": 0, "file_system_poll_wait_seconds": 0.05}
    given = {name: getattr(chosen, name) for name in vars(chosen)}
    return serve.start(ServerConfig(**(given | ports)), free_ports=True)


def ask(server, method, path, body=None, **headers):
    """Status, headers and text of an answer."""
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    headers = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    case = smoke.Case("", method, path, body, 0, None, headers)
    status, received, content = smoke.ask(server.rest_url, case)
    return status, received, content.decode()


def predict(server, model, body):
    status, _, content = ask(server, "POST", f"/v1/models/{model}:predict", body)
    return status, json.loads(content)


def post(model, body, *headers, length=None):
    """The bytes of a request."""
    size = len(body) if length is None else length
    first = f"POST /v1/models/{model}:predict HTTP/1.1"
    lines = [first, "Host: localhost", f"Content-Length: {size}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def read_answer(connection):
    """Reads to the end that the head announces, or to that of the connection."""
    answer, end = bytearray(), None
    while end is None or len(answer) < end:
        received = connection.recv(1 << 20)
        if not received:
            break
        answer += received
        if end is None and (head := answer.find(b"\r\n\r\n")) >= 0:
            lengths = re.findall(rb"(?im)^content-length: *(\d+)", answer[:head])
            end = head + 4 + int(lengths[0]) if lengths else None
    return bytes(answer)


def exchange(server, content):
    """Sends bytes as they are; the answer up to the end of the connection or of its body."""
    port = int(server.rest_url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(content)
        return read_answer(connection)


def eventually(holds, seconds=20):
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.02)


# The contract


@pytest.mark.parametrize("model", ["gan", "dcgan", "cdcgan"])
def test_the_contract(server, model):
    listed = smoke.cases(model, smoke.signatures(server.rest_url, model))
    assert len(listed) > 60
    faults = {case.name: smoke.fault(server.rest_url, case) for case in listed}
    assert {name: fault for name, fault in faults.items() if fault} == {}


def test_the_smoke_command_fails_where_the_contract_is_broken(server, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["smoke", "--url", server.rest_url, "--model", "gan"])
    broken = smoke.Case("broken", "GET", "/v1/models/gan", None, 200, "no error")
    other = broken._replace(name="other", expected=lambda answer: answer["predictions"])
    monkeypatch.setattr(smoke, "cases", lambda *_: [broken, other])
    assert smoke.main() == 1
    *lines, summary = [
        line for line in capsys.readouterr().out.splitlines() if not line.startswith("pass")
    ]
    assert [line.partition(";")[0].partition(": {")[0] for line in lines] == [
        "FAIL  broken: expected an error with 'no error'",
        "FAIL  other: not the expected answer (KeyError('predictions'))",
    ]
    assert re.fullmatch(r"(\d+) of (\d+) cases pass", summary)


ANSWERS = [
    ("H", {"instances": [1.0, 2.0, 5.0]}, {"predictions": [2.5, 3.0, 4.5]}),
    ("H", {"instances": [[1, 2], [3, 4]]}, {"predictions": [[2.5, 3.0], [3.5, 4.0]]}),
    ("H", {"instances": [{"x": 1.0}]}, {"predictions": [2.5]}),
    ("H", {"inputs": [3.0, 4.0]}, {"outputs": [3.5, 4.0]}),
    ("H", {"inputs": {"x": [3.0]}}, {"outputs": [3.5]}),
    ("H", {"inputs": 3.0}, {"outputs": 3.5}),
    ("H", b'{"inputs": [Inf, -Infinity, NaN]}', {"outputs": [np.inf, -np.inf, np.nan]}),
    ("H", b'{"inputs": [Infinity], "note": "NaN \\" Inf"}', {"outputs": [np.inf]}),
    ("T", {"signature_name": "total", "inputs": [1, 2]}, {"outputs": 3.0}),
    ("T", {"signature_name": "text", "inputs": ["a", {"b64": "aGVsbG8="}]},
     {"outputs": {"s": ["a", "hello"], "s_bytes": [{"b64": "YQ=="}, {"b64": "aGVsbG8="}]}}),
    ("T", {"signature_name": "text", "instances": [{"b64": "aGVsbG8="}]},
     {"predictions": [{"s": "hello", "s_bytes": {"b64": "aGVsbG8="}}]}),
    ("T", {"signature_name": "numbers",
           "instances": [{"i8": 1, "i64": 2**40, "flag": True, "wide": 1e300}]},
     {"predictions": [{"i8": 1, "i64": 2**40, "flag": True, "wide": 1e300}]}),
    ("T", {"signature_name": "numbers",
           "inputs": {"i8": [-128], "i64": [1], "flag": [False], "wide": [0.1]}},
     {"outputs": {"i8": [-128], "i64": [1], "flag": [False], "wide": [0.1]}}),
    ("T", {"signature_name": "total", "inputs": []}, {"outputs": 0.0}),
    ("H", {"instances": [2**24 + 1, 1e39]}, {"predictions": [8388610.0, np.inf]}),
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
    ("H", b'{"instances": [%b]}' % (b"9" * 400), 400, ""),
    ("H", b'{"instances": [NaN, %b]}' % (b"9" * 400), 400, "too large for float"),
    ("H", b'{"instances": [NaN, %b]}' % (b"9" * 5000), 400, "JSON Parse error"),
    ("H", b'{"instances": ' + b"[" * 500 + b"]" * 500 + b"}", 400, "unexpected level"),
    ("H", b'{"instances": ' + b"[" * 9000 + b"]" * 9000 + b"}", 400, "JSON Parse error"),
    ("H", b'{"instances": [NaN, ' + b"[" * 9000 + b"]" * 9000 + b"]}", 400, "JSON Parse error"),
    ("H", b'{"instances": ["\xff"]}', 400, "JSON Parse error"),
    ("H", b'{"note": [1e400, [NaN]], "instances": 5}', 400, '"instances": 5} Expecting'),
    ("H", {"note": ["x" * 5000], "instances": 5}, 400, "Expecting 'instances' to be"),
    ("T", b'{"signature_name": "text", "inputs": ["\\ud800"], "note": NaN}', 400, "Unicode"),
    ("T", b'{"signature_name": "\\ud800", "inputs": [NaN]}', 400, "not found in signature def"),
    ("H", {"instances": ["x" * 5000]}, 400, 'xxx... Type: String is not of expected type: float'),
    ("H", {"instances": [1.0] * 300}, 400, "Task size 300 is larger than maximum input batch"),
    ("H", {"signature_name": "__saved_model_init_op", "inputs": {}}, 400, "Failed to get input"),
    ("T", {"instances": [1]}, 400, '"serving_default" not found in signature def'),
    ("T", {"signature_name": "text", "inputs": [{"b64": "?"}]}, 400, "Unable to base64 decode"),
    ("T", {"signature_name": "text", "inputs": [{"b64": 1}]}, 400,
     "not formatted correctly for base64 data"),
    ("T", {"signature_name": "text", "inputs": [1]}, 400, "is not of expected type: string"),
    ("T", {"signature_name": "half_in", "inputs": [1.0]}, 501, "to type: half"),
    ("T", {"signature_name": "half_in", "instances": [1.0]}, 400, "to type: half"),
    ("T", {"signature_name": "half_out", "instances": [1.0]}, 400,
     "Failed to write JSON value for tensor type: half"),
    ("T", {"signature_name": "total", "instances": [1.0]}, 400,
     "Tensor name: total has no shape information"),
    ("T", {"signature_name": "total", "inputs": [[1.0]]}, 400, "x: expected shape [-1]; received"),
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


def test_numbers_that_json_does_not_have():
    odd = np.array([[1, np.nan], [-np.inf, np.inf]], np.float32)
    names = np.array([b"null", b"NaN"], object)
    for outputs, rows, expected in [
        ({"a": odd}, True, {"predictions": odd.tolist()}),
        ({"a": odd[0, 1:].reshape(())}, False, {"outputs": np.nan}),
        ({"a": odd.T, "names": names}, False,
         {"outputs": {"a": odd.T.tolist(), "names": ["null", "NaN"]}}),
        ({"a": odd[:, 0], "names": names}, True,
         {"predictions": [{"a": 1.0, "names": "null"}, {"a": -np.inf, "names": "NaN"}]}),
    ]:  # fmt: skip
        np.testing.assert_equal(json.loads(json_answer.answer(outputs, rows)), expected)


def test_a_string_without_end_is_read_in_one_go():
    body = b'{"note": NaN, "s": "' + rb"\"" * (1 << 15)
    began = time.process_time()
    with pytest.raises(RequestError, match="JSON Parse error"):
        json_request.parse(body)
    assert time.process_time() - began < 5  # once per quote would be a minute


def test_versions_and_labels(server):
    for path, expected in [("/versions/1", 1.5), ("/versions/2", 2.5), ("/labels/stable", 2.5)]:
        _, _, content = ask(server, "POST", f"/v1/models/H{path}:predict", {"instances": [1.0]})
        assert json.loads(content) == {"predictions": [expected]}
        status, _, content = ask(server, "GET", f"/v1/models/H{path}")
        (entry,) = json.loads(content)["model_version_status"]
        assert entry["version"] == f"{int(expected)}"
        status, _, content = ask(server, "GET", f"/v1/models/H{path}/metadata")
        assert json.loads(content)["model_spec"]["version"] == f"{int(expected)}"
    status, _, content = ask(server, "GET", f"/v1/models/H/versions/{'9' * 25}")
    assert (status, "Failed to convert version" in content) == (400, True)
    zeros = "0" * 5000
    status, _, content = ask(server, "GET", f"/v1/models/H/versions/{zeros}2")
    assert json.loads(content)["model_version_status"][0]["version"] == "2"
    assert ask(server, "GET", f"/v1/models/H/versions/{zeros}")[0] == 404


def test_metadata(server):
    _, _, content = ask(server, "GET", "/v1/models/H/metadata")
    signatures = json.loads(content)["metadata"]["signature_def"]["signature_def"]
    assert "__saved_model_init_op" in signatures
    (x,) = signatures["serving_default"]["inputs"].values()
    assert x["dtype"] == "DT_FLOAT"
    assert x["tensor_shape"] == {"dim": [], "unknown_rank": True}
    assert signatures["serving_default"]["defaults"] == {}


def test_cors(server):
    status, headers, _ = ask(server, "POST", "/v1/models/H:predict", b"")
    assert status == 400
    assert headers["access-control-allow-origin"] == "*"
    assert headers["access-control-allow-methods"] == "POST, GET"
    assert headers["access-control-allow-headers"] == "Content-Type"


def test_metrics(server):
    def counts():
        _, headers, text = ask(server, "GET", settings.METRICS_PATH)
        assert headers["content-type"] == "text/plain"
        return dict(line.rpartition(" ")[::2] for line in text.splitlines() if line[0] != "#")

    ok = ':tensorflow:serving:request_count{model_name="H",status="OK"}'
    refused = ':tensorflow:serving:request_count{model_name="H",status="INVALID_ARGUMENT"}'
    nobody = ':tensorflow:serving:request_count{model_name="",status="NOT_FOUND"}'
    latency = ':tensorflow:serving:request_latency_%s{model_name="H",API="Predict",'
    latency += 'entrypoint="REST"%s}'
    predict(server, "H", {"instances": [1.0]})
    predict(server, "H", {})
    predict(server, "nobody", {})
    before = counts()
    predict(server, "H", {"instances": [1.0]})
    predict(server, "H", {})
    predict(server, "nobody-else", {})
    after = counts()
    assert [int(after[name]) - int(before[name]) for name in (ok, refused, nobody)] == [1, 1, 1]
    assert int(after[latency % ("count", "")]) - int(before[latency % ("count", "")]) == 2
    assert after[latency % ("bucket", ',le="+Inf"')] == after[latency % ("count", "")]
    assert float(after[latency % ("sum", "")]) > float(before[latency % ("sum", "")])
    status, _, text = ask(server, "GET", settings.METRICS_PATH + "?x")
    assert (status, text.startswith("Unexpected path")) == (400, True)


def test_page(server, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "FOLDER", tmp_path / "page")
    assert ask(server, "GET", "/")[0] == 404
    (tmp_path / "page").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "page" / "index.html").write_text("<p>digits")
    (tmp_path / "page" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "page" / "ort.wasm.gz").write_bytes(gzip.compress(b"wasm"))
    (tmp_path / "page" / "app.js").write_text("0")
    status, headers, content = ask(server, "GET", "/")
    assert (status, content) == (200, "<p>digits")
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert ask(server, "GET", "/app.js")[1]["content-type"].startswith("text/javascript")
    with urllib.request.urlopen(f"{server.rest_url}/ort.wasm") as answer:
        assert gzip.decompress(answer.read()) == b"wasm"
        assert answer.headers["Content-Encoding"] == "gzip"
        assert answer.headers["Content-Type"] == "application/wasm"
    tag = ask(server, "GET", "/app.js")[1]["etag"]
    request = urllib.request.Request(f"{server.rest_url}/app.js", headers={"If-None-Match": tag})
    with pytest.raises(urllib.error.HTTPError, match="304"):
        urllib.request.urlopen(request)
    (tmp_path / "page" / "app.js").write_text("10")
    with urllib.request.urlopen(request) as answer:
        assert (answer.read(), answer.headers["Cache-Control"]) == (b"10", "no-cache")
    for path in ("/../secret", "/%2e%2e/secret", "/link", "/.", "//etc/passwd", "/%00", "/x" * 999,
                 "//app.js", "/./app.js", "/app.js/"):  # fmt: skip
        answer = exchange(server, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 404"), path


# gRPC


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def grpc_request(model, signature="", outputs=(), **inputs):
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for name, value in inputs.items():
        is_proto = isinstance(value, tensor_pb2.TensorProto)
        request.inputs[name].CopyFrom(value if is_proto else tf.make_tensor_proto(value))
    return request


def refusal(call, request):
    with pytest.raises(grpc.RpcError) as error:
        call(request, timeout=20)
    return error.value.code().name, error.value.details()


def test_grpc_predict(server, stub):
    seeds, labels = np.array([7, 8], np.int32), np.array([3, 4], np.int32)
    answer = stub.Predict(grpc_request("cdcgan", "png", seed=seeds, labels=labels), timeout=20)
    assert answer.model_spec.signature_name == "png"
    assert answer.model_spec.version.value == 1
    rows = [{"seed": 7, "labels": 3}, {"seed": 8, "labels": 4}]
    _, by_rest = predict(server, "cdcgan", {"signature_name": "png", "instances": rows})
    pngs = tf.make_ndarray(answer.outputs["png_bytes"])
    assert [base64.b64decode(row["b64"]) for row in by_rest["predictions"]] == list(pngs)

    request = grpc_request("H")
    request.inputs["x"].dtype = tf.float32.as_datatype_enum
    request.inputs["x"].tensor_shape.dim.add(size=2)
    request.inputs["x"].float_val.extend([1, 2])
    for version, expected in [(None, [2.5, 3.0]), (1, [1.5, 2.0])]:
        if version:
            request.model_spec.version.value = version
        answer = stub.Predict(request, timeout=20)
        np.testing.assert_array_equal(tf.make_ndarray(answer.outputs["y"]), expected)
        assert answer.model_spec.signature_name == "serving_default"
    half = stub.Predict(grpc_request("T", "half_out", x=np.float32([1.5])), timeout=20)
    np.testing.assert_array_equal(tf.make_ndarray(half.outputs["h"]), np.float16([1.5]))
    some = stub.Predict(grpc_request("T", "text", ["s"], s=np.array([b"a"])), timeout=20)
    assert list(some.outputs) == ["s"]


def test_grpc_refusals(stub, channel):
    x = np.float32([1.0])
    wide = tf.make_tensor_proto(x)
    wide.tensor_shape.dim[0].size = 10**9  # of a single value, that stands for all
    small = {"i8": np.int8([1]), "flag": np.array([True])}
    small |= {"i64": np.int64([1]), "wide": np.float64([1])}
    large = small | {name: tf.make_tensor_proto(small[name]) for name in ("i64", "wide")}
    for name in ("i64", "wide"):
        large[name].tensor_shape.dim[0].size = 100_000  # each within the limit, but not both
    too_big = tf.make_tensor_proto(1, tf.int8)
    too_big.int_val[0] = 300
    for request, code, message in [
        (grpc_request("nope", x=x), "NOT_FOUND", "Servable not found for request: Latest(nope)"),
        (grpc_request("H", "nosuch", x=x), "FAILED_PRECONDITION",
         'Serving signature key "nosuch" not found.'),
        (predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (grpc_request("cdcgan", "png", seed=np.int32([1])), "INVALID_ARGUMENT",
         "input size does not match signature: 1!=2 len({seed}) != len({labels,seed}). "
         "Sent extra: {}. Missing but required: {labels}."),
        (grpc_request("H", outputs=["z"], x=x), "INVALID_ARGUMENT",
         "output tensor alias not found in signature: z"),
        (grpc_request("H", outputs=["y", "y"], x=x), "INVALID_ARGUMENT",
         "duplicate output tensor alias"),
        (grpc_request("H", x=np.int32([1])), "INVALID_ARGUMENT", "x: expected float; received"),
        (grpc_request("H", x=wide), "INVALID_ARGUMENT", "larger than 1048576 bytes in all"),
        (grpc_request("H", **{f"x{i}": wide for i in range(2000)}), "INVALID_ARGUMENT",
         "input size does not match signature: 2000!=1"),
        (grpc_request("T", "numbers", **large), "INVALID_ARGUMENT", "larger than 1048576 bytes"),
        (grpc_request("T", "numbers", **small | {"i8": too_big}), "INVALID_ARGUMENT",
         "i8: not a tensor"),
        (grpc_request("cdcgan", "png", seed=np.int32([1]), labels=np.int32([10])),
         "INVALID_ARGUMENT", "labels: expected 0..9; received"),
    ]:  # fmt: skip
        received, details = refusal(stub.Predict, request)
        assert (received, message in details) == (code, True), details

    def metadata(*fields):
        spec = model_pb2.ModelSpec(name="H")
        return get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=spec, metadata_field=fields
        )

    code, details = refusal(stub.GetModelMetadata, metadata())
    assert "must specify at least one metadata_field" in details
    code, details = refusal(stub.GetModelMetadata, metadata("x"))
    assert (code, "is not supported" in details) == ("INVALID_ARGUMENT", True)
    answer = stub.GetModelMetadata(metadata("signature_def"), timeout=20)
    described = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(described)
    assert list(described.signature_def["serving_default"].outputs) == ["y"]

    models = model_service_pb2_grpc.ModelServiceStub(channel)
    request = get_model_status_pb2.GetModelStatusRequest(model_spec=model_pb2.ModelSpec(name="H"))
    statuses = models.GetModelStatus(request, timeout=20).model_version_status
    assert [(status.version, status.state) for status in statuses] == [(2, 30), (1, 30)]
    request.model_spec.name = "nope"
    assert refusal(models.GetModelStatus, request)[0] == "NOT_FOUND"


# What a client may do


def png_body(rng):
    rows = [{"seed": rng.randrange(1000), "labels": rng.randrange(10)} for _ in range(2)]
    return json.dumps({"signature_name": "png", "instances": rows}).encode()


def flipped(rng):
    body = bytearray(png_body(rng))
    for _ in range(3):
        body[rng.randrange(len(body))] = rng.randrange(256)
    return post("cdcgan", bytes(body))


def wrong_numbers(rng):
    digits = b"9" * rng.choice([20, 400, 5000, 100_000])
    number = rng.choice([digits, b"-" + digits, b"1e" + digits, b"NaN", b"0x10", b"01", b"1_000"])
    return post("cdcgan", b'{"signature_name":"png","instances":[{"seed":%b}]}' % number)


def nested(rng):
    depth = rng.choice([10, 100, 1000, 5000, 100_000])
    special = rng.choice([b"", b"NaN, "])
    return post("cdcgan", b'{"instances": [' + special + b"[" * depth + b"]" * depth + b"]}")


def without_end(rng):
    """Beside a number that takes another parser: a string full of quotes that lacks its end."""
    quotes = rng.choice([b'\\"', b'"', b"\\\\"]) * rng.choice([100, 8000, 100_000])
    return post("cdcgan", b'{"note": NaN, "instances": ["' + quotes + b"\\")


def broken_http(rng):
    return rng.choice(
        [
            b"GARBAGE\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9 + b"\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
            b"POST /v1/models/x:predict HTTP/1.1\r\nHost: x\r\nContent-Length: zzz\r\n\r\n",
        ]
    )


MALFORMED = (
    lambda rng: post("cdcgan", png_body(rng)[: rng.randrange(60)]),
    lambda rng: post("cdcgan", rng.randbytes(rng.randrange(2000))),
    lambda rng: post(f"x{rng.random()}", png_body(rng)),
    lambda rng: post("cdcgan", gzip.compress(b"x"), "Content-Encoding: gzip"),
    *(flipped, wrong_numbers, nested, without_end, broken_http),
)


def test_every_malformed_request_is_answered(server):
    """By 4xx, also beside each other; valid requests in between get their images."""

    def send(number):
        rng = random.Random(number)
        content = rng.choice(MALFORMED)(rng)
        good = predict(server, "cdcgan", png_body(rng))[0]
        return content, exchange(server, content), good

    with ThreadPoolExecutor(8) as pool:
        for content, answer, good in pool.map(send, range(150)):
            status = int(answer.split(b" ", 2)[1])
            assert 400 <= status < 500 or (status == 200 and len(content) < 300), content[:200]
            assert good == 200


HEAD = b"POST /v1/models/H:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
BODY = b'{"instances": [1.0]}'


def test_connections_stay_open(server):
    port = int(server.rest_url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        for _ in range(3):
            connection.sendall(HEAD % len(BODY) + BODY)
            assert read_answer(connection).endswith(b"[2.5]}")


def test_sizes_are_bounded(server):
    for body, headers, status in [
        (b" " * (2 << 20), {}, 413),
        (gzip.compress(b" " * (2 << 20)), {"Content_Encoding": "gzip"}, 413),
        (gzip.compress(BODY)[:-3], {"Content_Encoding": "gzip"}, 400),
        (gzip.compress(BODY) + b"more", {"Content_Encoding": "gzip"}, 400),
        (BODY, {"Content_Encoding": "br"}, 400),
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


def test_times_are_bounded(base_path, monkeypatch):
    with start(
        ServerConfig(model_base_path=str(base_path / "H"), rest_api_timeout_in_ms=300)
    ) as quick:
        answer = exchange(quick, HEAD % 100 + BODY)  # the rest of the body does not arrive
        assert answer.startswith(b"HTTP/1.1 408") and b'{"error":' in answer
        goes_on = threading.Event()
        run = session.SavedModel.run
        monkeypatch.setattr(
            session.SavedModel, "run", lambda *args: goes_on.wait(20) and run(*args)
        )
        assert predict(quick, "H", {"instances": [1.0]})[0] == 504
        with grpc.insecure_channel(quick.grpc_address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            request = grpc_request("H", x=np.float32([1.0]))
            assert refusal(stub.Predict, request)[0] == "DEADLINE_EXCEEDED"
        goes_on.set()
        eventually(lambda: predict(quick, "H", {"instances": [1.0]})[0] == 200)


# Batches


class Calls:
    """A model that doubles, whose calls wait until they may go on, and refuses negative rows."""

    def __init__(self):
        self.sizes, self.goes_on, self.started = [], threading.Event(), threading.Event()

    def __call__(self, inputs, outputs):
        self.started.set()
        assert self.goes_on.wait(20)
        self.sizes.append(len(inputs["x"]))
        if (inputs["x"] < 0).any():
            raise RequestError("INVALID_ARGUMENT", "negative")
        return dict.fromkeys(outputs, 2 * inputs["x"])


@pytest.fixture
def calls():
    return Calls()


def gather(calls, bounds, *requests):
    """Futures of requests that were all submitted while the first of them ran."""
    batcher = batching.Batcher(calls, bounds, "test")
    found = []
    for values in requests:
        try:
            found.append(batcher.submit({"x": np.array(values, np.float32)}, ("y",)))
        except RequestError as error:
            found.append(Future())
            found[-1].set_exception(error)
        assert calls.started.wait(20)
    calls.goes_on.set()
    batcher.close()  # answers what waits
    return found


def test_requests_that_wait_run_together(calls):
    bounds = Bounds(max_batch_size=4, num_batch_threads=1)
    futures = gather(calls, bounds, [1], [2], [3, 4], [5, 6], [7], [[8]], [])
    answers = [future.result()["y"].tolist() for future in futures]
    assert answers == [[2], [4], [6, 8], [10, 12], [14], [[16]], []]
    # The first alone; then as many rows as fit, of whom they are; of one shape only.
    assert calls.sizes == [1, 4, 2, 1, 0]


def test_a_bad_request_fails_alone(calls):
    futures = gather(calls, Bounds(num_batch_threads=1), [0], [1], [-1, 2], [3])
    assert [future.exception() is None for future in futures] == [True, True, False, True]
    assert futures[3].result()["y"] == [6]


def test_the_queue_is_bounded(calls):
    bounds = Bounds(max_batch_size=2, max_enqueued_batches=2, num_batch_threads=1)
    futures = gather(calls, bounds, [0], [1, 1], [2, 2], [3], [1, 2, 3])
    errors = [future.exception() for future in futures]
    assert errors[:3] == [None] * 3
    assert (errors[3].code, "queue" in errors[3].message) == ("UNAVAILABLE", True)
    assert "Task size 3 is larger than" in errors[4].message


def test_batches_of_allowed_sizes_and_none_at_all(calls):
    sizes = Bounds(max_batch_size=8, allowed_batch_sizes=(4, 8), num_batch_threads=1)
    futures = gather(calls, sizes, [1], [2], [3, 4], [5, 6])
    assert [future.result()["y"].tolist() for future in futures] == [[2], [4], [6, 8], [10, 12]]
    assert calls.sizes == [4, 8]
    alone = Calls()
    gather(alone, None, [1], [2], [3])
    assert alone.sizes == [1, 1, 1]


def test_what_was_cancelled_does_not_run(calls):
    batcher = batching.Batcher(calls, Bounds(num_batch_threads=1), "test")
    batcher.submit({"x": np.float32([1])}, ("y",))
    calls.started.wait(20)
    assert batcher.submit({"x": np.float32([2])}, ("y",)).cancel()
    calls.goes_on.set()
    batcher.close()
    assert calls.sizes == [1]
    with pytest.raises(RequestError, match="being unloaded"):
        batcher.submit({"x": np.float32([2])}, ("y",))


def test_concurrent_requests_get_their_own_answers(server):
    def work(number):
        bad = number % 5 == 0
        row = {"seed": number, "labels": 99 if bad else number % 10}
        status, answer = predict(server, "cdcgan", {"signature_name": "png", "instances": [row]})
        return status, answer.get("predictions")

    numbers = range(60)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(work, numbers))
    assert [status for status, _ in answers] == [400 if n % 5 == 0 else 200 for n in numbers]
    images = [
        np.asarray(tf.io.decode_png(base64.b64decode(answer[0]["b64"])), int)
        for status, answer in answers
        if status == 200
    ]
    alone = [work(number)[1] for number in numbers if number % 5]
    for image, answer in zip(images, alone):
        expected = np.asarray(tf.io.decode_png(base64.b64decode(answer[0]["b64"])), int)
        assert abs(image - expected).max() <= 1


# Versions


def states(server, model="H"):
    _, _, content = ask(server, "GET", f"/v1/models/{model}")
    entries = json.loads(content).get("model_version_status", [])
    return {int(entry["version"]): entry["state"] for entry in entries}


def test_a_new_version_takes_over_and_no_request_is_lost(tmp_path):
    folder = tmp_path / "H"
    folder.mkdir()
    save_half_plus(folder / "1", 1)
    stop, wrong, seen = threading.Event(), [], []
    with start(ServerConfig(model_base_path=str(folder))) as server:

        def load():
            while not stop.is_set():
                status, answer = predict(server, "H", {"instances": [0.0]})
                if status == 200:
                    seen.append(answer["predictions"][0])
                else:
                    wrong.append(answer)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in (2, 3):
            save_half_plus(folder / str(number), number)
            eventually(lambda number=number: states(server).get(number) == "AVAILABLE")
            eventually(lambda number=number: seen and seen[-1] == number)
        # A broken version is reported, and the good one stays.
        (folder / ".4").mkdir()
        shutil.copy(folder / "3" / "saved_model.pb", folder / ".4")
        (folder / ".4").rename(folder / "4")
        eventually(lambda: states(server).get(4) == "END")
        _, _, content = ask(server, "GET", "/v1/models/H/versions/4")
        status = json.loads(content)["model_version_status"][0]["status"]
        assert status["error_code"] == "UNKNOWN"
        assert "not a valid checkpoint" in status["error_message"]
        # Repaired, it is loaded.
        shutil.copytree(folder / "3" / "variables", folder / "4" / "variables")
        eventually(lambda: states(server).get(4) == "AVAILABLE")
        eventually(lambda: states(server) == {4: "AVAILABLE", 3: "END", 2: "END", 1: "END"})
        # Taken back, the one before is served again.
        shutil.rmtree(folder / "4")
        eventually(lambda: states(server)[3] == "AVAILABLE")
        eventually(lambda: states(server)[4] == "END")
        stop.set()
        for thread in threads:
            thread.join()
        assert ask(server, "POST", "/v1/models/H/versions/1:predict", BODY)[0] == 404
    assert wrong == []
    assert seen == sorted(seen)
    assert set(seen) == {1.0, 2.0, 3.0}


def test_a_version_in_use_stays_loaded(base_path):
    (config,) = settings.models_of(ServerConfig(model_base_path=str(base_path / "H")))
    models = versions.Models([config], Bounds())
    models.poll()
    with models.use("H") as version:
        retiring = threading.Thread(target=version.retire)
        retiring.start()
        eventually(lambda: version.state is versions.State.UNLOADING)
        with pytest.raises(RequestError, match="not found"), models.use("H"):
            pass
        answer = version.submit("serving_default", {"x": np.float32([1.0])}).result(20)
        assert answer["y"] == [2.5]
        assert retiring.is_alive()
    retiring.join(20)
    assert version.state is versions.State.END
    models.stop()


def test_a_version_ends_whatever_its_loading_comes_to(base_path, monkeypatch):
    def refused(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(versions, "Batcher", refused)
    version = versions.Version("H", 1, base_path / "H" / "1")
    version.load(None, warm_up=True)
    assert (version.state, "new thread" in version.error) == (versions.State.END, True)


def publish_with_warmup(base_path, folder, *records):
    shutil.copytree(base_path / "H" / "1", folder)
    (folder / warmup.FILE).parent.mkdir()
    with tf.io.TFRecordWriter(str(folder / warmup.FILE)) as file:
        for record in records:
            file.write(record)


def test_warm_up_requests_are_replayed(tmp_path, base_path, monkeypatch):
    replayed = []
    run = session.SavedModel.run
    monkeypatch.setattr(
        session.SavedModel,
        "run",
        lambda self, name, inputs, outputs: (
            replayed.append((name, inputs["x"].tolist())) or run(self, name, inputs, outputs)
        ),
    )
    record = warmup.record("serving_default", {"x": np.float32([1, 2])}, "H")
    publish_with_warmup(base_path, tmp_path / "H" / "1", record)
    wrong = warmup.record("serving_default", {"z": np.float32([1, 2])})
    publish_with_warmup(base_path, tmp_path / "W" / "1", wrong)
    publish_with_warmup(base_path, tmp_path / "G" / "1", b"garbage")
    publish_with_warmup(base_path, tmp_path / "M" / "1", *[record] * 1001)
    publish_with_warmup(base_path, tmp_path / "N" / "1")
    (tmp_path / "N" / "1" / warmup.FILE).write_bytes(b"garbage" * 9)
    with start(ServerConfig(model_base_path=str(tmp_path))) as server:
        assert replayed == [("serving_default", [1.0, 2.0])]
        assert states(server, "H") == {1: "AVAILABLE"}
        for model, message in [("W", "input size does not match"), ("G", "not a file of warm-up"),
                               ("M", "at most 1000"), ("N", "not a file of warm-up")]:  # fmt: skip
            _, _, content = ask(server, "GET", f"/v1/models/{model}")
            assert message in content
            assert states(server, model) == {1: "END"}
    with start(ServerConfig(model_base_path=str(tmp_path), enable_model_warmup=False)) as server:
        assert states(server, "W") == {1: "AVAILABLE"}


def test_warm_up_records_are_those_of_the_official_messages():
    inputs = {"seed": np.int32([1, 2]), "labels": np.int32([3, 4])}
    record = warmup.record("png", inputs, "cdcgan")
    log = prediction_log_pb2.PredictionLog(
        predict_log=prediction_log_pb2.PredictLog(
            request=predict_pb2.PredictRequest(
                model_spec=model_pb2.ModelSpec(name="cdcgan", signature_name="png"),
                inputs={name: tf.make_tensor_proto(value) for name, value in inputs.items()},
            )
        )
    )
    assert record == log.SerializeToString(deterministic=True)


# ServerConfig


def test_which_versions_are_served():
    found = {1, 2, 5, 9}
    config = settings.ModelConfig("m", Path("m"))
    assert config.aspired(found) == {9}
    assert settings.ModelConfig("m", Path("m"), latest=2).aspired(found) == {5, 9}
    assert settings.ModelConfig("m", Path("m"), latest=0).aspired(found) == found
    assert settings.ModelConfig("m", Path("m"), specific=(2, 3)).aspired(found) == {2}
    assert config.aspired(set()) == set()


def test_version_folders(tmp_path):
    for name in ("1", "00000123", "x", ".5.partial", "-3", "1.5", "9" * 30, "\u0663"):
        (tmp_path / name).mkdir()
    (tmp_path / "7").write_text("a file")
    assert sorted(versions_of.versions(tmp_path)) == [1, 123]
    assert versions_of.versions(tmp_path / "none") == {}


def test_models_of_a_base_path(tmp_path, exports):
    def names(**given):
        return [model.name for model in settings.models_of(ServerConfig(**given))]

    assert names(model_base_path=str(exports)) == ["cdcgan", "dcgan", "gan"]
    assert names(model_base_path=str(exports / "gan")) == ["gan"]
    assert names(model_base_path=str(exports / "gan"), model_name="other") == ["other"]
    assert names(model_base_path=str(tmp_path)) == [tmp_path.name]  # versions may come yet


def test_wrong_settings(tmp_path, exports):
    def text(content):
        (tmp_path / "config").write_text(content)
        return str(tmp_path / "config")

    def models(content):
        return lambda: settings.models_of(ServerConfig(model_config_file=text(content)))

    def bounds(content):
        return lambda: settings.bounds_of(
            ServerConfig(model_base_path="x", batching_parameters_file=text(content))
        )

    def given(**choices):
        return lambda: ServerConfig(**choices)

    entry = f"name: 'a' base_path: '{tmp_path}'"
    for call, message in [
        (ServerConfig, "expected --model_base_path=saved_models or --model_config_file=FILE"),
        (given(model_base_path="x", model_config_file="y"), "and not both"),
        (given(model_base_path="x", port=-1), "--port: expected a value >= 0"),
        (given(model_base_path="x", rest_api_port=65536), "<= 65535; received 65536"),
        (given(model_base_path="x", file_system_poll_wait_seconds=np.nan), "expected"),
        (given(model_base_path="x", batching_parameters_file="y", enable_batching=False),
         "expected --enable_batching"),
        (lambda: settings.models_of(ServerConfig(model_base_path=str(tmp_path / "no"))),
         "expected a folder; there is no"),
        (lambda: settings.models_of(ServerConfig(model_base_path=str(exports), model_name="a")),
         "expected a single model"),
        (models("nonsense"), "expected a ModelServerConfig in text format: 1:"),
        (models(""), "with a model"),
        (models("model_config_list { config { base_path: '/' } }"), "a name of its own"),
        (models(f"model_config_list {{ config {{ {entry} }} config {{ {entry} }} }}"),
         "a name of its own"),
        (models("model_config_list { config { name: 'a' base_path: '/no/where' } }"), "/no/where"),
        (models(f"model_config_list {{ config {{ {entry} model_platform: 'x' }} }}"), "tensorflow"),
        (bounds("max_batch_size { value: 0 }"), "max_batch_size: expected a value >= 1"),
        (bounds("allowed_batch_sizes: 3"), "end with max_batch_size, 256"),
        (bounds("pad_variable_length_inputs: true"), "expected false"),
        (bounds("max_batch_size: 3"), "expected a BatchingParameters in text format: 1:"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=re.escape(message)):
            call()


def test_configuration_files(exports):
    deployed = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((DEPLOY / "models.config").read_text(), deployed)
    paths = {entry.name: entry.base_path for entry in deployed.model_config_list.config}
    assert paths == {path.name: f"/models/{path.name}" for path in exports.iterdir()}
    # No package has these two messages; serving/protos.py declares them as their .proto files do.
    given = ServerConfig(
        model_base_path=str(exports),
        batching_parameters_file=str(DEPLOY / "batching.config"),
        monitoring_config_file=str(DEPLOY / "monitoring.config"),
    )
    assert settings.bounds_of(given) == Bounds(batch_timeout_micros=1000)
    assert settings.metrics_path_of(given) == settings.METRICS_PATH
    compose = (DEPLOY / "compose.yaml").read_text()
    for name in ("models.config", "batching.config", "monitoring.config"):
        assert f"./{name}:/config/{name}:ro" in compose and f"=/config/{name}" in compose
    assert "../../saved_models:/models:ro" in compose


def test_metrics_can_be_off(tmp_path):
    (tmp_path / "off").write_text("prometheus_config { enable: false }")
    given = ServerConfig(model_base_path="x", monitoring_config_file=str(tmp_path / "off"))
    assert settings.metrics_path_of(given) is None


# The command and the documents


def test_the_command(tmp_path, exports):
    """Serves without Keras and without our models, and ends with its requests answered."""
    program = """
        import sys
        sys.modules["keras"] = None  # TensorFlow itself would import it; now nothing can
        import runpy, atexit
        ours = ("models.gan", "data.tfds", "evaluation", "training", "train")
        atexit.register(lambda: print("loaded:", [
            name for name in ours if f"tfgan_mnist.{name}" in sys.modules]))
        runpy.run_module("tfgan_mnist.serve", run_name="__main__")
    """
    script = tmp_path / "program.py"
    script.write_text(re.sub("(?m)^ {8}", "", program))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = [f"--model_base_path={exports}", f"--rest_api_port={port}", "--port=0"]
    with subprocess.Popen(
        [sys.executable, str(script), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            first = process.stdout.readline()
            assert first == f"REST: http://127.0.0.1:{port}/v1/models/\n"
            lines = [process.stdout.readline() for _ in range(3)]
            assert lines == ["model: cdcgan\n", "model: dcgan\n", "model: gan\n"]

            # The port is taken: the second one says so in a line.
            chosen = ServerConfig(model_base_path=str(exports), rest_api_port=port, port=0)
            with pytest.raises(OSError, match="^--rest_api_port: cannot listen .* in use"):
                serve.start(chosen)
            chosen = ServerConfig(model_base_path=str(exports), rest_api_port=0, port=port)
            with pytest.raises(OSError, match="^--port: cannot listen on 127.0.0.1"):
                serve.start(chosen)

            # Signalled in the middle of a request, it answers it.
            with socket.create_connection(("127.0.0.1", port), 20) as connection:
                body = b'{"signature_name": "png", "instances": [1]}'
                head = post("gan", b"", "Expect: 100-continue", length=len(body))
                connection.sendall(head)
                assert connection.recv(100).startswith(b"HTTP/1.1 100")  # it waits for the body
                process.send_signal(signal.SIGTERM)
                time.sleep(0.3)
                connection.sendall(body)
                assert read_answer(connection).startswith(b"HTTP/1.1 200")
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert out.endswith("Stopped; pending requests were completed\nloaded: []\n")
    assert "Traceback" not in err


def test_wrong_flags(monkeypatch, capsys):
    for flags, message in [
        (["--model_base_path=/no/where"], "--model_base_path: expected a folder"),
        ([], "expected --model_base_path=saved_models or"),
        (["--model_base_path=x", "--port=0", "--rest_api_port=0"], "received 0 for both"),
        (["--model_base_path=x", "--enable_batching=maybe"], "expected true or false"),
    ]:
        monkeypatch.setattr(sys, "argv", ["serve", *flags])
        with pytest.raises(SystemExit) as stop:
            cli.run(serve.main, serve.parser())
        assert stop.value.code == cli.EXIT_USER_ERROR
        assert message in capsys.readouterr().err


def test_without_the_extra(monkeypatch, exports):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for module in ("http", "server"):
        monkeypatch.delitem(sys.modules, f"tfgan_mnist.serving.{module}")
    with pytest.raises(UserError, match=r"needs uvicorn.* pip install 'tfgan-mnist\[serve\]'"):
        serve.start(ServerConfig(model_base_path=str(exports)))


def test_flags():
    flags = ["--model_base_path=x", "--enable_batching=false", "--rest_api_enable_cors_support"]
    parsed = ServerConfig(**vars(serve.parser().parse_args(flags)))
    assert (parsed.enable_batching, parsed.rest_api_enable_cors_support) == (False, True)
    assert (parsed.host, parsed.rest_api_port, parsed.port) == ("127.0.0.1", 8501, 8500)


def test_the_snippets_of_the_readme(server, tmp_path, monkeypatch):
    text = (DEPLOY / "README.md").read_text()
    by_rest, by_grpc = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "http://localhost:8501" in by_rest and "localhost:8500" in by_grpc
    monkeypatch.chdir(tmp_path)
    exec(by_rest.replace("http://localhost:8501", server.rest_url), {})
    pngs = [tf.io.decode_png(Path(f"digit-{i}.png").read_bytes()) for i in range(4)]
    names = {}
    exec(by_grpc.replace("localhost:8500", server.grpc_address), names)
    assert names["images"].shape == (4, 28, 28, 1)
    for png, image in zip(pngs, names["images"]):
        np.testing.assert_allclose(png, 255 * image, rtol=0, atol=0.51)
