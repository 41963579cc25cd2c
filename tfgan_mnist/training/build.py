"""From a configuration to a compiled model: each field becomes an argument."""

from typing import Any

import tensorflow as tf

from tfgan_mnist.config import Config
from tfgan_mnist.models import cdcgan, dcgan, mlp, networks, optimizers
from tfgan_mnist.models.gan import GAN

Shape = tuple[int, int, int]


def build(config: Config, image_shape: Shape, num_classes: int, jit_compile: bool = False) -> GAN:
    """The compiled model of a configuration.

    Args:
      config: with `steps_per_epoch` above 0, if learning rates decay.
      image_shape: (height, width, channels) of the data.
      num_classes: labels of the data are 0 .. num_classes - 1.
      jit_compile: compile the step with XLA.
    """
    # The length of the learning rates' decay, in generator updates.
    steps = config.epochs * config.steps_per_epoch
    model = _model(config, image_shape, num_classes)
    return model.compile(
        d_optimizer=_adam(config, config.d_learning_rate, steps * config.discriminator_steps),
        g_optimizer=_adam(config, config.g_learning_rate, steps),
        loss=config.loss,
        discriminator_steps=config.discriminator_steps,
        label_smoothing=config.label_smoothing,
        r1=config.r1,
        r2=config.r2,
        gradient_penalty=config.gradient_penalty,
        augment="none" if config.augment == "auto" else config.augment,
        jit_compile=jit_compile,
    )


def _model(config: Config, image_shape: Shape, num_classes: int) -> GAN:
    common: dict[str, Any] = {"ema": config.ema, "seed": config.seed}
    # With one replica synchronised batch norm is the same and slower.
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    sync = {"sync_batch_norm": config.sync_batch_norm and replicas > 1}
    seen_shape = networks.packed_shape(image_shape, config.packing)
    of_discriminator = {
        "batch_norm": config.d_batch_norm,
        "dropout": config.d_dropout,
        "spectral_norm": config.spectral_norm,
    } | sync
    if config.model == "gan":
        return GAN(
            mlp.mlp_generator(
                image_shape, config.latent_dim, config.g_hidden_widths, config.g_batch_norm, **sync
            ),
            mlp.mlp_discriminator(seen_shape, config.d_hidden_widths, **of_discriminator),
            packing=config.packing,
            **common,
        )
    convolutional = {
        "kernel_size": config.kernel_size,
        "init_stddev": config.init_stddev,
        "hidden_dense": config.hidden_dense,
    }
    of_generator = {"width": config.g_width} | convolutional | sync
    of_discriminator |= {"width": config.d_width} | convolutional
    if config.model == "dcgan":
        return dcgan.DCGAN(
            dcgan.dcgan_generator(image_shape, config.latent_dim, **of_generator),
            dcgan.dcgan_discriminator(seen_shape, **of_discriminator),
            packing=config.packing,
            **common,
        )
    return cdcgan.CDCGAN(
        cdcgan.cdcgan_generator(
            image_shape,
            num_classes,
            config.latent_dim,
            config.embedding_dim,
            config.temperature,
            **of_generator,
        ),
        cdcgan.cdcgan_discriminator(
            image_shape,
            num_classes,
            config.embedding_dim,
            config.conditioning,
            config.class_head,
            **of_discriminator,
        ),
        num_classes=num_classes,
        **common,
    )


def _adam(config: Config, learning_rate: float, steps: int) -> optimizers.Adam:
    """Adam whose learning rate decays over `steps` updates."""
    rate = optimizers.decayed(learning_rate, steps, config.final_learning_rate)
    return optimizers.Adam(rate, beta_1=config.beta_1, beta_2=config.beta_2)
