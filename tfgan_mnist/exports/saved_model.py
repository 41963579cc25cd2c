"""Exports a generator as a SavedModel for TensorFlow Serving.

A SavedModel is a folder, `saved_models/dcgan/3/`: a version under its base path.

saved_model.pb, variables/   the averaged generator in float32
assets.extra/                requests that a server runs before the version goes live (warm-up)
model_card.json              what the model is, what it was trained on, how, and how it is called

Its signatures, with labels for conditional models only; every tensor has the batch B in front:

serving_default   latents (B, Z) float32 [, labels (B,) int32] -> images (B, H, W, C) float32
sample            seed (B,) int32 [, labels (B,) int32]        -> images (B, H, W, C) float32
png               seed (B,) int32 [, labels (B,) int32]        -> png_bytes (B,) string, PNG files

Images are in [0, 1]. Each row of `sample` and `png` draws its latent from its own seed, so that the
same request has the same answer on every replica and after every restart.
"""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tfgan_mnist import files
from tfgan_mnist.errors import UserError
from tfgan_mnist.exports import warmup
from tfgan_mnist.exports.card import CARD, describe_model
from tfgan_mnist.exports.versions import next_number, versions
from tfgan_mnist.models import latents

ROWS = 16  # of the requests that check an export and warm up a server
TOLERANCE = 1e-5  # of images in [0, 1], between Keras and what was written


def export(
    model, base_path: str | os.PathLike, card: dict | None = None, unless_there: bool = False
) -> Path:
    """Publishes the generator of `model` as the next version under `base_path`.

    The export is run and compared with Keras before it gets its name, so that a server sees only
    complete versions, and none after a failure.

    Args:
      model: a `GAN` in any precision, compiled or not; it stays as it is.
      base_path: folder of the versions, such as `saved_models/dcgan`.
      card: entries of the model card beside those that follow from the model; see `describe_run`.
      unless_there: returns an existing version of the same weights, data and configuration, made
        by the same versions of the packages, if there is one.

    Raises:
      OSError, UserError: nothing can be written there.
      RuntimeError: the export does not make the images that Keras makes.
    """
    model = in_float32(model)
    card = describe_model(model) | (card or {})
    if unless_there and (found := _find_same(Path(base_path), card)):
        return found
    while True:
        number = next_number(base_path)
        path = Path(base_path) / str(number)
        try:
            with files.write_atomically(path) as partial:
                _write(model, partial, card)
                if next_number(base_path) > number:
                    raise FileExistsError(f"{path}: another command took the number")
            return path
        except OSError:
            if next_number(base_path) == number:
                raise


def _find_same(base_path: Path, card: dict[str, Any]) -> Path | None:
    """The newest version whose card has the same weights, configuration, data and packages."""
    keys = ("weights", "config", "data", "versions")
    expected = json.loads(json.dumps({key: card.get(key) for key in keys}))  # lists for tuples
    for _, version in sorted(versions(base_path).items(), reverse=True):
        with contextlib.suppress(OSError, UserError):
            other = files.read_json(version / CARD)
            if {key: other.get(key) for key in keys} == expected:
                return version
    return None


def _write(model, folder: Path, card: dict[str, Any]) -> None:
    """Writes a version to `folder` and checks it."""
    import keras
    import tensorflow as tf

    from tfgan_mnist.exports.session import SavedModel

    folder.mkdir()
    signatures, requests = endpoints(model), {}
    archive = keras.export.ExportArchive()  # its `track` would store the weights a second time
    for name, (endpoint, specs) in signatures.items():
        archive.add_endpoint(name, endpoint, specs)
        requests[name] = request_of(specs, model.latent_dim, model.num_classes)
    try:
        archive.write_out(folder, verbose=False)
        path = folder / warmup.FILE  # a server's first calls are slow
        path.parent.mkdir()
        with tf.io.TFRecordWriter(str(path)) as writer:
            for name, request in requests.items():
                writer.write(warmup.record(name, request))
    except tf.errors.OpError as error:
        # The reason stands between the names of temporary files and that of the operation.
        reason = error.message.rpartition(";")[2].partition("[Op:")[0].strip()
        raise UserError(f"{folder.parent}: cannot write an export: {reason}") from error
    with contextlib.closing(SavedModel(folder, on_cpu=True)) as saved:
        for name, (endpoint, _) in signatures.items():
            outputs = saved.run(name, requests[name])
            # Where Keras rounds a pixel up, the export may just round it down.
            tolerance = TOLERANCE + (1 / 255 if name == "png" else 0)
            compare(_images(outputs), endpoint, requests[name], f"signature {name!r}", tolerance)
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n")


def load(version: Path):
    """The SavedModel of a version, loaded by `tf.saved_model.load`.

    A SavedModel is code: load only those you trust.

    Raises:
      UserError: it is damaged, or has not our signature.
    """
    import tensorflow as tf

    try:
        with files.literal(version) as folder:
            loaded = tf.saved_model.load(str(folder))
        _, inputs = loaded.signatures["serving_default"].structured_input_signature
        _ = inputs["latents"]
    except Exception as error:  # a damaged file raises errors of many types
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{version}: expected an export of tfgan_mnist; received: {reason}"
        ) from error
    return loaded


def in_float32(model):
    """A copy of a `GAN` that generates in float32, on the CPU.

    Half precision is slower on a CPU, and TensorFlow Serving cannot write it as JSON. A GPU rounds
    the operands of convolutions to 10 bits (TF32).

    Raises:
      UserError: a weight is NaN or infinite.
    """
    import tensorflow as tf

    weights = model.averaged_generator.get_weights()
    if not all(np.isfinite(weight).all() for weight in weights):
        raise UserError("the generator has weights that are NaN or infinite; expected finite ones")
    with tf.device("/CPU:0"):
        config = json.dumps(model.get_config())
        copy = type(model).from_config(json.loads(config, object_hook=_with_float32))
        copy.averaged_generator.set_weights(weights)
    return copy


def _with_float32(config: dict) -> dict:
    """The configuration of a Keras object, "float32" where it is a dtype policy."""
    is_policy = config.get("class_name") == "DTypePolicy"
    return config | {"config": {"name": "float32"}} if is_policy else config


def endpoints(model) -> dict[str, tuple]:
    """Signature name -> (function, specifications of its inputs), of a `GAN`."""
    import tensorflow as tf

    def serving_default(latents, labels=None):
        if model.num_classes:
            labels = expect_classes(labels)
        images = model.generate(latents, labels, training=False)  # (B, H, W, C) in [-1, 1]
        return {"images": (images + 1.0) / 2.0}

    def sample(seed, labels=None):
        return serving_default(draw(seed), labels)

    def png(seed, labels=None):
        images = sample(seed, labels)["images"]
        pixels = tf.saturate_cast(tf.round(255.0 * images), tf.uint8)
        return {"png_bytes": tf.io.encode_png(pixels)}

    def draw(seed):
        """(B,) -> latents (B, Z) from N(0, 1), each row a function of its own seed."""
        # The algorithm is named because the default one depends on the device.
        return tf.map_fn(
            lambda one: tf.random.stateless_normal(
                [model.latent_dim], seed=tf.stack([one, 0]), alg="philox"
            ),
            seed,
            fn_output_signature=tf.TensorSpec([model.latent_dim], tf.float32),
        )

    def expect_classes(labels):
        """Labels (B,) as they are; the request fails when one is not a class.

        An embedding would take -1 for the last class, and a one-hot of it is no class at all.
        """
        is_class = (labels >= 0) & (labels < model.num_classes)
        message = f"labels: expected 0..{model.num_classes - 1}; received"
        data = [message, tf.boolean_mask(labels, ~is_class)]
        check = tf.debugging.Assert(tf.reduce_all(is_class), data, summarize=10)
        with tf.control_dependencies([check]):
            return tf.identity(labels)

    of_latents = [tf.TensorSpec((None, model.latent_dim), tf.float32, name="latents")]
    of_seed = [tf.TensorSpec((None,), tf.int32, name="seed")]
    of_labels = [tf.TensorSpec((None,), tf.int32, name="labels")] if model.num_classes else []
    return {
        "serving_default": (serving_default, of_latents + of_labels),
        "sample": (sample, of_seed + of_labels),
        "png": (png, of_seed + of_labels),
    }


def request_of(specs: list, latent_dim: int, num_classes: int | None) -> dict[str, np.ndarray]:
    """Inputs by name: latents (ROWS, Z), seeds (ROWS,), labels (ROWS,), those in `specs`."""
    rows = np.arange(ROWS, dtype=np.int32)
    values = {"latents": latents.draw(ROWS, latent_dim, seed=0), "seed": rows}
    values["labels"] = rows % (num_classes or 1)
    return {spec.name: values[spec.name] for spec in specs}


def compare(
    images: np.ndarray, generate: Callable, request: dict, what: str, tolerance: float = TOLERANCE
) -> None:
    """Raises RuntimeError unless images in [0, 1] are those of `generate(**request)` on the CPU."""
    import tensorflow as tf

    with tf.device("/CPU:0"):
        outputs = generate(**{key: tf.constant(value) for key, value in request.items()})
    difference = np.abs(images - _images(outputs)).max()
    if not difference <= tolerance:  # written so that NaN fails too
        raise RuntimeError(
            f"{what}: expected the images that Keras makes, in [0, 1] and to within "
            f"{tolerance:.1g}; they differ by {difference:.1g}. Nothing was published."
        )


def _images(outputs: dict) -> np.ndarray:
    """The outputs of any signature as images (B, H, W, C) in [0, 1]."""
    import tensorflow as tf

    if "images" in outputs:
        return np.asarray(outputs["images"])
    return np.stack([tf.io.decode_png(png) for png in np.asarray(outputs["png_bytes"])]) / 255
