"""Four public examples on MNIST, as baselines for our three models.

Each example is written again from its published code; its module lists what differs. Settings that
only slow the example down on a CPU are corrected. All train on the same images, with both cores and
the framework's own number of threads. Training continues beyond the example's number of epochs;
only our models end with their recipe, whose learning rates decay to that point, and then stay as
they are. Sample grids, checkpoints and printed lines of the examples are left out.

Each training has a process of its own: seed and precision are settings of the whole process.
"""

import functools
import gzip
import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from tfgan_mnist.config import RECIPES

OURS = tuple(RECIPES)
# Name -> module and class. A framework is imported when its example is loaded.
BASELINES = {
    "keras_io_cgan": "keras_io_cgan:KerasIoCgan",
    "tf_dcgan": "tf_dcgan:TfDcgan",
    "tf_gan": "tf_gan:TfGan",
    "pytorch_dcgan": "pytorch_dcgan:PytorchDcgan",
}
MNIST = Path(__file__).parents[2] / "tfgan_mnist" / "assets" / "mnist"


def installed() -> list[str]:
    """Returns the names of the baselines, without PyTorch's where PyTorch is not installed."""
    if importlib.util.find_spec("torch"):
        return list(BASELINES)
    print("PyTorch is not installed: skipping pytorch_dcgan")
    return [name for name in BASELINES if name != "pytorch_dcgan"]


def load(name: str) -> Any:
    """Returns the class of a baseline, or what stands for a class for one of our models.

    It is called with images uint8 (N, 28, 28, 1), labels (N,) in [0, 10) and a seed, and returns a
    `TimedTraining`.

    Raises:
      ModuleNotFoundError: its framework is not installed.
    """
    if name in OURS:
        from benchmarks.ours import Ours

        return functools.partial(Ours, name)
    module, kind = BASELINES[name].split(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), kind)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Returns MNIST's training images, uint8 (60000, 28, 28, 1), and labels, without TensorFlow."""

    def read(name: str, header: int) -> np.ndarray:
        return np.frombuffer(gzip.decompress((MNIST / name).read_bytes()), np.uint8, offset=header)

    images = read("train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
    return images.copy(), read("train-labels-idx1-ubyte.gz", 8).astype(np.int32)
