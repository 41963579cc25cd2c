"""Kills, full disks, damaged files and changed data during training.

A longer test is a command: `python -m tests.faults.kills`.
"""

import contextlib
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import checkpoint_values
import numpy as np
import pytest
from tiny_training import digits

from tests.faults import kills
from tfgan_mnist import data, files, runs, train
from tfgan_mnist.data import pictures
from tfgan_mnist.errors import UserError
from tfgan_mnist.evaluation import classifier, curves
from tfgan_mnist.exports import saved_model
from tfgan_mnist.training import checkpoints

EPOCHS, STEPS = 2, 3


@pytest.fixture(scope="module", autouse=True)
def those_digits():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda *_: digits())
        yield


def flags(run) -> list[str]:
    return [
        *kills.MODEL,
        f"--epochs={EPOCHS}",
        f"--steps_per_epoch={STEPS}",
        "--batch_size=4",
        "--epochs_per_evaluation=0",
        f"--run={run}",
        f"--export_root={run.parent / 'exports'}",
    ]


def go_on(run) -> None:
    """The train command in this process."""
    train.main(train.parser().parse_args(flags(run)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that has ended."""
    run = tmp_path_factory.mktemp("whole") / "run"
    go_on(run)
    return run


@pytest.fixture
def run(whole, tmp_path):
    """A copy of the run, of which the last epoch is to be trained again."""
    shutil.copytree(whole, run := tmp_path / "run")
    files.remove(checkpoints.found(run)[0])
    (run / runs.EXPORTED).unlink()
    return run


def tree(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


# --- Kills ----------------------------------------------------------------------------------------


def test_killed_after_an_export_that_the_run_has_not_noted(whole, tmp_path):
    """The same command goes on, and removes what this kill and an earlier one left."""
    place = kills.Place(tmp_path / "killed", tmp_path)
    place.root.mkdir()
    program = (
        "import sys, tiny_training\n"
        "from tests.faults import audited\n"
        "from tfgan_mnist import data\n"
        "data.load = lambda *_: tiny_training.digits()\n"
        "audited.main()\n"
    )
    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", program, r"kill:\.partial\.exported", place.root, *flags(place.run)],
        env=os.environ | {"PYTHONPATH": f"{tests}:{tests.parent}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9, done.stdout + done.stderr
    kills.expect_whole(place)
    assert os.listdir(place.exports) == ["1"] and not (place.run / runs.EXPORTED).exists()

    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (place.run / "checkpoints" / ".0a1b2c3d.partial.step_00000008").mkdir()
    (place.run / "samples" / ".0b1c2d3e.partial.epoch_001.png").symlink_to(tmp_path / "precious")
    (place.run / ".0b1c2d3e.partial.log.csv").write_text("half a r")
    go_on(place.run)
    kills.expect_whole(place)
    assert os.listdir(place.exports) == ["1"]
    checkpoint_values.assert_same(place.run, whole)
    names = [{path.relative_to(each) for path in each.rglob("*")} for each in (place.run, whole)]
    assert names[0] == names[1]
    assert (tmp_path / "precious" / "file").exists()


@pytest.mark.slow
def test_kills_at_random(tmp_path):
    found = kills.Found()
    killer = kills.Kills(tmp_path, kills.PLAIN, random.Random(0), found)
    killer.run([kills.CHANGE, kills.WRITE, kills.TIME])
    assert found.kills.total() >= 1
    assert not found.broken, found


@pytest.mark.slow
def test_full_disks_and_read_only_folders():
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    command = [sys.executable, "-m", "tests.faults.disks"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_checks_can_fail(whole, tmp_path):
    """Those of the harness: half a checkpoint, half a table, one file too many, another weight."""
    one, two = places = [kills.Place(tmp_path / name, tmp_path) for name in ("one", "two")]
    for place in places:
        shutil.copytree(whole.parent, place.root)
    kills.expect_whole(one)
    kills.expect_same(one, two)

    (one.run / ".0a1b2c3d.partial.log.csv").touch()
    with pytest.raises(kills.Broken, match="more files: .*partial.log"):
        kills.expect_same(one, two)
    (one.run / ".0a1b2c3d.partial.log.csv").unlink()
    log = (one.run / runs.LOG).read_text()
    (one.run / runs.LOG).write_text(log[: log.rindex(",")])
    with pytest.raises(kills.Broken, match="log.csv is incomplete"):
        kills.expect_whole(one)
    (one.run / runs.LOG).write_text(log)
    _, model = checkpoints.restore_run(one.run)
    model.generator.trainable_variables[0].assign_add([[1e-7]])
    checkpoints.save(one.run, model)
    with pytest.raises(kills.Broken, match="differs from"):
        kills.expect_same(one, two)
    state = checkpoints.found(one.run)[0] / "state.data-00000-of-00001"
    state.write_bytes(state.read_bytes()[:-1])
    with pytest.raises(IndexError):
        kills.expect_whole(one)


# --- Disks ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def full_disk():
    """No file can have more than 10 bytes: a full disk that needs no disk of its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def trained(whole):
    return checkpoints.restore_run(whole)


PIXELS = np.zeros((2, 8, 8, 1), np.uint8)
WRITERS = {
    "config": lambda run, config, model: runs.rewrite(run, *runs.read(run)),
    "run": lambda run, config, model: runs.create(run, config, runs.read(run)[1]),
    "rows": lambda run, config, model: runs.write_rows(run / runs.LOG, [{"epoch": 1.0}] * 9),
    "metrics": lambda run, config, model: runs.add_metrics(run, test={"d_loss": 1.0}),
    "grid": lambda run, config, model: pictures.write_png(run / "samples/epoch_003.png", PIXELS[0]),
    "gif": lambda run, config, model: pictures.write_gif(run / runs.GIF, PIXELS),
    "curves": lambda run, config, model: curves.draw(*runs.read_history(run), run / runs.CURVES),
    "checkpoint": lambda run, config, model: checkpoints.save(run, model),
    "export": lambda run, config, model: saved_model.export(model, run / "exports"),
    "classifier": lambda run, config, model: classifier.save(
        classifier.Classifier(classifier.network((8, 8, 1), 10, seed=0), {"num_classes": 10}),
        run / "classifier",
    ),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_leaves_what_was_there(kind, run, trained):
    (run / "exports").mkdir()
    before = tree(run)
    with full_disk(), pytest.raises((OSError, UserError), match="[Ff]ile too large"):
        WRITERS[kind](run, *trained)
    assert tree(run) == before


# --- Checkpoints ----------------------------------------------------------------------------------


def test_a_checkpoint_of_other_versions_is_used_with_a_warning(run, caplog):
    (newest,) = checkpoints.found(run)
    file = newest / checkpoints.VERSIONS
    versions = json.loads(file.read_text())
    checkpoints.restore_run(run)
    assert not caplog.records
    file.write_text(json.dumps(versions | {"keras": "3.9.2"}))
    checkpoints.restore_run(run)
    (record,) = caplog.records
    expected = rf"{newest} was written by keras 3.9.2 \(here 3\.\S+\). Results may differ"
    assert re.match(expected, record.getMessage())


@pytest.mark.parametrize("owner", ["generator", "g_optimizer", "d_optimizer"])
def test_a_state_that_is_not_finite_is_not_saved(owner, run):
    _, model = checkpoints.restore_run(run)
    before = tree(run)
    variable = model.training_state()[owner][-1]
    variable.assign(np.full(variable.shape, np.inf))
    with pytest.raises(UserError, match=f"step {STEPS}: {owner} holds values that are NaN or inf"):
        checkpoints.save(run, model)
    assert tree(run) == before


def test_which_checkpoints_stay(run):
    """As after a kill between a save and the removal of the oldest."""
    for step in (1, 2):
        shutil.copytree(checkpoints.found(run)[0], run / "checkpoints" / f"step_{step:08d}")
    runs.write_rows(run / runs.EVALUATIONS, [{"epoch": 1.0, "step": 1.0, "fid": 9.0}])
    checkpoints.prune(run, STEPS)
    assert [int(path.name[5:]) for path in checkpoints.found(run)] == [STEPS, 2, 1]  # 1 is the best
    runs.write_rows(run / runs.EVALUATIONS, [])
    checkpoints.prune(run, 1)  # what training went on from, when the others cannot be read
    assert len(checkpoints.found(run)) == 3
    checkpoints.prune(run, STEPS)
    assert [int(path.name[5:]) for path in checkpoints.found(run)] == [STEPS, 2]


# --- Data -----------------------------------------------------------------------------------------


def test_other_images_are_refused(run, monkeypatch):
    pixel, labels = digits(), digits()
    pixel.train.images[5, 3, 3, 0] ^= 1
    labels.test.labels[5] ^= 1
    for other, message in (
        (pixel, "other data than the mnist that is in .*: fingerprint '.*', now '"),
        (labels, "fingerprint '.*', now '"),
        (digits(65), "num_images 64, now 65; fingerprint"),
    ):
        monkeypatch.setattr(data, "load", lambda *_, other=other: other)
        before = tree(run)
        with pytest.raises(UserError, match=message):
            go_on(run)
        assert tree(run).keys() - before.keys() <= {run / ".lock"}


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()
    with pytest.raises(UserError, match="run is not empty and is not a run folder"):
        go_on(tmp_path / "run")
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "thesis.tex"]
