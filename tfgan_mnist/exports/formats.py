"""Exports a generator as one file for other runtimes, ONNX and LiteRT, or a model as `.keras`.

The first two take `latents` float32 (B, Z) [, `labels` int32 (B,)] and give `images` float32
(B, H, W, C) in [0, 1]. Neither can refuse a request as a SavedModel does: the image of a label that
is no class is NaN throughout. ONNX takes any B; LiteRT has B = 1, since its browser runtime wants
fixed shapes.

The model card is inside the file, as the metadata `model_card`.
"""

import contextlib
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tfgan_mnist import files
from tfgan_mnist.errors import UserError
from tfgan_mnist.exports import card as cards
from tfgan_mnist.exports import saved_model
from tfgan_mnist.exports.versions import SUFFIXES, next_number

CARD_KEY = "model_card"

# Format -> what it needs beside the package; setup.py has an extra of the format's name.
NEEDS = {"onnx": ("onnx", "onnxruntime", "tf2onnx"), "litert": ("ai_edge_litert",), "keras": ()}


def expect_packages(format_name: str) -> None:
    """Raises UserError when the packages of a format are not installed."""
    missing = [name for name in NEEDS[format_name] if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format={format_name}: missing packages: {', '.join(missing)}. "
            f"pip install 'tfgan-mnist[{format_name}]'"
        )


def export_file(
    model, base_path: str | os.PathLike, format_name: str, card: dict | None = None
) -> Path:
    """Publishes the generator of a `GAN` as the next number under `base_path`, such as `3.onnx`.

    Raises:
      OSError: nothing can be written there.
      UserError: the packages of the format are not installed.
      RuntimeError: the file does not make the images that Keras makes.
    """
    expect_packages(format_name)
    suffix = SUFFIXES[format_name]
    with files.temporary(Path(base_path) / f"export{suffix}") as partial:
        if format_name == "keras":
            with files.write_atomically(partial) as file:
                model.save(file)
        else:
            model = saved_model.in_float32(model)
            card = cards.describe_model(model) | (card or {})
            generate, _ = saved_model.endpoints(model)["serving_default"]
            _write(partial, format_name, generate, card)
        path = _take_number(Path(base_path), suffix)
        os.replace(partial, path)
        return path


def _take_number(base_path: Path, suffix: str) -> Path:
    """An empty file of the next number, which no other command gets."""
    while True:
        path = base_path / f"{next_number(base_path)}{suffix}"
        with contextlib.suppress(FileExistsError):
            path.touch(exist_ok=False)
            return path


def convert(version: Path, format_name: str) -> Path:
    """Publishes a version in another format beside it: `dcgan/3/` as `dcgan/3.onnx`.

    The file is compared with the version's SavedModel. A SavedModel is code: load only those you
    trust.

    Raises:
      OSError, RuntimeError: as `export_file`.
      UserError: not an export of tfgan_mnist, or the packages of the format are not installed.
    """
    import tensorflow as tf

    expect_packages(format_name)
    version = version.resolve()  # a link's file gets the number of the version
    card = cards.read(version)
    with tf.device("/CPU:0"):
        loaded = saved_model.load(version)
    generate = loaded.signatures["serving_default"]
    path = version.with_name(version.name + SUFFIXES[format_name])
    return _write(path, format_name, generate, card)


def _write(path: Path, format_name: str, generate: Callable, card: dict[str, Any]) -> Path:
    """Writes a file that makes the same images as the signature `generate`.

    The card's signatures are replaced by that of the file.
    """
    import tensorflow as tf

    num_classes, batch = card["num_classes"], 1 if format_name == "litert" else None
    specs = [tf.TensorSpec((batch, card["latent_dim"]), tf.float32, name="latents")]
    signature = card["signatures"]["serving_default"]
    if batch:
        signature = signature.replace("(B,", "(1,")
    if num_classes:
        specs.append(tf.TensorSpec((batch,), tf.int32, name="labels"))
        signature += "; NaN for a label that is no class"
    card = card | {"format": format_name, "signatures": {"serving_default": signature}}
    function = tf.function(_without_assertion(generate, num_classes), autograph=False)
    to_bytes = {"onnx": _onnx, "litert": _litert}[format_name]
    content = to_bytes(function, specs, json.dumps(card, indent=2))
    request = saved_model.request_of(specs, card["latent_dim"], num_classes)
    saved_model.compare(run(format_name, content, request), generate, request, format_name)
    with files.write_atomically(path) as partial:
        partial.write_bytes(content)
    return path


def run(format_name: str, content: bytes, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The images (B, H, W, C) that a file's content makes, by the format's own runtime."""
    if format_name == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return session.run(["images"], inputs)[0]
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=content).get_signature_runner()
    one_by_one = [
        runner(**{key: value[row : row + 1] for key, value in inputs.items()})["images"].copy()
        for row in range(len(inputs["latents"]))
    ]
    return np.concatenate(one_by_one)


def _without_assertion(generate: Callable, num_classes: int | None) -> Callable:
    """`generate` with NaN for the images of wrong labels, which its assertion never receives."""
    import tensorflow as tf

    if not num_classes:
        return lambda latents: generate(latents=latents)

    def images(latents, labels):
        is_class = (labels >= 0) & (labels < num_classes)
        drawn = generate(latents=latents, labels=tf.where(is_class, labels, 0))["images"]
        return {"images": tf.where(is_class[:, None, None, None], drawn, np.nan)}

    return images


def _onnx(function, specs: list, card: str) -> bytes:
    import tf2onnx

    # By tf2onnx itself: Keras's `export(format="onnx")` patches NumPy for the whole process.
    model, _ = tf2onnx.convert.from_function(function, specs)
    for tensor in [*model.graph.input, *model.graph.output]:
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"  # else: "unk__173"
    _rename(model.graph)
    model.metadata_props.add(key=CARD_KEY, value=card)
    return model.SerializeToString(deterministic=True)


def _rename(graph) -> None:
    """Names and sorts what is inside a graph by its place, so that an export is made twice alike.

    tf2onnx numbers names by a counter of its process, and sorts by hash.
    """
    graph.doc_string = ""
    names = {"": ""} | {tensor.name: tensor.name for tensor in [*graph.input, *graph.output]}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    del graph.initializer[:]
    for i, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{i}"
        for name in node.input:
            if name in constants and name not in names:
                names[name] = f"constant_{len(graph.initializer)}"
                constants[name].name = names[name]
                graph.initializer.append(constants[name])
        for j, name in enumerate(node.output):
            names.setdefault(name, f"{node.name}_{j}")
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]


def _litert(function, specs: list, card: str) -> bytes:
    import flatbuffers
    import tensorflow as tf
    from ai_edge_litert import schema_py_generated as schema
    from tensorflow.python.framework import convert_to_constants

    concrete = function.get_concrete_function(*specs)
    frozen = convert_to_constants.convert_variables_to_constants_v2(concrete)
    # The signature of a module gives the file's inputs and output their names.
    module = tf.Module()
    module.generate = tf.function(lambda *inputs: {"images": frozen(*inputs)[0]}, autograph=False)
    concrete = module.generate.get_concrete_function(*specs)
    content = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module).convert()
    # The card becomes an entry of the file's metadata, in a flatbuffer of its schema.
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(card.encode(), np.uint8)
    entry.name, entry.buffer = CARD_KEY, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
