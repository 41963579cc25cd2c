"""Models small enough to be exported in a second, which several files of tests share."""

import keras
import numpy as np

from tfgan_mnist import config, models, runs
from tfgan_mnist.models import mlp
from tfgan_mnist.training import build

MODELS = ("gan", "dcgan", "cdcgan")
NUM_CLASSES = 10
FACTS = runs.DataFacts(image_shape=(8, 8, 3), num_classes=NUM_CLASSES, num_images=64)


def settings_of(name):
    """The recipe of a model, made tiny."""
    if name == "gan":
        widths = {"g_hidden_widths": (8,), "d_hidden_widths": (4,)}
    else:
        widths = {"g_width": 2, "d_width": 2}
    sizes = {"latent_dim": 4, "image_size": 8, "steps_per_epoch": 1}
    return config.resolve({"model": name, **sizes, **widths})


def tiny(name):
    """A compiled model whose weights and batch statistics are all different from their initials."""
    model = build.build(settings_of(name), FACTS.image_shape, NUM_CLASSES)
    random = np.random.default_rng(0)
    for variable in model.generator.variables:
        values = random.normal(0, 0.5, variable.shape)
        variable.assign(abs(values) if variable.name == "moving_variance" else values)
    model.averaged_generator.set_weights(model.generator.get_weights())
    return model


def passing_through(image_shape=(8, 8, 1)):
    """A model that shows its latents: quick to export."""
    latents = keras.Input((np.prod(image_shape),))
    generator = keras.Model(latents, keras.layers.Reshape(image_shape)(latents))
    return models.GAN(generator, mlp.mlp_discriminator(image_shape, (4,)))


def labels_for(model, num):
    return {"labels": np.arange(num) % NUM_CLASSES} if model.num_classes else {}
