"""TensorFlow Serving's gRPC interface, asked of the embedded server over its socket."""

import base64

import grpc
import numpy as np
import pytest
import tensorflow as tf
from serving import TYPES, predict, start_with_models
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)


@pytest.fixture(scope="module")
def server(exports, tmp_path_factory):
    with start_with_models(tmp_path_factory.mktemp("models"), exports) as running:
        yield running


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


@pytest.mark.parametrize("dtype", TYPES)
def test_tensors_of_all_types_and_ranks(stub, dtype):
    values = np.array([x.encode() if dtype == "string" else x for x in TYPES[dtype]], object)
    for shape in [(), (4,), (2, 2), (1, 2, 2)]:
        array = values[: np.prod(shape, dtype=int)].reshape(shape)
        sent = tf.make_tensor_proto(array.astype(object if dtype == "string" else dtype), dtype)
        answer = stub.Predict(grpc_request("T x", dtype, x=sent), timeout=20).outputs["y"]
        assert answer.dtype == sent.dtype
        np.testing.assert_array_equal(tf.make_ndarray(answer), tf.make_ndarray(sent))


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
    half = stub.Predict(grpc_request("T x", "half_out", x=np.float32([1.5])), timeout=20)
    np.testing.assert_array_equal(tf.make_ndarray(half.outputs["h"]), np.float16([1.5]))
    some = stub.Predict(grpc_request("T x", "text", ["s"], s=np.array([b"a"])), timeout=20)
    assert list(some.outputs) == ["s"]


def test_grpc_refusals(stub, channel):
    x = np.float32([1.0])
    wide = tf.make_tensor_proto(x)
    wide.tensor_shape.dim[0].size = 10**9  # of a single value, that stands for all
    large = tf.make_tensor_proto(x)
    large.tensor_shape.dim[0].size = 200_000  # one is within the limit, two are not
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
        (grpc_request("H", x=np.int32([1])), "INVALID_ARGUMENT", "x: expected float32; received"),
        (grpc_request("H", x=wide), "INVALID_ARGUMENT", "larger than 1048576 bytes in all"),
        (grpc_request("T x", "two", a=large, b=large), "INVALID_ARGUMENT", "1048576 bytes in all"),
        (grpc_request("T x", "int8", x=too_big), "INVALID_ARGUMENT", "x: not a tensor"),
        (grpc_request("", x=x), "INVALID_ARGUMENT", "ModelSpec has no name specified"),
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
