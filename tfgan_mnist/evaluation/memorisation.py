"""Whether a generator repeats its training images: from distances to the nearest of them.

Pure maths, as in `metrics.py`. Of each sample and of each test image, `neighbours.nearest_images`
gives the distance to the nearest training image.
"""

import numpy as np

MIN_IN_CELL = 20  # of each kind; the statistic is nearly normal from about there


def authenticity(distances: np.ndarray, between_training: np.ndarray) -> float:
    """AuthPct: the share of samples, in [0, 1], that are no near copies of a training image.

    Alaa et al. 2022, "How Faithful is your Synthetic Data?", arXiv:2102.08921. A sample is a near
    copy if it is nearer to a training image than any other training image is. Unseen real images
    have less than 1: compare with theirs.

    Args:
      distances: (N,) of the samples to their nearest training images.
      between_training: (N,) of those training images to the nearest others.
    """
    return float(np.mean(distances > between_training))


def copying(
    distances: np.ndarray,  # (N,) of samples to their nearest training images
    cells: np.ndarray,  # integers (N,), the part of the space that each lies in: its class
    test_distances: np.ndarray,  # (M,) the same of test images
    test_cells: np.ndarray,  # integers (M,)
) -> float:
    """C_T: how much nearer samples are to training images than test images are.

    Meehan et al. 2020, "A Non-Parametric Test to Detect Data-Copying in Generative Models",
    arXiv:2004.05675: the mean of the cells' Mann-Whitney statistics, weighted by their test
    images. About N(0, 1) over the square root of the number of cells for unseen real images; well
    below: copies; well above: samples that lie further off than real images. NaN where no cell has
    MIN_IN_CELL of both.
    """
    total, weight = 0.0, 0
    for cell in np.unique(test_cells):
        ours, theirs = distances[cells == cell], np.sort(test_distances[test_cells == cell])
        if min(len(ours), len(theirs)) >= MIN_IN_CELL:
            total += len(theirs) * _standardised_u(ours, theirs)
            weight += len(theirs)
    return total / weight if weight else float("nan")


def _standardised_u(a: np.ndarray, sorted_b: np.ndarray) -> float:
    """Mann and Whitney's U of a over b, in standard deviations from what equal ones have."""
    smaller = np.searchsorted(sorted_b, a, "left").sum()
    not_larger = np.searchsorted(sorted_b, a, "right").sum()
    pairs = len(a) * len(sorted_b)
    deviation = np.sqrt(pairs * (len(a) + len(sorted_b) + 1) / 12)
    return float(((smaller + not_larger) / 2 - pairs / 2) / deviation)
