"""A SavedModel in a TensorFlow session: the graph, the loader and the runtime that a server uses.

`tf.saved_model.load` reads another part of the file, and accepts exports that cannot be served.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import error_codes_pb2

from tfgan_mnist import files
from tfgan_mnist.exports.request_errors import RequestError, invalid

MAX_MESSAGE = 1000  # characters of TensorFlow's, which may hold a whole tensor

# TensorFlow Serving's names of those types that TensorFlow calls by another.
DTYPE_NAMES = {"float32": "float", "float64": "double", "float16": "half"}


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
        try:
            with graph.as_default(), _without_advice(), files.literal(folder) as path:
                meta_graph = loader.loader.load(
                    self._session, [loader.tag_constants.SERVING], str(path)
                )
        except BaseException:
            self._session.close()
            raise
        self.signatures = dict(meta_graph.signature_def)  # name -> SignatureDef
        self.specs = {name: specs(definition) for name, definition in self.signatures.items()}
        self._callables: dict[tuple, tuple[Callable, list[str]]] = {}
        self._lock = threading.Lock()

    def run(
        self, signature: str, inputs: dict[str, np.ndarray], outputs: tuple[str, ...]
    ) -> dict[str, np.ndarray]:
        """The named outputs of a signature.

        Args:
          signature: one of `signatures`.
          inputs: all that it has, by name, as `check` expects them.
          outputs: names of some of its outputs.

        Raises:
          RequestError: TensorFlow refuses these inputs, or fails.
        """
        call, names = self._callable(signature, outputs)
        try:
            values = call(*(inputs[name] for name in names))
        except tf.errors.OpError as error:
            raise _request_error(error) from error
        return dict(zip(outputs, map(_array, values)))

    def _callable(self, signature: str, outputs: tuple[str, ...]) -> tuple[Callable, list[str]]:
        with self._lock:
            if (signature, outputs) not in self._callables:
                definition = self.signatures[signature]
                names = sorted(definition.inputs)
                self._callables[signature, outputs] = (
                    self._session.make_callable(
                        [definition.outputs[name].name for name in outputs],
                        [definition.inputs[name].name for name in names],
                    ),
                    names,
                )
            return self._callables[signature, outputs]

    def close(self) -> None:
        """Frees the variables. Nothing may run any more."""
        self._callables.clear()
        self._session.close()


class Spec(NamedTuple):
    """What an input of a signature must be."""

    dtype: str  # TensorFlow Serving's name of it: float, half, int32, string...
    array_dtype: Any  # NumPy's
    shape: tuple[int, ...] | None  # -1: any size; None: any number of dimensions


def specs(signature: Any) -> dict[str, Spec]:
    """Input name -> what it must be, of a SignatureDef."""
    found = {}
    for name, info in signature.inputs.items():
        dtype = tf.as_dtype(info.dtype)
        shape = None
        if not info.tensor_shape.unknown_rank:
            shape = tuple(dim.size for dim in info.tensor_shape.dim)
        found[name] = Spec(
            DTYPE_NAMES.get(dtype.name, dtype.name), np.dtype(dtype.as_numpy_dtype), shape
        )
    return found


def check_names(wanted: Mapping[str, Spec], inputs: Mapping[str, Any]) -> None:
    """Raises RequestError when the inputs' names are not those that a signature wants."""
    if inputs.keys() != wanted.keys():
        given, names = inputs.keys(), wanted.keys()
        raise invalid(
            f"input size does not match signature: {len(given)}!={len(names)} len({_names(given)})"
            f" != len({_names(names)}). Sent extra: {_names(given - names)}. "
            f"Missing but required: {_names(names - given)}."
        )


def check(wanted: dict[str, Spec], inputs: dict[str, np.ndarray]) -> None:
    """Compares inputs with those that a signature wants, by name, type and shape.

    A session would find out too, but in the midst of a batch with other requests.

    Raises:
      RequestError: they differ.
    """
    check_names(wanted, inputs)
    for name, spec in wanted.items():
        array = inputs[name]
        if array.dtype != spec.array_dtype:
            raise invalid(f"{name}: expected {spec.dtype}; received {array.dtype}")
        if spec.shape is None:
            continue
        fits = array.ndim == len(spec.shape) and all(
            size in (-1, given_size) for size, given_size in zip(spec.shape, array.shape)
        )
        if not fits:
            raise invalid(
                f"{name}: expected shape {list(spec.shape)}; received {list(array.shape)}"
            )


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
    text = ",".join(sorted(names))
    return "{" + (text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + "...") + "}"


def _request_error(error: tf.errors.OpError) -> RequestError:
    code = error_codes_pb2.Code.Name(error.error_code)
    # A headline may come before, and nodes of the graph behind.
    message = error.message.removeprefix("Graph execution error:").strip()
    return RequestError(code, message.partition("\n")[0][:MAX_MESSAGE])
