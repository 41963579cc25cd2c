"""Those of TensorFlow Serving's messages that its Python package lacks, or that must do without it.

`tensorflow-serving-api` has the stubs of the gRPC services and of the model configuration. It does
not have the messages of the batching and monitoring files, which are declared here. So are those of
warm-up records, since an export is written where that package need not be installed.

They live in a pool of their own, because two declarations of a name in the default one exclude each
other. What the pools exchange are bytes.
"""

from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from tfgan_mnist import files
from tfgan_mnist.errors import UserError

WARMUP = Path("assets.extra", "tf_serving_warmup_requests")  # in the folder of a version
MAX_WARMUP_RECORDS = 1000  # more make TensorFlow Serving refuse the version

# tensorflow_serving/{servables/tensorflow/session_bundle_config,config/monitoring_config,
# apis/{model,predict,prediction_log}}.proto: message -> field -> (number, type). `Int64Value` and
# `StringValue` are spelled as protobuf's wrappers are; a tensor is left as its bytes, which look
# the same on the wire.
MESSAGES = {
    "Int64Value": {"value": (1, "int64")},
    "StringValue": {"value": (1, "string")},
    "BatchingParameters": {
        "max_batch_size": (1, "Int64Value"),
        "batch_timeout_micros": (2, "Int64Value"),
        "max_enqueued_batches": (3, "Int64Value"),
        "num_batch_threads": (4, "Int64Value"),
        "thread_pool_name": (5, "StringValue"),
        "allowed_batch_sizes": (6, "repeated int64"),
        "pad_variable_length_inputs": (7, "bool"),
    },
    "PrometheusConfig": {"enable": (1, "bool"), "path": (2, "string")},
    "MonitoringConfig": {"prometheus_config": (1, "PrometheusConfig")},
    "ModelSpec": {"name": (1, "string"), "signature_name": (3, "string")},
    "NamedTensor": {"key": (1, "string"), "value": (2, "bytes")},  # an entry of a map
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "repeated NamedTensor")},
    "PredictLog": {"request": (1, "PredictRequest")},
    "PredictionLog": {"predict_log": (6, "PredictLog")},
}


def _message_classes() -> dict[str, Any]:
    package = "tfgan_mnist.serving"
    Field = descriptor_pb2.FieldDescriptorProto  # noqa: N806
    file = descriptor_pb2.FileDescriptorProto(
        name="tfgan_mnist/serving.proto", package=package, syntax="proto3"
    )
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            kind, repeated = kind.removeprefix("repeated "), kind.startswith("repeated ")
            field = message.field.add(name=field_name, number=number)
            field.label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
            if kind in MESSAGES:
                field.type, field.type_name = Field.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                field.type = Field.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in MESSAGES
    }


_CLASSES = _message_classes()
BatchingParameters = _CLASSES["BatchingParameters"]
MonitoringConfig = _CLASSES["MonitoringConfig"]


def read_text(path: str, message: Any) -> Any:
    """Reads a configuration file in protobuf's text format into `message`, and returns it.

    Raises:
      UserError: not such a file; with the line and column of the first fault.
      OSError: it cannot be read.
    """
    try:
        return text_format.Parse(files.read_text(path), message)
    except (text_format.ParseError, RecursionError) as error:
        kind = message.DESCRIPTOR.name
        raise UserError(f"{path}: expected a {kind} in text format: {error}") from error


def warmup_record(
    signature_name: str, inputs: dict[str, np.ndarray], model_name: str = ""
) -> bytes:
    """A record of a warm-up file: a `PredictionLog` of one request.

    Args:
      signature_name: which signature is to be called.
      inputs: of the signature, by name.
      model_name: the server gives the request to the model beside the file, whatever its name.
    """
    import tensorflow as tf

    request = _CLASSES["PredictRequest"]()
    request.model_spec.name = model_name
    request.model_spec.signature_name = signature_name
    for name in sorted(inputs):
        tensor = tf.make_tensor_proto(inputs[name]).SerializeToString()
        request.inputs.add(key=name, value=tensor)
    log = _CLASSES["PredictionLog"]()
    log.predict_log.request.CopyFrom(request)
    return log.SerializeToString()


def read_warmup(version: Path) -> list[tuple[str, dict[str, np.ndarray]]]:
    """The warm-up requests in the folder of a version: (signature name, inputs by name) each.

    There are none where there is no file.

    Raises:
      ValueError: not such a file, a record of another kind than Predict, or too many records.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError
    from tensorflow.core.framework import tensor_pb2

    if not (version / WARMUP).exists():
        return []
    requests = []
    try:
        for record in tf.data.TFRecordDataset(str(version / WARMUP)).as_numpy_iterator():
            log = _CLASSES["PredictionLog"].FromString(record)
            if not log.HasField("predict_log"):
                raise ValueError(f"{WARMUP}: expected requests of Predict, received another kind")
            request = log.predict_log.request
            inputs = {
                entry.key: tf.make_ndarray(tensor_pb2.TensorProto.FromString(entry.value))
                for entry in request.inputs
            }
            requests.append((request.model_spec.signature_name or "serving_default", inputs))
            if len(requests) > MAX_WARMUP_RECORDS:
                raise ValueError(f"{WARMUP}: expected at most {MAX_WARMUP_RECORDS} records")
    except (DecodeError, TypeError, tf.errors.OpError) as error:
        raise ValueError(f"{WARMUP}: not a file of warm-up requests: {error}") from error
    return requests
