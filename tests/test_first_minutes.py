"""What a newcomer sees: short output, hints, and a try-out that hides nothing good."""

import io
import json
import logging
import shutil
import subprocess
import sys

import absl.logging
import pytest

from tfgan_mnist import cli, config, flags, generate, runs, train
from tfgan_mnist.evaluation import report
from tfgan_mnist.exports import card, versions
from tfgan_mnist.training import finish, progress

FACTS = runs.DataFacts((8, 8, 3), 10, 64)


def publish(model, base_path, description, unless_there):
    """The next version with its card, in place of a SavedModel, which takes seconds."""
    version = base_path / str(versions.next_number(base_path))
    version.mkdir(parents=True)
    shapes = {"latent_dim": 4, "image_shape": [8, 8, 3], "num_classes": None}
    whole = description | shapes | {"signatures": {"serving_default": ""}}
    (version / card.CARD).write_text(json.dumps(whole))
    return version


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """Exports a run of a given FID, or of none, as `train` does; returns the version's path."""
    monkeypatch.setattr(finish.saved_model, "export", publish)

    def finish_run(fid, dataset="mnist", features="mnist-28x1-v1 (1)"):
        settings = config.resolve({"export_root": str(tmp_path / "public"), "dataset": dataset})
        run = runs.create(tmp_path / "runs", settings, FACTS)
        if fid is not None:
            runs.add_metrics(run, samples={"scores": {"fid": fid}, "features": features})
        finish.export_model(run, None, settings, resumed=False)
        return run, (run / runs.EXPORTED).read_text()

    return finish_run


def test_a_try_out_does_not_hide_a_better_version(finished, tmp_path, capsys):
    public = tmp_path / "public" / "dcgan"
    assert finished(1.0)[1] == str(public / "1")
    assert finished(1.9)[1] == str(public / "2")  # another seed
    for worse in (3.7, 545.0, None):  # 3.7 is less than twice 1.9; a try-out; without evaluations
        run, exported = finished(worse)
        assert exported == str(run / "export" / "dcgan" / "1")
    message = "version 1 (FID 1 on mnist by mnist-28x1-v1) is better than this run (FID not known)"
    assert message in capsys.readouterr().out
    run, exported = finished(0.5, dataset="fashion_mnist")
    assert exported == str(run / "export" / "dcgan" / "1")
    assert (
        "version 2 is of other data (FID 1.9 on mnist by mnist-28x1-v1)" in capsys.readouterr().out
    )
    assert finished(0.9)[1] == str(public / "3")
    # FIDs of other features do not compare.
    assert finished(50.0, features="mnist-28x1-v1 (2)")[1] == str(public / "4")


def test_commands_say_which_export_they_took(exports, tmp_path, capsys):
    public = tmp_path / "dcgan"
    shutil.copytree(exports / "dcgan" / "1", public / "7")
    flags_ = [f"--saved_model={public}", "--num=1", f"--output={tmp_path}/a.png"]
    generate.main(generate.parser().parse_args(flags_))
    assert "of export dcgan/7 (FID 1.17 on mnist by mnist-28x1-v1) to" in capsys.readouterr().out


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("kind", "lines"), [(Terminal, 8), (io.StringIO, 2)])
def test_progress_stays_on_one_line_of_60_columns(kind, lines, monkeypatch):
    monkeypatch.setattr(sys, "stdout", screen := kind())
    monkeypatch.setattr(progress, "SECONDS", 0)
    monkeypatch.setenv("COLUMNS", "60")
    callback = progress.Progress(epochs=20)
    callback.set_params({"steps": 15_000})
    logs = {"d_loss": 1.23456, "g_loss": 0.0123456, "fid": 123.456}
    for epoch in (8, 9):
        callback.on_epoch_begin(epoch)
        for batch in (0, 7_000, 14_999):
            callback.on_train_batch_end(batch, logs)
        callback.on_epoch_end(epoch, logs)
    shown = [part for part in screen.getvalue().replace("\r", "\n").split("\n") if part]
    assert len(shown) == lines
    assert max(map(len, shown)) < 60
    assert "epoch 10/20" in shown[-1] and "FID 123" in shown[-1]
    assert screen.getvalue().count("\n") == 2


@pytest.mark.parametrize(
    ("flag", "hint"),
    [
        ("--lr=1", "did you mean --g_learning_rate and --d_learning_rate?"),
        ("--nz=1", "did you mean --latent_dim?"),
        ("--epoch=1", "did you mean --epochs?"),
    ],
)
def test_flags_of_other_programs_are_known(flag, hint, capsys):
    with pytest.raises(SystemExit):
        train.parser().parse_args([flag])
    assert hint in capsys.readouterr().err


def test_every_hint_names_a_flag():
    parser = train.parser()
    for name, hint in flags.ALSO_CALLED.items():
        assert f"--{name}" not in parser._option_string_actions
        for flag in hint.split(" and "):
            assert flag.split("=")[0] in parser._option_string_actions


def test_help_begins_with_what_people_use_first():
    text = train.parser().format_help()
    first, *others = text.split("\n\n")[3:]  # after usage, description and --help
    assert first.startswith("used most:")
    assert all(f"--{name} " in first for name in flags.FIRST)
    titles = [group.splitlines()[0].rstrip(":") for group in others]
    assert titles == [*flags.GROUPS, "devices"]


def test_the_package_lists_its_commands():
    command = [sys.executable, "-m", "tfgan_mnist"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in ("train", "generate", "evaluate", "export", "serve", "train_classifier"):
        assert f"python -m tfgan_mnist.{name} " in listed


def test_warnings_are_plain():
    cli.start_tensorflow()
    fields = {"levelname": "WARNING", "msg": "Problem at step %d.", "args": (3,)}
    line = absl.logging.get_absl_handler().format(logging.makeLogRecord(fields))
    assert line == "WARNING: Problem at step 3."


@pytest.mark.parametrize("fid", [0.1, 0.9])
def test_a_figure_below_real_images_is_explained(fid):
    scores = {"fid": fid}
    results = dict.fromkeys(("source", "split", "dataset", "seed", "seconds", "pixel_range"), "x")
    results |= {"generated": 1000, "real": 1000, "features": "c", "nearest_of": 9}
    results |= {"class_histogram": [1] * 10, "real_class_histogram": [1] * 10}
    text = report.describe(
        results | {"scores": scores, "floor": {"fid": 0.5}, "fid_interval": [0, 1]}
    )
    assert ("does not mean that samples are better" in text) == (fid < 0.5)
    assert max(map(len, text.splitlines())) <= 80
