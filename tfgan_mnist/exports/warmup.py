"""Warm-up requests: a file in an export that servers run before the version goes live.

Its records are TensorFlow Serving's `PredictionLog` messages. They are written field by field, as
an export is made where `tensorflow-serving-api` need not be installed.
"""

from pathlib import Path

import numpy as np

FILE = Path("assets.extra", "tf_serving_warmup_requests")  # in the folder of a version


def record(signature_name: str, inputs: dict[str, np.ndarray]) -> bytes:
    """A record of a warm-up file: a `PredictionLog` of one request, its inputs by name.

    It names no model: the server gives the request to the one beside the file.
    """
    import tensorflow as tf

    # The numbers are those of the fields in tensorflow_serving/apis/*.proto.
    request = _field(1, _field(3, signature_name.encode()))  # model_spec.signature_name
    for name in sorted(inputs):
        tensor = tf.make_tensor_proto(inputs[name]).SerializeToString()
        request += _field(2, _field(1, name.encode()) + _field(2, tensor))  # inputs[name]
    return _field(6, _field(1, request))  # predict_log.request


def _field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message that holds bytes: its tag, its length, and the bytes."""
    head, size = bytes([8 * number + 2]), len(content)
    while size >= 128:  # seven bits a byte, the lowest first
        head += bytes([size % 128 + 128])
        size //= 128
    return head + bytes([size]) + content


def read(version: Path) -> list[tuple[str, dict[str, np.ndarray]]]:
    """The warm-up requests in the folder of a version: (signature name, inputs by name) each.

    There are none where there is no file.

    Raises:
      ValueError: not such a file, or a record of another kind than Predict.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError
    from tensorflow_serving.apis import prediction_log_pb2

    if not (version / FILE).exists():
        return []
    requests = []
    try:
        for content in tf.data.TFRecordDataset(str(version / FILE)).as_numpy_iterator():
            log = prediction_log_pb2.PredictionLog.FromString(content)
            if not log.HasField("predict_log"):
                raise ValueError(f"{FILE}: expected requests of Predict, received another kind")
            request = log.predict_log.request
            inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
            requests.append((request.model_spec.signature_name or "serving_default", inputs))
    except (DecodeError, TypeError, tf.errors.OpError) as error:
        raise ValueError(f"{FILE}: not a file of warm-up requests: {error}") from error
    return requests
