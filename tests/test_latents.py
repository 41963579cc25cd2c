import numpy as np
import pytest

from tfgan_mnist.models import latents


def test_more_latents_keep_the_first_and_another_seed_gives_others():
    points = latents.draw(5, 100, seed=3)
    np.testing.assert_array_equal(points[:3], latents.draw(3, 100, seed=3))
    assert not np.any(points == latents.draw(5, 100, seed=4))


def test_latents_are_standard_normal():
    points = latents.draw(10_000, 100, seed=0)
    assert points.shape == (10_000, 100)
    assert points.dtype == np.float32
    # The mean of 10^6 values has a standard deviation of 0.001, their variance one of 0.0014.
    assert abs(points.mean()) < 0.005
    assert abs(points.var() - 1.0) < 0.007
    # Rows differ from one another as independent ones do: a correlation of 0.1 +- 0.1.
    assert abs(np.corrcoef(points[:200])[np.triu_indices(200, 1)].mean()) < 0.005


def test_seeds_stay_what_they_were():
    # Samples of a run are named by their seed; if this fails, NumPy draws differently.
    np.testing.assert_allclose(
        latents.draw(2, 3, seed=7),
        [[1.5219693, -1.1441058, 1.1501616], [-1.7846532, -0.77149874, 1.0191615]],
        rtol=1e-6,
    )


def test_interpolation_is_even_on_the_circle():
    path = latents.interpolate(np.array([2.0, 0.0]), np.array([0.0, 2.0]), steps=4)
    angles = np.deg2rad([0, 30, 60, 90])
    np.testing.assert_allclose(
        path, 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1), atol=1e-6
    )
    assert path.dtype == np.float32


def test_interpolation_stays_as_far_out_as_its_ends():
    start, end = latents.draw(2, 100, seed=0)
    path = latents.interpolate(start, end, steps=9)
    np.testing.assert_allclose(path[0], start, rtol=1e-5)
    np.testing.assert_allclose(path[-1], end, rtol=1e-5)
    norms = np.linalg.norm(path, axis=1)
    lowest = min(norms[0], norms[-1])
    assert norms.min() > 0.99 * lowest
    assert np.linalg.norm((start + end) / 2) < 0.8 * lowest  # where the straight line passes


@pytest.mark.parametrize("end", [1.0, 3.0, -1.0])
def test_interpolation_on_one_line_is_straight(end):
    start = np.ones(5)
    path = latents.interpolate(start, end * start, steps=3)
    np.testing.assert_allclose(path, np.outer([1.0, (1 + end) / 2, end], np.ones(5)), atol=1e-6)
