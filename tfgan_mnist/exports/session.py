"""A SavedModel in a TensorFlow session: the graph, the loader and the runtime that a server uses.

`tf.saved_model.load` reads another part of the file, and accepts exports that cannot be served.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import error_codes_pb2

from tfgan_mnist import files
from tfgan_mnist.exports.request_errors import RequestError, invalid

MAX_MESSAGE = 1000  # characters of TensorFlow's, which may hold a whole tensor


class SavedModel:
    """A loaded version. Its `run` may be called by several threads at a time."""

    def __init__(self, folder: Path, on_cpu: bool = False):
        """Loads the SavedModel in `folder`, for the CPU alone with `on_cpu`.

        A SavedModel is code: load only those you trust.

        Raises:
          ValueError, OSError, RuntimeError, tf.errors.OpError: it cannot be loaded.
        """
        loader = tf.compat.v1.saved_model
        # Not the whole memory of a GPU: several models share it.
        config = tf.compat.v1.ConfigProto(
            gpu_options=tf.compat.v1.GPUOptions(allow_growth=True),
            allow_soft_placement=True,
            device_count={"GPU": 0} if on_cpu else {},
        )
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        with graph.as_default(), _without_advice(), files.literal(folder) as path:
            meta_graph = loader.loader.load(
                self._session, [loader.tag_constants.SERVING], str(path)
            )
        self.signatures = dict(meta_graph.signature_def)  # name -> SignatureDef
        self.specs = {  # name -> input name -> what it must be, of those that have inputs
            name: {
                key: tf.TensorSpec(info.tensor_shape, info.dtype)
                for key, info in definition.inputs.items()
            }
            for name, definition in self.signatures.items()
            if definition.inputs
        }
        self._callables: dict[str, Callable] = {}

    def run(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of a signature by name.

        Args:
          signature: one of `signatures`.
          inputs: all that it has, by name, as `check` expects them.

        Raises:
          RequestError: TensorFlow refuses these inputs, or fails.
        """
        definition = self.signatures[signature]
        names, outputs = sorted(definition.inputs), sorted(definition.outputs)
        if signature not in self._callables:
            self._callables[signature] = self._session.make_callable(
                [definition.outputs[name].name for name in outputs],
                [definition.inputs[name].name for name in names],
            )
        try:
            values = self._callables[signature](*(inputs[name] for name in names))
        except tf.errors.OpError as error:
            raise _request_error(error) from error
        return dict(zip(outputs, map(_array, values)))

    def close(self) -> None:
        """Frees the variables. Nothing may run any more."""
        self._callables.clear()
        self._session.close()


def check(wanted: dict[str, tf.TensorSpec], inputs: dict[str, np.ndarray]) -> None:
    """Compares inputs with those that a signature wants, by name, type and shape.

    A session would find out too, but in the midst of a batch with other requests.

    Raises:
      RequestError: they differ.
    """
    if inputs.keys() != wanted.keys():
        given, names = inputs.keys(), wanted.keys()
        raise invalid(
            f"input size does not match signature: {len(given)}!={len(names)} len({_names(given)})"
            f" != len({_names(names)}). Sent extra: {_names(given - names)}. "
            f"Missing but required: {_names(names - given)}."
        )
    for name, spec in wanted.items():
        array = inputs[name]
        if array.dtype != spec.dtype.as_numpy_dtype:
            raise invalid(f"{name}: expected {spec.dtype.name}; received {array.dtype}")
        if not spec.shape.is_compatible_with(array.shape):
            raise invalid(f"{name}: expected shape {spec.shape}; received {array.shape}")


def _array(value: Any) -> np.ndarray:
    """What a session returns as an array, which a string without dimensions is not."""
    return np.array(value, object) if isinstance(value, bytes) else np.asarray(value)


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Keeps TensorFlow from advising `tf.saved_model.load`."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)


def _names(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names))[:MAX_MESSAGE] + "}"


def _request_error(error: tf.errors.OpError) -> RequestError:
    code = error_codes_pb2.Code.Name(error.error_code)
    # A headline may come before, and nodes of the graph behind.
    message = error.message.removeprefix("Graph execution error:").strip()
    return RequestError(code, message.partition("\n")[0][:MAX_MESSAGE])
