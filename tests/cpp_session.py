"""Runs a SavedModel in TensorFlow's C++ session, the loader and runtime of TensorFlow Serving.

Through the C API that the pip package exports, by ctypes. `tf.saved_model.load` is another reader:
it accepts exports on which this one fails with "Could not find variable".
"""

import ctypes
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2


class _Buffer(ctypes.Structure):  # TF_Buffer
    _fields_ = [("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("free", ctypes.c_void_p)]


class _Output(ctypes.Structure):  # TF_Output
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


def _library():
    # Bound locally, after `import tensorflow`: RTLD_GLOBAL makes the process crash.
    library = ctypes.CDLL(str(Path(tf.__file__).parent / "libtensorflow_cc.so.2"))
    pointers = (
        "NewStatus NewSessionOptions NewGraph NewBuffer LoadSessionFromSavedModel "
        "GraphOperationByName AllocateTensor TensorData StringGetDataPointer"
    )
    returned = {
        ctypes.c_void_p: pointers,
        ctypes.c_char_p: "Message",
        ctypes.c_size_t: "TensorByteSize StringGetSize",
        ctypes.c_int64: "Dim",
    }
    for kind, names in returned.items():
        for name in names.split():
            getattr(library, f"TF_{name}").restype = kind
    return library


class CppSession:
    """A loaded SavedModel.

    ```python
    session = CppSession(folder)
    session.signatures["serving_default"]  # its SignatureDef
    session.run("serving_default", latents=latents)["images"]
    ```
    """

    def __init__(self, folder):
        self._tf = _library()
        self._status = ctypes.c_void_p(self._tf.TF_NewStatus())
        self._graph = ctypes.c_void_p(self._tf.TF_NewGraph())
        options = ctypes.c_void_p(self._tf.TF_NewSessionOptions())
        buffer = ctypes.c_void_p(self._tf.TF_NewBuffer())
        tags = (ctypes.c_char_p * 1)(b"serve")
        arguments = (options, None, str(folder).encode(), tags, 1, self._graph, buffer)
        session = self._tf.TF_LoadSessionFromSavedModel(*arguments, self._status)
        self._session = ctypes.c_void_p(session)
        self._raise_if_failed()
        written = ctypes.cast(buffer, ctypes.POINTER(_Buffer)).contents
        self.meta_graph = meta_graph_pb2.MetaGraphDef.FromString(
            ctypes.string_at(written.data, written.length)
        )
        self.signatures = self.meta_graph.signature_def

    def run(self, signature: str, **inputs) -> dict[str, np.ndarray]:
        """Outputs by name; strings as arrays of `bytes`.

        Raises:
          RuntimeError: TensorFlow's message, when it refuses.
        """
        definition = self.signatures[signature]
        assert set(inputs) == set(definition.inputs), f"{signature} takes {[*definition.inputs]}"
        tensors = [self._tensor(inputs[key], info.dtype) for key, info in definition.inputs.items()]
        results = (ctypes.c_void_p * len(definition.outputs))()
        self._tf.TF_SessionRun(
            *(self._session, None),
            *(self._outputs(definition.inputs), (ctypes.c_void_p * len(tensors))(*tensors)),
            *(len(tensors), self._outputs(definition.outputs), results, len(results)),
            *(None, 0, None, self._status),
        )
        self._raise_if_failed()
        return {key: self._array(result) for key, result in zip(definition.outputs, results)}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._tf.TF_CloseSession(self._session, self._status)
        self._tf.TF_DeleteSession(self._session, self._status)
        self._tf.TF_DeleteGraph(self._graph)

    def _raise_if_failed(self):
        if self._tf.TF_GetCode(self._status):
            raise RuntimeError(self._tf.TF_Message(self._status).decode())

    def _outputs(self, infos):
        found = []
        for info in infos.values():
            operation, _, index = info.name.partition(":")
            pointer = self._tf.TF_GraphOperationByName(self._graph, operation.encode())
            found.append(_Output(pointer, int(index)))
        return (_Output * len(found))(*found)

    def _tensor(self, value, dtype: int) -> int:
        value = np.asarray(value, tf.as_dtype(dtype).as_numpy_dtype, order="C")
        shape = (ctypes.c_int64 * value.ndim)(*value.shape)
        tensor = self._tf.TF_AllocateTensor(dtype, shape, value.ndim, ctypes.c_size_t(value.nbytes))
        data = self._tf.TF_TensorData(ctypes.c_void_p(tensor))
        ctypes.memmove(data, value.ctypes.data, value.nbytes)
        return tensor

    def _array(self, address: int) -> np.ndarray:
        tensor = ctypes.c_void_p(address)
        shape = [self._tf.TF_Dim(tensor, i) for i in range(self._tf.TF_NumDims(tensor))]
        data = self._tf.TF_TensorData(tensor)
        dtype = tf.as_dtype(self._tf.TF_TensorType(tensor))
        if dtype == tf.string:  # of 24 bytes each, TF_TString
            array = np.array([self._string(data + 24 * i) for i in range(np.prod(shape))], object)
        else:
            content = ctypes.string_at(data, self._tf.TF_TensorByteSize(tensor)) if data else b""
            array = np.frombuffer(content, dtype.as_numpy_dtype)
        return array.reshape(shape)

    def _string(self, address: int) -> bytes:
        pointer = ctypes.c_void_p(address)
        return ctypes.string_at(
            self._tf.TF_StringGetDataPointer(pointer), self._tf.TF_StringGetSize(pointer)
        )
