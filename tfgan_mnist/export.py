"""Exports a run's generator: a SavedModel for TensorFlow Serving, or a file of another format.

A SavedModel is a folder, `saved_models/dcgan/3/`: a version under its base path.

saved_model.pb, variables/   the generator in float32, with the averaged weights where there are any
assets.extra/                requests that a server runs before the version goes live (warm-up)
model_card.json              what the model is, what it was trained on, how, and how it is called

Its signatures, with labels for conditional models only; every tensor has the batch B in front:

serving_default   latents (B, Z) float32 [, labels (B,) int32] -> images (B, H, W, C) float32
sample            seed (B,) int32 [, labels (B,) int32]        -> images (B, H, W, C) float32
png               seed (B,) int32 [, labels (B,) int32]        -> png_bytes (B,) string, PNG files

Images are in [0, 1]. Each row of `sample` and `png` draws its latent from its own seed, so that the
same request has the same answer on every replica and after every restart.

The other formats are files beside the versions, `saved_models/dcgan/3.onnx` and `3.tflite`; see
`tfgan_mnist.formats`. TensorFlow Serving passes over them. A number stands for one set of weights:
--saved_model=saved_models/dcgan/3 gives the file the version's number, --run the next one.
"""

import contextlib
import datetime
import errno
import hashlib
import json
import os
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfgan_mnist import __version__, cli, files, formats, latents, runs
from tfgan_mnist.config import Config
from tfgan_mnist.errors import UserError
from tfgan_mnist.serving import operations, protos
from tfgan_mnist.serving.settings import versions

if TYPE_CHECKING:
    from tfgan_mnist.models.gan import GAN

CARD = "model_card.json"
SAVED_MODEL = "saved_model"  # the format that is a folder; the others are those of `formats`
LICENCE = "Apache-2.0"
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
      card: what the model card tells beside what the model itself shows; see `describe_run`.
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
    card = _describe(model) | (card or {})
    if unless_there and (found := _made_of_the_same(Path(base_path), card)):
        return found
    number = next_number(base_path)
    while True:
        path = Path(base_path) / str(number)
        try:
            with files.write_atomically(path) as partial:
                _write(model, partial, card)
                if next_number(base_path) > number:
                    raise FileExistsError(errno.EEXIST, "another command took the number", path)
            return path
        except OSError as error:
            # What fails after the renaming, as of the disk, is no taken number though it is taken.
            in_use = os.path.lexists(path) or next_number(base_path) > number
            if error.errno not in TAKEN or not in_use:
                raise
            number = max(number + 1, next_number(base_path))


def next_number(base_path: str | os.PathLike) -> int:
    """One above the highest version, or file of another format, under `base_path`; 1 at first."""
    suffixes = formats.SUFFIXES.values()
    found = [path for suffix in suffixes for path in Path(base_path).glob(f"*{suffix}")]
    files_ = [int(path.stem) for path in found if path.stem.isascii() and path.stem.isdigit()]
    return 1 + max([*versions(Path(base_path)), *files_], default=0)


def find_version(path: Path) -> Path:
    """The folder of a version: `path` itself, or the highest version under it.

    Raises:
      UserError: neither.
    """
    found = {0: path} if (path / "saved_model.pb").exists() else versions(path)
    if not found:
        raise UserError(
            f"{path}: expected the folder of a SavedModel, or one of numbered versions; "
            "python -m tfgan_mnist.export makes them from runs"
        )
    return found[max(found)]


def _made_of_the_same(base_path: Path, card: dict[str, Any]) -> Path | None:
    """A version whose card says the same of all that an export follows from."""
    keys = ("weights", "config", "data", "versions")
    expected = json.loads(json.dumps({key: card.get(key) for key in keys}))  # lists for tuples
    for _, version in sorted(versions(base_path).items(), reverse=True):
        with contextlib.suppress(OSError, UserError):
            other = files.read_json(version / CARD)
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
    card = _describe(model) | (card or {})
    generate, _ = _endpoints(model)["serving_default"]
    content = _file_content(format_name, generate, card)
    Path(base_path).mkdir(parents=True, exist_ok=True)
    while True:
        path = Path(base_path) / f"{next_number(base_path)}{formats.SUFFIXES[format_name]}"
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
    card = read_card(version)
    try:
        operations.expect_harmless(version)
        with tf.device("/CPU:0"):
            loaded = tf.saved_model.load(str(version))
        generate = loaded.signatures["serving_default"]
    except Exception as error:  # a damaged file raises whatever it comes to
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{version}: expected an export of tfgan_mnist; received: {reason}"
        ) from error
    path = version.with_name(version.name + formats.SUFFIXES[format_name])
    return _publish_file(path, _file_content(format_name, generate, card))


def _file_content(format_name: str, generate: Callable, card: dict[str, Any]) -> bytes:
    """A file that makes the images that `generate` makes."""
    formats.expect_packages(format_name)
    latent_dim, num_classes = card["latent_dim"], card["num_classes"]
    content = formats.convert(format_name, generate, latent_dim, num_classes, card)
    request = _request(latent_dim, num_classes, ["latents", "labels"], CHECKED_ROWS)
    _compare(formats.run(format_name, content, request), _by_keras(generate, request), format_name)
    return content


def _publish_file(path: Path, content: bytes) -> Path:
    with files.write_atomically(path) as partial:
        partial.write_bytes(content)
    return path


def describe_run(run: Path) -> dict[str, Any]:
    """What a model card tells of a run: configuration, data and, once measured, metrics.

    Raises:
      UserError: not a run folder.
    """
    settings, facts = runs.read(run)
    card = {"config": settings.without_places(), "data": facts._asdict()}
    metrics = runs.read_metrics(run)
    if metrics:
        card["metrics"] = metrics
    return card


def read_card(version: Path) -> dict[str, Any]:
    """The model card of a version.

    Raises:
      UserError: there is none, or it does not tell what cards tell.
    """
    path = version / CARD
    try:
        card = files.read_json(path)
        height, width, channels = card["image_shape"]
        most = {"latent_dim": 2**20, "num_classes": 2**20}
        numbers = {"latent_dim": card["latent_dim"], "num_classes": card["num_classes"] or 1}
        numbers |= {"height": height, "width": width, "channels": channels}
        for key, number in numbers.items():
            if type(number) is not int or not 0 < number <= most.get(key, 2**14):
                raise ValueError(f"{key} {reprlib.repr(number)}")
        _ = card["signatures"]["serving_default"] + ""
    except OSError as error:
        raise UserError(f"{path}: expected a model card; received: {error.strerror}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: expected a model card; received: {error!r}") from error
    return card


def _write(model: "GAN", folder: Path, card: dict[str, Any]) -> None:
    """Writes a version to `folder` and checks it."""
    import keras
    import tensorflow as tf

    folder.mkdir()
    endpoints = _endpoints(model)
    # `track(model.generator)` would store the weights a second time; what the endpoints use is
    # found without it.
    archive = keras.export.ExportArchive()
    for name, (endpoint, inputs) in endpoints.items():
        archive.add_endpoint(name, endpoint, inputs)
    try:
        archive.write_out(folder, verbose=False)
        _write_warmup(folder, _requests(model, endpoints, WARMUP_ROWS))
    except tf.errors.OpError as error:
        # After the names of operations and temporary files, before that of the operation again.
        reason = error.message.rpartition(";")[2].partition("[Op:")[0].strip()
        raise UserError(f"{folder.parent}: cannot write an export: {reason}") from error
    _check(model, folder, endpoints)
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n")


def _write_warmup(folder: Path, requests: dict[str, dict]) -> None:
    """Writes what a server is to run before the version goes live: its first calls are slow."""
    import tensorflow as tf

    path = folder / protos.WARMUP
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, request in requests.items():
            writer.write(protos.warmup_record(name, request))


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


def _endpoints(model: "GAN") -> dict[str, tuple]:
    """Signature name -> (function, specifications of its inputs)."""
    import tensorflow as tf

    def serving_default(latents, labels=None):
        if model.num_classes:
            labels = expect_classes(labels, model.num_classes)
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

    def expect_classes(labels, num_classes: int):
        """Labels (B,) as they are; refuses the request when one is not a class.

        An embedding would take -1 for the last class, and a one-hot of it is no class at all.
        """
        is_class = (labels >= 0) & (labels < num_classes)
        message = f"labels: expected 0..{num_classes - 1}; received"
        wrong = tf.boolean_mask(labels, ~is_class)
        with tf.control_dependencies(
            [tf.debugging.Assert(tf.reduce_all(is_class), [message, wrong], summarize=10)]
        ):
            return tf.identity(labels)

    of_latents = [tf.TensorSpec((None, model.latent_dim), tf.float32, name="latents")]
    of_seed = [tf.TensorSpec((None,), tf.int32, name="seed")]
    of_labels = [tf.TensorSpec((None,), tf.int32, name="labels")] if model.num_classes else []
    return {
        "serving_default": (serving_default, of_latents + of_labels),
        "sample": (sample, of_seed + of_labels),
        "png": (png, of_seed + of_labels),
    }


def _check(model: "GAN", folder: Path, endpoints: dict[str, tuple]) -> None:
    """Runs every signature in `folder` as TensorFlow Serving does, and compares it with Keras.

    Raises:
      RuntimeError: images differ by more than TOLERANCE, or are NaN.
    """
    requests = _requests(model, endpoints, CHECKED_ROWS)
    answers = _serve(folder, requests)
    for name, (endpoint, _) in endpoints.items():
        # Where Keras's pixel is rounded up, the other may just be rounded down.
        tolerance = TOLERANCE + (1 / 255 if name == "png" else 0)
        expected = _by_keras(endpoint, requests[name])
        _compare(_images(answers[name]), expected, f"signature {name!r}", tolerance)


def _requests(model: "GAN", endpoints: dict[str, tuple], rows: int) -> dict[str, dict]:
    """Signature name -> inputs by name, of `rows` rows."""
    return {
        name: _request(model.latent_dim, model.num_classes, [spec.name for spec in inputs], rows)
        for name, (_, inputs) in endpoints.items()
    }


def _request(latent_dim: int, num_classes: int | None, names: list[str], rows: int) -> dict:
    """Inputs by name, those of `names` that the model takes."""
    numbers = np.arange(rows, dtype=np.int32)
    values = {"latents": latents.draw(rows, latent_dim, seed=0), "seed": numbers}
    if num_classes:
        values["labels"] = numbers % num_classes
    return {name: values[name] for name in names if name in values}


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
    from tfgan_mnist.serving.saved_model import SavedModel

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


def _describe(model: "GAN") -> dict[str, Any]:
    """What the model card tells of any model."""
    import keras
    import tensorflow as tf

    labels = f", labels int32 (B,) in 0..{model.num_classes - 1}" if model.num_classes else ""
    height, width, channels = model.image_shape
    images = f"images float32 (B, {height}, {width}, {channels}) in [0, 1]"
    return {
        "model": type(model).__name__,
        "generator_parameters": model.generator.count_params(),
        "latent_dim": model.latent_dim,
        "image_shape": model.image_shape,
        "num_classes": model.num_classes,  # null: the model takes no labels
        "weights": _digest(model.averaged_generator.get_weights()),
        "signatures": {
            "serving_default": f"latents float32 (B, {model.latent_dim}){labels} -> {images}",
            "sample": f"seed int32 (B,){labels} -> {images}",
            "png": f"seed int32 (B,){labels} -> png_bytes string (B,), PNG files",
        },
        "exported": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {
            "tfgan-mnist": __version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
        "licence": LICENCE,
    }


def _digest(arrays: list[np.ndarray]) -> str:
    """A number for a list of arrays: the same for the same bits."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()


def export_run(run: Path, export_root: Path, format_name: str = SAVED_MODEL) -> Path:
    """Exports what a run has learnt under `export_root/<model>/`; returns where it is.

    Raises:
      UserError: not a run folder, no readable checkpoint in it, or nothing can be written.
    """
    card = describe_run(run)  # before TensorFlow's slow start, since it tells whether this is a run
    cli.start_tensorflow()
    from tfgan_mnist import checkpoints

    settings, model = checkpoints.restore_run(run)
    base_path = export_root / settings.model
    if format_name == SAVED_MODEL:
        return export(model, base_path, card)
    return export_file(model, base_path, format_name, card)


def main(arguments) -> None:
    """Turns flags into a call of `export_run` or `convert`."""
    if arguments.format != SAVED_MODEL:
        formats.expect_packages(arguments.format)
    if arguments.run:
        path = export_run(Path(arguments.run), Path(arguments.export_root), arguments.format)
    elif arguments.format == SAVED_MODEL:
        raise UserError("--saved_model: it is one already; expected --format=onnx or litert")
    else:
        version = find_version(Path(arguments.saved_model))
        cli.start_tensorflow()
        path = convert(version, arguments.format)
    print(f"Exported: {path}")


def parser() -> cli.Parser:
    """The flags of the command."""
    parser = cli.Parser("export", __doc__.partition("\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", metavar="FOLDER", help="a run, such as runs/0003-dcgan")
    source.add_argument(
        "--saved_model",
        metavar="FOLDER",
        help="an export to convert: a version's folder, or its parent for the highest version",
    )
    parser.add_argument(
        "--format",
        choices=[SAVED_MODEL, *formats.SUFFIXES],
        default=SAVED_MODEL,
        help="onnx and litert need the extra of that name (default: %(default)s)",
    )
    parser.add_argument(
        "--export_root",
        default=Config.export_root,
        metavar="FOLDER",
        help="where a run's <model>/<version>/ is written (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    cli.run(main, parser())
