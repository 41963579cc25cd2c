"""Paths as users have them: with spaces, other alphabets, capital letters, and `~`."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tfgan_mnist import cli, config, evaluate, flags, generate, train


def run(command, *flags) -> None:
    command.main(command.parser().parse_args(list(flags)))


def test_endings_in_capitals(tmp_path, exports):
    for name in ("A.NPZ", "A.PNG"):
        run(generate, f"--saved_model={exports}/dcgan", "--num=4", f"--output={tmp_path}/{name}")
    samples = evaluate.of_images(tmp_path / "A.NPZ", None, 0)
    assert samples.make(None)[0].shape == (4, 28, 28, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["A.NPZ", "A.PNG"]


def test_the_home_folder_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.toml").write_text('export_root = "~/exports"\n')
    parsed = train.parser().parse_args(["--config=~/run.toml", "--run=~/run", "--run_root=~/runs"])
    found = config.resolve(flags.explicit(parsed), parsed.config)
    expected = [f"{tmp_path}/{name}" for name in ("run", "runs", "exports")]
    assert [parsed.run, found.run_root, found.export_root] == expected
    assert evaluate.parser().parse_args(["--run", "~/a", "~/b"]).run == [
        f"{tmp_path}/a",
        f"{tmp_path}/b",
    ]
    parser = cli.Parser("any", "")
    parser.add_argument("--output")
    assert parser.parse_args(["--output=~/a.png"]).output == f"{tmp_path}/a.png"


def test_an_ascii_terminal(tmp_path, exports):
    """Nothing fails at a name that the terminal cannot show."""
    output = tmp_path / "手写.png"
    flags = [f"--saved_model={exports}/dcgan", "--num=4", f"--output={output}"]
    done = subprocess.run(
        [sys.executable, "-m", "tfgan_mnist.generate", *flags],
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert Path(output).exists()


def test_the_printed_command_to_go_on_with_works_in_a_shell(tmp_path):
    from tfgan_mnist.errors import Stopped
    from tfgan_mnist.training import callbacks

    checkpoint = callbacks.Checkpoint(tmp_path / "my runs" / "0001-dcgan")
    checkpoint.received = 15
    checkpoint.set_model(_Saved())
    with pytest.raises(Stopped) as stopped:
        checkpoint.on_epoch_end(0)
    command = str(stopped.value).splitlines()[-1].replace("python -m tfgan_mnist.train", "echo")
    shown = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == f"--resume={tmp_path}/my runs/0001-dcgan"


class _Saved:
    """A model that a checkpoint has nothing to save of."""

    steps_done = 3

    def training_state(self):
        return {"global_step": [np.int64(3)]}
