"""Several training steps in one call from Python: a run does not depend on their number."""

import csv
import json
import os
import signal

import checkpoint_values
import pytest
import tensorflow as tf

from tfgan_mnist import data, runs, train
from tfgan_mnist.errors import Stopped, UserError
from tfgan_mnist.training import callbacks, fit, runtime

STEPS = 11  # of an epoch; no multiple of 8
MANY = 8
UNEQUAL = ("seconds", "images_per_second")


@pytest.fixture
def run(tmp_path, data_dir, mnist, monkeypatch):
    """Trains or resumes a tiny `gan`, with dropout, in a folder, with `steps` in one call."""
    monkeypatch.setattr(data, "load", lambda *arguments: mnist)
    values = {
        **{"model": "gan", "g_hidden_widths": 8, "d_hidden_widths": 8, "latent_dim": 4},
        **{"batch_size": 8, "discriminator_steps": 2, "epochs": 2, "steps_per_epoch": STEPS},
        **{"epochs_per_evaluation": 0, "data_dir": data_dir, "export_root": tmp_path / "exports"},
    }
    flags = [f"--{key}={value}" for key, value in values.items()]

    def run(name, steps, *more):
        with monkeypatch.context() as patch:
            patch.setattr(runtime, "steps_per_execution", lambda num_replicas: steps)
            train.main(train.parser().parse_args([*flags, *more, f"--run={tmp_path / name}"]))
        return tmp_path / name

    return run


def expect_same(run, other):
    checkpoint_values.assert_same(run, other)
    logs = []
    for each in (run, other):
        with open(each / "log.csv", newline="") as stream:
            rows = list(csv.DictReader(stream))
        logs.append([{key: row[key] for key in row if key not in UNEQUAL} for row in rows])
    assert logs[0] == logs[1] and len(logs[0]) == 2


def stop_at(step, monkeypatch):
    """SIGTERM reaches the next runs at the end of the call that makes this step."""

    class Interrupt(callbacks.TrainingDiagnostics):
        def on_train_batch_end(self, batch, logs=None):
            assert all(tf.is_tensor(value) for value in logs.values())  # nothing was read
            if self.model.steps_done >= step:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(callbacks, "TrainingDiagnostics", Interrupt)


def test_a_run_does_not_depend_on_the_steps_in_one_call(run, monkeypatch):
    whole = run("one", 1)
    expect_same(run("many", MANY), whole)
    with monkeypatch.context() as patch:
        stop_at(STEPS + 2, patch)
        with pytest.raises(Stopped, match=f"after step {STEPS + 5}"):  # an epoch begins a call
            run("stopped", 5)
    expect_same(run("stopped", MANY), whole)


@pytest.mark.parametrize(
    ("gpus", "replicas", "least", "most"), [(0, 1, 1, 1), (1, 1, 8, 32), (2, 2, 1, 1)]
)
def test_a_gpu_makes_many_steps_in_one_call(gpus, replicas, least, most, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(range(gpus)))
    assert least <= runtime.steps_per_execution(replicas) <= most


class Built(Exception):
    """Raised in place of training."""


def test_a_resumed_run_keeps_the_choice_of_xla(run, tmp_path, monkeypatch):
    def built(model, *arguments):
        raise Built(model.jit_compile)

    monkeypatch.setattr(fit, "train_epochs", built)
    for on_gpu in (True, False):
        monkeypatch.setattr(runtime, "use_xla", lambda on_gpu=on_gpu: on_gpu)
        with pytest.raises(Built, match="True"):
            if on_gpu:
                run("run", 1)
            else:
                train.main(train.parser().parse_args([f"--resume={tmp_path / 'run'}"]))
    with pytest.raises(UserError, match="xla: .* was begun with 'yes'"):
        run("run", 1, "--xla=no")
    with pytest.raises(Built, match="True"):
        run("asked", 1, "--xla=yes")


def test_a_run_of_before_an_option_goes_on(run, tmp_path, monkeypatch):
    run("run", 1)
    path = tmp_path / "run" / runs.CONFIG
    saved = json.loads(path.read_text())
    del saved["config"]["xla"], saved["config"]["packing"]
    path.write_text(json.dumps(saved))
    train.main(train.parser().parse_args([f"--resume={tmp_path / 'run'}", "--epochs=3"]))
    assert runs.read_history(tmp_path / "run")[0][-1]["epoch"] == 3
