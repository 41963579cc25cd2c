"""TensorFlow Serving's gRPC interface: Predict, GetModelMetadata and GetModelStatus."""

import logging
import math
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tfgan_mnist.exports.request_errors import RequestError, invalid
from tfgan_mnist.serving import describe
from tfgan_mnist.serving.metrics import Metrics
from tfgan_mnist.serving.settings import ServerConfig, address
from tfgan_mnist.serving.versions import DEFAULT_SIGNATURE, Models

log = logging.getLogger(__name__)

THREADS = 64  # requests that can wait for their batches; four times as many may be queued


def _answers(method: Callable) -> Callable:
    """Decorates a method: RequestErrors become gRPC's, and the request is recorded."""

    def answer(self, request, context):
        name = request.model_spec.name if request.model_spec.name in self._models else ""
        try:
            with self._metrics.recorded(name, "GRPC", method.__name__):
                return method(self, request, context)
        except RequestError as error:
            context.abort(grpc.StatusCode[error.code], error.message)
        except Exception:
            log.exception("%s", method.__name__)
            context.abort(grpc.StatusCode.INTERNAL, "Internal error; the server's log has more")

    return answer


class Services(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """Predict, GetModelMetadata and GetModelStatus; the other methods are UNIMPLEMENTED."""

    def __init__(self, models: Models, config: ServerConfig, metrics: Metrics):
        self._models = models
        self._config = config
        self._metrics = metrics

    @_answers
    def Predict(self, request, context):  # noqa: N802
        signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        with self._models.use(*_which(request)) as version:
            if signature_name not in version.signatures:
                message = f'Serving signature key "{signature_name}" not found.'
                raise RequestError("FAILED_PRECONDITION", message)
            definitions = version.signatures[signature_name].outputs
            names = list(request.output_filter)
            for name in set(names) - set(definitions):
                raise invalid(f"output tensor alias not found in signature: {name}")
            if len(set(names)) < len(names):
                raise invalid(f"duplicate output tensor alias: {names}")
            limit = self._config.rest_api_max_body_bytes
            inputs = _arrays(request.inputs, limit)
            started = time.monotonic()
            future = version.submit(signature_name, inputs)
            seconds = self._config.timeout_seconds
            if (left := context.time_remaining()) is not None:
                seconds = min(seconds, left)
            try:
                outputs = future.result(seconds)
            except TimeoutError:
                future.cancel()
                raise RequestError("DEADLINE_EXCEEDED", "The request took too long") from None
            self._metrics.run(version.model, time.monotonic() - started)
            response = predict_pb2.PredictResponse()
            for name in names or sorted(outputs):
                proto = tf.make_tensor_proto(outputs[name], definitions[name].dtype)
                response.outputs[name].CopyFrom(proto)
            response.model_spec.name = version.model
            response.model_spec.version.value = version.number
            response.model_spec.signature_name = signature_name
            return response

    @_answers
    def GetModelMetadata(self, request, context):  # noqa: N802
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        with self._models.use(*_which(request)) as version:
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.model_spec.name = version.model
            response.model_spec.version.value = version.number
            signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=version.signatures)
            response.metadata["signature_def"].Pack(signatures)
            return response

    @_answers
    def GetModelStatus(self, request, context):  # noqa: N802
        return describe.status(self._models.statuses(*_which(request)))


def _which(request: Any) -> tuple[str, int | None, str | None]:
    """Model name, version number and label of a request."""
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    spec = request.model_spec
    if not spec.name:
        raise invalid("ModelSpec has no name specified.")
    number = spec.version.value if spec.HasField("version") else None
    return spec.name, number, spec.version_label or None


def _arrays(protos: Any, limit: int) -> dict[str, np.ndarray]:
    """TensorProtos as arrays of at most `limit` bytes in all.

    The size is checked before, as a message of a few bytes may declare a shape of gigabytes.
    """
    total, arrays = 0, {}
    for name, proto in protos.items():
        try:
            dtype = tf.as_dtype(proto.dtype)
            sizes = [dim.size for dim in proto.tensor_shape.dim]
            total += math.prod(sizes) * (8 if dtype == tf.string else dtype.size)
            if total > limit:
                raise invalid(f"inputs: larger than {limit} bytes in all, the most that is read")
            arrays[name] = np.asarray(tf.make_ndarray(proto))
        except (TypeError, ValueError, LookupError, OverflowError) as error:
            raise invalid(f"{name}: not a tensor: {error}") from None
    return arrays


class GrpcServer:
    """Serves models by gRPC on its port, which is taken at once, from `start` to `stop`.

    Raises:
      OSError: the port is taken, or there is no such address.
    """

    def __init__(self, models: Models, config: ServerConfig, metrics: Metrics):
        self._server = grpc.server(
            futures.ThreadPoolExecutor(THREADS, thread_name_prefix="grpc"),
            options=[
                ("grpc.max_receive_message_length", config.rest_api_max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # otherwise two servers could share a port
            ],
            maximum_concurrent_rpcs=4 * THREADS,
        )
        services = Services(models, config, metrics)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(services, self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(services, self._server)
        where = address(config.host, config.port)
        try:
            self.port: int = self._server.add_insecure_port(where)
        except RuntimeError as error:
            raise OSError(f"--port: cannot listen on {where}: {error}") from error
        self._timeout_seconds = config.timeout_seconds

    def start(self) -> None:
        """Answers requests."""
        self._server.start()

    def stop(self) -> None:
        """Accepts no more requests, and returns when pending ones are completed."""
        self._server.stop(self._timeout_seconds).wait()
