"""How good samples are: pure maths on features, logits, labels and pixels.

Each function is one definition from one paper and returns plain numbers. How many samples, of
which split and with which classifier is the protocol's affair (`scoring.py`, `quality.py`), and
has to be stated beside every figure: nearly all of these estimates depend on the sample size.

Shapes: N samples, d features, K classes. Features and logits are those of `classifier.py`. What
concerns only the real images (`statistics`, `manifold`) is computed once and reused.

Every function raises ValueError, saying what was expected and what was received, for a wrong shape
or type, for values that are not finite and for fewer samples than its definition needs.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

# Neighbours that span a manifold, as chosen by the two papers.
PRECISION_RECALL_K = 3
DENSITY_COVERAGE_K = 5

# Distances are computed in blocks of at most this many: 64 MiB of float32.
BLOCK_ELEMENTS = 2**24
REFERENCES_AT_ONCE = 10_000


# --- Distances between distributions of features --------------------------------------------------


class Statistics(NamedTuple):
    """First two moments of N feature vectors: mean (d,) and unbiased covariance (d, d), float64."""

    mean: np.ndarray
    covariance: np.ndarray


def statistics(features: np.ndarray) -> Statistics:
    """(N, d) features, N >= 2 -> their moments."""
    features = _matrix(features, "features", at_least=2).astype(np.float64)
    mean = features.mean(axis=0)
    centred = features - mean
    return Statistics(mean, centred.T @ centred / (len(features) - 1))


def frechet_distance(real: Statistics, generated: Statistics) -> float:
    """|m_r - m_g|^2 + tr(C_r + C_g - 2 (C_r C_g)^(1/2)), the FID when features are Inception's.

    The squared Wasserstein-2 distance between Gaussians of these moments: 0 when they agree. With
    few samples it is biased upwards (Binkowski et al. 2018), so compare equal N only.

    Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", arXiv:1706.08500, eq. 6;
    Dowson & Landau 1982, "The Frechet distance between multivariate normal distributions".
    """
    if real.mean.shape != generated.mean.shape:
        raise ValueError(
            "expected statistics of equally many features, "
            f"received {real.mean.size} and {generated.mean.size}"
        )
    # The product of two covariances is not symmetric, and a general square root of it may turn out
    # complex when it is singular. C_r^(1/2) C_g C_r^(1/2) has the same eigenvalues and is
    # symmetric: the rounding error is then at worst a tiny negative eigenvalue, which is a zero.
    values, vectors = np.linalg.eigh(real.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    values = np.linalg.eigvalsh(root @ generated.covariance @ root)
    trace_of_root = np.sqrt(np.maximum(values, 0.0)).sum()

    distance = (
        np.sum((real.mean - generated.mean) ** 2)
        + np.trace(real.covariance)
        + np.trace(generated.covariance)
        - 2.0 * trace_of_root
    )
    return max(float(distance), 0.0)


class KernelDistance(NamedTuple):
    """Mean over random subsets, and the standard deviation of one subset's value."""

    mean: float
    deviation: float


def kernel_distance(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    subset_size: int = 1000,
    subsets: int = 100,
    seed: int = 0,
) -> KernelDistance:
    """Squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, the KID.

    Unbiased, so its expectation is 0 for equal distributions at any sample size, and single values
    may be negative.

    Binkowski et al. 2018, "Demystifying MMD GANs", arXiv:1801.01401, section 4; the estimator is
    eq. 3 of Gretton et al. 2012, "A Kernel Two-Sample Test".

    Args:
      real: (N, d) features, N >= subset_size.
      generated: (M, d) features, M >= subset_size.
      subset_size: samples of each side in a subset, at least 2.
      subsets: how many are drawn, each without replacement.
      seed: of the subsets' choice.
    """
    if subset_size < 2 or subsets < 1:
        raise ValueError(
            "expected subset_size >= 2 and subsets >= 1, "
            f"received subset_size {subset_size} and subsets {subsets}"
        )
    real = _matrix(real, "real", at_least=subset_size)
    generated = _matrix(generated, "generated", at_least=subset_size, columns=real.shape[1])

    def kernel(x, y):
        inner = x @ y.T
        inner /= x.shape[1]
        inner += 1.0
        return inner * inner * inner  # `** 3` calls pow(), which takes 20 times longer

    def total(k):
        # The three means differ by a thousandth of their size only.
        return k.sum(dtype=np.float64)

    def mean_between_different(x):
        k = kernel(x, x)
        return (total(k) - np.trace(k, dtype=np.float64)) / (len(x) * (len(x) - 1))

    values = np.empty(subsets)
    random = np.random.default_rng(seed)
    for i in range(subsets):
        x = real[random.choice(len(real), subset_size, replace=False)]
        y = generated[random.choice(len(generated), subset_size, replace=False)]
        values[i] = (
            mean_between_different(x)
            + mean_between_different(y)
            - 2.0 * total(kernel(x, y)) / subset_size**2
        )
    return KernelDistance(float(values.mean()), float(values.std()))


# --- Manifolds of features: fidelity and diversity apart ------------------------------------------


class Manifold(NamedTuple):
    """A distribution's support, estimated by a ball around each of its N samples.

    Attributes:
      features: (N, d) float32, the centres.
      radii: k -> (N,) float32, squared distance of each centre to its k-th nearest other one.
    """

    features: np.ndarray
    radii: dict[int, np.ndarray]


class ManifoldScores(NamedTuple):
    """How two manifolds overlap.

    Attributes:
      precision: share of samples inside the real manifold, in [0, 1].
      recall: share of real images inside the samples' manifold, in [0, 1].
      density: real balls around a sample over k, on average; 1 for equal distributions, and above
        it when samples crowd where real images are dense.
      coverage: share of real images with a sample in their ball, in [0, 1]. Two equal distributions
        of equal size reach 1 - 2^-k = 0.97, not 1.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(features: np.ndarray) -> Manifold:
    """(N, d) features, N >= 6 -> the balls that both papers' scores need."""
    ks = (PRECISION_RECALL_K, DENSITY_COVERAGE_K)
    features = _matrix(features, "features", at_least=max(ks) + 1).astype(np.float32)
    radii = np.empty((len(features), len(ks)), np.float32)
    for rows, distances in _squared_distances(features, features):
        # A point is its own nearest neighbour, at place 0, so that the k-th other is at place k.
        nearest = np.partition(distances, max(ks), axis=1)[:, : max(ks) + 1]
        radii[rows] = np.sort(nearest, axis=1)[:, ks]
    return Manifold(features, dict(zip(ks, radii.T, strict=True)))


def manifold_scores(real: Manifold, generated: Manifold) -> ManifoldScores:
    """Improved precision and recall (k = 3), density and coverage (k = 5).

    Precision, recall: Kynkaanniemi et al. 2019, "Improved Precision and Recall Metric for Assessing
    Generative Models", arXiv:1904.06991, eq. 1-3. Density, coverage: Naeem et al. 2020, "Reliable
    Fidelity and Diversity Metrics for Generative Models", arXiv:2002.09797, eq. 4-5: robust against
    outliers, whose large balls inflate the first two.
    """
    if real.features.shape[1] != generated.features.shape[1]:
        raise ValueError(
            "expected manifolds of equally many features, "
            f"received {real.features.shape[1]} and {generated.features.shape[1]}"
        )
    inside_real = 0  # samples
    balls_around_samples = 0
    inside_generated = np.zeros(len(real.features), bool)
    covered = np.zeros(len(real.features), bool)
    for rows, distances in _squared_distances(generated.features, real.features):
        inside_real += (distances <= real.radii[PRECISION_RECALL_K]).any(axis=1).sum()
        inside_generated |= (distances <= generated.radii[PRECISION_RECALL_K][rows, None]).any(0)
        in_ball = distances <= real.radii[DENSITY_COVERAGE_K]
        balls_around_samples += in_ball.sum()
        covered |= in_ball.any(axis=0)
    count = len(generated.features)
    return ManifoldScores(
        precision=float(inside_real / count),
        recall=float(inside_generated.mean()),
        density=float(balls_around_samples / (DENSITY_COVERAGE_K * count)),
        coverage=float(covered.mean()),
    )


# --- What the classifier sees ---------------------------------------------------------------------


def classifier_score(logits: np.ndarray) -> float:
    """exp(E_x KL(p(y|x) || p(y))), the formula of the Inception Score, from (N, K) logits.

    1 when all predictions are alike, K when they are certain and the classes equally frequent. It
    never looks at real images: one perfect sample per class, repeated, reaches K.

    Salimans et al. 2016, "Improved Techniques for Training GANs", arXiv:1606.03498, section 4.
    """
    logits = _matrix(logits, "logits", at_least=1).astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))  # log p(y|x), (N, K)
    p = np.exp(log_p)
    marginal = np.maximum(p.mean(axis=0), np.finfo(np.float64).tiny)  # p(y), (K,)
    return float(np.exp(np.sum(p * (log_p - np.log(marginal)), axis=1).mean()))


def class_histogram(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """(N,) labels in [0, num_classes) -> (num_classes,) int64 counts."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"expected (N,) integers, received {labels.shape} {labels.dtype}")
    if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"expected labels in [0, {num_classes}), received [{labels.min()}, {labels.max()}]"
        )
    return np.bincount(labels, minlength=num_classes)


def classes_covered(histogram: np.ndarray) -> int:
    """Number of classes with at least one sample: the modes of Srivastava et al. 2017 (VEEGAN)."""
    return int(np.count_nonzero(histogram))


def histogram_divergence(generated: np.ndarray, real: np.ndarray) -> float:
    """KL(generated || real) between two class histograms, in nats, as in VEEGAN and PacGAN.

    N samples of the very distribution score about (K - 1) / 2N. Infinite when there are samples of
    a class that the real ones lack.
    """
    generated, real = np.asarray(generated, np.float64), np.asarray(real, np.float64)
    if generated.shape != real.shape or generated.ndim != 1:
        raise ValueError(
            "expected two histograms of the same classes, "
            f"received shapes {generated.shape} and {real.shape}"
        )
    if min(generated.min(), real.min()) < 0 or min(generated.sum(), real.sum()) <= 0:
        raise ValueError("expected histograms with counts >= 0 and at least one sample each")
    present = generated > 0
    p = generated[present] / generated.sum()
    q = real[present] / real.sum()
    with np.errstate(divide="ignore"):
        return float(np.sum(p * (np.log(p) - np.log(q))))


def label_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of (N, K) logits whose largest is at the (N,) label.

    For conditional samples, the labels they were asked for and a classifier that was trained on
    real images, it is the GAN-test of Shmelkov et al. 2018, "How good is my GAN?",
    arXiv:1807.09499, section 3.
    """
    logits = _matrix(logits, "logits", at_least=1)
    labels = np.asarray(labels)
    if labels.shape != (len(logits),):
        raise ValueError(f"expected labels of shape ({len(logits)},), received {labels.shape}")
    class_histogram(labels, logits.shape[1])  # only for its checks
    return float(np.mean(logits.argmax(axis=1) == labels))


# --- Copies ---------------------------------------------------------------------------------------


class Neighbours(NamedTuple):
    """The nearest reference of each of N samples.

    Attributes:
      indices: (N,) of the references.
      distances: (N,) float32, to them.
    """

    indices: np.ndarray
    distances: np.ndarray


def nearest_images(samples: np.ndarray, references: np.ndarray) -> Neighbours:
    """The nearest reference of each sample in pixel space: does the generator copy?

    A distance means something beside those of held-out real images to the same references: a
    generator that copies is nearer to its training images than unseen real images are.

    Args:
      samples: (N, H, W, C) uint8.
      references: (M, H, W, C) uint8, usually the training images.

    Returns:
      Distances are Euclidean, over pixel values in [0, 1]; exactly 0 for a copy.
    """
    for name, images in (("samples", samples), ("references", references)):
        if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
            raise ValueError(
                f"expected {name} of shape (N >= 1, H, W, C) uint8, "
                f"received {images.shape} {images.dtype}"
            )
    if samples.shape[1:] != references.shape[1:]:
        raise ValueError(
            f"expected images of one shape, received samples of {samples.shape[1:]} "
            f"and references of {references.shape[1:]}"
        )

    def flat(images):  # (N, H W C) float32 in [0, 1]
        return images.reshape(len(images), -1).astype(np.float32) / 255.0

    x = flat(samples)
    indices = np.zeros(len(x), np.int64)
    smallest = np.full(len(x), np.inf, np.float32)
    # In parts, as a training set is four times as large in float32.
    for start in range(0, len(references), REFERENCES_AT_ONCE):
        part = flat(references[start : start + REFERENCES_AT_ONCE])
        for rows, squared in _squared_distances(x, part):
            nearest = squared.argmin(axis=1)
            value = squared[np.arange(len(nearest)), nearest]
            nearer = value < smallest[rows]
            indices[rows][nearer] = start + nearest[nearer]
            smallest[rows][nearer] = value[nearer]
    # `smallest` carries the rounding error of |x|^2 - 2 x.y + |y|^2; this does not.
    distances = np.linalg.norm(x - flat(references[indices]), axis=1)
    return Neighbours(indices, distances)


# --- Figures that others publish ------------------------------------------------------------------


class SmallBatchScores(NamedTuple):
    """Means over batches: Frechet distance of the logits, and the samples' classifier score."""

    frechet_distance: float
    classifier_score: float


def small_batch_scores(
    real_logits: np.ndarray, generated_logits: np.ndarray, batch_size: int = 32
) -> SmallBatchScores:
    """TF-GAN's protocol: both figures per batch of 32, then averaged; the features are the logits.

    An extra for comparison with TF-GAN's MNIST tutorial, which published them so, from 100 batches
    and with another classifier. 32 samples bias both heavily (real digits score about 8.4 there,
    not 10), so the values compare with nothing else.

    Args:
      real_logits: (N, K), N >= batch_size. The last incomplete batch is dropped.
      generated_logits: (N, K).
    """
    real = _matrix(real_logits, "real_logits", at_least=max(batch_size, 2))
    generated = _matrix(generated_logits, "generated_logits", len(real), columns=real.shape[1])
    batches = [slice(i, i + batch_size) for i in range(0, len(real) - batch_size + 1, batch_size)]
    distances = [frechet_distance(statistics(real[b]), statistics(generated[b])) for b in batches]
    scores = [classifier_score(generated[b]) for b in batches]
    return SmallBatchScores(float(np.mean(distances)), float(np.mean(scores)))


def jensen_shannon_bound(discriminator_loss: float) -> float:
    """What the discriminator's loss proves about JSD(real, generated), in nats, in [0, log 2].

    The best discriminator attains the loss log 4 - 2 JSD (Goodfellow et al. 2014, arXiv:1406.2661,
    theorem 1) and any other a higher one, hence JSD >= (log 4 - loss) / 2. A loss of log 4 or more,
    as of a discriminator that cannot tell, proves nothing: 0.

    Args:
      discriminator_loss: E[-log D(x)] + E[-log(1 - D(G(z)))] >= 0, in nats: the sum of both halves,
        without label smoothing. It holds of the images that the mean was taken over; of the
        distributions only if these are many and D was not trained on them.
    """
    if not discriminator_loss >= 0.0:
        raise ValueError(f"expected a cross-entropy >= 0, received {discriminator_loss}")
    return max((np.log(4.0) - float(discriminator_loss)) / 2.0, 0.0)


# --- Shared ---------------------------------------------------------------------------------------


def _matrix(array, name, at_least, columns=None) -> np.ndarray:
    """Checks a matrix of one row per sample."""
    array = np.asarray(array)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"expected {name} of shape (N, d), floats, received {array.shape} {array.dtype}"
        )
    if len(array) < at_least:
        raise ValueError(f"expected at least {at_least} {name}, received {len(array)}")
    if columns is not None and array.shape[1] != columns:
        raise ValueError(f"expected {name} with {columns} columns, received {array.shape[1]}")
    if not np.isfinite(array).all():
        raise ValueError(f"expected finite {name}, received NaN or infinity")
    return array


def _squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared Euclidean distances of (N, d) to (M, d), float32, a block of rows at a time.

    Yields:
      (rows, distances): a slice of `a` and its (rows, M) distances, >= 0. Memory is bounded by
      BLOCK_ELEMENTS, whatever N is.
    """
    # |x - y|^2 = |x|^2 + |y|^2 - 2 x.y is one matrix product. It loses digits when points lie far
    # from the origin and near to each other, so the origin is put into their midst.
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
