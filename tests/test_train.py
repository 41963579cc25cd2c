"""The train command, from flags to an export, on tiny networks and images."""

import contextlib
import csv
import functools
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import checkpoint_values
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import digits

from tfgan_mnist import data, load_model, runs, train
from tfgan_mnist.config import Config
from tfgan_mnist.errors import Stopped, UserError
from tfgan_mnist.training import callbacks, finish, runtime

STEPS, EPOCHS = 6, 3
UNEQUAL = ("seconds", "images_per_second")
TINY = {
    "gan": ["--g_hidden_widths=8", "--d_hidden_widths=8", "--packing=2"],
    "dcgan": ["--g_width=2", "--d_width=2", "--discriminator_steps=2"],
    "cdcgan": ["--g_width=2", "--d_width=2", "--class_head", "--d_dropout=0.3", "--ema=0.9"],
}


@pytest.fixture(scope="module", autouse=True)
def those_digits():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda *arguments: digits())
        yield


@pytest.fixture
def no_export(monkeypatch):
    """An export takes longer than a tiny run."""

    def export(model, base_path, *_, **options):
        return base_path / "1"

    monkeypatch.setattr(finish.saved_model, "export", export)


def run_train(*flags) -> None:
    train.main(train.parser().parse_args([str(flag) for flag in flags]))


def run_tiny(model: str, run: Path, *more: str) -> None:
    """Begins a run of a tiny model, or goes on with it."""
    sizes = [f"--epochs={EPOCHS}", f"--steps_per_epoch={STEPS}", "--batch_size=8", "--latent_dim=4"]
    places = [f"--run={run}", f"--export_root={run.parent / 'exports'}"]
    fixed = [f"--model={model}", *TINY[model], *sizes, *places, "--epochs_per_evaluation=0"]
    run_train(*fixed, *more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run of a model that nothing disturbed, and what it printed."""

    @functools.cache
    def whole(model):
        run, output = tmp_path_factory.mktemp(model) / "run", io.StringIO()
        with contextlib.redirect_stdout(output):
            run_tiny(model, run, "--keep_every=2", "--grid=10x12")
        return run, output.getvalue()

    return whole


@pytest.fixture
def run(whole, tmp_path):
    """A copy of the finished run of a gan."""
    shutil.copytree(whole("gan")[0], tmp_path / "run")
    return tmp_path / "run"


def read_log(run) -> list[dict]:
    """The rows of the log, without measured times."""
    with open(run / "log.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    return [{key: row[key] for key in row if key not in UNEQUAL} for row in rows]


def assert_same(run, other) -> None:
    checkpoint_values.assert_same(run, other)
    assert read_log(run) == read_log(other)


@pytest.mark.parametrize("model", TINY)
def test_a_run_from_flags_to_export(model, whole):
    run, output = whole(model)
    assert json.loads((run / "config.json").read_text())["config"]["model"] == model
    rows = read_log(run)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {"d_loss", "g_loss", "d_real_accuracy", "d_fake_accuracy"} <= set(rows[0])
    scores = json.loads((run / "metrics.json").read_text())
    assert scores["test_images"] == 64
    assert ("d_class_accuracy" in scores["test"]) == (model == "cdcgan")
    grids = sorted(path.name for path in (run / "samples").iterdir())
    assert grids == [f"epoch_{epoch:03d}.png" for epoch in range(EPOCHS + 1)]
    assert Image.open(run / "samples" / grids[0]).size == (244, 204)  # 12 x 10 of 8 + 2, twice
    with Image.open(run / "samples.gif") as gif:
        assert gif.n_frames >= 2
    Image.open(run / "curves.png").verify()
    assert len(list((run / "checkpoints").iterdir())) == 2
    export = run.parent / "exports" / model / "1"
    assert (export / "saved_model.pb").exists()
    kept = run / "models" / "epoch_002.keras"
    assert list(kept.parent.iterdir()) == [kept]
    assert load_model(kept).steps_done == 2 * STEPS
    for text in (f"{model} on mnist: 3 epochs of 6 steps", str(run), "d_loss", str(export)):
        assert text in output


def test_the_same_seed_gives_the_same_weights(whole, tmp_path, no_export):
    """Whatever the process drew before, and with TensorBoard, which gets scalars and grids."""
    whole_run, _ = whole("gan")
    random.random()
    np.random.rand(5)  # noqa: NPY002
    run_tiny("gan", run := tmp_path / "same", "--tensorboard")
    assert_same(run, whole_run)
    folders = (run / "tensorboard", run / "tensorboard" / "train")
    logs = [EventAccumulator(str(folder)).Reload() for folder in folders]
    tensors = {tag: log.Tensors(tag) for log in logs for tag in log.Tags()["tensors"]}
    assert len(tensors["samples"]) == EPOCHS + 1
    assert {"epoch_d_loss", "epoch_g_loss", "epoch_d_real_accuracy"} <= set(tensors)
    run_tiny("gan", other := tmp_path / "other", "--seed=1")
    with pytest.raises(AssertionError):
        checkpoint_values.assert_same(other, whole_run)


@pytest.mark.parametrize(
    ("model", "number", "step", "in_one_call"),
    [
        ("gan", signal.SIGINT, EPOCHS * STEPS, 1),  # the very last one, before the export
        ("dcgan", signal.SIGTERM, STEPS + 2, 1),  # in mid-epoch
        ("cdcgan", signal.SIGTERM, STEPS + 4, 4),  # likewise; a call ends where an epoch does
    ],
)
def test_a_run_goes_on_after_a_signal_as_if_there_had_been_none(
    model, number, step, in_one_call, whole, tmp_path, monkeypatch, no_export
):
    """At each of Python's calls, of which each makes several steps on a GPU."""
    # A shell that starts the tests in the background has them ignore Ctrl-C.
    before = signal.getsignal(signal.SIGINT)

    class Interrupt(callbacks.TrainingDiagnostics):
        def on_train_batch_end(self, batch, logs=None):
            assert all(tf.is_tensor(value) for value in logs.values())  # nothing was read
            if self.model.steps_done == step:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(runtime, "steps_per_execution", lambda num_replicas: in_one_call)
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "TrainingDiagnostics", Interrupt)
        with pytest.raises(Stopped, match=f"stopped after step {step}.*") as stopped:
            run_tiny(model, run)
    assert stopped.value.exit_status == 128 + number
    assert f"--resume={run}" in str(stopped.value)
    assert signal.getsignal(signal.SIGINT) is before

    run_train(f"--resume={run}")
    assert_same(run, whole(model)[0])
    assert (run / "samples" / f"epoch_{EPOCHS:03d}.png").exists()


def test_a_damaged_checkpoint_is_skipped(run, whole, caplog, no_export):
    newest = max((run / "checkpoints").glob("step_*"))
    state = newest / "state.data-00000-of-00001"
    damaged = bytearray(state.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    state.write_bytes(damaged)
    (run / "exported").unlink()
    run_train(f"--resume={run}")
    assert f"{newest} is unreadable; skipping it" in caplog.text
    # The last epoch was trained again, and the damaged checkpoint replaced.
    assert_same(run, whole("gan")[0])


def test_a_run_killed_before_its_folders_were_made_goes_on(run, whole, no_export):
    for path in run.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "config.json":
            path.unlink()
    run_train(f"--resume={run}")
    assert_same(run, whole("gan")[0])


def test_a_finished_run_goes_on_for_more_epochs_only(run, capsys):
    exports = run.parent / "exports"
    run_train(f"--resume={run}", f"--export_root={exports}")
    assert "Nothing left to do" in capsys.readouterr().out
    assert not exports.exists()
    with (
        runs.locked(run),
        pytest.raises(UserError, match="another train command"),
    ):
        run_train(f"--resume={run}", "--epochs=4")
    for flag in ("--model=dcgan", "--dataset=fashion_mnist", "--seed=9"):
        key = flag.split("=")[0].lstrip("-")
        with pytest.raises(UserError, match=f"{key}: .* was begun with"):
            run_train(f"--resume={run}", flag)

    run_train(f"--resume={run}", f"--export_root={exports}", "--epochs=4")
    assert [row["epoch"] for row in read_log(run)] == ["1", "2", "3", "4"]
    assert (exports / "gan" / "1").exists()
    # The run is one of four epochs from now on.
    with pytest.raises(UserError, match="is in epoch 4; expected at least as many, received 3"):
        run_train(f"--resume={run}", "--epochs=3")


def test_a_resumed_run_keeps_the_choice_of_xla(tmp_path, monkeypatch, no_export):
    """It is the machine's where the run begins. Deterministic operations would turn XLA off."""
    compiled = []
    tf_function = tf.function

    def function(traced=None, **options):
        if options.pop("jit_compile", None):  # which takes seconds
            compiled.append(getattr(traced, "__name__", ""))
        return tf_function(traced, **options)

    monkeypatch.setattr(tf, "function", function)
    run = tmp_path / "run"
    for on_gpu in (True, False):
        compiled.clear()
        monkeypatch.setattr(runtime, "use_xla", lambda on_gpu=on_gpu: on_gpu)
        if on_gpu:
            run_tiny("gan", run, "--epochs=1")
        else:
            run_train(f"--resume={run}", "--epochs=2")
        assert compiled == ["one_step_on_data"] * 2  # of `train_step` and of `test_step`
    with pytest.raises(UserError, match="xla: .* was begun with 'yes'"):
        run_tiny("gan", run, "--xla=no")


def test_dry_run_shows_and_writes_nothing(tmp_path, capsys):
    run_tiny("gan", tmp_path / "run", "--dry_run", "--seed=5")
    assert "seed = 5" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("num_classes", "rows"), [(10, 10), (1000, 10)])
def test_a_grid_has_a_row_per_class_and_the_same_latents_in_each(num_classes, rows):
    drawn = []

    class Model:
        def __init__(self):
            self.num_classes = num_classes

        def latents(self, num):
            return np.arange(num, dtype=np.float32)[:, None]

        def sample(self, latents, labels):
            drawn.append((latents.reshape(rows, 10), labels.reshape(rows, 10)))
            return np.zeros((len(latents), 28, 28, 1))

    assert callbacks.sample_grid(Model()).shape == (30 * rows + 2, 302, 1)
    ((latents, labels),) = drawn
    np.testing.assert_array_equal(latents, np.arange(10)[None].repeat(rows, 0))
    shown = np.linspace(0, num_classes - 1, rows).round()
    np.testing.assert_array_equal(labels, shown[:, None].repeat(10, 1))


def test_a_loss_that_explodes_stops_with_advice(tmp_path):
    message = "Problem at step .*: non-finite values: .*Try lower learning.* Nothing was saved"
    with pytest.raises(UserError, match=message):
        rates = ("--g_learning_rate=1e30", "--d_learning_rate=1e30")
        run_tiny("gan", tmp_path / "run", *rates, "--epochs=20")


def test_an_error_of_the_user_is_one_message(tmp_path):
    command = [sys.executable, "-m", "tfgan_mnist.train", f"--resume={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}: expected a run folder with a config.json")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_run_folders_are_numbered(tmp_path):
    facts = runs.DataFacts((28, 28, 1), 10, 100)
    (tmp_path / "0041-gan").mkdir()
    (tmp_path / "notes").mkdir()
    made = [runs.create(tmp_path, Config(), facts).name for _ in range(2)]
    assert made == ["0042-dcgan", "0043-dcgan"]
    assert runs.read(tmp_path / "0042-dcgan") == (Config(), facts)
    with pytest.raises(UserError, match="expected a run folder with a config.json"):
        runs.read(tmp_path / "notes")
