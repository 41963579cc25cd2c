"""The three models, and how a configuration becomes one."""

import keras

from tfgan_mnist.config import Config
from tfgan_mnist.models.cdcgan import CDCGAN
from tfgan_mnist.models.dcgan import DCGAN
from tfgan_mnist.models.gan import GAN
from tfgan_mnist.models.optimizers import Adam

__all__ = ["CDCGAN", "DCGAN", "GAN", "build"]


def build(
    config: Config,
    image_shape: tuple[int, int, int],
    num_classes: int,
    jit_compile: bool = False,
) -> GAN:
    """The compiled model of a configuration.

    Args:
      config: with `steps_per_epoch` above 0 (a full pass counted out), if learning rates decay.
      image_shape: (height, width, channels) of the data.
      num_classes: labels of the data are 0 .. num_classes - 1.
      jit_compile: compile the step with XLA.
    """
    # The length of the learning rates' decay, in generator updates.
    steps = config.epochs * config.steps_per_epoch
    kind = {model.recipe: model for model in (GAN, DCGAN, CDCGAN)}[config.model]
    networks = kind.networks(config, image_shape, num_classes)
    labels = {"num_classes": num_classes} if kind is CDCGAN else {}
    model = kind(*networks, seed=config.seed, **labels)
    model.compile(
        d_optimizer=_adam(config, config.d_learning_rate, steps * config.discriminator_steps),
        g_optimizer=_adam(config, config.g_learning_rate, steps, ema=config.ema),
        loss=config.loss,
        discriminator_steps=config.discriminator_steps,
        label_smoothing=config.label_smoothing,
        r1=config.r1,
        r2=config.r2,
        gradient_penalty=config.gradient_penalty,
        jit_compile=jit_compile,
    )
    return model


def _adam(config: Config, learning_rate: float, steps: int, ema: float = 0.0):
    """Adam whose learning rate decays over `steps` along a cosine, with an average if `ema` > 0."""
    if config.final_learning_rate != 1:
        learning_rate = keras.optimizers.schedules.CosineDecay(
            learning_rate, decay_steps=steps, alpha=config.final_learning_rate
        )
    return Adam(
        learning_rate,
        beta_1=config.beta_1,
        beta_2=config.beta_2,
        use_ema=ema > 0,
        ema_momentum=ema or 0.99,
    )
