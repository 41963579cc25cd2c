"""Points of the latent space: what a generator turns into images."""

import numpy as np


def draw(num: int, latent_dim: int, seed: int) -> np.ndarray:
    """`num` latents from N(0, 1), float32 (num, latent_dim).

    Row i depends on (seed, latent_dim, i) and not on `num`: asking for more keeps the ones already
    seen.
    """
    # The generator is named because `np.random.default_rng` may come to mean another one.
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(
        (num, latent_dim), dtype=np.float32
    )


def interpolate(start: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """Latents on the way from `start` to `end`, both included, float32 (steps, latent_dim).

    The way follows the great circle ("slerp"; White, Sampling Generative Networks, 2016,
    arXiv:1609.04468, section 2.1). N(0, 1) in many dimensions lies near a sphere, and a straight
    line cuts through its inside, where the generator has seen nothing.

    Args:
      start, end: (latent_dim,).
      steps: >= 2.
    """
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    way = np.linspace(0.0, 1.0, steps)[:, None]  # (steps, 1)
    cosine = start @ end / max(np.linalg.norm(start) * np.linalg.norm(end), 1e-12)
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    if np.sin(angle) < 1e-6:  # one direction, or opposite ones: no single great circle
        path = (1.0 - way) * start + way * end
    else:
        path = (np.sin((1.0 - way) * angle) * start + np.sin(way * angle) * end) / np.sin(angle)
    return path.astype(np.float32)  # (steps, latent_dim)
