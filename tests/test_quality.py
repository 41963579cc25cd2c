"""What is said of samples during training: through the train command, on tiny networks."""

import csv
import functools
import json
import math
import types

import checkpoint_values
import numpy as np
import pytest
from PIL import Image

from tfgan_mnist import (
    callbacks,
    checkpoints,
    data,
    evaluate,
    metrics,
    protocol,
    quality,
    runs,
    train,
)
from tfgan_mnist.data import order
from tfgan_mnist.errors import UserError


@pytest.fixture(scope="module", autouse=True)
def quick(mnist):
    """As few images as there may be, in memory, and less of what takes the time."""
    few_subsets = functools.partial(metrics.kernel_distance, subsets=5)
    few = mnist._replace(
        train=data.Split(*(part[: 12 * quality.MIN_IMAGES] for part in mnist.train)),
        test=data.Split(*(part[: quality.MIN_IMAGES] for part in mnist.test)),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda *arguments: few)
        patch.setattr(protocol, "NUM", protocol.MIN_SAMPLES)
        patch.setattr(protocol, "NEAREST", 100)
        patch.setattr(metrics, "kernel_distance", few_subsets)
        yield


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """A data_dir of these tests' own: what is kept of so few images is nobody else's."""
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


def fake_scores(monkeypatch, fids):
    """Evaluations find these FIDs, one after the other."""
    real, left = protocol.quick_scores, iter(fids)
    monkeypatch.setattr(
        protocol, "quick_scores", lambda *arguments: real(*arguments) | {"fid": next(left)}
    )


def test_every_evaluation_is_kept_and_told(run_train, capsys, tmp_path):
    run = run_train(model="cdcgan", epochs=2)
    rows = read(run / runs.EVALUATIONS)
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "3"), ("2", "6")]
    for row in rows:
        assert 0 < float(row["fid"]) < 1000
        assert 0 <= float(row["jsd_bound"]) <= math.log(2)
        assert float(row["label_accuracy"]) == pytest.approx(0.1, abs=0.1)
        assert sum(float(row[f"class_{k}"]) for k in range(10)) == quality.MIN_IMAGES
    # Seconds of training are in the log, those of evaluations here.
    assert "fid" not in read(run / runs.LOG)[0]
    output = capsys.readouterr().out
    for key in quality.Evaluation.LOGGED:
        assert f"{key}: " in output
    with Image.open(run / runs.CURVES) as picture:
        assert picture.size == (1200, 900)

    # The end: on the test images, and as the evaluate command says.
    told = runs.read_metrics(run)
    assert 0 <= told["test"]["jsd_bound"] <= math.log(2)
    flags = [f"--run={run}", f"--num={protocol.NUM}", f"--output={tmp_path / 'again'}"]
    evaluate.main(evaluate.parser().parse_args(flags))
    again = runs.read_metrics(tmp_path / "again")["samples"]
    assert again.pop("seconds") >= 0
    assert again == {key: value for key, value in told["samples"].items() if key != "seconds"}
    assert told["samples"]["split"] == "test"
    assert told["samples"]["generated"] == protocol.MIN_SAMPLES
    assert f"{told['samples']['scores']['fid']:.4g}" in output
    assert (run / runs.REPORT).exists()
    export = run / (run / runs.EXPORTED).read_text()
    card = json.loads((export / "model_card.json").read_text())
    assert card["metrics"]["samples"]["scores"] == told["samples"]["scores"]


def test_the_best_evaluation_is_kept_and_exported(run_train, monkeypatch, tmp_path):
    fake_scores(monkeypatch, [9.0, 1.0, 5.0, 4.0, 3.0, *[0.5] * 9])
    run = run_train(epochs=5)
    kept = sorted(path.name for path in (run / checkpoints.FOLDER).iterdir())
    assert kept == ["step_00000006", "step_00000012", "step_00000015"]
    assert runs.best_step(run) == 6
    _, best = checkpoints.restore_run(run)
    assert best.steps_done == 6
    assert "step 6" in runs.read_metrics(run)["samples"]["source"]

    import tensorflow as tf

    exported = tf.saved_model.load(str(tmp_path / "saved_models" / "gan" / "1"))
    latents = best.latents(5)
    images = exported.signatures["serving_default"](latents=tf.constant(latents))["images"]
    np.testing.assert_allclose(images * 2 - 1, best.sample(latents), atol=1e-5)

    # Going on, it is the newest that counts.
    run_train(f"--resume={run}", epochs=6)
    assert [row["step"] for row in read(run / runs.EVALUATIONS)][-2:] == ["15", "18"]


def test_evaluations_change_nothing_in_training(run_train):
    often, seldom = run_train(), run_train("--epochs_per_evaluation=2")
    assert [len(read(run / runs.EVALUATIONS)) for run in (often, seldom)] == [3, 2]
    checkpoint_values.assert_same(often, seldom)


@pytest.mark.slow  # tests.faults.kills asks the same, of many kinds of stop
def test_a_stopped_run_has_the_evaluations_of_one_that_was_not(run_train, monkeypatch):
    whole = run_train(epochs=4)
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Checkpoint, "on_epoch_end", fail_after_epoch_2)
        with pytest.raises(KeyboardInterrupt):
            run_train(epochs=4)
    stopped = max(whole.parent.iterdir())
    assert len(read(stopped / runs.EVALUATIONS)) == 3  # one more than there are checkpoints
    run_train(f"--resume={stopped}", epochs=4)
    checkpoint_values.assert_same(stopped, whole)
    assert values(stopped / runs.EVALUATIONS) == values(whole / runs.EVALUATIONS)


def fail_after_epoch_2(self, epoch, logs=None):
    if epoch >= 2:
        raise KeyboardInterrupt
    checkpoints.save(self.run, self.model)


def values(path):
    return [{key: cell for key, cell in row.items() if key != "seconds"} for row in read(path)]


def test_few_images_are_not_judged(run_train, mnist, monkeypatch, capsys):
    few = mnist._replace(test=data.Split(*(part[:100] for part in mnist.test)))
    monkeypatch.setattr(data, "load", lambda *arguments: few)
    run = run_train(epochs=1)
    assert "Samples are not judged: that takes 1,000 images, not 100" in capsys.readouterr().out
    assert not (run / runs.EVALUATIONS).exists()
    assert (run / runs.EXPORTED).exists()


def test_held_out_images_are_not_trained_on(mnist):
    training, held_out = order.hold_out(mnist.train, 5000)
    assert (len(training.images), len(held_out.images)) == (55_000, 5000)
    assert len(training.labels) == 55_000
    together = np.concatenate([training.images, held_out.images]).reshape(60_000, -1)
    assert together.sum(dtype=np.int64) == mnist.train.images.sum(dtype=np.int64)
    assert np.bincount(held_out.labels).min() > 350  # of each digit
    again = order.hold_out(mnist.train, 5000)[1]
    np.testing.assert_array_equal(again.images, held_out.images)
    assert quality.num_held_out(600) == 0


# The watch

HOPELESS = ["--g_learning_rate=1e30", "--d_learning_rate=1e30"]


def fake_trouble(monkeypatch, epochs):
    """After these epochs the watch sees trouble."""
    from tfgan_mnist import watch

    def find(log, *others):
        troubled = log[-1]["epoch"] in epochs
        return watch.Diagnosis("trouble", "it was seen", "another day") if troubled else None

    monkeypatch.setattr(watch, "diagnose", find)


def test_warnings_are_given_once_as_long_as_they_last(run_train, monkeypatch, caplog):
    fake_trouble(monkeypatch, {1, 2, 4})
    run_train(epochs=4)
    told = [record.getMessage() for record in caplog.records if "Trouble" in record.getMessage()]
    line = "Trouble at step {}: trouble: it was seen. Try another day."
    assert told == [line.format(3), line.format(12)]


def test_stop_keeps_what_there_is(run_train, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        fake_trouble(patch, {2})
        with pytest.raises(UserError, match="Trouble at step 6: .* Stopped"):
            run_train("--on_collapse=stop")
    (run,) = (tmp_path / "runs").iterdir()
    assert max((run / checkpoints.FOLDER).iterdir()).name == "step_00000006"
    run_train(f"--resume={run}", "--on_collapse=warn")
    assert (run / runs.EXPORTED).exists()


def test_rollback_takes_the_best_weights_and_other_randomness(run_train, monkeypatch, caplog):
    fake_scores(monkeypatch, [2.0, 1.0, 9.0, 8.0, 7.0])
    fake_trouble(monkeypatch, {3})
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
    # What was given up is no longer told of.
    assert [row["epoch"] for row in read(run / runs.EVALUATIONS)] == ["1", "2", "4"]
    assert "Going on with the weights of step 6" in caplog.text
    # Four epochs were counted, and the checkpoints are those of a run that goes on.
    assert max((run / checkpoints.FOLDER).iterdir()).name == "step_00000012"


def test_rollback_from_the_best_evaluation_goes_to_the_one_before(run_train, monkeypatch, caplog):
    fake_scores(monkeypatch, [2.0, 1.0, 3.0, 0.5])
    fake_trouble(monkeypatch, {2})
    run_train("--on_collapse=rollback")
    assert "Trouble at step 6: trouble: it was seen. Try another day. Going on" in caplog.text
    assert "the weights of step 3" in caplog.text


def test_a_damaged_best_checkpoint_is_not_rolled_back_to(run_train, tmp_path):
    run = run_train(epochs=2)
    _, model = checkpoints.restore_run(run)
    best = run / checkpoints.FOLDER / f"step_{runs.best_step(run):08d}"
    (best / "state.index").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be read"):
        checkpoints.roll_back(run, model)


@pytest.mark.parametrize("action", ["warn", "stop"])
def test_a_run_without_hope_is_stopped(action, run_train):
    seen = "gradient was NaN or infinite in 20 steps in a row; its update was skipped.*Stopped"
    with pytest.raises(UserError, match=seen if action == "warn" else "non-finite values: .*Stopp"):
        run_train(f"--on_collapse={action}", *HOPELESS, epochs=20)


@pytest.fixture
def poison_steps(monkeypatch):
    """Has both losses of some steps, counted from 1, be NaN."""
    import tensorflow as tf

    from tfgan_mnist.models import GAN

    def poison_steps(steps):
        def class_loss(self, verdict, labels):
            poisoned = tf.reduce_any(self.global_step.value + 1 == list(steps))
            return tf.where(poisoned, np.nan, 0.0) * verdict.logits

        monkeypatch.setattr(GAN, "class_loss", class_loss)

    return poison_steps


def test_an_update_that_is_not_finite_is_skipped_and_told_of_in_the_log(run_train, poison_steps):
    poison_steps([5])
    run = run_train()
    rows = read(run / runs.LOG)
    assert [float(row["skipped"]) for row in rows] == pytest.approx([0, 1 / 3, 0])
    assert all(np.isfinite(float(cell)) for row in rows for cell in row.values())
    assert (run / runs.EXPORTED).exists()


def test_one_can_go_back_at_the_first_of_them(run_train, poison_steps, monkeypatch, caplog):
    fake_trouble(monkeypatch, set())  # none is seen at the ends of epochs
    poison_steps([5])
    run = run_train("--on_nonfinite=rollback")
    (told,) = [r.getMessage() for r in caplog.records if "Trouble" in r.getMessage()]
    assert told.startswith("Trouble at step 5: non-finite values: a gradient was NaN or infinite;")
    assert "Going on with the weights of step 3" in told
    assert [row["epoch"] for row in read(run / runs.LOG)] == ["1", "2", "3"]
    assert (run / runs.EXPORTED).exists()


@pytest.mark.parametrize(
    ("on_collapse", "on_nonfinite", "float16", "skipped", "expected"),
    [
        ("warn", "skip", False, "1" * 19 + "0" + "1" * 19, []),
        ("warn", "skip", False, "1" * 19 + "E" + "1", [(20, "warn")]),  # an epoch ends between
        ("rollback", "skip", False, "1" * 20, [(20, "rollback")]),
        ("stop", "skip", True, "1" * 45, [(20, "stop"), (40, "stop")]),
        ("warn", "stop", False, "001", [(3, "stop")]),
        ("warn", "rollback", False, "1E01", [(1, "rollback"), (3, "rollback")]),
        ("warn", "stop", True, "1" * 19 + "0", []),
        ("warn", "rollback", True, "1" * 20, [(20, "rollback")]),
    ],
)
def test_what_is_done_about_skipped_updates(
    on_collapse, on_nonfinite, float16, skipped, expected, tmp_path, monkeypatch
):
    acts, total, steps = [], 0.0, 0
    watch = quality.TrainingDiagnostics(tmp_path, on_collapse, None, on_nonfinite)
    monkeypatch.setattr(watch, "act", lambda found, action, hopeless: acts.append((steps, action)))
    means = types.SimpleNamespace(total=lambda key: {"skipped": total}[key])
    watch.set_model(types.SimpleNamespace(means=means, scales_losses=float16))
    watch.on_epoch_begin(0)
    for each in skipped:
        if each == "E":
            total = 0.0
            watch.on_epoch_begin(1)
            continue
        watch.on_train_batch_begin(steps)
        steps += 1
        total += int(each)
        watch.on_train_batch_end(steps, {"skipped": total / steps})
    assert acts == expected


def test_rollbacks_come_to_an_end(run_train, monkeypatch):
    fake_trouble(monkeypatch, set(range(2, 9)))
    fake_scores(monkeypatch, [1.0, *[9.0] * 9])
    with pytest.raises(UserError, match="Trouble at step 15: .* Stopped"):
        run_train("--on_collapse=rollback", epochs=8)


def test_there_may_be_nothing_to_go_back_to(run_train, monkeypatch):
    fake_trouble(monkeypatch, {1})
    with pytest.raises(UserError, match="Stopped, as there is no evaluated checkpoint"):
        run_train("--on_collapse=rollback")


# Proofs: real recipes, of which those made to fail are told and the healthy ones are not


@pytest.fixture
def told_of(tmp_path, monkeypatch, caplog, mnist):
    """Trains with these flags on all of MNIST, and returns the kinds of trouble that were told."""
    monkeypatch.setattr(data, "load", lambda *arguments: mnist)

    def told_of(*flags) -> list[str]:
        places = [f"--{key}={tmp_path}" for key in ("data_dir", "run_root", "export_root")]
        train.main(train.parser().parse_args([*places, *flags]))
        messages = [record.getMessage() for record in caplog.records]
        return [text.split(": ")[1] for text in messages if text.startswith("Trouble")]

    return told_of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        (
            ["--steps_per_epoch=250", "--g_learning_rate=0.05", "--d_learning_rate=0.05"],
            "the discriminator is too strong",
        ),
        (["--steps_per_epoch=60", "--discriminator_steps=20"], "the discriminator is too strong"),
        (["--steps_per_epoch=250", "--loss=minimax"], "the discriminator is too strong"),
    ],
)
def test_runs_made_to_fail_are_told(flags, kind, told_of):
    # The average over fewer steps, as there are few: samples of the default one still show noise.
    short = ["--model=gan", "--epochs=3", "--epochs_per_evaluation=1", "--ema=0.99"]
    assert kind in told_of(*short, "--final_learning_rate=1", *flags)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gan", "dcgan", "cdcgan"])
def test_nothing_is_told_of_the_default_recipes(model, told_of):
    """All of each, a quarter of an hour on two cores: a shorter one is another recipe."""
    assert told_of(f"--model={model}") == []
