"""What the tests of the embedded server share: models to serve, a server, and requests to it."""

import importlib.util
import json
import socket
import sys
import time
from pathlib import Path

import tensorflow as tf

from benchmarks.malformed import read_answer
from tfgan_mnist import serve
from tfgan_mnist.serving.settings import ServerConfig

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy" / "serving"
HEAD = b"POST /v1/models/H:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
BODY = b'{"instances": [1.0]}'

spec = importlib.util.spec_from_file_location("smoke", DEPLOY / "smoke.py")
smoke = importlib.util.module_from_spec(spec)
sys.modules["smoke"] = smoke
spec.loader.exec_module(smoke)

# All types that both interfaces take: name -> values that show whether all bits arrive.
TYPES = {
    "float32": [0.1, -3.0, 3e38, 16777215.0],
    "float64": [0.1, -3.0, 1e300, 2.0**53],
    "int8": [-128, 127, 0, 1],
    "uint8": [0, 255, 1, 2],
    "int16": [-(2**15), 2**15 - 1, 0, 1],
    "int32": [-(2**31), 2**31 - 1, 0, 1],
    "uint32": [0, 2**32 - 1, 1, 2],
    "int64": [-(2**63), 2**63 - 1, 0, 1],
    "uint64": [0, 2**64 - 1, 1, 2],
    "bool": [True, False, False, True],
    "string": ["", "digits", 'é "\\ \n', "0"],
}


def tensor(dtype, name, shape=None):
    return tf.TensorSpec(shape, dtype, name=name)


def save(folder, **signatures):
    """Publishes a SavedModel of these functions, which have input signatures."""
    module = tf.Module()
    module.scale = tf.Variable(0.5)  # so that there are variables to restore
    functions = {}
    for name, (function, *specs) in signatures.items():
        functions[name] = tf.function(function, input_signature=specs)
        setattr(module, name, functions[name])
    module.unused = tf.function(lambda: module.scale.read_value(), input_signature=[])
    partial = folder.with_name(f".{folder.name}.partial")
    tf.saved_model.save(module, str(partial), signatures=functions)
    return partial.rename(folder)


def save_half_plus(folder, number):
    """y = x / 2 + number, for any shape."""
    half_plus = (lambda x: {"y": x / 2 + float(number)}, tensor(tf.float32, "x"))
    return save(folder, serving_default=half_plus)


def save_types(folder):
    """Signatures of types and shapes that the exports do not have."""
    same = {name: (lambda x: {"y": tf.identity(x)}, tensor(name, "x")) for name in TYPES}
    of_floats, of_halves = (tensor(dtype, "x", [None]) for dtype in (tf.float32, tf.float16))
    of_two = [tensor(tf.float32, name, [None]) for name in "ab"]
    return save(
        folder,
        **same,
        text=(lambda s: {"s": s, "s_bytes": s}, tensor(tf.string, "s", [None])),
        half_in=(lambda x: {"y": tf.cast(x, tf.float32)}, of_halves),
        half_out=(lambda x: {"h": tf.cast(x, tf.float16)}, of_floats),
        two=(lambda a, b: {"y": tf.size(a) + tf.size(b)}, *of_two),
        total=(lambda x: {"total": tf.reduce_sum(x)}, of_floats),
    )


def start(**config):
    """A server on free ports, which soon sees new versions."""
    chosen = {"file_system_poll_wait_seconds": 0.05} | config
    return serve.start(ServerConfig(port=0, rest_api_port=0, **chosen), free_ports=True)


def start_with_models(folder, exports):
    """A server of the exports, of H with the versions 1 and 2, of "T x" (types), with CORS."""
    (folder / "H").mkdir()
    (folder / "T").mkdir()
    save_half_plus(folder / "H" / "1", 1)
    save_half_plus(folder / "H" / "00000002", 2)
    save_types(folder / "T" / "1")
    policy = "model_version_policy { all {} }"
    labels = "version_labels { key: 'stable' value: 2 } version_labels { key: 'a b' value: 1 }"
    entries = [(name, exports / name, "") for name in ("gan", "dcgan", "cdcgan")]
    entries += [("H", folder / "H", policy + labels), ("T x", folder / "T", "")]
    listed = [
        f"config {{ name: '{name}' base_path: '{path}' {more} }}" for name, path, more in entries
    ]
    (folder / "models.config").write_text(f"model_config_list {{ {' '.join(listed)} }}")
    return start(
        model_config_file=str(folder / "models.config"),
        rest_api_enable_cors_support=True,
        rest_api_timeout_in_ms=10_000,
        rest_api_max_body_bytes=1 << 20,
    )


def ask(server, method, path, body=None, **headers):
    """Status, headers and text of an answer."""
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    headers = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    case = smoke.Case("", method, path, body, 0, None, headers)
    status, received, content = smoke.ask(server.rest_url, case)
    return status, received, content.decode()


def predict(server, model, body):
    status, _, content = ask(server, "POST", f"/v1/models/{model}:predict", body)
    return status, json.loads(content)


def states(server, model="H"):
    """Version -> state of a model."""
    _, _, content = ask(server, "GET", f"/v1/models/{model}")
    entries = json.loads(content).get("model_version_status", [])
    return {int(entry["version"]): entry["state"] for entry in entries}


def port_of(server):
    return int(server.rest_url.rpartition(":")[2])


def exchange(server, content):
    """Sends bytes as they are; the answer up to the end of the connection or of its body."""
    with socket.create_connection(("127.0.0.1", port_of(server)), 20) as connection:
        connection.sendall(content)
        return read_answer(connection)


def eventually(holds, seconds=20):
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.02)
