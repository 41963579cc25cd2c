"""Our three models, trained as in a user's own script: without the callbacks of `train`."""

import dataclasses
from typing import Any

import keras
import numpy as np

from benchmarks.timed import TimedTraining
from tfgan_mnist import data
from tfgan_mnist.config import Config, resolve
from tfgan_mnist.data import order
from tfgan_mnist.data.pixels import to_uint8
from tfgan_mnist.training import runtime
from tfgan_mnist.training.build import build


def batches(split: data.Split, config: Config):
    """Returns the endless data set of batches that a configuration trains on."""
    return order.batches(
        split, config.images_per_step, config.seed, parts=config.discriminator_steps
    )


def with_steps(config: Config, split: data.Split) -> Config:
    """Returns the configuration with `steps_per_epoch` counted for a full pass if it is 0."""
    steps = config.steps_per_epoch or order.steps_per_epoch(split, config.images_per_step)
    return dataclasses.replace(config, steps_per_epoch=steps)


def fit(model: keras.Model, split: data.Split, config: Config, callback) -> None:
    """Trains as configured, with `steps_per_epoch` above 0, and writes nothing."""
    model.fit(
        batches(split, config),
        epochs=config.epochs,
        steps_per_epoch=config.steps_per_epoch,
        shuffle=False,
        callbacks=[callback],
        verbose=0,
    )


def sample(model: keras.Model, num: int, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns samples uint8 (num, H, W, C), and labels (num,), as many of each class, or None."""
    labels = None
    if model.num_classes is not None:
        labels = np.arange(num, dtype=np.int32) % model.num_classes
    return to_uint8(model.sample(model.latents(num, seed), labels)), labels


class Ours(TimedTraining):
    """A default recipe in training.

    Args:
      name: of the recipe.
      images: uint8 (N, 28, 28, 1).
      labels: integers (N,) in [0, 10).
      seed: of weights, latents and data order.
      xla: compile the step with XLA; by default as the train command does.
      **values: fields of the configuration, in place of those of the recipe.
    """

    def __init__(
        self, name: str, images: np.ndarray, labels: np.ndarray, seed: int, xla=None, **values: Any
    ):
        super().__init__()
        self.split = data.Split(images, labels.astype(np.int32))
        self.config = with_steps(resolve({"model": name, "seed": seed} | values), self.split)
        self.batch_size = self.config.batch_size
        runtime.configure(seed, self.config.precision)
        xla = runtime.use_xla() if xla is None else xla
        self.model = build(self.config, images.shape[1:], 10, jit_compile=xla)
        self.generator, self.discriminator = self.model.generator, self.model.discriminator

    def run(self, tick) -> None:
        def end(batch, logs):
            tick(self.config.images_per_step)

        callback = keras.callbacks.LambdaCallback(on_train_batch_end=end)
        fit(self.model, self.split, self.config, callback)

    def sample(self, num: int, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        return sample(self.model, num, seed)
