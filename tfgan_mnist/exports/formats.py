"""A generator as one file for other runtimes: ONNX and LiteRT.

Both take `latents` float32 (B, Z) [, `labels` int32 (B,)] and give `images` float32 (B, H, W, C) in
[0, 1]. Neither can refuse a request as a SavedModel does: the image of a label that is no class is
NaN throughout. ONNX takes any B; LiteRT has B = 1, since its browser runtime wants fixed shapes.

The model card travels inside the file, as the metadata `model_card`.
"""

import importlib.util
import json
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from tfgan_mnist.errors import UserError

CARD_KEY = "model_card"

# Format -> what it needs beside the package; setup.py has an extra of the format's name.
NEEDS = {"onnx": ("onnx", "onnxruntime", "tf2onnx"), "litert": ("ai_edge_litert",)}


def expect_packages(format_name: str) -> None:
    """Raises UserError when the packages of a format are not installed."""
    missing = [name for name in NEEDS[format_name] if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format={format_name}: expected the packages {', '.join(NEEDS[format_name])}; "
            f"missing: {', '.join(missing)}. pip install 'tfgan-mnist[{format_name}]'"
        )


def convert(
    format_name: str,
    generate: Callable,
    latent_dim: int,
    num_classes: int | None,
    card: dict[str, Any],
) -> bytes:
    """The content of a file.

    Args:
      format_name: "onnx" or "litert".
      generate: latents [, labels] -> {"images": images}, TensorFlow tensors.
      latent_dim: Z.
      num_classes: of the labels; None when `generate` takes none.
      card: the model card. Its signatures are replaced by the file's one.
    """
    import tensorflow as tf

    batch = 1 if format_name == "litert" else None
    specs = {"latents": tf.TensorSpec((batch, latent_dim), tf.float32, name="latents")}
    if num_classes:
        specs["labels"] = tf.TensorSpec((batch,), tf.int32, name="labels")
    function = tf.function(_without_refusals(generate, num_classes), autograph=False)
    card = card | {
        "format": format_name,
        "signatures": _describe(card["signatures"], num_classes, batch),
    }
    write = {"onnx": _onnx, "litert": _litert}[format_name]
    return write(function, list(specs.values()), json.dumps(card, indent=2))


def run(format_name: str, content: bytes, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The images (B, H, W, C) that a file's content makes, by the format's own runtime."""
    if format_name == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        (images,) = session.run(["images"], inputs)
        return images
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=content).get_signature_runner()
    rows = range(len(inputs["latents"]))
    one_by_one = [
        runner(**{key: value[row : row + 1] for key, value in inputs.items()})["images"].copy()
        for row in rows
    ]
    return np.concatenate(one_by_one)


def _without_refusals(generate: Callable, num_classes: int | None) -> Callable:
    """`generate` with NaN for the images of wrong labels, which its assertion never gets to see."""
    import tensorflow as tf

    if not num_classes:
        return lambda latents: generate(latents=latents)

    def images(latents, labels):
        is_class = (labels >= 0) & (labels < num_classes)
        drawn = generate(latents=latents, labels=tf.where(is_class, labels, 0))["images"]
        return {"images": tf.where(is_class[:, None, None, None], drawn, np.nan)}

    return images


def _describe(
    signatures: dict[str, str], num_classes: int | None, batch: int | None
) -> dict[str, str]:
    signature = signatures["serving_default"]
    if batch:
        signature = signature.replace("(B,", f"({batch},")
    wrong = "; NaN for a label that is no class" if num_classes else ""
    return {"serving_default": signature + wrong}


def _onnx(function, specs: list, card: str) -> bytes:
    import tf2onnx

    # By tf2onnx itself: Keras's `export(format="onnx")` patches NumPy for the whole process.
    model, _ = tf2onnx.convert.from_function(function, specs)
    for tensor in [*model.graph.input, *model.graph.output]:
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"  # else: "unk__173"
    entry = model.metadata_props.add()
    entry.key, entry.value = CARD_KEY, card
    return model.SerializeToString()


def _litert(function, specs: list, card: str) -> bytes:
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants

    concrete = function.get_concrete_function(*specs)
    frozen = convert_to_constants.convert_variables_to_constants_v2(concrete)
    module = tf.Module()
    module.generate = tf.function(lambda *inputs: {"images": frozen(*inputs)[0]}, autograph=False)
    # By way of a SavedModel, whose signature gives the file's inputs and output their names.
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, module.generate.get_concrete_function(*specs))
        content = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
    return _with_metadata(content, CARD_KEY, card)


def _with_metadata(content: bytes, name: str, value: str) -> bytes:
    """A LiteRT file with an entry among its metadata: a flatbuffer of that file's schema."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(value.encode(), np.uint8)
    entry.name, entry.buffer = name, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
