"""Adversarial objectives on logits, and the gradient penalties that go with them.

An objective is a pair of functions, one for each player. Both take raw logits of shape (B,), D(x)
for real images and D(G(z)) for generated ones, and return one loss per example, (B,), float32.
Nothing is reduced here: the training step takes the mean over the global batch in one place.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from tfgan_mnist.models import rules

softplus = tf.math.softplus  # softplus(-a) = -log sigmoid(a), stable for any logit


class Objective(NamedTuple):
    """What the two players minimise.

    Attributes:
      discriminator: (real, fake) -> (B,) loss of the discriminator.
      generator: (fake, real) -> (B,) loss of the generator. `real` is None unless `paired`.
      paired: the generator's loss reads D(x) too, so the step has to compute it once more.
      zero_decides: logit 0 is the border between "real" and "generated". Critics that are trained
        on differences only are free to drift, and have no such border.
    """

    discriminator: Callable
    generator: Callable
    paired: bool = False
    zero_decides: bool = True


# --- Goodfellow et al. 2014, "Generative Adversarial Nets", arXiv:1406.2661 -----------------------


def cross_entropy_discriminator(real, fake, smoothing=0.0):
    """-log D(x) - log(1 - D(G(z))), equation 1, with a one-sided target of 1 - smoothing.

    One-sided label smoothing: Salimans et al. 2016, "Improved Techniques for Training GANs",
    arXiv:1606.03498, section 3.4.
    """
    # Cross-entropy to a target t is softplus(-a) + (1 - t) a.
    return softplus(-real) + smoothing * real + softplus(fake)


def minimax_generator(fake, real=None):
    """log(1 - D(G(z))), equation 1: vanishes where D is sure, hence the non-saturating variant."""
    return -softplus(fake)


def non_saturating_generator(fake, real=None):
    """-log D(G(z)): the same fixed point, strong gradients early (end of section 3)."""
    return softplus(-fake)


# --- Mao et al. 2017, "Least Squares Generative Adversarial Networks", arXiv:1611.04076 -----------


def least_squares_discriminator(real, fake, smoothing=0.0):
    """((D(x) - 1)^2 + D(G(z))^2) / 2, equation 9 (a = 0, b = c = 1)."""
    return 0.5 * (tf.square(real - (1.0 - smoothing)) + tf.square(fake))


def least_squares_generator(fake, real=None):
    """(D(G(z)) - 1)^2 / 2, equation 9."""
    return 0.5 * tf.square(fake - 1.0)


# --- Lim & Ye 2017, "Geometric GAN", arXiv:1705.02894; Miyato et al. 2018, arXiv:1802.05957 -------


def hinge_discriminator(real, fake):
    """max(0, 1 - D(x)) + max(0, 1 + D(G(z)))."""
    return tf.nn.relu(1.0 - real) + tf.nn.relu(1.0 + fake)


def critic_generator(fake, real=None):
    """-D(G(z)): the generator's side of the hinge loss and of the Wasserstein distance."""
    return -fake


# --- Arjovsky et al. 2017, "Wasserstein GAN", arXiv:1701.07875 ------------------------------------


def wasserstein_discriminator(real, fake):
    """D(G(z)) - D(x). Needs a Lipschitz critic: train it with `gradient_penalty`."""
    return fake - real


# --- Jolicoeur-Martineau 2018, "The relativistic discriminator", arXiv:1807.00734 (RpGAN) ---------


def relativistic_discriminator(real, fake):
    """-log sigmoid(D(x) - D(G(z))) over pairs.

    With r1 and r2 it is R3GAN's: Huang et al. 2024, arXiv:2501.05441.
    """
    return softplus(fake - real)


def relativistic_generator(fake, real):
    """-log sigmoid(D(G(z)) - D(x))."""
    return softplus(real - fake)


OBJECTIVES = {
    "minimax": Objective(cross_entropy_discriminator, minimax_generator),
    "non_saturating": Objective(cross_entropy_discriminator, non_saturating_generator),
    "least_squares": Objective(
        least_squares_discriminator, least_squares_generator, zero_decides=False
    ),
    "hinge": Objective(hinge_discriminator, critic_generator),
    "wasserstein": Objective(wasserstein_discriminator, critic_generator, zero_decides=False),
    "relativistic": Objective(
        relativistic_discriminator, relativistic_generator, paired=True, zero_decides=False
    ),
}


def get(loss: str | Sequence, label_smoothing: float = 0.0) -> Objective:
    """The objective that `compile(loss=...)` names, or brings.

    Args:
      loss: a key of `OBJECTIVES`, an `Objective`, or the pair of functions that begins one.
      label_smoothing: in [0, 1): lowers the discriminator's target for real images from 1.

    Raises:
      ValueError: neither, or smoothing for an objective without targets.
    """
    if not isinstance(loss, str) and isinstance(loss, Sequence) and all(map(callable, loss[:2])):
        if label_smoothing:
            raise ValueError("label_smoothing: expected 0 with an objective of your own")
        return Objective(*loss)
    rules.check_loss(loss, label_smoothing)
    objective = OBJECTIVES[str(loss)]
    if not label_smoothing:
        return objective
    plain = objective.discriminator
    return objective._replace(
        discriminator=lambda real, fake: plain(real, fake, smoothing=label_smoothing)
    )


def accuracies(objective: Objective, real, fake):
    """Where D is right about real images, and about generated ones: two (B,) float32 of 0 and 1.

    Where an objective gives logit 0 no meaning, the border is half-way between the two means.
    """
    if objective.zero_decides:
        border = tf.zeros([], real.dtype)
    else:
        border = 0.5 * (tf.reduce_mean(real) + tf.reduce_mean(fake))
    return tf.cast(real > border, tf.float32), tf.cast(fake <= border, tf.float32)


# --- Penalties on the discriminator's gradient by its input ---------------------------------------


def squared_gradient_norm(logits_of: Callable, images):
    """|dD/dx|^2 per example, shape (B,): R1 on real images, R2 on generated ones.

    Mescheder et al. 2018, "Which Training Methods for GANs do actually Converge?",
    arXiv:1801.04406, equation 9; the loss adds gamma / 2 of it.

    Args:
      logits_of: images (B, H, W, C) -> logits (B,), each a function of its own image only.
    """
    with tf.GradientTape() as tape:
        tape.watch(images)
        # The gradient of a sum is every example's own gradient.
        logits = tf.reduce_sum(logits_of(images))
    gradient = tf.cast(tape.gradient(logits, images), tf.float32)
    return tf.reduce_sum(tf.square(gradient), axis=[1, 2, 3])


def gradient_penalty(logits_of: Callable, real, fake, alpha):
    """(|dD/dx| - 1)^2 per example at points between real and fake, shape (B,).

    Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", arXiv:1704.00028, equation 3.

    Args:
      logits_of: images (B, H, W, C) -> logits (B,).
      alpha: (B, 1, 1, 1) in [0, 1], uniform: one number per image, not per pixel.
    """
    squared = squared_gradient_norm(logits_of, alpha * real + (1.0 - alpha) * fake)
    # The square root has an infinite slope at 0; 1e-12 keeps it finite and is below float32's
    # resolution beside any norm that matters.
    return tf.square(tf.sqrt(squared + 1e-12) - 1.0)
