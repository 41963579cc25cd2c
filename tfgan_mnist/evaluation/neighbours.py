"""Sample quality from nearest neighbours: precision, recall, density, coverage; copies.

Pure maths, as in `metrics.py`. Shapes: N samples, d features.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tfgan_mnist.evaluation import metrics

# Which neighbour gives the radius of a ball, as in the two papers below.
PRECISION_RECALL_K = 3
DENSITY_COVERAGE_K = 5

# Distances are computed in blocks of at most this many: 64 MiB of float32.
BLOCK_ELEMENTS = 2**24
REFERENCE_ELEMENTS = 10_000 * 28 * 28  # of references at a time, float32


class Manifold(NamedTuple):
    """The support of a distribution, estimated by balls around each of N samples."""

    features: np.ndarray  # float32 (N, d), the centres
    radii: np.ndarray  # float32 (2, N), squared distances to the 3rd and to the 5th neighbour


class ManifoldScores(NamedTuple):
    """The overlap of two manifolds."""

    precision: float  # fraction of samples inside the real manifold, in [0, 1]
    recall: float  # fraction of real images inside the samples' manifold, in [0, 1]
    density: float  # real balls around a sample over k; 1 for equal distributions, may be more
    coverage: float  # fraction of real images in whose ball is a sample; 1 - 2^-k when equal


def manifold(features: np.ndarray) -> Manifold:
    """(N, d) features, N >= 6 -> the balls for the metrics of both papers."""
    ks = [PRECISION_RECALL_K, DENSITY_COVERAGE_K]
    features = metrics.check_matrix(features, "features", max(ks) + 1).astype(np.float32)
    radii = np.empty((len(ks), len(features)), np.float32)
    for rows, distances in _squared_distances(features, features):
        # Column 0 is the point itself, so that column k is its k-th neighbour.
        nearest = np.partition(distances, max(ks), axis=1)[:, : max(ks) + 1]
        radii[:, rows] = np.sort(nearest, axis=1)[:, ks].T
    return Manifold(features, radii)


def manifold_scores(real: Manifold, generated: Manifold) -> ManifoldScores:
    """Improved precision and recall (k = 3), density and coverage (k = 5).

    Precision, recall: Kynkaanniemi et al. 2019, "Improved Precision and Recall Metric for Assessing
    Generative Models", arXiv:1904.06991, eq. 1-3. Density, coverage: Naeem et al. 2020, "Reliable
    Fidelity and Diversity Metrics for Generative Models", arXiv:2002.09797, eq. 4-5: robust against
    outliers, whose large balls inflate the first two.
    """
    real_3, real_5 = real.radii
    generated_3, _ = generated.radii
    inside_real = 0  # number of samples
    balls_around_samples = 0
    inside_generated = np.zeros(len(real.features), bool)
    covered = np.zeros(len(real.features), bool)
    for rows, distances in _squared_distances(generated.features, real.features):
        inside_real += (distances <= real_3).any(axis=1).sum()
        inside_generated |= (distances <= generated_3[rows, None]).any(axis=0)
        in_ball = distances <= real_5
        balls_around_samples += in_ball.sum()
        covered |= in_ball.any(axis=0)
    count = len(generated.features)
    return ManifoldScores(
        precision=float(inside_real / count),
        recall=float(inside_generated.mean()),
        density=float(balls_around_samples / (DENSITY_COVERAGE_K * count)),
        coverage=float(covered.mean()),
    )


def nearest_images(
    samples: np.ndarray,  # uint8 (N, H, W, C)
    references: np.ndarray,  # uint8 (M, H, W, C), usually the training images
    besides: np.ndarray | None = None,  # integers (N,): a reference to leave out for each
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest reference of each sample in pixel space, to see whether a generator copies.

    Compare with the distances of held-out real images to the same references: copies are nearer to
    the training images than unseen real images are.

    Returns:
      indices (N,) of the references; Euclidean distances (N,) float32 between pixel values in
      [0, 1], exactly 0 for a copy.
    """

    def flat(images):  # (N, H W C) float32 in [0, 1]
        return images.reshape(len(images), np.prod(images.shape[1:])).astype(np.float32) / 255.0

    x = flat(samples)
    indices = np.zeros(len(x), np.int64)
    smallest = np.full(len(x), np.inf, np.float32)
    # In parts, since a training set takes four times its memory in float32.
    at_once = max(1, REFERENCE_ELEMENTS // x.shape[1])
    for start in range(0, len(references), at_once):
        part = flat(references[start : start + at_once])
        for rows, squared in _squared_distances(x, part):
            if besides is not None:
                own = besides[rows] - start
                (there,) = np.nonzero((own >= 0) & (own < len(part)))
                squared[there, own[there]] = np.inf
            nearest = squared.argmin(axis=1)
            value = squared[np.arange(len(nearest)), nearest]
            nearer = value < smallest[rows]
            indices[rows][nearer] = start + nearest[nearer]
            smallest[rows][nearer] = value[nearer]
    # Computed directly: `smallest` has the rounding error of |x|^2 - 2 x.y + |y|^2.
    return indices, np.linalg.norm(x - flat(references[indices]), axis=1)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared Euclidean distances of (N, d) to (M, d), float32, a block of rows at a time.

    Yields a slice of `a` and its (rows, M) distances >= 0, at most BLOCK_ELEMENTS of them.
    """
    # |x - y|^2 = |x|^2 + |y|^2 - 2 x.y is one matrix product. It is inexact for points far from
    # the origin and near to each other, so both are centred first.
    origin = b.mean(axis=0)
    a, b = a - origin, b - origin
    b_norms = np.einsum("md,md->m", b, b)
    rows_per_block = max(1, BLOCK_ELEMENTS // len(b))
    for start in range(0, len(a), rows_per_block):
        rows = slice(start, min(start + rows_per_block, len(a)))
        distances = a[rows] @ b.T
        distances *= -2.0
        distances += b_norms
        distances += np.einsum("nd,nd->n", a[rows], a[rows])[:, None]
        yield rows, np.maximum(distances, 0.0, out=distances)
