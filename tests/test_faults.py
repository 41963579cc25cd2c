"""Kills, full disks, damaged files and changed data during training.

Longer tests are commands: `python -m tests.faults.kills` and `python -m tests.faults.disks`.
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

from tests.faults import kills, small_mnist
from tfgan_mnist import data, files, runs, train
from tfgan_mnist.data import pictures
from tfgan_mnist.errors import UserError
from tfgan_mnist.evaluation import classifier, curves
from tfgan_mnist.exports import saved_model
from tfgan_mnist.training import build, checkpoints

EPOCHS, STEPS = 2, 3


def digits(num=64, seed=0) -> data.ImageData:
    """Noise with labels: what an `ImageData` is."""
    random = np.random.default_rng(seed)

    def split():
        pixels = random.integers(0, 256, (num, 8, 8, 1)).astype(np.uint8)
        return data.Split(pixels, np.arange(num, dtype=np.int32) % 10)

    return data.ImageData("mnist", split(), split(), 10, tuple("0123456789"))


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of which the last epoch is to be trained again, and the same one when it was whole."""
    root = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda *_: digits())
        start(root)
    whole = root / "runs" / "0001-gan"
    run = root / "begun"
    shutil.copytree(whole, run)
    files.remove(checkpoints.found(run)[0])
    (run / runs.EXPORTED).unlink()
    return run, whole


@pytest.fixture
def run(begun, tmp_path):
    """A copy of the run that can go on, and the folder of that which did."""
    shutil.copytree(begun[0], tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def those_digits(monkeypatch):
    monkeypatch.setattr(data, "load", lambda *_: digits())


def flags(root, *more) -> list[str]:
    return [
        *kills.MODEL,
        f"--epochs={EPOCHS}",
        f"--steps_per_epoch={STEPS}",
        "--batch_size=4",
        "--image_size=8",
        "--epochs_per_evaluation=0",
        f"--run_root={root / 'runs'}",
        f"--export_root={root / 'exports'}",
        *more,
    ]


def start(root, *more) -> None:
    """The train command in this process."""
    train.main(train.parser().parse_args(flags(root, *more)))


def go_on(run, *more) -> None:
    start(run.parent, f"--run={run}", *more)


def tree(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


# --- Kills ----------------------------------------------------------------------------------------


@pytest.fixture
def real(monkeypatch, tmp_path, data_dir, mnist):
    """Makes folders for the real command on MNIST's first images, without evaluations."""
    monkeypatch.undo()
    small_mnist.write(tmp_path / "data", data_dir)

    def place(name):
        return kills.Place(tmp_path / name, tmp_path / "data", tmp_path / "tmp", kills.PLAIN)

    return place


def test_killed_in_a_checkpoint_and_after_an_export(begun, tmp_path):
    """In a half-written folder, and when the export exists that the run has not noted."""
    place = kills.Place(tmp_path / "killed", tmp_path, tmp_path / "tmp")
    place.root.mkdir()
    program = (
        "import sys, test_faults\n"
        "from tests.faults import audited\n"
        "test_faults.data.load = lambda *_: test_faults.digits()\n"
        "audited.main()\n"
    )
    tests = Path(__file__).parent
    for moment in (r"\.partial\.step_00000006/", r"\.partial\.exported"):
        arguments = [f"kill:{moment}", str(place.root), *flags(place.root, f"--run={place.run}")]
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env=os.environ | {"PYTHONPATH": f"{tests}:{tests.parent}"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == -9, done.stdout + done.stderr
        assert bool(kills.leftovers(place.root)) == ("step" in moment)
        kills.expect_whole(place)
    assert os.listdir(place.exports) == ["1"] and not (place.run / runs.EXPORTED).exists()
    go_on(place.run)
    _, whole = begun
    kills.expect_whole(place)
    assert os.listdir(place.exports) == ["1"]
    checkpoint_values.assert_same(place.run, whole)
    names = [{path.relative_to(each) for path in each.rglob("*")} for each in (place.run, whole)]
    assert names[0] == names[1]


def test_leftovers_of_kills_are_removed_from_the_run(run, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    left = [
        run / "checkpoints" / ".0a1b2c3d.partial.step_00000008",
        run / "samples" / ".0b1c2d3e.partial.epoch_001.png",
        run / ".0b1c2d3e.partial.log.csv",
    ]
    left[0].mkdir()
    left[1].symlink_to(precious, target_is_directory=True)
    left[2].write_text("half a r")
    others = [run / ".partial.notes", tmp_path / "exports/gan/.0a1b2c3d.partial.1"]
    others[1].mkdir(parents=True)
    others[0].touch()
    go_on(run)
    assert not any(os.path.lexists(path) for path in left)
    assert others[0].exists() and (precious / "file").exists()
    assert [path.name for path in kills.visible(tmp_path / "exports/gan")] == ["1"]


@pytest.mark.slow
def test_kills_at_random(tmp_path, data_dir, mnist, monkeypatch):
    monkeypatch.undo()
    found = kills.Found()
    killer = kills.Kills(tmp_path, data_dir, kills.PLAIN, random.Random(0), found)
    killer.run([kills.WRITE, kills.CHANGE, kills.TIME])
    assert found.kills.total() >= 1
    assert not found.broken, found


def test_checks_can_fail(begun, tmp_path):
    """Those of the harness: half a checkpoint, half a table, one file too many, another weight."""
    _, whole = begun
    places = []
    for name in ("one", "two"):
        shutil.copytree(whole.parents[1] / "exports", tmp_path / name / "exports")
        shutil.copytree(whole, tmp_path / name / "run")
        places.append(kills.Place(tmp_path / name, tmp_path, tmp_path))
    one, two = places
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
    with pytest.raises(kills.Broken, match="has other weights than"):
        kills.expect_same(one, two)
    state = checkpoints.found(one.run)[0] / "state.data-00000-of-00001"
    state.write_bytes(state.read_bytes()[:-1])
    with pytest.raises(kills.Broken, match="incomplete"):
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
def trained(begun):
    return checkpoints.restore_run(begun[1])


PIXELS = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype(np.uint8)
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


@pytest.mark.slow
def test_full_disks_and_read_only_folders(data_dir, mnist):
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    command = [sys.executable, "-m", "tests.faults.disks", f"--data_dir={data_dir}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# --- Checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [15, pytest.param(1000, marks=pytest.mark.slow)])
def test_flipped_bits_are_seen_in_any_file(times, begun, tmp_path, caplog):
    """In any file of the newest checkpoint, at any place: it is skipped, or it is the same."""
    run = tmp_path / "run"
    shutil.copytree(begun[1], run)
    config, facts = runs.read(run)
    model = build.build(config, facts.image_shape, facts.num_classes)
    newest, _ = checkpoints.found(run)
    checkpoints.restore(run, model)
    expected = state_of(model)
    chance = random.Random(0)
    skipped = 0
    for file in sorted(newest.glob("state.*")):
        whole = file.read_bytes()
        for _ in range(times):
            damaged = bytearray(whole)
            damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
            if chance.random() < 0.2:
                del damaged[chance.randrange(len(whole)) :]
            file.write_bytes(damaged)
            caplog.clear()
            step = checkpoints.restore(run, model)
            if step == EPOCHS * STEPS:
                assert state_of(model) == expected, f"{file}: damage was not seen"
            else:
                assert step == (EPOCHS - 1) * STEPS
                assert f"{newest} is unreadable; skipping it: " in caplog.text
                skipped += 1
        file.write_bytes(whole)
    assert skipped > times
    checkpoints.restore(run, model)
    assert state_of(model) == expected


def state_of(model) -> list[bytes]:
    state = model.training_state()
    return [np.array(variable).tobytes() for owned in state.values() for variable in owned]


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


def test_a_kill_between_a_save_and_the_removal_of_the_oldest(run, begun):
    """After the last epoch no save would remove it."""
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
    changed = digits()
    changed.train.images[5, 3, 3, 0] ^= 1
    for other, message in (
        (changed, "other data than the mnist that is in .*: fingerprint '.*', now '"),
        (digits(65), "num_images 64, now 65; fingerprint"),
    ):
        monkeypatch.setattr(data, "load", lambda *_, other=other: other)
        before = tree(run)
        with pytest.raises(UserError, match=message):
            go_on(run)
        assert tree(run).keys() - before.keys() <= {run / ".lock"}


def test_a_fingerprint_is_of_everything():
    def of(**changes):
        return digits()._replace(**changes).fingerprint

    whole = digits()
    assert of() == of()
    labels = whole.train.labels[::-1]
    others = [
        of(train=whole.train._replace(labels=labels)),
        of(train=data.Split(*(part[::-1] for part in whole.train))),
        of(test=digits(seed=1).test),
        of(train=whole.test, test=whole.train),
    ]
    assert len({of(), *others}) == 5


@pytest.mark.slow
def test_data_that_vanish_or_change(real, data_dir):
    place, whole = real("run"), real("whole")
    assert kills.Life(whole, 2, 40).end() == 0
    life = kills.Life(place, 2, 40)
    life.wait_for(lambda: "\nEpoch " in life.output)
    shutil.rmtree(place.data / "mnist")  # between epochs: they are in memory
    assert life.end() == 0, life.output
    kills.expect_same(place, whole)
    small_mnist.write(place.data, data_dir, first=1)
    life = kills.Life(place, 3, 40)
    assert life.end() == 2
    assert "was begun on other data than the mnist" in life.output


# --- Old runs, and other commands ----------------------------------------------------------------


def test_an_old_run_goes_on_whatever_the_times_of_its_files(run, begun):
    """One without a fingerprint of its data and without versions in its checkpoints."""
    description = json.loads((run / runs.CONFIG).read_text())
    fingerprint = description["data"].pop("fingerprint")
    description["config"]["on_nonfinite"] = "skip"  # a field that was removed
    (run / runs.CONFIG).write_text(json.dumps(description))
    (checkpoints.found(run)[0] / checkpoints.VERSIONS).unlink()
    chance = random.Random(0)
    for path in run.rglob("*"):
        os.utime(path, (chance.uniform(0, 4.1e9), chance.uniform(0, 4.1e9)))
    go_on(run)
    checkpoint_values.assert_same(run, begun[1])
    assert (run.parent / "exports" / "gan" / "1").exists()
    assert runs.read(run)[1].fingerprint == fingerprint == digits().fingerprint


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()
    with pytest.raises(UserError, match="run is not empty and is not a run folder"):
        go_on(tmp_path / "run")
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "thesis.tex"]


@pytest.mark.slow
def test_of_two_commands_for_one_folder_one_is_refused(real):
    place = real("run")
    lives = [kills.Life(place, 2, 40) for _ in range(2)]
    statuses = [life.end() for life in lives]
    said = lives[statuses.index(2)].output
    assert sorted(statuses) == [0, 2], said
    assert (
        "another train command is writing into this run" in said
        or "another train command has just begun a run there" in said
    )
    kills.expect_whole(place)
