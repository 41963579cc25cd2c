"""The model card: what an export is, what it was trained on, how, and how it is called."""

import datetime
import hashlib
from pathlib import Path
from typing import Any

from tfgan_mnist import __version__, files, runs
from tfgan_mnist.errors import UserError

CARD = "model_card.json"
FEW = 10_000  # real images: with fewer the KID, which has no bias, stands beside the FID


def describe_model(model) -> dict[str, Any]:
    """The part of a model card that follows from a `GAN`."""
    import keras
    import tensorflow as tf

    labels = f", labels int32 (B,) in 0..{model.num_classes - 1}" if model.num_classes else ""
    height, width, channels = model.image_shape
    images = f"images float32 (B, {height}, {width}, {channels}) in [0, 1]"
    weights = b"".join(array.tobytes() for array in model.averaged_generator.get_weights())
    return {
        "model": type(model).__name__,
        "generator_parameters": model.generator.count_params(),
        "latent_dim": model.latent_dim,
        "image_shape": model.image_shape,
        "num_classes": model.num_classes,  # null: the model takes no labels
        "weights": hashlib.sha256(weights).hexdigest(),
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
        "licence": "Apache-2.0",
    }


def describe_run(run: Path) -> dict[str, Any]:
    """The part of a model card that follows from a run: configuration, data and any metrics.

    Raises:
      UserError: not a run folder.
    """
    config, facts = runs.read(run)
    data = facts._asdict()
    names = data.pop("class_names")
    card = {"config": config.without_places(), "data": data}
    card |= {"class_names": names} if names else {}
    metrics = runs.read_metrics(run)
    return card | ({"metrics": metrics} if metrics else {})


def fid_of(card: dict[str, Any]) -> float | None:
    """The FID on the test images in a card; None where it has none."""
    return _score(card, "fid")


def features_of(card: dict[str, Any]) -> str:
    """The features that the scores in a card read; FIDs of others do not compare."""
    samples = card.get("metrics", {}).get("samples", {})
    return samples.get("features") or samples.get("classifier") or ""  # the latter: older cards


def describe_quality(card: dict[str, Any]) -> str:
    """The FID for a reader: "FID 0.56 on mnist by mnist-28x1-v1", or that it is not known."""
    fid, kid = fid_of(card), _score(card, "kid")
    if fid is None:
        return "FID not known"
    few = kid is not None and card["metrics"]["samples"].get("real", FEW) < FEW
    dataset = card.get("config", {}).get("dataset", "unknown data")
    features = features_of(card).split(" (")[0]
    return (
        f"FID {fid:.3g}{f', KID {kid:.2g}' if few else ''} on {dataset}"
        f"{f' by {features}' if features else ''}"
    )


def _score(card: dict[str, Any], key: str) -> float | None:
    return card.get("metrics", {}).get("samples", {}).get("scores", {}).get(key)


def of_same_data(card: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two exports were trained on the same images, as far as their cards say."""
    names = [each.get("config", {}).get("dataset") for each in (card, other)]
    prints = [each.get("data", {}).get("fingerprint") for each in (card, other)]
    return prints[0] == prints[1] if all(prints) else names[0] == names[1]


def read(version: Path) -> dict[str, Any]:
    """The model card of a version.

    Raises:
      UserError: there is none, or it lacks an entry that every card of ours has.
    """
    path = version / CARD
    try:
        card = files.read_json(path)
    except OSError as error:
        raise UserError(f"{path}: expected a model card; received: {error.strerror}") from error
    if missing := {"latent_dim", "image_shape", "num_classes", "signatures"} - card.keys():
        raise UserError(f"{path}: expected a model card; it lacks {', '.join(sorted(missing))}")
    return card
