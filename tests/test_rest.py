"""TensorFlow Serving's REST contract, asked of the embedded server over its socket."""

import contextlib
import gzip
import io
import json
import re
import socket
import sys
import threading
import tracemalloc
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from serving import (
    BODY,
    DEPLOY,
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
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from benchmarks import malformed
from benchmarks.malformed import read_answer
from tfgan_mnist.evaluation import classifier
from tfgan_mnist.exports import page, session
from tfgan_mnist.serving import json_answer
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
    assert len(listed) > 70
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


# Values


@pytest.mark.parametrize("dtype", TYPES)
def test_tensors_of_all_types_and_ranks(server, dtype):
    for shape in [(), (4,), (2, 2), (1, 2, 2)]:
        values = np.array(TYPES[dtype], object)[: np.prod(shape, dtype=int)].reshape(shape)
        request = {"signature_name": dtype, "inputs": values.tolist()}
        assert predict(server, T, request) == (200, {"outputs": values.tolist()})
        if shape:
            request = {"signature_name": dtype, "instances": values.tolist()}
            assert predict(server, T, request) == (200, {"predictions": values.tolist()})


DEEP = b"[" * 9000 + b"]" * 9000
NONFINITE = [np.nan, np.inf, -np.inf]
ANSWERS = [
    ("H", {"instances": [[1, 2], [3, 4]]}, {"predictions": [[2.5, 3.0], [3.5, 4.0]]}),
    ("H", {"instances": [{"x": 1.0}]}, {"predictions": [2.5]}),
    ("H", {"inputs": {"x": [3.0]}}, {"outputs": [3.5]}),
    # Rounded, or infinite.
    ("H", {"instances": [2**24 + 1, 1e39]}, {"predictions": [8388610.0, np.inf]}),
    ("H", {"instances": [2**64, 10**30]}, {"predictions": [9.223372e18, 5e29]}),
    # As Python writes and reads what JSON does not have.
    ("H", {"inputs": NONFINITE}, {"outputs": NONFINITE}),
    ("H", {"instances": [[value] for value in NONFINITE]},
     {"predictions": [[value] for value in NONFINITE]}),
    ("H", {"inputs": np.nan}, {"outputs": np.nan}),
    # Base64: whole, without padding, with line ends.
    (T, {"signature_name": "text", "inputs": ["a", {"b64": "aGVsbG8="}]},
     {"outputs": {"s": ["a", "hello"], "s_bytes": [{"b64": "YQ=="}, {"b64": "aGVsbG8="}]}}),
    (T, {"signature_name": "text", "instances": [{"b64": "/8Op"}]},
     {"predictions": [{"s": "\ufffdé", "s_bytes": {"b64": "/8Op"}}]}),
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
    ("H", {"instances": [[[1.0], [1.0, 2.0]]]}, 400, "Encountered list at unexpected size"),
    ("H", {"instances": [1.0, {"x": 1.0}]}, 400, "Expecting value/list but got object at item 1"),
    ("H", b'{"instances": [NaN, %b]}' % (b"9" * 400), 400, "of expected type: float"),
    ("H", b'{"instances": [NaN, %b]}' % (b"9" * 5000), 400, "JSON Parse error"),
    ("H", b'{"instances": %b}' % DEEP, 400, "JSON Parse error"),
    ("H", b'{"instances": %b}' % DEEP[8950:9050], 400, "unexpected level: 32"),
    ("H", b'{"instances": [NaN}', 400, "JSON Parse error: Invalid value. at offset:"),
    ("H", {"note": ["x" * 5000], "instances": 5}, 400, "Expecting 'instances' to"),
    ("H", {"instances": [["x"] * 5000]}, 400, "Type: String is not of expected type: float"),
    ("H", {"instances": [1.0] * 300}, 400, "Task size 300 is larger than maximum input batch"),
    ("H", {"inputs": [1.0] * 300}, 400, "Task size 300 is larger than maximum input batch"),
    ("H", {"signature_name": "__saved_model_init_op", "inputs": {}}, 400, "not found in signature"),
    (T, b'{"signature_name": "\\ud800", "inputs": [NaN]}', 400, "not found in signature def"),
    (T, {"signature_name": "text", "inputs": [1]}, 400, "is not of expected type: string"),
    (T, {"signature_name": "text", "inputs": [{"b64": 1}]}, 400, "formatted correctly for base64"),
    *((T, {"signature_name": "text", "inputs": [{"b64": wrong}]}, 400, "Unable to base64 decode")
      for wrong in ("?", "a", "é")),
    *((T, {"signature_name": dtype, "inputs": value}, 400, f"is not of expected type: {dtype}")
      for dtype in ("int8", "int64", "uint8", "uint64")
      for value in (1.0, True, "1", None, 2**65, -(2**65))),
    (T, {"signature_name": "half_in", "inputs": [1.0]}, 501, "to type: half"),
    (T, {"signature_name": "half_in", "instances": [1.0]}, 400, "to type: half"),
    (T, {"signature_name": "half_out", "instances": [1.0]}, 400, "for tensor type: half"),
    (T, {"signature_name": "total", "instances": [1.0]}, 400,
     "Tensor name: total has no shape information"),
    (T, {"signature_name": "total", "inputs": [[1.0]]}, 400, "x: expected shape (None,); received"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "request_body", "status", "message"), REFUSALS)
def test_refusals(server, model, request_body, status, message):
    received, answer = predict(server, model, request_body)
    assert (received, list(answer)) == (status, ["error"])
    assert message in answer["error"]
    assert len(answer["error"]) < 1500


def test_floats_have_the_fewest_digits_that_restore_them():
    values = np.array([3, 0, 0.1, 1 / 3, 9e6, 3e-5, 16777215, 1e-38, 3e38, -0.0], np.float32)
    text = json_answer.answer({"y": values}, rows=False).decode()
    assert np.array_equal(np.array(json.loads(text)["outputs"], np.float32), values)
    assert all(isinstance(value, float) for value in json.loads(text)["outputs"])
    assert len(text) < 120


# Paths


@pytest.mark.parametrize(
    ("method", "path", "status", "expected"),
    [
        ("POST", "/H/versions/1:predict", 200, '{"predictions":[1.5]}'),
        ("POST", "/H/labels/stable:predict", 200, '{"predictions":[2.5]}'),
        ("POST", "/H/labels/a%20b:predict", 200, '{"predictions":[1.5]}'),
        ("POST", "/H/labels/a%2520b:predict", 400, "servable version label: a%20b"),
        ("GET", "/H/labels/stable", 200, '[{"version":"2",'),
        ("GET", "/H/versions/1", 200, '[{"version":"1",'),
        ("GET", "/H/labels/stable/metadata", 200, '"version":"2"'),
        ("GET", "/H/versions/1/metadata", 200, '"version":"1"'),
        ("GET", f"/H/versions/{'9' * 25}", 400, "Failed to convert version"),
        ("POST", "/H:regress", 501, "regress"),
        ("POST", "/H:PREDICT", 400, "Malformed request"),
        ("GET", "/%54%20x/metadata", 200, '"name":"T x"'),
        ("GET", "/a%2Fb/metadata", 404, "Latest(a/b)"),
    ],
)
def test_paths(server, method, path, status, expected):
    body = {"instances": [1.0]} if method == "POST" else None
    received, _, content = ask(server, method, f"/v1/models{path}", body)
    assert (received, expected in content) == (status, True), content


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
    def read():
        _, headers, text = ask(server, "GET", METRICS_PATH)
        assert headers["content-type"] == "text/plain"
        lines = dict(line.rpartition(" ")[::2] for line in text.splitlines())
        return {sample: int(lines.get(f":tensorflow:serving:{sample}", 0)) for sample in added}

    latency = 'request_latency_%s{model_name="H",API="Predict",entrypoint="REST"%s}'
    added = {
        'request_count{model_name="H",status="OK"}': 1,
        'request_count{model_name="H",status="INVALID_ARGUMENT"}': 1,
        'request_count{model_name="",status="NOT_FOUND"}': 1,
        latency % ("count", ""): 2,
        latency % ("bucket", ',le="+Inf"'): 2,
    }
    before = read()
    predict(server, "H", {"instances": [1.0]})
    predict(server, "H", {})
    predict(server, "nobody", {})
    assert {sample: value - before[sample] for sample, value in read().items()} == added
    status, _, text = ask(server, "GET", METRICS_PATH + "?x")
    assert (status, text.startswith("Unexpected path")) == (400, True)


# The page


def test_files_of_the_page(server):
    for path, file, types in [
        ("/", "index.html", ["text/html"]),
        ("/app.js", "app.js", JAVASCRIPT),
        ("/vendor/onnxruntime-web/ort.wasm.bundle.min.mjs", None, JAVASCRIPT),
    ]:
        status, headers, content = ask(server, "GET", path)
        assert (status, headers["cache-control"]) == (200, "no-cache")
        assert headers["content-type"] in types
        assert content == (page.FOLDER / (file or path[1:])).read_text()
    for path in ("/../page.py", "/%2e%2e/mnist", "/vendor", "//etc/passwd", "/%00", "/x" * 999):
        answer = exchange(server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 404"), path


def test_what_the_page_asks_for(server, exports):
    def get(path):
        with urllib.request.urlopen(server.rest_url + path) as response:
            return response.read()

    assert get("/onnx/gan.onnx") == (exports / "gan" / "1.onnx").read_bytes()
    status, _, content = ask(server, "GET", "/onnx/H.onnx")
    assert (status, "has no ONNX file" in json.loads(content)["error"]) == (404, True)
    models = {model.pop("name"): model for model in json.loads(get("/models.json"))["models"]}
    facts = {"latentDim": 100, "classes": 10, "classNames": None, "data": "mnist"}
    assert models["cdcgan"] == facts
    assert models["gan"] == models["dcgan"] == facts | {"classes": None}
    assert len(models) == 3  # the others have no card
    real = np.asarray(Image.open(io.BytesIO(get("/real.png"))))
    tiles = real.reshape(10, 28, 16, 28, 1).swapaxes(1, 2).reshape(-1, 28, 28, 1)
    _, logits = classifier.read(classifier.folder_of("mnist", (28, 28, 1))).features_and_logits(
        tiles
    )
    assert np.sum(logits.argmax(-1) != np.repeat(range(10), 16)) <= 1


# Many requests, large ones and slow ones


def test_every_malformed_request_is_refused(server):
    """By 4xx or a closed connection, also beside each other; valid ones get their images."""
    seen = malformed.send_all(port_of(server), "cdcgan", 120, seed=0)
    assert [outcome for outcome in seen if "WRONG" in outcome] == []
    assert seen["valid: 200"] > 0 and seen.total() == 120


def test_concurrent_requests_get_their_own_answers(server):
    def work(number):
        row = {"seed": number, "labels": 99 if number % 5 == 0 else number % 10}
        status, answer = predict(server, "cdcgan", {"signature_name": "sample", "instances": [row]})
        return (status, *answer.get("predictions", []))

    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(work, range(30)))
    for number, (status, *images) in enumerate(together):
        alone, *expected = work(number)
        assert status == alone == (200 if number % 5 else 400)
        np.testing.assert_allclose(images, expected, rtol=0, atol=1e-5)


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
        with grpc.insecure_channel(quick.grpc_address) as channel:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "H"
            request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            with pytest.raises(grpc.RpcError) as error:
                stub.Predict(request, timeout=20)
            assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        goes_on.set()
        eventually(lambda: predict(quick, "H", {"instances": [1.0]})[0] == 200)
