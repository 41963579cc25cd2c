"""What examples have in common that update both networks at once, from one pass through each."""

import keras
import numpy as np
import tensorflow as tf

from benchmarks.contestants.pacing import Paced


class Joint(Paced):
    """A `Contestant` with `generator`, `discriminator`, and an optimizer for each."""

    latent_dim: int
    generator: keras.Model
    discriminator: keras.Model
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
        """See `Contestant`."""
        shape = (num, self.latent_dim)
        return draw(self.generator, np.random.default_rng(seed).standard_normal(shape)), None

    def parameters(self) -> tuple[int, int]:
        """See `Contestant`."""
        return self.generator.count_params(), self.discriminator.count_params()


def draw(network: keras.Model, latents: np.ndarray) -> np.ndarray:
    """Images uint8 (N, 28, 28, 1) that a network with values in [-1, 1] makes of latents (N, Z)."""
    latents = latents.astype(np.float32)
    parts = [
        network(latents[first : first + 500], training=False).numpy()
        for first in range(0, len(latents), 500)
    ]
    return np.rint(np.concatenate(parts) * 127.5 + 127.5).astype(np.uint8)
