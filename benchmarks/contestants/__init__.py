"""Those who are measured against each other: four public examples on MNIST, and our three models.

Each peer is written afresh from its published set-up, which its module tells, and trains on the
images that it is given, nothing else. Rules for all:

- Training time is wall time in `train`. It begins with the first call, so that tracing, compiling
  and filling the input pipeline count: users wait for them. Networks and optimizers are made
  before, by the constructor; importing the framework and `sample` do not count either.
- Training goes on for as long as it is asked to, also beyond the example's own number of epochs.
  Ours ends with its recipe, whose learning rates decay to that point; the model then stays.
- What an example does beside training (grids, checkpoints, printing) is left out.
- Both cores, and the framework's own settings of threads, but for what `published` tells.
- One contestant in a process: seeds and precision are settings of the whole process.
"""

import importlib
import importlib.util
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

# Name -> module and class; a contestant's framework is imported when it is asked for.
CONTESTANTS = {
    "keras_io_cgan": "keras_io_cgan:KerasIoCgan",
    "tf_dcgan": "tf_dcgan:TfDcgan",
    "tf_gan": "tf_gan:TfGan",
    "pytorch_dcgan": "pytorch_dcgan:PytorchDcgan",
    "gan": "ours:Gan",
    "dcgan": "ours:Dcgan",
    "cdcgan": "ours:Cdcgan",
}
OURS = ("gan", "dcgan", "cdcgan")
PEERS = tuple(name for name in CONTESTANTS if name not in OURS)


def installed(names: Iterable[str]) -> list[str]:
    """`names` without PyTorch's, and a line about it, where PyTorch is not installed."""
    if importlib.util.find_spec("torch"):
        return list(names)
    print("PyTorch is not installed: it does not take part")
    return [name for name in names if not name.lower().startswith("pytorch")]


class Contestant(Protocol):
    """A GAN in training.

    Args:
      images: uint8 (N, 28, 28, 1) in [0, 255].
      labels: integers (N,) in [0, 10).
      seed: of weights, latents and data order.
      published: as the example's users would run it on a CPU today; False: with what slows it down
        there by a mere setting mended, which each module tells.
    """

    batch_size: int  # real images in an update of the discriminator

    def __init__(self, images: np.ndarray, labels: np.ndarray, seed: int, published: bool): ...

    def train(self, seconds: float) -> tuple[int, float]:
        """Goes on from where it stopped until `seconds` have passed, to the end of a step.

        Returns:
          Real images seen and seconds trained, both since the first call.
        """

    def sample(self, num: int, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        """uint8 (num, 28, 28, 1), and labels (num,) of conditional models, as many of each."""

    def parameters(self) -> tuple[int, int]:
        """How many the generator and the discriminator have, batch norm's statistics included."""

    def close(self) -> None:
        """Ends training that is interrupted; `train` must not be called again."""


def load(name: str) -> Any:
    """The class of a contestant.

    Raises:
      ModuleNotFoundError: its framework is not installed.
    """
    module, kind = CONTESTANTS[name].split(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), kind)
