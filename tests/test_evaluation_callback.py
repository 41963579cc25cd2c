"""Evaluations, rollbacks and the final report: through the train command, on tiny networks."""

import csv
import functools
import json
import math

import checkpoint_values
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfgan_mnist import data, evaluate, models, runs, train
from tfgan_mnist.config import resolve
from tfgan_mnist.data import order
from tfgan_mnist.errors import UserError
from tfgan_mnist.evaluation import metrics, protocol
from tfgan_mnist.training import checkpoints, diagnostics, evaluation_callback, finish

MIN_IMAGES = evaluation_callback.MIN_IMAGES


@pytest.fixture(scope="module", autouse=True)
def quick(mnist):
    """As few images as there may be, in memory, and less of what takes the time."""
    few_subsets = functools.partial(metrics.kernel_distance, subsets=5)
    few = mnist._replace(
        train=data.Split(*(part[: 12 * MIN_IMAGES] for part in mnist.train)),
        test=data.Split(*(part[:MIN_IMAGES] for part in mnist.test)),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda *arguments: few)
        patch.setattr(protocol, "NUM", protocol.MIN_SAMPLES)
        patch.setattr(protocol, "NEAREST", 100)
        patch.setattr(metrics, "kernel_distance", few_subsets)
        yield


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """A data_dir of these tests' own, as real images are few here."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def run_train(tmp_path, references):
    """Trains a tiny model, and returns the run's folder."""

    def run_train(*flags, model="gan", epochs=3) -> runs.Path:
        suffix = "hidden_widths=8" if model == "gan" else "width=2"
        sizes = [f"--g_{suffix}", f"--d_{suffix}"]
        given = [
            f"--model={model}",
            f"--epochs={epochs}",
            f"--data_dir={references}",
            f"--run_root={tmp_path / 'runs'}",
            f"--export_root={tmp_path / 'saved_models'}",
            "--steps_per_epoch=3",
            "--batch_size=8",
            "--latent_dim=4",
            "--epochs_per_evaluation=1",
        ]
        train.main(train.parser().parse_args([*given, *sizes, *flags]))
        return max((tmp_path / "runs").iterdir())

    return run_train


def read(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def fake_scores(monkeypatch, fids=()):
    """Evaluations have these FIDs, one after the other, then 0.5; there is no final report."""
    left = iter(fids)
    others = {"precision": 1.0, "recall": 1.0, "jsd_bound": 0.1, "seconds": 0.0}
    others |= {f"class_{k}": 100 for k in range(10)}
    monkeypatch.setattr(
        evaluation_callback.Evaluation, "evaluate", lambda self: {"fid": next(left, 0.5)} | others
    )
    monkeypatch.setattr(finish, "write_report", lambda *arguments: None)


def fake_problem(monkeypatch, epochs):
    """After these epochs there is a diagnosis."""

    def diagnose(log, *others):
        found = diagnostics.Diagnosis("problem", "it was observed", "another day")
        return found if log[-1]["epoch"] in epochs else None

    monkeypatch.setattr(diagnostics, "diagnose", diagnose)


def test_every_evaluation_is_written_and_printed(run_train, capsys, tmp_path):
    run = run_train(model="cdcgan", epochs=2)
    rows = read(run / runs.EVALUATIONS)
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "3"), ("2", "6")]
    for row in rows:
        assert 0 < float(row["fid"]) < 1000
        assert 0 <= float(row["jsd_bound"]) <= math.log(2)
        assert float(row["label_accuracy"]) == pytest.approx(0.1, abs=0.1)
        assert sum(float(row[f"class_{k}"]) for k in range(10)) == protocol.MIN_SAMPLES
        assert float(row["kid"]) > 0  # stated where images are few
    # Seconds of training are in the log, those of evaluations here.
    assert "fid" not in read(run / runs.LOG)[0]
    output = capsys.readouterr().out
    for row in rows:
        assert f"  FID {float(row['fid']):.3g}\n" in output
    with Image.open(run / runs.CURVES) as picture:
        assert picture.size == (1200, 900)

    assert "Samples are evaluated by the features mnist-28x1-v1 (" in output

    # The final report on the test images equals that of the evaluate command.
    report = runs.read_metrics(run)
    assert 0 <= report["test"]["jsd_bound"] <= math.log(2)
    flags = [f"--run={run}", f"--num={protocol.NUM}", f"--output={tmp_path / 'again'}"]
    evaluate.main(evaluate.parser().parse_args(flags))
    again = runs.read_metrics(tmp_path / "again")["samples"]
    assert again.pop("seconds") >= 0
    assert again["second"]["features"].startswith("random-28x1-v1")
    assert again == {key: value for key, value in report["samples"].items() if key != "seconds"}
    assert report["samples"]["split"] == "test"
    assert report["samples"]["generated"] == protocol.MIN_SAMPLES
    assert f"{report['samples']['scores']['fid']:.4g}" in output
    assert (run / runs.REPORT).exists()
    export = run / (run / runs.EXPORTED).read_text()
    card = json.loads((export / "model_card.json").read_text())
    assert card["metrics"]["samples"]["scores"] == report["samples"]["scores"]


def test_the_best_evaluation_is_kept_and_exported(run_train, monkeypatch, tmp_path):
    fake_scores(monkeypatch, [9.0, 1.0, 5.0, 4.0, 3.0])
    run = run_train(epochs=5)
    kept = sorted(path.name for path in (run / checkpoints.FOLDER).iterdir())
    assert kept == ["step_00000006", "step_00000012", "step_00000015"]
    assert runs.best_step(run) == 6
    _, best = checkpoints.restore_run(run)
    assert best.steps_done == 6

    exported = tf.saved_model.load(str(tmp_path / "saved_models" / "gan" / "1"))
    latents = best.latents(5)
    images = exported.signatures["serving_default"](latents=tf.constant(latents))["images"]
    np.testing.assert_allclose(images * 2 - 1, best.sample(latents), atol=1e-5)

    # A run that goes on continues from its newest checkpoint.
    run_train(f"--resume={run}", epochs=6)
    assert [row["step"] for row in read(run / runs.EVALUATIONS)][-2:] == ["15", "18"]


def test_evaluations_change_nothing_in_training(run_train):
    often, seldom = run_train(), run_train("--epochs_per_evaluation=2")
    assert [len(read(run / runs.EVALUATIONS)) for run in (often, seldom)] == [3, 2]
    checkpoint_values.assert_same(often, seldom)


def test_too_few_images_are_not_evaluated(run_train, mnist, monkeypatch, capsys):
    few = mnist._replace(test=data.Split(*(part[:99] for part in mnist.test)))
    monkeypatch.setattr(data, "load", lambda *arguments: few)
    run = run_train(epochs=1)
    reason = "mnist, the smaller split: expected at least 100 images to compare samples with"
    assert f"Samples are not evaluated: {reason}; received 99" in capsys.readouterr().out
    assert not (run / runs.EVALUATIONS).exists()
    assert (run / runs.EXPORTED).exists()
    # Without evaluations nothing is scored, and so no classifier is made.
    asked = resolve({"epochs_per_evaluation": 0})
    assert evaluation_callback.find_extractor(few, asked) is None
    assert capsys.readouterr().out == ""


def test_labels_are_as_frequent_as_in_the_data():
    labels = protocol.draw_labels(np.repeat([0, 2], [300, 100]), 1000, seed=0)
    counts = np.bincount(labels)
    assert counts[1] == 0 and counts.sum() == 1000
    assert counts[0] == pytest.approx(750, abs=60)
    np.testing.assert_array_equal(
        labels, protocol.draw_labels(np.repeat([0, 2], [300, 100]), 1000, seed=0)
    )


def test_held_out_images_are_not_trained_on(mnist):
    training, held_out = order.hold_out(mnist.train, 5000)
    assert (len(training.images), len(held_out.images)) == (55_000, 5000)
    assert len(training.labels) == 55_000
    together = np.concatenate([training.images, held_out.images]).reshape(60_000, -1)
    assert together.sum(dtype=np.int64) == mnist.train.images.sum(dtype=np.int64)
    assert np.bincount(held_out.labels).min() > 350  # of each digit
    again = order.hold_out(mnist.train, 5000)[1]
    np.testing.assert_array_equal(again.images, held_out.images)
    assert evaluation_callback.num_held_out(399) == 0


# --- Diagnostics ----------------------------------------------------------------------------------


def test_a_warning_is_logged_once_as_long_as_the_problem_lasts(run_train, monkeypatch, caplog):
    fake_scores(monkeypatch)
    fake_problem(monkeypatch, {1, 2, 4})
    run_train(epochs=4)
    messages = [r.getMessage() for r in caplog.records if "Problem" in r.getMessage()]
    line = "Problem at step {}: problem: it was observed. Try another day."
    assert messages == [line.format(3), line.format(12)]


def test_stop_saves_the_state(run_train, monkeypatch, tmp_path):
    fake_scores(monkeypatch)
    with monkeypatch.context() as patch:
        fake_problem(patch, {2})
        with pytest.raises(UserError, match="Problem at step 6: .* Stopped"):
            run_train("--on_collapse=stop")
    (run,) = (tmp_path / "runs").iterdir()
    assert max((run / checkpoints.FOLDER).iterdir()).name == "step_00000006"
    run_train(f"--resume={run}", "--on_collapse=warn")
    assert (run / runs.EXPORTED).exists()


def test_rollback_restores_the_best_weights_and_goes_on_counting(run_train, monkeypatch, caplog):
    fake_scores(monkeypatch, [2.0, 1.0, 9.0, 8.0, 7.0])
    fake_problem(monkeypatch, {3})
    seen = []
    real = checkpoints.roll_back

    def roll_back(run, model):
        before = model.generator.get_weights()
        step = real(run, model)
        seen.append((step, model.steps_done, before, model.generator.get_weights()))
        return step

    monkeypatch.setattr(checkpoints, "roll_back", roll_back)
    run = run_train("--on_collapse=rollback", epochs=4)
    ((step, steps_done, before, after),) = seen
    assert (step, steps_done) == (6, 9)
    assert any((a != b).any() for a, b in zip(before, after))
    _, best = checkpoints.restore_run(run)
    assert best.steps_done == 6
    for a, b in zip(after, best.generator.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    # The evaluation of the discarded weights is removed.
    assert [row["epoch"] for row in read(run / runs.EVALUATIONS)] == ["1", "2", "4"]
    assert "Going on with the weights of step 6" in caplog.text
    # Four epochs were counted, and the checkpoints are those of a run that goes on.
    assert max((run / checkpoints.FOLDER).iterdir()).name == "step_00000012"


@pytest.mark.parametrize("flags", [[], ["--epochs_per_evaluation=0"]])
def test_rollback_goes_to_the_last_checkpoint_before_the_problem(
    flags, run_train, monkeypatch, caplog
):
    """From the best evaluation itself to the one before, and without evaluations to the newest."""
    fake_scores(monkeypatch, [2.0, 1.0, 3.0, 0.5])
    fake_problem(monkeypatch, {2})
    run_train("--on_collapse=rollback", *flags)
    assert "Problem at step 6: problem: it was observed. Try another day. Going on" in caplog.text
    assert "the weights of step 3" in caplog.text


def test_rollback_heals_a_model_that_is_not_finite(run_train, monkeypatch, caplog):
    fake_scores(monkeypatch)
    evaluate = evaluation_callback.Evaluation.evaluate
    poisons = iter([0.0, np.nan])

    def poison(callback):
        callback.model.generator.trainable_variables[0].assign_add([[next(poisons, 0.0)]])
        return evaluate(callback)

    monkeypatch.setattr(evaluation_callback.Evaluation, "evaluate", poison)
    run = run_train("--on_collapse=rollback")
    assert "generator holds values that are NaN or infinite" in caplog.text
    assert "Going on with the weights of step 3" in caplog.text
    assert checkpoints.describe_non_finite(checkpoints.restore_run(run)[1]) is None


@pytest.mark.parametrize(
    ("epochs", "message"),
    [
        (range(2, 9), "Problem at step 15: .* Stopped"),  # after three rollbacks
        ([1], "Stopped, as no rollback is possible: .* no checkpoint there"),
    ],
)
def test_rollbacks_come_to_an_end(epochs, message, run_train, monkeypatch):
    fake_problem(monkeypatch, epochs)
    fake_scores(monkeypatch, [1.0, *[9.0] * 9])
    with pytest.raises(UserError, match=message):
        run_train("--on_collapse=rollback", epochs=8)


@pytest.fixture
def poison(monkeypatch):
    """Makes both losses of one step, counted from 1, NaN."""

    def poison(step):
        def class_loss(self, output, labels):
            return tf.where(self.global_step.value + 1 == step, np.nan, 0.0) * output.logits

        monkeypatch.setattr(models.GAN, "class_loss", class_loss)

    return poison


def test_skipped_updates_are_a_column_of_the_log(run_train, poison, monkeypatch):
    fake_scores(monkeypatch)
    poison(5)
    run = run_train()
    rows = read(run / runs.LOG)
    assert [float(row["skipped"]) for row in rows] == pytest.approx([0, 1 / 3, 0])
    assert (run / runs.EXPORTED).exists()


# --- Real recipes: those made to fail have a diagnosis, the default ones have none ----------------


@pytest.fixture
def kinds_of_problems(tmp_path, monkeypatch, caplog, mnist):
    """Trains with these flags on all of MNIST, and returns the kinds of problems in the log."""
    monkeypatch.setattr(data, "load", lambda *arguments: mnist)

    def kinds_of_problems(*flags) -> list[str]:
        places = [f"--{key}={tmp_path}" for key in ("data_dir", "run_root", "export_root")]
        train.main(train.parser().parse_args([*places, *flags]))
        messages = [record.getMessage() for record in caplog.records]
        return [text.split(": ")[1] for text in messages if text.startswith("Problem")]

    return kinds_of_problems


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--steps_per_epoch=250", "--g_learning_rate=0.05", "--d_learning_rate=0.05"],
        ["--steps_per_epoch=60", "--discriminator_steps=20"],
        ["--steps_per_epoch=250", "--loss=minimax"],
    ],
)
def test_runs_made_to_fail_have_a_diagnosis(flags, kinds_of_problems):
    # The average over fewer steps, as there are few: samples of the default one still show noise.
    short = ["--model=gan", "--epochs=3", "--epochs_per_evaluation=1", "--ema=0.99"]
    found = kinds_of_problems(*short, "--final_learning_rate=1", *flags)
    assert "the discriminator is too strong" in found


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gan", "dcgan", "cdcgan"])
def test_the_default_recipes_have_no_diagnosis(model, kinds_of_problems):
    """All of each, a quarter of an hour on two cores: a shorter one is another recipe."""
    assert kinds_of_problems(f"--model={model}") == []
