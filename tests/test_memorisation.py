"""Copies of training images among samples, planted and found."""

import numpy as np
import pytest

from tfgan_mnist.evaluation import memorisation, neighbours

NUM = 2000


@pytest.fixture(scope="module")
def images():
    """A training set, test images and samples of one distribution: uint8 (N, 4, 4, 1)."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (num, 4, 4, 1), dtype=np.uint8) for num in (3 * NUM, NUM, NUM)]


def scores(samples, train, test):
    """AuthPct and C_T of samples, in two cells: by the first pixel."""
    nearest, distances = neighbours.nearest_images(samples, train)
    _, between = neighbours.nearest_images(train[nearest], train, besides=nearest)
    _, test_distances = neighbours.nearest_images(test, train)
    cells, test_cells = samples[:, 0, 0, 0] // 128, test[:, 0, 0, 0] // 128
    return (
        memorisation.authenticity(distances, between),
        memorisation.copying(distances, cells, test_distances, test_cells),
    )


def test_unseen_images_are_no_copies(images):
    train, test, samples = images
    _, copying = scores(samples, train, test)
    assert abs(copying) < 2.5


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_planted_copies_are_noticed(images, share):
    train, test, samples = images
    num = int(share * NUM)
    planted = np.concatenate([train[:num], samples[num:]])
    clean, with_copies = scores(samples, train, test), scores(planted, train, test)
    assert with_copies[0] == pytest.approx(clean[0] * (1 - share), abs=0.02)
    assert with_copies[1] < min(clean[1] - 1, -1)


def test_copying_agrees_with_counting_all_pairs():
    ours, theirs = np.array([1.0, 2, 2, 5] * 5), np.array([0.0, 2, 3, 4, 4] * 4)
    cells = np.zeros(20, int)
    u = sum((a > b) + (a == b) / 2 for a in ours for b in theirs)
    deviation = (400 * 41 / 12) ** 0.5
    expected = pytest.approx((u - 200) / deviation)
    assert memorisation.copying(ours, cells, theirs, cells) == expected


def test_too_few_in_every_cell_give_no_number():
    few = np.arange(10.0)
    assert np.isnan(memorisation.copying(few, few * 0, few, few * 0))
