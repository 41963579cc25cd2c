"""TensorFlow Serving's configuration files of batching and monitoring.

`tensorflow-serving-api` lacks their messages, which are declared here.
"""

from typing import Any

from google.protobuf import text_format

from tfgan_mnist import files
from tfgan_mnist.errors import UserError
from tfgan_mnist.exports.warmup import message_classes

# tensorflow_serving/{servables/tensorflow/session_bundle_config,config/monitoring_config}.proto:
# message -> field -> (number, type). `Int64Value` and `StringValue` are protobuf's wrappers.
_CLASSES = message_classes(
    {
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
    }
)
BatchingParameters = _CLASSES["BatchingParameters"]
MonitoringConfig = _CLASSES["MonitoringConfig"]


def read_text(path: str, message: Any) -> Any:
    """Reads a configuration file in protobuf's text format into `message`, and returns it.

    Raises:
      UserError: not such a file; the message has the line and column of the first error.
      OSError: it cannot be read.
    """
    try:
        return text_format.Parse(files.read_text(path), message)
    except (text_format.ParseError, RecursionError) as error:
        kind = message.DESCRIPTOR.name
        raise UserError(f"{path}: expected a {kind} in text format: {error}") from error
