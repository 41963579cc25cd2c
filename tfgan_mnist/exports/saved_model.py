"""Writes a generator as a SavedModel, the next version under its base path, or as a file.

A SavedModel is a folder, `saved_models/dcgan/3/`: a version under its base path.

saved_model.pb, variables/   the averaged generator in float32
assets.extra/                requests that a server runs before the version goes live (warm-up)
model_card.json              what the model is, what it was trained on, how, and how it is called

The other formats are files beside the versions, `saved_models/dcgan/3.onnx` and `3.tflite`, which
TensorFlow Serving ignores. A number stands for one set of weights.
"""

import contextlib
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfgan_mnist import files
from tfgan_mnist.errors import UserError
from tfgan_mnist.exports import card as cards
from tfgan_mnist.exports import formats, signatures, versions, warmup

if TYPE_CHECKING:
    from tfgan_mnist.models.gan import GAN

CHECKED_ROWS = 16
WARMUP_ROWS = 4
TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)  # of renaming a folder to a name in use
TOLERANCE = 1e-5  # of images in [0, 1], between Keras and what was written


def export(
    model: "GAN",
    base_path: str | os.PathLike,
    card: dict[str, Any] | None = None,
    unless_there: bool = False,
) -> Path:
    """Publishes the generator of `model` as the next version under `base_path`.

    What was written is run and compared with Keras before it gets its name; until then, and after
    any failure, there is nothing that a server could take for a version.

    Args:
      model: in any precision, compiled or not; it is left as it is.
      base_path: folder of the versions, such as `saved_models/dcgan`. It is created.
      card: what the model card tells beside what the model itself shows; see `card.describe_run`.
      unless_there: a version of the same weights, data and configuration is returned if there is
        one, made by the same versions of everything.

    Returns:
      The folder of the new version: one above the highest so far, 1 at first.

    Raises:
      OSError, UserError: nothing can be written there.
      RuntimeError: what was written does not make the images that Keras makes.
    """
    import tensorflow as tf

    # On the CPU, whose arithmetic is the reference: a GPU rounds convolutions to 10 bits (TF32).
    with tf.device("/CPU:0"):
        model = _in_float32(model)
    card = cards.describe(model) | (card or {})
    if unless_there and (found := _made_of_the_same(Path(base_path), card)):
        return found
    number = versions.next_number(base_path)
    while True:
        path = Path(base_path) / str(number)
        try:
            with files.write_atomically(path) as partial:
                _write(model, partial, card)
                if versions.next_number(base_path) > number:
                    raise FileExistsError(errno.EEXIST, "another command took the number", path)
            return path
        except OSError as error:
            # What fails after the renaming, as of the disk, is no taken number though it is taken.
            in_use = os.path.lexists(path) or versions.next_number(base_path) > number
            if error.errno not in TAKEN or not in_use:
                raise
            number = max(number + 1, versions.next_number(base_path))


def _made_of_the_same(base_path: Path, card: dict[str, Any]) -> Path | None:
    """A version whose card says the same of all that an export follows from."""
    keys = ("weights", "config", "data", "versions")
    expected = json.loads(json.dumps({key: card.get(key) for key in keys}))  # lists for tuples
    for _, version in sorted(versions.versions(base_path).items(), reverse=True):
        with contextlib.suppress(OSError, UserError):
            other = files.read_json(version / cards.CARD)
            if {key: other.get(key) for key in keys} == expected:
                return version
    return None


def export_file(
    model: "GAN",
    base_path: str | os.PathLike,
    format_name: str,
    card: dict[str, Any] | None = None,
) -> Path:
    """Publishes the generator of `model` as the next number under `base_path`, `3.onnx` say.

    Like `export`, but as one file of a format of `tfgan_mnist.formats`.

    Raises:
      OSError: nothing can be written there.
      UserError: the packages of the format are not installed.
      RuntimeError: the file does not make the images that Keras makes.
    """
    import tensorflow as tf

    with tf.device("/CPU:0"):
        model = _in_float32(model)
    card = cards.describe(model) | (card or {})
    generate, _ = signatures.endpoints(model)["serving_default"]
    content = _file_content(format_name, generate, card)
    Path(base_path).mkdir(parents=True, exist_ok=True)
    suffix = versions.SUFFIXES[format_name]
    while True:
        path = Path(base_path) / f"{versions.next_number(base_path)}{suffix}"
        try:
            path.touch(exist_ok=False)  # takes the number: of two commands, one gets it
            break
        except FileExistsError:
            continue
    try:
        return _publish_file(path, content)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def convert(version: Path, format_name: str) -> Path:
    """Publishes a version in another format beside it: `dcgan/3/` as `dcgan/3.onnx`.

    The file is compared with the version's SavedModel, as that one was with Keras.

    Raises:
      OSError, RuntimeError: as `export_file`.
      UserError: no export of tfgan_mnist, or the packages of the format are not installed.
    """
    import tensorflow as tf

    version = version.resolve()  # the number of a link is that of what it points to
    card = cards.read(version)
    try:
        with tf.device("/CPU:0"):
            loaded = tf.saved_model.load(str(version))
        generate = loaded.signatures["serving_default"]
    except Exception as error:  # a damaged file raises whatever it comes to
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{version}: expected an export of tfgan_mnist; received: {reason}"
        ) from error
    path = version.with_name(version.name + versions.SUFFIXES[format_name])
    return _publish_file(path, _file_content(format_name, generate, card))


def _file_content(format_name: str, generate: Callable, card: dict[str, Any]) -> bytes:
    """A file that makes the images that `generate` makes."""
    formats.expect_packages(format_name)
    latent_dim, num_classes = card["latent_dim"], card["num_classes"]
    content = formats.convert(format_name, generate, latent_dim, num_classes, card)
    request = signatures.request(latent_dim, num_classes, ["latents", "labels"], CHECKED_ROWS)
    _compare(formats.run(format_name, content, request), _by_keras(generate, request), format_name)
    return content


def _publish_file(path: Path, content: bytes) -> Path:
    with files.write_atomically(path) as partial:
        partial.write_bytes(content)
    return path


def _write(model: "GAN", folder: Path, card: dict[str, Any]) -> None:
    """Writes a version to `folder` and checks it."""
    import keras
    import tensorflow as tf

    folder.mkdir()
    endpoints = signatures.endpoints(model)
    # `track(model.generator)` would store the weights a second time; what the endpoints use is
    # found without it.
    archive = keras.export.ExportArchive()
    for name, (endpoint, inputs) in endpoints.items():
        archive.add_endpoint(name, endpoint, inputs)
    try:
        archive.write_out(folder, verbose=False)
        _write_warmup(folder, signatures.requests(model, endpoints, WARMUP_ROWS))
    except tf.errors.OpError as error:
        # After the names of operations and temporary files, before that of the operation again.
        reason = error.message.rpartition(";")[2].partition("[Op:")[0].strip()
        raise UserError(f"{folder.parent}: cannot write an export: {reason}") from error
    _check(model, folder, endpoints)
    (folder / cards.CARD).write_text(json.dumps(card, indent=2) + "\n")


def _write_warmup(folder: Path, requests: dict[str, dict]) -> None:
    """Writes what a server is to run before the version goes live: its first calls are slow."""
    import tensorflow as tf

    path = folder / warmup.FILE
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, request in requests.items():
            writer.write(warmup.record(name, request))


def _in_float32(model: "GAN") -> "GAN":
    """A copy of `model` that generates in float32 with the averaged weights.

    Half precision is slower on a CPU, and TensorFlow Serving cannot write it as JSON. It is a
    matter of every layer, so that a cast of the output would not do.

    Raises:
      UserError: a weight is NaN or infinite.
    """
    copy = type(model).from_config(_with_float32_policies(model.get_config()))
    weights = model.averaged_generator.get_weights()
    if not all(np.isfinite(weight).all() for weight in weights):
        raise UserError("the generator has weights that are NaN or infinite; expected finite ones")
    copy.averaged_generator.set_weights(weights)
    return copy


def _with_float32_policies(config):
    """A Keras configuration with "float32" for every dtype policy in it."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return config | {"config": {"name": "float32"}}
        return {key: _with_float32_policies(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_with_float32_policies(item) for item in config)
    return config


def _check(model: "GAN", folder: Path, endpoints: dict[str, tuple]) -> None:
    """Runs every signature in `folder` as TensorFlow Serving does, and compares it with Keras.

    Raises:
      RuntimeError: images differ by more than TOLERANCE, or are NaN.
    """
    requests = signatures.requests(model, endpoints, CHECKED_ROWS)
    answers = _serve(folder, requests)
    for name, (endpoint, _) in endpoints.items():
        # Where Keras's pixel is rounded up, the other may just be rounded down.
        tolerance = TOLERANCE + (1 / 255 if name == "png" else 0)
        expected = _by_keras(endpoint, requests[name])
        _compare(_images(answers[name]), expected, f"signature {name!r}", tolerance)


def _by_keras(endpoint: Callable, request: dict[str, np.ndarray]) -> np.ndarray:
    """The images that an endpoint makes when TensorFlow runs it on the CPU."""
    import tensorflow as tf

    with tf.device("/CPU:0"):
        return _images(endpoint(**{key: tf.constant(value) for key, value in request.items()}))


def _compare(images: np.ndarray, expected: np.ndarray, what: str, tolerance=TOLERANCE) -> None:
    """Raises RuntimeError when images differ from Keras's by more than `tolerance`, or are NaN."""
    difference = np.abs(images - expected).max()
    if not difference <= tolerance:  # written so that NaN fails too
        raise RuntimeError(
            f"{what}: expected the images that Keras makes, in [0, 1] and to within "
            f"{tolerance:.1g}; they differ by {difference:.1g}. Nothing was published."
        )


def _serve(folder: Path, requests: dict[str, dict]) -> dict[str, dict]:
    """Signature name -> inputs by name, to signature name -> outputs by name, as a server runs it.

    `tf.saved_model.load` reads another part of the file, and accepts exports that cannot be served.
    """
    from tfgan_mnist.exports.session import SavedModel

    with contextlib.closing(SavedModel(folder, on_cpu=True)) as saved:
        return {
            name: saved.run(name, request, tuple(saved.signatures[name].outputs))
            for name, request in requests.items()
        }


def _images(outputs: dict) -> np.ndarray:
    """The outputs of any signature as images (B, H, W, C) in [0, 1]."""
    import tensorflow as tf

    if "images" in outputs:
        return np.asarray(outputs["images"])
    return np.stack([tf.io.decode_png(png) for png in np.asarray(outputs["png_bytes"])]) / 255
