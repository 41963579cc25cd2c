"""The train command, from flags to an export, on the real digits and tiny networks."""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import checkpoint_values
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfgan_mnist import data, load_model, runs, train
from tfgan_mnist.config import Config
from tfgan_mnist.errors import Stopped, UserError
from tfgan_mnist.training import callbacks, runtime

STEPS, EPOCHS = 4, 3
TINY = {
    "gan": ["--g_hidden_widths=8", "--d_hidden_widths=8", "--packing=2"],
    "dcgan": ["--g_width=2", "--d_width=2"],
    "cdcgan": ["--g_width=2", "--d_width=2", "--class_head"],
}


@pytest.fixture
def flags(tmp_path, data_dir, mnist):
    """Flags of a tiny run under `tmp_path`; depends on `mnist`, so that the data are prepared."""

    def make(model="dcgan", **options) -> list[str]:
        values = {
            "model": model,
            "data_dir": data_dir,
            "epochs": EPOCHS,
            "steps_per_epoch": STEPS,
            "batch_size": 8,
            "latent_dim": 4,
            "epochs_per_evaluation": 0,
            "run_root": tmp_path / "runs",
            "export_root": tmp_path / "saved_models",
        } | options
        return [f"--{key}={value}" for key, value in values.items()] + TINY[model]

    return make


@pytest.fixture(autouse=True)
def digits_in_memory(monkeypatch, mnist):
    """Spares every in-process run the seconds of reading the digits again."""
    monkeypatch.setattr(data, "load", lambda *arguments: mnist)


def run_train(flags: list[str]) -> None:
    train.main(train.parser().parse_args(flags))


def start_train(flags: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tfgan_mnist.train", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_log(run) -> list[dict]:
    with open(run / "log.csv", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("model", TINY)
def test_a_run_from_flags_to_export(model, flags, tmp_path, capsys):
    run_train(flags(model, keep_every=2, grid="10x12"))
    run = tmp_path / "runs" / f"0001-{model}"

    assert json.loads((run / "config.json").read_text())["config"]["model"] == model
    rows = read_log(run)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    scores = json.loads((run / "metrics.json").read_text())
    assert scores["test_images"] == 10_000
    assert ("d_class_accuracy" in scores["test"]) == (model == "cdcgan")
    keys = {"seconds", "images_per_second", "d_loss", "g_loss", "d_real_accuracy"}
    assert keys | {"d_fake_accuracy"} <= set(rows[0])
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    grids = sorted(path.name for path in (run / "samples").iterdir())
    assert grids == [f"epoch_{epoch:03d}.png" for epoch in range(EPOCHS + 1)]
    assert Image.open(run / "samples" / grids[0]).size == (724, 604)  # 12 x 10 of 28 + 2, twice
    with Image.open(run / "samples.gif") as gif:
        assert gif.n_frames >= 2
    Image.open(run / "curves.png").verify()
    assert len(list((run / "checkpoints").iterdir())) == 2
    assert (tmp_path / "saved_models" / model / "1" / "saved_model.pb").exists()
    kept = run / "models" / "epoch_002.keras"
    assert list(kept.parent.iterdir()) == [kept]
    assert load_model(kept).steps_done == 2 * STEPS

    output = capsys.readouterr().out
    for text in (
        f"{model} on mnist: 3 epochs of 4 steps",
        str(run),
        "d_loss",
        f"saved_models/{model}/1",
    ):
        assert text in output


def test_xla_compiles_the_step_on_a_gpu(flags, monkeypatch):
    # The command makes operations deterministic, where Keras by itself gives up XLA.
    compiled = []

    def function(traced=None, **options):
        if options.get("jit_compile"):
            compiled.append(getattr(traced, "__name__", ""))
        return tf_function(traced, **options)

    tf_function = tf.function
    monkeypatch.setattr(tf, "function", function)
    monkeypatch.setattr(runtime, "use_xla", lambda: True)
    run_train(flags("gan", epochs=1))
    assert compiled == ["one_step_on_data"] * 2  # of `train_step` and of `test_step`


def test_tensorboard_has_scalars_and_grids(flags, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_train([*flags("gan", epochs=1), "--tensorboard"])
    folder = tmp_path / "runs" / "0001-gan" / "tensorboard"
    logs = [EventAccumulator(str(path)).Reload() for path in (folder, folder / "train")]
    tensors = {tag: log.Tensors(tag) for log in logs for tag in log.Tags()["tensors"]}
    assert len(tensors["samples"]) == 2
    assert {"epoch_d_loss", "epoch_g_loss", "epoch_d_real_accuracy"} <= set(tensors)


def test_dry_run_shows_and_writes_nothing(flags, tmp_path, capsys):
    run_train([*flags("gan"), "--dry_run", "--seed=5"])
    assert "seed = 5" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_same_seed_same_weights_and_another_seed_others(flags, tmp_path):
    for root, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_train(flags("dcgan", run_root=tmp_path / root, seed=seed, epochs=1))
    checkpoint_values.assert_same(tmp_path / "a/0001-dcgan", tmp_path / "b/0001-dcgan")
    with pytest.raises(AssertionError):
        checkpoint_values.assert_same(tmp_path / "a/0001-dcgan", tmp_path / "c/0001-dcgan")


def wait_for(path, process, seconds=120) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.005)


def test_killed_and_resumed_is_the_run_that_was_not(flags, tmp_path):
    """SIGKILL after the first epoch; dropout, both optimizers, the average and data order on."""
    options = {"d_dropout": 0.3, "ema": 0.9, "steps_per_epoch": 40}
    run_train(flags("cdcgan", run_root=tmp_path / "whole", **options))

    process = start_train(flags("cdcgan", run_root=tmp_path / "killed", **options))
    run = tmp_path / "killed" / "0001-cdcgan"
    wait_for(run / "checkpoints" / "step_00000040", process)
    process.kill()
    process.communicate()
    assert max((run / "checkpoints").glob("step_*")).name < "step_00000120"

    run_train([f"--resume={run}"])
    checkpoint_values.assert_same(run, tmp_path / "whole" / "0001-cdcgan")
    losses = [
        [(row["d_loss"], row["g_loss"]) for row in read_log(r)]
        for r in (run, tmp_path / "whole" / "0001-cdcgan")
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("number", "step"),
    # In mid-epoch; at an epoch's last step; at the very last one.
    [(signal.SIGTERM, STEPS + 2), (signal.SIGINT, STEPS), (signal.SIGTERM, EPOCHS * STEPS)],
)
def test_signals_save_the_state_and_name_the_command_to_go_on(
    number, step, flags, tmp_path, monkeypatch
):
    run_train(flags("gan", run_root=tmp_path / "whole"))
    # A shell that starts the tests in the background has them ignore Ctrl-C.
    before = signal.getsignal(signal.SIGINT)

    class Interrupt(callbacks.TrainingDiagnostics):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.steps_done == step:
                os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "TrainingDiagnostics", Interrupt)
        with pytest.raises(Stopped, match=f"stopped after step {step}.*") as stopped:
            run_train(flags("gan", run_root=tmp_path / "stopped"))
    run = tmp_path / "stopped" / "0001-gan"
    assert stopped.value.exit_status == 128 + number
    assert f"--resume={run}" in str(stopped.value)
    assert signal.getsignal(signal.SIGINT) is before

    run_train([f"--resume={run}"])
    checkpoint_values.assert_same(run, tmp_path / "whole" / "0001-gan")
    whole, resumed = (read_log(tmp_path / r / "0001-gan") for r in ("whole", "stopped"))
    assert [r["d_loss"] for r in whole] == [r["d_loss"] for r in resumed]
    assert (tmp_path / "stopped" / "0001-gan" / "samples" / f"epoch_{EPOCHS:03d}.png").exists()


def test_a_damaged_checkpoint_is_skipped(flags, tmp_path, caplog):
    run_train(flags("gan"))
    run = tmp_path / "runs" / "0001-gan"
    shutil.copytree(run, tmp_path / "whole")
    newest = max((run / "checkpoints").glob("step_*"))
    data = newest / "state.data-00000-of-00001"
    damaged = bytearray(data.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    data.write_bytes(damaged)
    (run / "exported").unlink()
    run_train([f"--resume={run}"])
    assert f"{newest} is unreadable; skipping it" in caplog.text
    # The last epoch was trained again, and the damaged checkpoint replaced.
    checkpoint_values.assert_same(run, tmp_path / "whole")


def test_a_finished_run_is_left_alone(flags, tmp_path, capsys):
    run_train(flags("gan", epochs=1))
    run_train([f"--resume={tmp_path / 'runs' / '0001-gan'}"])
    assert "Nothing left to do" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "saved_models" / "gan").iterdir()] == ["1"]


def test_a_finished_run_goes_on_for_more_epochs(flags, tmp_path):
    run_train(flags("gan", epochs=1))
    run = tmp_path / "runs" / "0001-gan"
    run_train([f"--resume={run}", "--epochs=2"])
    assert [row["epoch"] for row in read_log(run)] == ["1", "2"]
    assert (tmp_path / "saved_models" / "gan" / "2").exists()
    # The run is one of two epochs from now on.
    assert json.loads((run / "config.json").read_text())["config"]["epochs"] == 2
    with pytest.raises(UserError, match="is in epoch 2; expected at least as many, received 1"):
        run_train([f"--resume={run}", "--epochs=1"])


def test_a_run_killed_before_its_folders_were_made_goes_on(flags, tmp_path):
    run_train(flags("gan", epochs=1))
    run = tmp_path / "runs" / "0001-gan"
    for path in run.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "config.json":
            path.unlink()
    run_train([f"--resume={run}"])
    assert len(read_log(run)) == 1
    assert (run / "checkpoints" / f"step_{STEPS:08d}").exists()


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


def test_what_the_process_drew_before_does_not_matter(flags, tmp_path, mnist, monkeypatch):
    """As where data are prepared first, which moves Python's random state."""
    for drawn in (0, 5):

        def load(*arguments, drawn=drawn):
            [random.random() for _ in range(drawn)]
            np.random.rand(drawn)  # noqa: NPY002
            return mnist

        monkeypatch.setattr(data, "load", load)
        run_train([*flags("dcgan", epochs=1), f"--run={tmp_path / str(drawn)}"])
    checkpoint_values.assert_same(tmp_path / "0", tmp_path / "5")


def test_resume_refuses_to_become_another_run(flags, tmp_path):
    run_train(flags("gan", epochs=1))
    run = tmp_path / "runs" / "0001-gan"
    for flag in ("--model=dcgan", "--dataset=fashion_mnist", "--seed=9"):
        key = flag.split("=")[0].lstrip("-")
        with pytest.raises(UserError, match=f"{key}: .* was begun with"):
            run_train([f"--resume={run}", flag])


def test_one_train_command_per_run(flags, tmp_path):
    run_train(flags("gan", epochs=1))
    run = tmp_path / "runs" / "0001-gan"
    with runs.locked(run), pytest.raises(UserError, match="another train command"):
        run_train([f"--resume={run}", "--epochs=2"])


def test_a_loss_that_explodes_stops_with_advice(flags):
    message = "Problem at step .*: non-finite values: .*Try lower learning.* Nothing was saved"
    with pytest.raises(UserError, match=message):
        run_train(flags("gan", g_learning_rate=1e30, d_learning_rate=1e30, epochs=20))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--resume=nowhere", "nowhere: expected a run folder with a config.json"),
        ("--background=whiet", "background: expected a colour"),
        ("--dataset=nosuchset", "nosuchset"),
    ],
)
def test_an_error_of_the_user_is_one_message(flag, message, flags, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tfgan_mnist.train", *flags("gan"), "--steps_per_epoch=0", flag],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and done.stderr.startswith("error: ")
    assert re.search(message, done.stderr)
    assert not (tmp_path / "runs").exists()


def test_run_folders_are_numbered(tmp_path):
    facts = runs.DataFacts((28, 28, 1), 10, 100)
    (tmp_path / "0041-gan").mkdir()
    (tmp_path / "notes").mkdir()
    made = [runs.create(tmp_path, Config(), facts).name for _ in range(2)]
    assert made == ["0042-dcgan", "0043-dcgan"]
    assert runs.read(tmp_path / "0042-dcgan") == (Config(), facts)
