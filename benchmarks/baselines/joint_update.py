"""A training step that updates both networks from one forward pass."""

import keras
import numpy as np
import tensorflow as tf

from benchmarks.timed import TimedTraining


class JointUpdate(TimedTraining):
    """An example with `generator`, `discriminator`, and an optimizer for each."""

    latent_dim: int
    g_optimizer: keras.optimizers.Optimizer
    d_optimizer: keras.optimizers.Optimizer

    def update(self, g_tape: tf.GradientTape, d_tape: tf.GradientTape, g_loss, d_loss) -> None:
        """Updates both networks by the gradients of their losses ()."""
        g_weights = self.generator.trainable_variables
        d_weights = self.discriminator.trainable_variables
        g_gradients = g_tape.gradient(g_loss, g_weights)
        d_gradients = d_tape.gradient(d_loss, d_weights)
        self.g_optimizer.apply_gradients(zip(g_gradients, g_weights))
        self.d_optimizer.apply_gradients(zip(d_gradients, d_weights))

    def sample(self, num: int, seed: int) -> tuple[np.ndarray, None]:
        shape = (num, self.latent_dim)
        return draw(self.generator, np.random.default_rng(seed).standard_normal(shape)), None


def draw(network: keras.Model, latents: np.ndarray, scale=127.5, offset=127.5) -> np.ndarray:
    """latents (N, Z) -> images uint8 (N, 28, 28, 1), by a network with values in [-1, 1]."""
    latents = latents.astype(np.float32)
    parts = [
        network(latents[first : first + 500], training=False).numpy()
        for first in range(0, len(latents), 500)
    ]
    return np.rint(np.concatenate(parts) * scale + offset).astype(np.uint8)
