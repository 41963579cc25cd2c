"""The model card of an export: the model, its data, its configuration and its signatures."""

import datetime
import hashlib
import reprlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfgan_mnist import __version__, files, runs
from tfgan_mnist.errors import UserError

if TYPE_CHECKING:
    from tfgan_mnist.models.gan import GAN

CARD = "model_card.json"
LICENCE = "Apache-2.0"


def describe_run(run: Path) -> dict[str, Any]:
    """A run in a model card: configuration, data and, once there are any, metrics.

    Raises:
      UserError: not a run folder.
    """
    config, facts = runs.read(run)
    card = {"config": config.without_places(), "data": facts._asdict()}
    metrics = runs.read_metrics(run)
    if metrics:
        card["metrics"] = metrics
    return card


def read(version: Path) -> dict[str, Any]:
    """The model card of a version.

    Raises:
      UserError: there is none, or it is not a model card.
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


def describe(model: "GAN") -> dict[str, Any]:
    """The facts of a model in its card."""
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
    """The SHA-256 of a list of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()
