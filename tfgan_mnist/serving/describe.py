"""What a server tells of its models: the state of their versions, and their signatures."""

from typing import Any

import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from tfgan_mnist.serving.versions import Version

# TensorFlow Serving's names of those types that TensorFlow calls by another.
DTYPE_NAMES = {"float32": "float", "float64": "double", "float16": "half"}


def dtypes(signature: Any) -> dict[str, str]:
    """Input name -> type of a SignatureDef, as `json_tensor` takes it."""
    names = {name: tf.as_dtype(info.dtype).name for name, info in signature.inputs.items()}
    return {name: DTYPE_NAMES.get(dtype, dtype) for name, dtype in names.items()}


def status(versions: list[Version]) -> Any:
    """A GetModelStatusResponse."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for version in versions:
        entry = response.model_version_status.add(version=version.number, state=version.state.value)
        entry.status.error_message = version.error
        # StatusProto's codes are those of google.rpc.Code.
        entry.status.error_code = 2 if version.error else 0
    return response


def signatures(version: Version) -> Any:
    """A SignatureDefMap."""
    answer = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in version.signatures.items():
        answer.signature_def[name].CopyFrom(signature)
    return answer


def metadata(version: Version) -> dict[str, Any]:
    """What REST answers on a model's metadata, to be written as JSON."""
    return {
        "model_spec": {
            "name": version.model,
            "signature_name": "",
            "version": str(version.number),
        },
        "metadata": {"signature_def": as_dict(signatures(version))},
    }


def as_dict(message: Any) -> dict[str, Any]:
    """A message for JSON as TensorFlow Serving writes it: its fields' own names, defaults too."""
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
