"""What a notebook or another program does with models, images and runs, in a line each.

All names are in `tfgan_mnist` itself: `from tfgan_mnist import load_run, score, show`.
"""

from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from PIL import Image

from tfgan_mnist import data
from tfgan_mnist.data import pictures, pixels
from tfgan_mnist.evaluation import choice, protocol
from tfgan_mnist.models import inputs
from tfgan_mnist.models.gan import GAN
from tfgan_mnist.training import callbacks, checkpoints, evaluation_callback

SampleGrid, ExportSavedModel = callbacks.SampleGrid, callbacks.ExportSavedModel


class Score(NamedTuple):
    """A metric of samples, and the same metric of as many real images."""

    samples: float
    real: float


class Evaluation(evaluation_callback.Evaluation):
    """A callback of `fit` that adds FID, precision, recall and more to the logs of an epoch.

    It compares samples with test images. Do not choose by it what you will report on them.

    Args:
      data_set: of `data.load`; its classifier is made where there is none (`choice.find`).
      every: epochs from one evaluation to the next.
      num: test images, and samples.
      data_dir: where the classifier is kept. Default: as of `data.load`.
    """

    def __init__(
        self, data_set: data.ImageData, every: int = 1, num: int = 5000, data_dir: str = ""
    ):
        real = data.Split(*(part[:num] for part in data_set.test))
        super().__init__(choice.find(data_set, data_dir), real, every)


def load_model(path: str | Path, custom_objects: dict | None = None) -> GAN:
    """The model in a `.keras` file, with the state of its training.

    Args:
      path: of the file.
      custom_objects: functions of a loss of your own by name, {"my_loss": my_loss}.
    """
    return keras.saving.load_model(path, custom_objects)


def load_run(run: str | Path) -> GAN:
    """The model in a run's folder, of its best evaluation, or the newest without any.

    Raises:
      UserError: not a run folder, or no readable checkpoint in it.
    """
    return checkpoints.restore_run(run)[1]


def show(images, columns: int | None = None) -> Image.Image:
    """Images in a grid, as a picture that a notebook shows.

    Args:
      images: (N, H, W, C), float in [-1, 1] or uint8.
      columns: of the grid. Default: as many as rows.
    """
    images = _as_pixels(images)
    return pictures.to_picture(pixels.enlarge(pixels.grid(images, columns)))


def _as_pixels(images) -> np.ndarray:
    """Images in [-1, 1], or integers in 0..255, as uint8."""
    images = np.asarray(images)
    inputs.check_range(images)
    if np.issubdtype(images.dtype, np.integer):
        return images.astype(np.uint8)
    return pixels.to_uint8(images)


def score(
    samples,
    data_set: data.ImageData,
    labels=None,
    num: int = protocol.NUM,
    seed: int = 0,
    data_dir: str = "",
) -> dict[str, Score]:
    """Metrics of samples against the test images, each beside that of real images.

    Args:
      samples: a model, or images (N, H, W, C), float in [-1, 1] or uint8; N >= 1000.
      data_set: of `data.load`; its classifier is made where there is none (`choice.find`).
      labels: (N,) integers of conditional samples, where images are given.
      num: how many samples to draw with a model.
      seed: of their latents.
      data_dir: where the classifier is kept. Default: as of `data.load`.

    Raises:
      UserError: too few samples or real images.
      ValueError: images that are not in [-1, 1], or in 0..255 as integers.
    """
    extractor = choice.find(data_set, data_dir)
    if isinstance(samples, GAN):
        samples, labels = evaluation_callback.draw(samples, num, seed, data_set.train.labels)
    found = protocol.evaluate(
        extractor,
        data_set,
        _as_pixels(samples),
        labels,
        source="samples",
        seed=seed,
        data_dir=data_dir,
    )
    scores, real = found.results["scores"], found.results["floor"]
    return {key: Score(value, real[key]) for key, value in scores.items()}
