"""Sample quality as pure maths on features, logits and labels.

Each function is one definition from one paper and returns plain numbers. State the number of
samples, the split and the classifier beside every value (`protocol.py` chooses them): nearly all of
these estimates depend on the sample size. Metrics from nearest neighbours are in `neighbours.py`.

Shapes: N samples, d features, K classes. Features and logits are those of `classifier.py`.
"""

from typing import NamedTuple

import numpy as np

EXTRAPOLATION_POINTS = 15
RESAMPLES = 100


class Statistics(NamedTuple):
    """First two moments of N feature vectors."""

    mean: np.ndarray  # float64 (d,)
    covariance: np.ndarray  # float64 (d, d), unbiased


def statistics(features: np.ndarray) -> Statistics:
    """(N, d) features, N >= 2 -> their moments."""
    features = check_matrix(features, "features", at_least=2).astype(np.float64)
    mean = features.mean(axis=0)
    centred = features - mean
    return Statistics(mean, centred.T @ centred / (len(features) - 1))


def frechet_distance(real: Statistics, generated: Statistics) -> float:
    """|m_r - m_g|^2 + tr(C_r + C_g - 2 (C_r C_g)^(1/2)), the FID when features are Inception's.

    The squared Wasserstein-2 distance between Gaussians with these moments: 0 when they agree. With
    few samples it is biased upwards (Binkowski et al. 2018): compare values of equal N only.

    Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", arXiv:1706.08500, eq. 6;
    Dowson & Landau 1982, "The Frechet distance between multivariate normal distributions".
    """
    # The square root of C_r C_g may be complex, as the product is not symmetric. The symmetric
    # C_r^(1/2) C_g C_r^(1/2) has the same eigenvalues; negative ones are rounding errors of 0.
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


def frechet_distance_infinity(real: Statistics, generated: np.ndarray) -> float:
    """The Frechet distance to infinitely many samples, estimated from (N, d) features.

    Over 1/N the distances of N samples lie on a line; its value at 0 is free of their bias, though
    not of the bias of the real images. The line goes through random subsets of a fifth and more.

    Chong & Forsyth 2020, "Effectively Unbiased FID and Inception Score and where to find them",
    arXiv:1911.07023, section 4.
    """
    random = np.random.default_rng(0)
    inverse = np.linspace(1.0, 5.0, EXTRAPOLATION_POINTS) / len(generated)
    distances = [
        frechet_distance(real, statistics(random.permutation(generated)[: round(1.0 / each)]))
        for each in inverse
    ]
    return float(np.polyfit(inverse, distances, deg=1)[1])


def frechet_interval(real: Statistics, generated: np.ndarray) -> tuple[float, float]:
    """95 % of the Frechet distances that as many other samples would have, low and high.

    The bootstrap's spread over samples drawn again with replacement, about the distance of these
    features (N, d): the bootstrap's own distances are too high, by the bias of repeated samples.
    Generators trained with other seeds differ by more.

    Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    random = np.random.default_rng(0)
    count = len(generated)
    again = [
        frechet_distance(real, statistics(generated[random.integers(0, count, count)]))
        for _ in range(RESAMPLES)
    ]
    centre = frechet_distance(real, statistics(generated)) - np.mean(again)
    low, high = centre + np.quantile(again, [0.025, 0.975])
    return float(low), float(high)


def kernel_distance(
    real: np.ndarray,  # (N, d) features, N >= subset_size
    generated: np.ndarray,  # (M, d) features, M >= subset_size
    *,
    subset_size: int = 1000,  # samples of each side in a subset, at least 2
    subsets: int = 100,  # each drawn without replacement
    seed: int = 0,  # of the draws
) -> float:
    """Squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, the KID.

    The mean over random subsets. It is unbiased: for equal distributions its expectation is 0 at
    any sample size, and single values may be negative.

    Binkowski et al. 2018, "Demystifying MMD GANs", arXiv:1801.01401, section 4; the estimator is
    eq. 3 of Gretton et al. 2012, "A Kernel Two-Sample Test".
    """
    real = check_matrix(real, "real features", at_least=subset_size)
    generated = check_matrix(generated, "generated features", at_least=subset_size)

    def kernel(x, y):
        inner = x @ y.T
        inner /= x.shape[1]
        inner += 1.0
        return inner * inner * inner  # faster than `** 3`, which calls pow()

    # Sums in float64, since the means below differ by a thousandth of their size only.
    def mean_between_different(x):
        k = kernel(x, x)
        off_diagonal = k.sum(dtype=np.float64) - np.trace(k, dtype=np.float64)
        return off_diagonal / (len(x) * (len(x) - 1))

    values = []
    random = np.random.default_rng(seed)
    for _ in range(subsets):
        x = real[random.choice(len(real), subset_size, replace=False)]
        y = generated[random.choice(len(generated), subset_size, replace=False)]
        between = kernel(x, y).sum(dtype=np.float64) / subset_size**2
        values.append(mean_between_different(x) + mean_between_different(y) - 2.0 * between)
    return float(np.mean(values))


def classifier_score(logits: np.ndarray) -> float:
    """exp(E_x KL(p(y|x) || p(y))), the formula of the Inception Score, from (N, K) logits.

    1 when all predictions are equal, K when they are certain and the classes equally frequent. It
    does not compare with real images: one perfect sample per class, repeated, reaches K.

    Salimans et al. 2016, "Improved Techniques for Training GANs", arXiv:1606.03498, section 4.
    """
    logits = check_matrix(logits, "logits", at_least=1).astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))  # log p(y|x), (N, K)
    p = np.exp(log_p)
    marginal = np.maximum(p.mean(axis=0), np.finfo(np.float64).tiny)  # p(y), (K,)
    return float(np.exp(np.sum(p * (log_p - np.log(marginal)), axis=1).mean()))


def class_histogram(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """(N,) labels in [0, num_classes) -> (num_classes,) int64 counts."""
    check_labels(labels, len(labels), num_classes)
    return np.bincount(labels, minlength=num_classes)


def classes_covered(histogram: np.ndarray) -> int:
    """Number of classes with at least one sample: the modes of Srivastava et al. 2017 (VEEGAN)."""
    return int(np.count_nonzero(histogram))


def histogram_divergence(generated: np.ndarray, real: np.ndarray) -> float:
    """KL(generated || real) of two (K,) class histograms, in nats, as in VEEGAN and PacGAN.

    About (K - 1) / 2N for N samples of the real distribution. Infinite when there are samples of a
    class without real images.
    """
    present = generated > 0
    p = generated[present] / generated.sum()
    q = real[present] / real.sum()
    with np.errstate(divide="ignore"):
        return float(np.sum(p * (np.log(p) - np.log(q))))


def label_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of (N, K) logits whose maximum is at the (N,) label.

    With conditional samples, their labels and a classifier trained on real images it is the
    GAN-test of Shmelkov et al. 2018, "How good is my GAN?", arXiv:1807.09499, section 3.
    """
    logits = check_matrix(logits, "logits", at_least=1)
    check_labels(labels, *logits.shape)
    return float(np.mean(logits.argmax(axis=1) == labels))


def jensen_shannon_bound(discriminator_loss: float) -> float:
    """Lower bound on JSD(real, generated) from the discriminator's loss, in nats, in [0, log 2].

    The loss is E[-log D(x)] + E[-log(1 - D(G(z)))] in nats: both halves, without label smoothing.
    The best discriminator attains log 4 - 2 JSD (Goodfellow et al. 2014, arXiv:1406.2661, theorem
    1) and any other a higher loss, hence JSD >= (log 4 - loss) / 2. This holds for the images in
    the mean; for the distributions only if these are many and D was not trained on them.
    """
    return max((np.log(4.0) - float(discriminator_loss)) / 2.0, 0.0)


def check_matrix(array: np.ndarray, name: str, at_least: int) -> np.ndarray:
    """Returns `array`; raises ValueError unless it is (N >= at_least, d), floats, all finite."""
    if array.ndim != 2 or len(array) < at_least or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"expected {name} of shape (N >= {at_least}, d), floats; "
            f"received {array.shape} {array.dtype}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"expected finite {name}; received NaN or infinity")
    return array


def check_labels(labels: np.ndarray, count: int, num_classes: int) -> None:
    """Raises ValueError unless `labels` is (count,), integers in [0, num_classes)."""
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"expected labels of shape ({count},), integers; received {labels.shape} {labels.dtype}"
        )
    if count and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"expected labels 0..{num_classes - 1}; received {labels.min()}..{labels.max()}"
        )
