"""Every metric against a closed form or an independent, slower computation."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.distance
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from tfgan_mnist import metrics


@pytest.fixture
def random():
    return np.random.default_rng(0)


def normal(random, count, columns, mean=0.0, scale=1.0):
    return (mean + scale * random.standard_normal((count, columns))).astype(np.float32)


# --- Frechet distance -----------------------------------------------------------------------------


def test_statistics_are_numpys(random):
    features = normal(random, 50, 4, mean=3.0)
    mean, covariance = metrics.statistics(features)
    np.testing.assert_allclose(mean, features.mean(0, dtype=np.float64))
    np.testing.assert_allclose(covariance, np.cov(features.astype(np.float64), rowvar=False))


def test_frechet_distance_of_isotropic_gaussians_has_a_closed_form():
    # |m|^2 + d (a - b)^2 for N(0, a^2 I) and N(m, b^2 I).
    d, a, b = 5, 2.0, 0.5
    m = np.arange(d, dtype=float)
    left = metrics.Statistics(np.zeros(d), a * a * np.eye(d))
    right = metrics.Statistics(m, b * b * np.eye(d))
    expected = m @ m + d * (a - b) ** 2
    assert metrics.frechet_distance(left, right) == pytest.approx(expected)
    assert metrics.frechet_distance(right, left) == pytest.approx(expected)


def test_frechet_distance_agrees_with_the_general_square_root(random):
    left = metrics.statistics(normal(random, 200, 12))
    mixed = normal(random, 200, 12, mean=0.3) @ normal(random, 12, 12)
    right = metrics.statistics(mixed)
    root = scipy.linalg.sqrtm(left.covariance @ right.covariance).real
    expected = np.sum((left.mean - right.mean) ** 2) + np.trace(
        left.covariance + right.covariance - 2.0 * root
    )
    assert metrics.frechet_distance(left, right) == pytest.approx(expected)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_frechet_distance_of_rank_deficient_covariances(random, count):
    # With fewer samples than features; the general square root yields complex numbers here.
    left, right = (metrics.statistics(normal(random, count, 64)) for _ in range(2))
    distance = metrics.frechet_distance(left, right)
    assert np.isfinite(distance) and distance > 0
    assert metrics.frechet_distance(left, left) == pytest.approx(0.0, abs=1e-5)


def test_frechet_distance_to_a_constant_is_moments_only(random):
    features = normal(random, 100, 8)
    real = metrics.statistics(features)
    constant = metrics.statistics(np.ones((100, 8), np.float32))
    expected = np.sum((real.mean - 1.0) ** 2) + np.trace(real.covariance)
    assert metrics.frechet_distance(real, constant) == pytest.approx(expected)


# --- Kernel distance ------------------------------------------------------------------------------


def slow_kernel_distance(x, y):
    """Equation 3 of Gretton et al. 2012, pair by pair."""

    def k(a, b):
        return (float(a @ b) / len(a) + 1.0) ** 3

    m, n = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    yy = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    xy = sum(k(a, b) for a in x for b in y) / (m * n)
    return xx + yy - 2.0 * xy


def test_kernel_distance_of_whole_sets_is_the_double_sum(random):
    x, y = normal(random, 20, 6), normal(random, 20, 6, mean=0.5)
    result = metrics.kernel_distance(x, y, subset_size=20, subsets=3)
    assert result.mean == pytest.approx(slow_kernel_distance(x, y), rel=1e-5)
    assert result.deviation == pytest.approx(0.0, abs=1e-9)  # all subsets are the whole


def test_kernel_distance_is_unbiased(random):
    # Of many pairs of samples of one distribution the mean is 0, within four standard errors.
    values = [
        metrics.kernel_distance(
            normal(random, 30, 4), normal(random, 30, 4), subset_size=30, subsets=1
        ).mean
        for _ in range(300)
    ]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(len(values))
    assert min(values) < 0 < max(values)


def test_kernel_distance_depends_on_its_seed_only(random):
    x, y = normal(random, 100, 4), normal(random, 100, 4)
    first, again, other = (
        metrics.kernel_distance(x, y, subset_size=20, subsets=5, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other


# --- Manifolds ------------------------------------------------------------------------------------


def slow_manifold_scores(real, generated):
    """The papers' definitions over full matrices of distances, as float64."""
    cdist = scipy.spatial.distance.cdist
    rr, gg, rg = cdist(real, real), cdist(generated, generated), cdist(real, generated)
    np.fill_diagonal(rr, np.inf)
    np.fill_diagonal(gg, np.inf)
    real_3, real_5 = np.sort(rr, axis=1)[:, [2, 4]].T
    generated_3 = np.sort(gg, axis=1)[:, 2]
    return (
        (rg <= real_3[:, None]).any(axis=0).mean(),
        (rg <= generated_3).any(axis=1).mean(),
        (rg <= real_5[:, None]).sum() / (5 * len(generated)),
        (rg <= real_5[:, None]).any(axis=1).mean(),
    )


@pytest.mark.parametrize("block", [2**24, 64])
def test_manifold_scores_agree_with_full_matrices(random, monkeypatch, block):
    monkeypatch.setattr(metrics, "BLOCK_ELEMENTS", block)  # 64: two or three rows a block
    real, generated = normal(random, 40, 3), normal(random, 25, 3, mean=0.7, scale=0.8)
    scores = metrics.manifold_scores(metrics.manifold(real), metrics.manifold(generated))
    np.testing.assert_allclose(scores, slow_manifold_scores(real, generated))


def test_distances_survive_a_far_origin(random):
    # The expansion of |x - y|^2 would cancel to noise here.
    real, generated = normal(random, 40, 3), normal(random, 40, 3, mean=0.7)
    near = metrics.manifold_scores(metrics.manifold(real), metrics.manifold(generated))
    far = metrics.manifold_scores(
        metrics.manifold(real + np.float32(1000.0)),
        metrics.manifold(generated + np.float32(1000.0)),
    )
    np.testing.assert_allclose(near, far, atol=0.03)


def test_manifold_scores_of_equal_distributions(random):
    left, right = (metrics.manifold(normal(random, 2000, 8)) for _ in range(2))
    scores = metrics.manifold_scores(left, right)
    assert scores.density == pytest.approx(1.0, abs=0.05)
    assert scores.coverage == pytest.approx(1 - 2**-5, abs=0.02)
    assert scores.precision == pytest.approx(scores.recall, abs=0.05)


def test_manifold_scores_of_distant_and_of_collapsed_samples(random):
    real = metrics.manifold(normal(random, 200, 4))
    far = metrics.manifold(normal(random, 200, 4, mean=100.0))
    assert metrics.manifold_scores(real, far) == (0.0, 0.0, 0.0, 0.0)
    one_point = metrics.manifold(np.repeat(real.features[:1], 200, axis=0))
    precision, recall, _, coverage = metrics.manifold_scores(real, one_point)
    assert precision == 1.0  # a perfect image,
    assert recall <= 1 / 200 and coverage < 0.1  # again and again


# --- What the classifier sees ---------------------------------------------------------------------


def test_classifier_score_in_closed_form():
    certain = np.where(np.eye(10, dtype=bool)[np.arange(100) % 10], 1e3, -1e3)
    assert metrics.classifier_score(certain) == pytest.approx(10.0)
    assert metrics.classifier_score(certain[::2]) == pytest.approx(5.0)  # only even classes
    assert metrics.classifier_score(certain[:1]) == pytest.approx(1.0)
    assert metrics.classifier_score(np.zeros((7, 10))) == pytest.approx(1.0)


def test_classifier_score_is_the_mutual_information(random):
    logits = normal(random, 50, 4, scale=2.0)
    p = scipy.special.softmax(logits.astype(np.float64), axis=1)
    information = scipy.stats.entropy(p.mean(0)) - scipy.stats.entropy(p, axis=1).mean()
    assert metrics.classifier_score(logits) == pytest.approx(np.exp(information))


def test_histograms():
    labels = np.array([0, 0, 3, 1, 3, 3])
    histogram = metrics.class_histogram(labels, 5)
    assert histogram.tolist() == [2, 1, 0, 3, 0]
    assert metrics.classes_covered(histogram) == 3
    real = [10, 10, 10, 10, 10]
    expected = scipy.stats.entropy(histogram, real)
    assert metrics.histogram_divergence(histogram, real) == pytest.approx(expected)
    assert metrics.histogram_divergence(histogram, 7 * histogram) == pytest.approx(0.0)
    assert metrics.histogram_divergence([5, 0], [3, 3]) == pytest.approx(math.log(2))
    assert metrics.histogram_divergence([5, 1], [3, 0]) == math.inf


def test_label_accuracy():
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]
    assert metrics.label_accuracy(logits, np.array([0, 1, 2, 1])) == 0.75


# --- Copies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("block", "at_once"), [(2**24, 10_000), (64, 7)])
def test_nearest_images_agree_with_full_matrices(random, monkeypatch, block, at_once):
    monkeypatch.setattr(metrics, "BLOCK_ELEMENTS", block)
    monkeypatch.setattr(metrics, "REFERENCES_AT_ONCE", at_once)
    references = random.integers(0, 256, (30, 4, 4, 3), np.uint8)
    samples = random.integers(0, 256, (20, 4, 4, 3), np.uint8)
    samples[5] = references[17]  # a copy
    index, distance = metrics.nearest_images(samples, references)
    full = scipy.spatial.distance.cdist(samples.reshape(20, -1), references.reshape(30, -1)) / 255
    assert index.tolist() == full.argmin(axis=1).tolist()
    np.testing.assert_allclose(distance, full.min(axis=1), rtol=1e-5)
    assert (index[5], distance[5]) == (17, 0.0)


# --- Figures that others publish ------------------------------------------------------------------


def test_small_batch_scores_are_means_over_whole_batches(random):
    real, generated = normal(random, 70, 10, scale=3.0), normal(random, 70, 10, scale=2.0)
    batches = [slice(0, 32), slice(32, 64)]
    moments = metrics.statistics
    scores = metrics.small_batch_scores(real, generated)
    assert scores.frechet_distance == pytest.approx(
        np.mean(
            [metrics.frechet_distance(moments(real[b]), moments(generated[b])) for b in batches]
        )
    )
    assert scores.classifier_score == pytest.approx(
        np.mean([metrics.classifier_score(generated[b]) for b in batches])
    )


@pytest.mark.parametrize(
    ("loss", "bound"), [(0.0, math.log(2)), (math.log(4), 0.0), (9.0, 0.0), (1.0, 0.19314718)]
)
def test_jensen_shannon_bound(loss, bound):
    assert metrics.jensen_shannon_bound(loss) == pytest.approx(bound)


@settings(max_examples=50)
@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_jensen_shannon_bound_is_tight_for_the_best_discriminator(weights, shuffle):
    p = np.array(weights) / np.sum(weights)
    q = np.array(shuffle.sample(weights, len(weights))) / np.sum(weights)
    divergence = scipy.spatial.distance.jensenshannon(p, q) ** 2
    best = p / (p + q)
    loss = -(p @ np.log(best)) - q @ np.log(1 - best)
    assert metrics.jensen_shannon_bound(loss) == pytest.approx(divergence, abs=1e-9)
    other = np.clip(best + 0.1, 0.01, 0.99)
    worse = -(p @ np.log(other)) - q @ np.log(1 - other)
    assert metrics.jensen_shannon_bound(worse) <= divergence + 1e-9


# --- Wrong arguments ------------------------------------------------------------------------------

FEATURES = np.zeros((10, 4), np.float32)
IMAGES = np.zeros((10, 4, 4, 1), np.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.statistics(FEATURES[:1]), "at least 2 features, received 1"),
        (lambda: metrics.statistics(FEATURES[0]), r"\(N, d\), floats, received \(4,\) float32"),
        (lambda: metrics.statistics(FEATURES.astype(int)), "floats, received .* int64"),
        (lambda: metrics.statistics(FEATURES + np.nan), "finite features, received NaN"),
        (
            lambda: metrics.frechet_distance(
                metrics.statistics(FEATURES), metrics.statistics(FEATURES[:, :3])
            ),
            "equally many features, received 4 and 3",
        ),
        (lambda: metrics.kernel_distance(FEATURES, FEATURES), "at least 1000 real, received 10"),
        (
            lambda: metrics.kernel_distance(FEATURES, FEATURES[:9], subset_size=10),
            "at least 10 generated, received 9",
        ),
        (
            lambda: metrics.kernel_distance(FEATURES, FEATURES[:, :3], subset_size=5),
            "4 columns, received 3",
        ),
        (
            lambda: metrics.kernel_distance(FEATURES, FEATURES, subset_size=1),
            "subset_size >= 2 .* received subset_size 1",
        ),
        (lambda: metrics.manifold(FEATURES[:5]), "at least 6 features, received 5"),
        (
            lambda: metrics.manifold_scores(
                metrics.manifold(FEATURES), metrics.manifold(FEATURES[:, :3])
            ),
            "equally many features, received 4 and 3",
        ),
        (lambda: metrics.classifier_score(FEATURES[:0]), "at least 1 logits, received 0"),
        (lambda: metrics.class_histogram(np.array([0, 10]), 10), r"\[0, 10\), received \[0, 10\]"),
        (lambda: metrics.class_histogram(np.array([-1, 1]), 10), r"\[0, 10\), received \[-1, 1\]"),
        (lambda: metrics.class_histogram(np.array([0.5]), 10), "integers, received .* float64"),
        (lambda: metrics.histogram_divergence([1, 2], [1, 2, 3]), r"\(2,\) and \(3,\)"),
        (lambda: metrics.histogram_divergence([0, 0], [1, 2]), "at least one sample"),
        (
            lambda: metrics.label_accuracy(FEATURES, np.zeros(9, int)),
            r"\(10,\), received \(9,\)",
        ),
        (
            lambda: metrics.nearest_images(IMAGES.astype(np.float32), IMAGES),
            r"samples of shape .* uint8, received \(10, 4, 4, 1\) float32",
        ),
        (lambda: metrics.nearest_images(IMAGES, IMAGES[:0]), "references of shape"),
        (lambda: metrics.nearest_images(IMAGES, IMAGES[:, :3]), r"\(4, 4, 1\).*\(3, 4, 1\)"),
        (lambda: metrics.small_batch_scores(FEATURES, FEATURES), "at least 32 .* received 10"),
        (lambda: metrics.jensen_shannon_bound(-0.1), ">= 0, received -0.1"),
        (lambda: metrics.jensen_shannon_bound(math.nan), ">= 0, received nan"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
