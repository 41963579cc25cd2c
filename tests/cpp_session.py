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
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
        ("deallocate", ctypes.c_void_p),
    ]


class _Output(ctypes.Structure):  # TF_Output
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


def _library():
    # Bound locally, after `import tensorflow`: RTLD_GLOBAL makes the process crash.
    library = ctypes.CDLL(str(Path(tf.__file__).parent / "libtensorflow_cc.so.2"))
    returned = {
        ctypes.c_void_p: (
            "NewStatus NewSessionOptions NewGraph NewBuffer LoadSessionFromSavedModel "
            "GraphOperationByName AllocateTensor TensorData StringGetDataPointer"
        ),
        ctypes.c_char_p: "Message",
        ctypes.c_size_t: "TensorByteSize StringGetSize",
        ctypes.c_int64: "Dim",
        ctypes.c_int: "GetCode NumDims TensorType",
        None: (
            "SessionRun CloseSession DeleteSession DeleteSessionOptions DeleteGraph DeleteBuffer "
            "DeleteTensor DeleteStatus"
        ),
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
        self._session = ctypes.c_void_p(
            self._tf.TF_LoadSessionFromSavedModel(
                options,
                None,
                str(folder).encode(),
                (ctypes.c_char_p * 1)(b"serve"),
                1,
                self._graph,
                buffer,
                self._status,
            )
        )
        self._raise_if_failed()
        written = ctypes.cast(buffer, ctypes.POINTER(_Buffer)).contents
        self.meta_graph = meta_graph_pb2.MetaGraphDef.FromString(
            ctypes.string_at(written.data, written.length)
        )
        self.signatures = self.meta_graph.signature_def
        self._tf.TF_DeleteBuffer(buffer)
        self._tf.TF_DeleteSessionOptions(options)

    def run(self, signature: str, **inputs) -> dict[str, np.ndarray]:
        """Outputs by name; strings as arrays of `bytes`.

        Raises:
          RuntimeError: TensorFlow's message, when it refuses.
        """
        definition = self.signatures[signature]
        assert set(inputs) == set(definition.inputs), f"{signature} takes {[*definition.inputs]}"
        fed = (_Output * len(inputs))(*(self._output(definition.inputs[key]) for key in inputs))
        values = (ctypes.c_void_p * len(inputs))(
            *(self._tensor(value, definition.inputs[key].dtype) for key, value in inputs.items())
        )
        keys = list(definition.outputs)
        wanted = (_Output * len(keys))(*(self._output(definition.outputs[key]) for key in keys))
        results = (ctypes.c_void_p * len(keys))()
        self._tf.TF_SessionRun(
            self._session,
            None,
            *(fed, values, len(inputs)),
            *(wanted, results, len(keys)),
            *(None, 0, None),
            self._status,
        )
        for value in values:
            self._tf.TF_DeleteTensor(ctypes.c_void_p(value))
        self._raise_if_failed()
        return {key: self._array(ctypes.c_void_p(result)) for key, result in zip(keys, results)}

    def close(self) -> None:
        self._tf.TF_CloseSession(self._session, self._status)
        self._tf.TF_DeleteSession(self._session, self._status)
        self._tf.TF_DeleteGraph(self._graph)
        self._tf.TF_DeleteStatus(self._status)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def _raise_if_failed(self):
        if self._tf.TF_GetCode(self._status):
            raise RuntimeError(self._tf.TF_Message(self._status).decode())

    def _output(self, info) -> _Output:
        operation, _, index = info.name.partition(":")
        found = self._tf.TF_GraphOperationByName(self._graph, operation.encode())
        return _Output(found, int(index))

    def _tensor(self, value, dtype: int) -> int:
        value = np.asarray(value, tf.as_dtype(dtype).as_numpy_dtype, order="C")
        shape = (ctypes.c_int64 * value.ndim)(*value.shape)
        tensor = self._tf.TF_AllocateTensor(dtype, shape, value.ndim, ctypes.c_size_t(value.nbytes))
        data = self._tf.TF_TensorData(ctypes.c_void_p(tensor))
        ctypes.memmove(data, value.ctypes.data, value.nbytes)
        return tensor

    def _array(self, tensor) -> np.ndarray:
        shape = [self._tf.TF_Dim(tensor, i) for i in range(self._tf.TF_NumDims(tensor))]
        data = self._tf.TF_TensorData(tensor)
        dtype = tf.as_dtype(self._tf.TF_TensorType(tensor))
        if dtype == tf.string:
            array = np.array([self._string(data + 24 * i) for i in range(np.prod(shape))], object)
        else:
            content = ctypes.string_at(data, self._tf.TF_TensorByteSize(tensor)) if data else b""
            array = np.frombuffer(content, dtype.as_numpy_dtype)
        self._tf.TF_DeleteTensor(tensor)
        return array.reshape(shape)

    def _string(self, address: int) -> bytes:
        pointer = ctypes.c_void_p(address)  # TF_TString, 24 bytes
        return ctypes.string_at(
            self._tf.TF_StringGetDataPointer(pointer), self._tf.TF_StringGetSize(pointer)
        )
