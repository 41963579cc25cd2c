"""Which trouble is seen in which rows: the verdicts of a person on good and bad runs."""

import math

import numpy as np
import pytest

from tfgan_mnist import watch

REAL = np.full(10, 100)
SPREAD = 90.0
HEALTHY = {
    "d_loss": 1.2,
    "g_loss": 1.0,
    "d_real_accuracy": 0.6,
    "d_fake_accuracy": 0.62,
    "d_gradient_norm": 1.0,
    "g_gradient_norm": 1.0,
}


def log_row(epoch, **values):
    return {"epoch": epoch, "seconds": 1.0} | HEALTHY | values


def evaluation(epoch, fid=5.0, precision=0.7, recall=0.5, counts=None):
    counts = [100] * 10 if counts is None else counts
    classes = {f"class_{k}": count for k, count in enumerate(counts)}
    return {"epoch": epoch, "fid": fid, "precision": precision, "recall": recall} | classes


def find(log, evaluations):
    return watch.find(log, evaluations, REAL, SPREAD)


def test_a_healthy_run_is_left_alone():
    log = [log_row(epoch) for epoch in (1, 2, 3)]
    evaluations = [evaluation(epoch, fid) for epoch, fid in ((1, 40.0), (2, 9.0), (3, 8.0))]
    for epochs in (1, 2, 3):
        assert find(log[:epochs], evaluations[:epochs]) is None
        assert find(log[:epochs], []) is None


def test_a_strong_discriminator_is_no_trouble_while_samples_are_good():
    """As of the dcgan recipe: 0.91 of both at an FID of 3.4."""
    strong = log_row(1, d_real_accuracy=0.95, d_fake_accuracy=0.96)
    assert find([strong], [evaluation(1, fid=3.4)]) is None


@pytest.mark.parametrize(
    ("changed", "of_samples", "kind"),
    [
        ({"d_real_accuracy": 0.999, "d_fake_accuracy": 1.0}, {"fid": 200}, "too strong"),
        ({"g_gradient_norm": 1e-4}, {"fid": 200}, "too strong"),
        ({"d_real_accuracy": 0.5, "d_fake_accuracy": 0.52}, {"fid": 200}, "too weak"),
        ({}, {"counts": [0, 950, 0, 0, 0, 0, 0, 50, 0, 0]}, "collapse onto classes 1, 7"),
        ({}, {"counts": [1, 1, 1, 1, 166, 166, 166, 166, 166, 166]}, "collapse onto some classes"),
        ({}, {"recall": 0.01, "precision": 0.9}, "collapse within classes"),
        ({}, {"fid": 20.0}, "oscillation"),  # after 5 in the first epoch
        ({"g_loss": math.nan}, {}, "non-finite"),
        ({"d_gradient_norm": math.inf}, {}, "non-finite"),
    ],
)
def test_each_trouble_has_its_name(changed, of_samples, kind):
    log = [log_row(1), log_row(2, **changed)]
    finding = find(log, [evaluation(1), evaluation(2, **of_samples)])
    assert finding is not None
    assert kind in finding.kind
    line = str(finding)
    assert "\n" not in line
    assert finding.advice in line


def test_the_missing_classes_are_named():
    counts = [250, 250, 250, 250, 250, 250, 250, 0, 2, 0]
    finding = find([log_row(1)], [evaluation(1, counts=counts)])
    assert "classes 7, 8, 9 are missing" in finding.seen


def test_classes_that_change_places_are_an_oscillation():
    low, high = [200] * 5 + [11] * 5, [11] * 5 + [200] * 5
    rows = [evaluation(i + 1, counts=counts) for i, counts in enumerate((low, high, low))]
    assert "change places" in find([log_row(i) for i in (1, 2, 3)], rows).seen
    assert find([log_row(1), log_row(2)], rows[:2]) is None


def test_without_an_evaluation_only_the_log_speaks():
    strong = log_row(2, d_real_accuracy=1.0, d_fake_accuracy=1.0)
    bad = evaluation(1, counts=[1000] + [0] * 9)
    assert "too strong" in find([log_row(1), strong], [bad]).kind
    assert find([log_row(1), log_row(2)], [bad]) is None
