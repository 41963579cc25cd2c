"""Which trouble is seen in which rows: the verdicts of a person on good and bad runs."""

import math
from pathlib import Path

import numpy as np
import pytest

from tfgan_mnist import config, runs, watch

WATCHED = Path(__file__).parent / "watched"
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
    row = {"epoch": epoch, "fid": fid, "precision": precision, "recall": recall}
    return row | {"jsd_bound": 0.1} | classes


def find(log, evaluations):
    return watch.diagnose(log, evaluations, REAL, SPREAD)


def history(name):
    """What is found of a real run after each of its epochs."""
    log, evaluations = (
        runs.read_rows(WATCHED / name / file) for file in (runs.LOG, runs.EVALUATIONS)
    )
    assert log
    assert evaluations
    for i, row in enumerate(log):
        known = [each for each in evaluations if each["epoch"] <= row["epoch"]]
        yield find(log[: i + 1], known)


@pytest.mark.parametrize("model", ["gan", "dcgan", "cdcgan"])
def test_the_default_recipes_are_healthy(model):
    epochs = config.resolve({"model": model}).epochs
    assert list(history(f"healthy-{model}")) == [None] * epochs


@pytest.mark.parametrize("reason", ["learning_rate", "discriminator_steps", "minimax"])
def test_runs_made_to_fail_are_in_trouble(reason):
    found = list(history(f"failing-{reason}"))
    assert all(found)
    assert "the discriminator is too strong" in {diagnosis.kind for diagnosis in found}


def test_a_healthy_run_is_left_alone():
    log = [log_row(epoch) for epoch in (1, 2, 3)]
    evaluations = [evaluation(epoch, fid) for epoch, fid in ((1, 40.0), (2, 9.0), (3, 8.0))]
    for epochs in (1, 2, 3):
        assert find(log[:epochs], evaluations[:epochs]) is None
        assert find(log[:epochs], []) is None


def test_a_strong_discriminator_is_no_trouble_while_samples_are_good():
    """As of a former dcgan recipe: 0.91 of both at an FID of 3.4."""
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
        ({}, {"recall": 0.002, "precision": 0.9}, "collapse within classes"),
        ({}, {"fid": 20.0}, "oscillation"),  # after 5 in the first epoch
        ({"g_loss": math.nan}, {}, "non-finite"),
        ({"d_gradient_norm": math.inf}, {}, "non-finite"),
    ],
)
def test_each_trouble_has_its_name(changed, of_samples, kind):
    log = [log_row(1), log_row(2, **changed)]
    diagnosis = find(log, [evaluation(1), evaluation(2, **of_samples)])
    assert diagnosis is not None
    assert kind in diagnosis.kind
    line = str(diagnosis)
    assert "\n" not in line
    assert diagnosis.advice in line


def test_the_missing_classes_are_named():
    counts = [250, 250, 250, 250, 250, 250, 250, 0, 2, 0]
    diagnosis = find([log_row(1)], [evaluation(1, counts=counts)])
    assert "classes 7, 8, 9 are missing" in diagnosis.seen


def test_classes_that_change_places_are_an_oscillation():
    low, high = [200] * 5 + [11] * 5, [11] * 5 + [200] * 5
    rows = [evaluation(i + 1, counts=counts) for i, counts in enumerate((low, high, low))]
    assert "change places" in find([log_row(i) for i in (1, 2, 3)], rows).seen
    assert find([log_row(1), log_row(2)], rows[:2]) is None


def test_without_an_evaluation_only_the_log_speaks():
    """As of dcgan again: without one, 0.91 of both is no trouble yet."""
    certain = log_row(2, d_real_accuracy=1.0, d_fake_accuracy=1.0)
    strong = log_row(2, d_real_accuracy=0.91, d_fake_accuracy=0.91)
    assert "too strong" in find([log_row(1), certain], []).kind
    assert find([log_row(1), strong], []) is None


def test_between_evaluations_the_newest_says_what_samples_are_good_for():
    strong = log_row(2, d_real_accuracy=0.95, d_fake_accuracy=0.95)
    assert "too strong" in find([log_row(1), strong], [evaluation(1, fid=200)]).kind
    assert find([log_row(1), strong], [evaluation(1, fid=5)]) is None
    # What the newest evaluation itself shows was told in its own epoch.
    collapsed = evaluation(1, counts=[1000] + [0] * 9)
    assert find([log_row(1), log_row(2)], [collapsed]) is None


def test_samples_that_are_not_finite():
    broken = evaluation(1) | {"fid": math.nan}
    assert "non-finite" in find([log_row(1)], [broken]).kind
