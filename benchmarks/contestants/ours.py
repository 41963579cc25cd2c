"""Our three models, as a user of the package would train them in a script of their own.

`config.resolve`, `build.build`, `order.batches` and `model.fit`, without the train command's callbacks
command, which write to disk: the peers have none either. Samples are of the averaged weights.

published: nothing here is slowed down by a setting, so that both ways are the same.
"""

import dataclasses
from typing import Any

import keras
import numpy as np
from tfgan_mnist.images import to_uint8

from benchmarks.contestants.pacing import Paced
from tfgan_mnist import config, data, models
from tfgan_mnist.data import order
from tfgan_mnist.training import build, runtime


class Tick(keras.callbacks.Callback):
    """Tells how many images every step of `fit` saw."""

    def __init__(self, tick, images_per_step: int):
        super().__init__()
        self.tick, self.images_per_step = tick, images_per_step

    def on_train_batch_end(self, batch, logs=None):
        self.tick(self.images_per_step)


def fit(
    model: models.GAN,
    split: data.Split,
    settings: config.Config,
    callback: keras.callbacks.Callback,
) -> None:
    """Trains as configured, with `steps_per_epoch` above 0, and writes nothing."""
    model.fit(
        order.batches(
            split,
            settings.images_per_step,
            settings.seed,
            parts=settings.discriminator_steps,
        ),
        epochs=settings.epochs,
        steps_per_epoch=settings.steps_per_epoch,
        shuffle=False,
        callbacks=[callback],
        verbose=0,
    )


class Ours(Paced):
    """A model of the package as a `Contestant`.

    Args:
      images: see `Contestant`, as `labels`, `seed` and `published`.
      overrides: fields of the configuration, in place of those of the recipe.
    """

    recipe = ""  # its name in the configuration

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        seed: int,
        published: bool = True,
        overrides: dict[str, Any] | None = None,
    ):
        super().__init__()
        settings = config.resolve({"model": self.recipe, "seed": seed} | (overrides or {}))
        runtime.configure(settings.seed, settings.precision)
        self.split = data.Split(images, labels.astype(np.int32))
        full_pass = order.steps_per_epoch(self.split, settings.images_per_step)
        self.settings = dataclasses.replace(
            settings, steps_per_epoch=settings.steps_per_epoch or full_pass
        )
        self.batch_size = settings.batch_size
        self.model = build.build(
            self.settings, images.shape[1:], num_classes=10, jit_compile=runtime.use_xla()
        )

    def run(self, tick) -> None:
        tick = Tick(tick, self.settings.images_per_step)
        fit(self.model, self.split, self.settings, tick)

    def sample(self, num: int, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        """See `Contestant`."""
        labels = None
        if self.model.num_classes is not None:
            labels = np.arange(num, dtype=np.int32) % self.model.num_classes
        return to_uint8(self.model.sample(self.model.latents(num, seed), labels)), labels

    def parameters(self) -> tuple[int, int]:
        """See `Contestant`."""
        return self.model.generator.count_params(), self.model.discriminator.count_params()


class Gan(Ours):
    """The multilayer perceptrons."""

    recipe = "gan"


class Dcgan(Ours):
    """The convolutional networks."""

    recipe = "dcgan"


class Cdcgan(Ours):
    """The convolutional networks that are told the digit."""

    recipe = "cdcgan"
