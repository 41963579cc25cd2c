"""The rules of diagnostics on tables of healthy and failing runs, and what the callback does."""

import contextlib
import math
import types
from pathlib import Path

import numpy as np
import pytest

from tfgan_mnist import config, runs
from tfgan_mnist.errors import UserError
from tfgan_mnist.training import callbacks, checkpoints, diagnostics

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
    "skipped": 0.0,
}


def log_row(epoch, **values):
    return {"epoch": epoch, "seconds": 1.0} | HEALTHY | values


def evaluation(epoch, fid=5.0, precision=0.7, recall=0.5, counts=(100,) * 10):
    classes = {f"class_{k}": count for k, count in enumerate(counts)}
    row = {
        "epoch": epoch,
        "step": 1000 * epoch,
        "fid": fid,
        "precision": precision,
        "recall": recall,
    }
    return row | {"classes_covered": 10, "jsd_bound": 0.1} | classes


def diagnose(log, evaluations):
    return diagnostics.diagnose(log, evaluations, REAL, SPREAD)


def history(name):
    """The diagnosis of a real run after each of its epochs."""
    log, evaluations = runs.read_history(WATCHED / name)
    assert log and evaluations
    for i, row in enumerate(log):
        yield diagnose(log[: i + 1], [e for e in evaluations if e["epoch"] <= row["epoch"]])


@pytest.mark.parametrize("model", ["gan", "dcgan", "cdcgan"])
def test_the_default_recipes_are_healthy(model):
    epochs = config.resolve({"model": model}).epochs
    assert list(history(f"healthy-{model}")) == [None] * epochs


@pytest.mark.parametrize("reason", ["learning_rate", "discriminator_steps", "minimax"])
def test_runs_made_to_fail_have_a_diagnosis(reason):
    found = list(history(f"failing-{reason}"))
    assert all(found[1:])  # after the first epoch samples may still be noise
    assert "the discriminator is too strong" in {diagnosis.kind for diagnosis in found[1:]}


def test_a_healthy_run_has_no_diagnosis():
    log = [log_row(epoch) for epoch in (1, 2, 3)]
    evaluations = [evaluation(epoch, fid) for epoch, fid in ((1, 40.0), (2, 9.0), (3, 8.0))]
    for epochs in (1, 2, 3):
        assert diagnose(log[:epochs], evaluations[:epochs]) is None
        assert diagnose(log[:epochs], []) is None


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
        ({}, {"fid": math.nan}, "non-finite"),
    ],
)
def test_each_problem_has_its_name(changed, of_samples, kind):
    diagnosis = diagnose(
        [log_row(1), log_row(2, **changed)], [evaluation(1), evaluation(2, **of_samples)]
    )
    assert diagnosis is not None
    assert kind in diagnosis.kind
    assert "\n" not in str(diagnosis)
    assert diagnosis.advice in str(diagnosis)


def test_missing_classes_are_named():
    counts = [250, 250, 250, 250, 250, 250, 250, 0, 2, 0]
    diagnosis = diagnose([log_row(1)], [evaluation(1, counts=counts)])
    assert "classes 7, 8, 9 are missing" in diagnosis.observed
    rows = [log_row(1)], [evaluation(1, counts=counts)], REAL, SPREAD
    diagnosis = diagnostics.diagnose(*rows, class_names=tuple("abcdefghij"))
    assert "classes h, i, j are missing" in diagnosis.observed


def test_classes_that_alternate_are_an_oscillation():
    low, high = [200] * 5 + [11] * 5, [11] * 5 + [200] * 5
    rows = [evaluation(i + 1, counts=counts) for i, counts in enumerate((low, high, low))]
    assert (
        "classes of the samples change" in diagnose([log_row(i) for i in (1, 2, 3)], rows).observed
    )
    assert diagnose([log_row(1), log_row(2)], rows[:2]) is None


@pytest.mark.parametrize(
    ("accuracy", "evaluations", "is_problem"),
    [
        (0.95, [evaluation(1, fid=200)], True),  # the newest evaluation, of an earlier epoch
        (0.95, [evaluation(1, fid=5)], False),
        (0.95, [evaluation(1), evaluation(2, fid=5)], False),
        (0.91, [], False),  # without evaluations only a higher accuracy is a problem
        (1.0, [], True),
    ],
)
def test_a_strong_discriminator_is_a_problem_if_samples_are_bad(accuracy, evaluations, is_problem):
    strong = log_row(2, d_real_accuracy=accuracy, d_fake_accuracy=accuracy)
    diagnosis = diagnose([log_row(1), strong], evaluations)
    assert (diagnosis is not None and "too strong" in diagnosis.kind) == is_problem


def test_the_samples_of_earlier_evaluations_are_not_reported_again():
    collapsed = evaluation(1, counts=[1000] + [0] * 9)
    assert diagnose([log_row(1), log_row(2)], [collapsed]) is None


def test_early_noise_is_no_collapse():
    """A try-out of 40 steps, whose grey squares the classifier takes for eights."""
    counts = [0] * 8 + [1000, 0]
    noise = evaluation(1, fid=546, precision=0, recall=0, counts=counts) | {"step": 40}
    log = [log_row(1, d_real_accuracy=0.5, d_fake_accuracy=0.5)]
    assert diagnose(log, [noise]) is None
    assert diagnose(log, [noise | {"precision": 0.1}]) is None  # still far from any real image
    assert "collapse" in diagnose([log_row(1)], [noise | {"precision": 0.5, "fid": 200}]).kind
    assert "collapse" in diagnose([log_row(1)], [noise | {"step": 1000}]).kind


# --- The callback ---------------------------------------------------------------------------------

NOT_FINITE = "generator holds values that are NaN"


@pytest.mark.parametrize(
    ("action", "not_finite", "values", "error", "expected"),
    [
        # The model cannot go on.
        ("warn", NOT_FINITE, {}, "Problem at step 9: non-finite.* Nothing was saved", []),
        ("stop", None, {"skipped": 1.0}, "Problem at step 9: non-finite.* Nothing was saved", []),
        ("rollback", NOT_FINITE, {}, None, ["roll back", "warn"]),
        ("rollback", None, {"skipped": 1.0}, None, ["roll back", "warn"]),
        # It can.
        ("warn", None, {"d_loss": math.nan, "skipped": 0.5}, None, ["warn"]),
        ("stop", None, {"d_loss": math.nan}, "d_loss became nan.* Stopped", ["save"]),
        ("rollback", None, {"d_loss": math.nan}, None, ["roll back", "warn"]),
    ],
)
def test_what_non_finite_values_lead_to(
    action, not_finite, values, error, expected, tmp_path, monkeypatch
):
    calls = []
    monkeypatch.setattr(checkpoints, "save", lambda *_: calls.append("save"))
    monkeypatch.setattr(checkpoints, "roll_back", lambda *_: calls.append("roll back") or 3)
    monkeypatch.setattr(checkpoints, "describe_non_finite", lambda model: not_finite)
    monkeypatch.setattr(callbacks.logging, "warning", lambda *words: calls.append("warn"))
    runs.write_rows(tmp_path / runs.LOG, [log_row(1, **values)])
    callback = callbacks.TrainingDiagnostics(tmp_path, action)
    callback.set_model(types.SimpleNamespace(steps_done=9, reset_metrics=lambda: None))
    with pytest.raises(UserError, match=error) if error else contextlib.nullcontext():
        callback.on_epoch_end(0)
    assert calls == expected
