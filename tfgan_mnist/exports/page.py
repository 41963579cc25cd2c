"""The page as an export: a folder with a model's ONNX file that any web server can show."""

import functools
import gzip
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tfgan_mnist import files
from tfgan_mnist.exports import card as cards

ASSETS = Path(__file__).parents[1] / "assets"
FOLDER = ASSETS / "page"
MODELS, REAL_DIGITS = "models.json", "real.png"  # beside the files of FOLDER
EXAMPLES = 16  # real digits of each class


def facts(name: str, version: Path) -> dict[str, Any]:
    """What the page needs to know of a model.

    Raises:
      UserError: the version is no export of tfgan_mnist.
    """
    card = cards.read(version)
    return {
        "name": name,
        "latentDim": card["latent_dim"],
        "classes": card["num_classes"],
        "classNames": card.get("class_names"),
        "data": card.get("config", {}).get("dataset"),
    }


@functools.cache
def real_digits() -> bytes:
    """A PNG with a row for each digit: test images of MNIST, white on black."""
    images, labels = (
        np.frombuffer(
            gzip.decompress((ASSETS / "mnist" / f"t10k-{name}.gz").read_bytes()), np.uint8
        )
        for name in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    images, labels = images[16:].reshape(-1, 28, 28), labels[8:]
    rows = [np.hstack(images[labels == digit][:EXAMPLES]) for digit in range(10)]
    stream = io.BytesIO()
    Image.fromarray(np.vstack(rows)).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def build(folder: Path, version: Path, onnx: Path) -> None:
    """Writes the page with a model to a folder that any web server can show.

    A folder that has the page keeps its other models.

    Args:
      folder: where to write.
      version: the model's version, `saved_models/cdcgan/1`.
      onnx: its ONNX file, which the browser runs.

    Raises:
      OSError: nothing can be written there.
      UserError: the version is no export of tfgan_mnist.
    """
    model = facts(version.parent.name, version)
    shutil.copytree(FOLDER, folder, dirs_exist_ok=True)
    (folder / "onnx").mkdir(exist_ok=True)
    shutil.copyfile(onnx, folder / "onnx" / f"{model['name']}.onnx")
    (folder / REAL_DIGITS).write_bytes(real_digits())
    listed = folder / MODELS
    models = files.read_json(listed)["models"] if listed.exists() else []
    models = [each for each in models if each["name"] != model["name"]] + [model]
    listed.write_text(json.dumps({"static": True, "models": models}, indent=2) + "\n")
