"""The three models, and how a configuration becomes one."""

import keras

from tfgan_mnist.config import Config
from tfgan_mnist.models.cdcgan import CDCGAN, cdcgan_discriminator, cdcgan_generator
from tfgan_mnist.models.dcgan import DCGAN, dcgan_discriminator, dcgan_generator
from tfgan_mnist.models.gan import GAN, mlp_discriminator, mlp_generator

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
    model = _NETWORKS[config.model](config, image_shape, num_classes)
    model.compile(
        d_optimizer=_adam(config, config.d_learning_rate, steps * config.discriminator_steps),
        g_optimizer=_adam(config, config.g_learning_rate, steps, ema=config.ema),
        loss=config.loss,
        discriminator_steps=config.discriminator_steps,
        label_smoothing=config.label_smoothing,
        r1=config.r1,
        r2=config.r2,
        gradient_penalty=None if config.gradient_penalty < 0 else config.gradient_penalty,
        jit_compile=jit_compile,
    )
    return model


def _adam(config: Config, learning_rate: float, steps: int, ema: float = 0.0):
    if config.final_learning_rate != 1:
        learning_rate = keras.optimizers.schedules.CosineDecay(
            learning_rate, decay_steps=steps, alpha=config.final_learning_rate
        )
    return keras.optimizers.Adam(
        learning_rate,
        beta_1=config.beta_1,
        beta_2=config.beta_2,
        use_ema=ema > 0,
        ema_momentum=ema or 0.99,
    )


def _gan(config: Config, image_shape, num_classes) -> GAN:
    return GAN(
        mlp_generator(image_shape, config.latent_dim, config.g_hidden_widths, config.g_batch_norm),
        mlp_discriminator(
            image_shape, config.d_hidden_widths, config.d_dropout, config.spectral_norm
        ),
        seed=config.seed,
    )


def _dcgan(config: Config, image_shape, num_classes) -> DCGAN:
    return DCGAN(
        dcgan_generator(image_shape, config.latent_dim, **_generator_options(config)),
        dcgan_discriminator(image_shape, **_discriminator_options(config)),
        seed=config.seed,
    )


def _cdcgan(config: Config, image_shape, num_classes) -> CDCGAN:
    return CDCGAN(
        cdcgan_generator(
            image_shape,
            num_classes,
            config.latent_dim,
            config.embedding_dim,
            **_generator_options(config),
        ),
        cdcgan_discriminator(
            image_shape,
            num_classes,
            config.embedding_dim,
            config.conditioning,
            config.class_head,
            **_discriminator_options(config),
        ),
        num_classes=num_classes,
        seed=config.seed,
    )


def _generator_options(config: Config) -> dict:
    return {
        "width": config.width,
        "kernel_size": config.kernel_size,
        "init_stddev": config.init_stddev,
    }


def _discriminator_options(config: Config) -> dict:
    return _generator_options(config) | {
        "batch_norm": config.d_batch_norm,
        "dropout": config.d_dropout,
        "spectral_norm": config.spectral_norm,
    }


_NETWORKS = {"gan": _gan, "dcgan": _dcgan, "cdcgan": _cdcgan}
