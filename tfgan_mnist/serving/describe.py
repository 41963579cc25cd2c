"""What a server tells of its models: the state of their versions, and their signatures."""

from typing import Any

from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from tfgan_mnist.serving.versions import Version


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
