"""Those whose steps are timed: each loop on the networks of our default DCGAN, in its batches.

Each is made by a function that takes what the one of our networks said of itself, and has a method
`run(turns)` that trains until its process ends.
"""

import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

MNIST = Path(__file__).parents[1] / "tfgan_mnist" / "assets" / "mnist"
# Of the train command here, so that several epochs end while it is timed, but not so short that
# their beginnings count: with 40 its step took 1.4 ms longer than without callbacks.
STEPS_PER_EPOCH = 200


def digits() -> tuple[np.ndarray, np.ndarray]:
    """MNIST's training images, uint8 (60000, 28, 28, 1), and labels, read without TensorFlow."""

    def read(name: str, head: int) -> np.ndarray:
        return np.frombuffer(gzip.decompress((MNIST / name).read_bytes()), np.uint8, offset=head)

    images = read("train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
    return images.copy(), read("train-labels-idx1-ubyte.gz", 8).astype(np.int32)


class Entrant:
    """A contestant, run by turns."""

    def __init__(self, contestant, **facts: Any):
        self.contestant = contestant
        self.facts = {"parameters": contestant.parameters(), **facts}

    def run(self, turns) -> None:
        """Trains until the process ends."""
        self.contestant.run(turns.tick)


def plain_layers():
    """Inside, convolutional networks are made of Keras's own layers in place of ours.

    They are the functions of ours; that ours compute them faster is part of what is compared.
    """
    from keras import layers

    from tfgan_mnist.models import dcgan

    kinds = ("BatchNormalization", "Conv2D", "Conv2DTranspose", "Dropout")
    return mock.patch.multiple(dcgan, **{kind: getattr(layers, kind) for kind in kinds})


def our_networks():
    """The default recipe's generator and discriminator, of `plain_layers`."""
    from tfgan_mnist import config, models

    with plain_layers():
        return models.DCGAN.networks(config.resolve({"model": "dcgan"}), (28, 28, 1), 10)


def our_batch_size() -> int:
    """That of the default recipe."""
    from tfgan_mnist import config

    return config.resolve({"model": "dcgan"}).batch_size


# --- Ours ----------------------------------------------------------------------------------------


class Ours(Entrant):
    """Our step, alone on one batch in memory or fed by our pipeline."""

    def __init__(self, fed: bool):
        from benchmarks.contestants.ours import Dcgan
        from benchmarks.mirror import describe

        contestant = Dcgan(*digits(), seed=0)
        model = contestant.model
        try:
            layers = [describe(model.generator), describe(model.discriminator)]
        except ValueError as error:
            layers = str(error)
        super().__init__(contestant, layers=layers, batch_size=contestant.batch_size)
        self.fed = fed

    def run(self, turns) -> None:
        """Calls the step until the process ends."""
        import tensorflow as tf

        from tfgan_mnist.data import order

        model, settings = self.contestant.model, self.contestant.settings
        batches = iter(
            order.batches(self.contestant.split, settings.images_per_step, settings.seed)
        )
        in_memory = next(batches)

        train_step = tf.function(model.train_step, jit_compile=model.jit_compile)

        @tf.function
        def step():
            return train_step(next(batches) if self.fed else in_memory)

        while True:
            step()
            turns.tick(settings.images_per_step)


class TrainCommand:
    """`python -m tfgan_mnist.train`, with all its callbacks and short epochs."""

    def __init__(self):
        from tfgan_mnist import config
        from tfgan_mnist.training import evaluation_callback

        self.settings = config.resolve({"epochs": 10**6, "steps_per_epoch": STEPS_PER_EPOCH})
        held_out = evaluation_callback.num_held_out(60_000)
        full_pass = (60_000 - held_out) // self.settings.images_per_step
        self.facts = {"steps_per_epoch": full_pass}

    def run(self, turns) -> None:
        """Trains until the process ends; notes how long every epoch's end took."""
        import dataclasses

        import keras

        from tfgan_mnist import models
        from tfgan_mnist.train import train
        from tfgan_mnist.training import evaluation_callback

        images_per_step = self.settings.images_per_step

        class Tick(keras.callbacks.Callback):
            """The last one of an epoch's callbacks: between its end and the next are the others."""

            evaluation: Any = None
            ended = False

            def on_epoch_begin(self, epoch, logs=None):
                if self.ended:
                    turns.note("epoch_end", turns.start_clock())
                    turns.note("evaluation", self.evaluation.rows[-1]["seconds"])

            def on_train_batch_end(self, batch, logs=None):
                turns.tick(images_per_step)
                if batch + 1 == STEPS_PER_EPOCH:
                    turns.stop_clock()
                    self.ended = True

        def fit(model, *arguments, callbacks, **options):
            tick = Tick()
            tick.evaluation = next(
                c for c in callbacks if isinstance(c, evaluation_callback.Evaluation)
            )
            callbacks = [*callbacks, tick]
            return keras.Model.fit(model, *arguments, callbacks=callbacks, **options)

        with tempfile.TemporaryDirectory() as folder, mock.patch.object(models.DCGAN, "fit", fit):
            places = {"run_root": f"{folder}/runs", "export_root": f"{folder}/exports"}
            train(dataclasses.replace(self.settings, **places))


class Ceilings:
    """What the machine can do at best: products of matrices, and convolutions."""

    def __init__(self):
        self.facts: dict[str, Any] = {}

    def run(self, turns) -> None:
        """Measures until the process ends, and notes GFLOP/s."""
        from benchmarks import products
        from tfgan_mnist import config
        from tfgan_mnist.training import runtime

        precision = runtime.resolve_precision(config.resolve({"model": "dcgan"}).precision)
        dtype = precision.removeprefix("mixed_")
        while True:
            for kind, gflops in products.ceilings(dtype).items():
                turns.note(kind, gflops)
            turns.tick(1)


# --- The peers -----------------------------------------------------------------------------------


def keras_io(jit_compile: str | bool) -> Entrant:
    """keras-io's `train_step` and `fit`, on networks that take no label."""
    import keras

    from benchmarks.contestants import keras_io_cgan

    class Unconditional(keras_io_cgan.ConditionalGan):
        def generate(self, num, one_hot):
            latents = keras.random.normal((num, self.latent_dim), seed=self.seed_generator)
            return self.generator(latents, training=True)

        def shown(self, images, one_hot):
            return images

    class OnOurs(keras_io_cgan.KerasIoCgan):
        batch_size = our_batch_size()

        def build(self, seed):
            generator, discriminator = our_networks()
            return Unconditional(generator, discriminator, seed, generator.input_shape[-1])

    OnOurs.jit_compile = jit_compile
    contestant = OnOurs(*digits(), seed=0, published=True)
    return Entrant(contestant, xla=contestant.model.jit_compile)


def tf_dcgan() -> Entrant:
    """TensorFlow's tutorial."""
    from benchmarks.contestants.tf_dcgan import TfDcgan

    return Entrant(on_ours(TfDcgan)(*digits(), seed=0, published=False))


def tf_gan() -> Entrant:
    """TF-GAN's joint step."""
    from benchmarks.contestants.tf_gan import TfGan

    return Entrant(on_ours(TfGan)(*digits(), seed=0, published=False))


def on_ours(kind):
    """A contestant with our networks and batch size."""
    ours = our_networks()

    class OnOurs(kind):
        batch_size = our_batch_size()
        latent_dim = ours[0].input_shape[-1]

        def networks(self):
            return ours

    return OnOurs


def pytorch(published: bool, layers: list, batch_size: int) -> Entrant:
    """pytorch/examples' loop; the networks from what `mirror.describe` said of ours."""
    from torch import nn

    from benchmarks.contestants import pytorch_dcgan
    from benchmarks.mirror import in_torch

    class OnOurs(pytorch_dcgan.PytorchDcgan):
        latent_dim = layers[0][0]["inputs"]

        def networks(self):
            generator, discriminator = (in_torch(each) for each in layers)
            generator.insert(0, nn.Flatten())  # its latents are 1x1 images
            return generator, discriminator.append(nn.Sigmoid())

    OnOurs.batch_size = batch_size
    return Entrant(OnOurs(*digits(), seed=0, published=published))


# Name -> how it is made, given what the first one, with our networks, said of itself.
ENTRANTS: dict[str, Callable[[dict], Any]] = {
    "ours: bare step": lambda ours: Ours(fed=False),
    "ours: step and data": lambda ours: Ours(fed=True),
    "ours: fit": lambda ours: ours_by_fit(),
    "ours: train command": lambda ours: TrainCommand(),
    "keras-io, default": lambda ours: keras_io("auto"),
    "keras-io, XLA": lambda ours: keras_io(True),
    "TensorFlow tutorial": lambda ours: tf_dcgan(),
    "TF-GAN, joint step": lambda ours: tf_gan(),
    "PyTorch, published": lambda ours: pytorch(True, ours["layers"], ours["batch_size"]),
    "PyTorch, mended": lambda ours: pytorch(False, ours["layers"], ours["batch_size"]),
    "ceilings": lambda ours: Ceilings(),
}
# Peers with nothing left that a setting would mend.
MENDED = ("keras-io, default", "TensorFlow tutorial", "TF-GAN, joint step", "PyTorch, mended")


def ours_by_fit() -> Entrant:
    """Our `fit` without callbacks."""
    from benchmarks.contestants.ours import Dcgan

    return Entrant(Dcgan(*digits(), seed=0, overrides={"epochs": 10**6}))
