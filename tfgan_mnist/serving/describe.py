"""Descriptions of models: the states of their versions, and their signatures."""

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
        entry.status.error_code = 2 if version.error else 0  # google.rpc.Code: UNKNOWN, OK
    return response


def metadata(version: Version) -> dict[str, Any]:
    """The answer of REST about a model's metadata."""
    spec = {"name": version.model, "signature_name": "", "version": str(version.number)}
    signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=version.signatures)
    return {"model_spec": spec, "metadata": {"signature_def": as_dict(signatures)}}


def as_dict(message: Any) -> dict[str, Any]:
    """A message as TensorFlow Serving writes it to JSON: original field names, and defaults."""
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
