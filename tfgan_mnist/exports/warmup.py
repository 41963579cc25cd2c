"""Warm-up requests: a file in an export that servers run before the version goes live.

The messages are TensorFlow Serving's. They are declared here, since an export is written where
`tensorflow-serving-api` need not be installed. They live in a pool of their own, as two
declarations of a name in the default one exclude each other.
"""

from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FILE = Path("assets.extra", "tf_serving_warmup_requests")  # in the folder of a version

# tensorflow_serving/apis/{model,predict,prediction_log}.proto: message -> field -> (number, type).
# A tensor is left as its bytes, which are the same on the wire.
MESSAGES = {
    "ModelSpec": {"signature_name": (3, "string")},
    "NamedTensor": {"key": (1, "string"), "value": (2, "bytes")},  # an entry of a map
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "repeated NamedTensor")},
    "PredictLog": {"request": (1, "PredictRequest")},
    "PredictionLog": {"predict_log": (6, "PredictLog")},
}


def message_classes(messages: dict[str, dict[str, tuple[int, str]]]) -> dict[str, Any]:
    """Classes of protobuf messages, from message -> field -> (number, type)."""
    package = "tfgan_mnist"
    Field = descriptor_pb2.FieldDescriptorProto  # noqa: N806
    file = descriptor_pb2.FileDescriptorProto(
        name="tfgan_mnist/messages.proto", package=package, syntax="proto3"
    )
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            kind, repeated = kind.removeprefix("repeated "), kind.startswith("repeated ")
            field = message.field.add(name=field_name, number=number)
            field.label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
            if kind in messages:
                field.type, field.type_name = Field.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                field.type = Field.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in messages
    }


_CLASSES = message_classes(MESSAGES)


def record(signature_name: str, inputs: dict[str, np.ndarray]) -> bytes:
    """A record of a warm-up file: a `PredictionLog` of one request, its inputs by name.

    It names no model: the server gives the request to the one beside the file.
    """
    import tensorflow as tf

    request = _CLASSES["PredictRequest"]()
    request.model_spec.signature_name = signature_name
    for name in sorted(inputs):
        tensor = tf.make_tensor_proto(inputs[name]).SerializeToString()
        request.inputs.add(key=name, value=tensor)
    log = _CLASSES["PredictionLog"]()
    log.predict_log.request.CopyFrom(request)
    return log.SerializeToString()


def read(version: Path) -> list[tuple[str, dict[str, np.ndarray]]]:
    """The warm-up requests in the folder of a version: (signature name, inputs by name) each.

    There are none where there is no file.

    Raises:
      ValueError: not such a file, or a record of another kind than Predict.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError
    from tensorflow.core.framework import tensor_pb2

    if not (version / FILE).exists():
        return []
    requests = []
    try:
        for record in tf.data.TFRecordDataset(str(version / FILE)).as_numpy_iterator():
            log = _CLASSES["PredictionLog"].FromString(record)
            if not log.HasField("predict_log"):
                raise ValueError(f"{FILE}: expected requests of Predict, received another kind")
            request = log.predict_log.request
            inputs = {
                entry.key: tf.make_ndarray(tensor_pb2.TensorProto.FromString(entry.value))
                for entry in request.inputs
            }
            requests.append((request.model_spec.signature_name or "serving_default", inputs))
    except (DecodeError, TypeError, tf.errors.OpError) as error:
        raise ValueError(f"{FILE}: not a file of warm-up requests: {error}") from error
    return requests
