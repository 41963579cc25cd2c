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

from tfgan_mnist.evaluation import comparison, metrics, neighbours


@pytest.fixture
def random():
    return np.random.default_rng(0)


def normal(random, count, columns, mean=0.0, scale=1.0):
    return (mean + scale * random.standard_normal((count, columns))).astype(np.float32)


# Frechet distance


def test_statistics_are_those_of_numpy(random):
    features = normal(random, 50, 4, mean=3.0)
    mean, covariance = metrics.statistics(features)
    np.testing.assert_allclose(mean, features.mean(0, dtype=np.float64))
    np.testing.assert_allclose(covariance, np.cov(features.astype(np.float64), rowvar=False))


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


def test_frechet_distance_of_infinitely_many_samples(random):
    real = metrics.Statistics(np.zeros(20), np.eye(20))
    values = np.array(
        [
            (
                metrics.frechet_distance(real, metrics.statistics(features)),
                metrics.frechet_distance_infinity(real, features),
            )
            for features in (normal(random, 1000, 20, mean=0.1) for _ in range(10))
        ]
    )
    biased, estimated = values.mean(axis=0)
    assert biased > 0.25
    assert estimated == pytest.approx(0.2, abs=0.02)  # 20 times 0.1^2


def test_an_interval_covers_the_distances_of_other_samples(random):
    real = metrics.Statistics(np.zeros(4), np.eye(4))
    low, high = metrics.frechet_interval(real, normal(random, 500, 4, mean=0.3))
    others = [
        metrics.frechet_distance(real, metrics.statistics(normal(random, 500, 4, mean=0.3)))
        for _ in range(200)
    ]
    # The difference of two such distances varies more than one of them.
    assert np.mean([low <= each <= high for each in others]) == pytest.approx(0.84, abs=0.12)


# Kernel distance


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
    distance = metrics.kernel_distance(x, y, subset_size=20, subsets=3)
    assert distance == pytest.approx(slow_kernel_distance(x, y), rel=1e-5)


def test_kernel_distance_is_unbiased(random):
    # For many pairs of samples of one distribution the mean is 0, within four standard errors.
    values = [
        metrics.kernel_distance(
            normal(random, 30, 4), normal(random, 30, 4), subset_size=30, subsets=1
        )
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


# Nearest neighbours


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


def manifold_scores(real, generated):
    return neighbours.manifold_scores(neighbours.manifold(real), neighbours.manifold(generated))


@pytest.mark.parametrize("block", [2**24, 64])
def test_manifold_scores_agree_with_full_matrices(random, monkeypatch, block):
    monkeypatch.setattr(neighbours, "BLOCK_ELEMENTS", block)  # 64: two or three rows a block
    real, generated = normal(random, 40, 3), normal(random, 25, 3, mean=0.7, scale=0.8)
    expected = slow_manifold_scores(real, generated)
    np.testing.assert_allclose(manifold_scores(real, generated), expected)


def test_distances_far_from_the_origin_are_exact_enough(random):
    # Without centring, |x|^2 + |y|^2 - 2 x.y would be a rounding error here.
    real, generated = normal(random, 40, 3), normal(random, 40, 3, mean=0.7)
    far = manifold_scores(real + np.float32(1000.0), generated + np.float32(1000.0))
    np.testing.assert_allclose(manifold_scores(real, generated), far, atol=0.03)


@pytest.mark.parametrize(("block", "at_once"), [(2**24, 10_000), (64, 7)])
def test_nearest_images_agree_with_full_matrices(random, monkeypatch, block, at_once):
    monkeypatch.setattr(neighbours, "BLOCK_ELEMENTS", block)
    monkeypatch.setattr(neighbours, "REFERENCE_ELEMENTS", at_once * 48)
    references = random.integers(0, 256, (30, 4, 4, 3), np.uint8)
    samples = random.integers(0, 256, (20, 4, 4, 3), np.uint8)
    samples[5] = references[17]  # a copy
    index, distance = neighbours.nearest_images(samples, references)
    full = scipy.spatial.distance.cdist(samples.reshape(20, -1), references.reshape(30, -1)) / 255
    assert index.tolist() == full.argmin(axis=1).tolist()
    np.testing.assert_allclose(distance, full.min(axis=1), rtol=1e-5)
    assert (index[5], distance[5]) == (17, 0.0)


# Classes


def test_classifier_score(random):
    certain = np.where(np.eye(10, dtype=bool)[np.arange(100) % 10], 1e3, -1e3)
    assert metrics.classifier_score(certain) == pytest.approx(10.0)
    assert metrics.classifier_score(certain[::2]) == pytest.approx(5.0)  # only even classes
    # In general the exponential of the mutual information.
    logits = normal(random, 50, 4, scale=2.0)
    p = scipy.special.softmax(logits.astype(np.float64), axis=1)
    information = scipy.stats.entropy(p.mean(0)) - scipy.stats.entropy(p, axis=1).mean()
    assert metrics.classifier_score(logits) == pytest.approx(np.exp(information))


def test_histograms():
    histogram = metrics.class_histogram(np.array([0, 0, 3, 1, 3, 3]), 5)
    assert histogram.tolist() == [2, 1, 0, 3, 0]
    assert metrics.classes_covered(histogram) == 3
    real = np.full(5, 10)
    expected = scipy.stats.entropy(histogram, real)
    assert metrics.histogram_divergence(histogram, real) == pytest.approx(expected)
    assert metrics.histogram_divergence(histogram, 7 * histogram) == pytest.approx(0.0)
    assert metrics.histogram_divergence(np.array([5, 1]), np.array([3, 0])) == math.inf


def test_label_accuracy():
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]
    assert metrics.label_accuracy(logits, np.array([0, 1, 2, 1])) == 0.75


def test_permutation_test():
    a, b = [1.0, 2.0, 3.0], [10.0, 11.0, 12.0, 13.0]
    found = comparison.permutation_test(a, b)

    def difference(x, y, axis):
        return abs(np.mean(x, axis) - np.mean(y, axis))

    expected = scipy.stats.permutation_test((a, b), difference, alternative="greater")
    assert found == pytest.approx(expected.pvalue) == 1 / 35
    assert comparison.permutation_test([1.0, 2.0], [1.0, 2.0]) == 1


# The discriminator


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


# Wrong arguments

FEATURES = np.zeros((10, 4), np.float32)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (metrics.statistics, [FEATURES[:1]], r"N >= 2, d.*received \(1, 4\) float32"),
        (metrics.statistics, [FEATURES[0]], r"floats; received \(4,\) float32"),
        (metrics.statistics, [FEATURES.astype(int)], "floats; received .* int64"),
        (metrics.statistics, [FEATURES + np.nan], "finite features; received NaN"),
        (metrics.kernel_distance, [FEATURES, FEATURES], r"N >= 1000, d.*received \(10, 4\)"),
        (neighbours.manifold, [FEATURES[:5]], r"N >= 6, d.*received \(5, 4\)"),
        (metrics.class_histogram, [np.array([0, 10]), 10], r"0\.\.9; received 0\.\.10"),
        (metrics.class_histogram, [np.array([-1, 1]), 10], r"0\.\.9; received -1\.\.1"),
        (metrics.class_histogram, [np.array([0.5]), 10], "integers; received .* float64"),
        (metrics.label_accuracy, [FEATURES, np.zeros(9, int)], r"\(10,\), .*received \(9,\)"),
    ],
)
def test_wrong_arguments_are_named(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)
