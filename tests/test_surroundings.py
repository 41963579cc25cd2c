"""Where the commands run: threads, notebooks, pipes, SLURM, users without a home, Windows."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
from tensorflow.python.framework import config as tf_config

from tfgan_mnist import cli, config, data, files, train
from tfgan_mnist.errors import UserError
from tfgan_mnist.training import runtime


def test_training_in_a_thread_leaves_the_process_as_it_was(tmp_path):
    """A web demo trains in a thread; a notebook goes on with its own precision and kernels."""
    np.save(tmp_path / "some.npy", np.random.default_rng(0).integers(0, 256, (99, 8, 8), np.uint8))
    before = keras.config.dtype_policy().name, tf_config.is_op_determinism_enabled()
    wanted = config.resolve(
        {"model": "gan", "g_hidden_widths": (4,), "d_hidden_widths": (4,), "batch_size": 8}
        | {"epochs": 1, "steps_per_epoch": 2, "precision": "mixed_bfloat16"}
        | {"dataset": str(tmp_path / "some.npy"), "data_dir": str(tmp_path / "data")}
        | {"run_root": f"{tmp_path}/runs", "export_root": f"{tmp_path}/exports"}
    )
    done = []
    thread = threading.Thread(target=lambda: done.append(train.train(wanted)))
    thread.start()
    thread.join()
    assert (done[0] / "exported").exists()
    assert (keras.config.dtype_policy().name, tf_config.is_op_determinism_enabled()) == before


def test_precision_and_determinism_are_restored_after_an_error():
    before = keras.config.dtype_policy().name, tf_config.is_op_determinism_enabled()
    with pytest.raises(ZeroDivisionError), runtime.restored():
        runtime.configure(0, "mixed_bfloat16")
        assert tf_config.is_op_determinism_enabled()
        _ = 1 / 0
    assert (keras.config.dtype_policy().name, tf_config.is_op_determinism_enabled()) == before


def test_a_user_without_a_home(monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(UserError, match="needs a home folder. Give another with --data_dir"):
        files.data_folder()
    assert str(files.data_folder("/data")) == "/data"


@pytest.mark.parametrize("name", ["mnist", str(Path(__file__).parent)])
def test_a_home_that_is_read_only(tmp_path, name):
    (tmp_path / "home").write_text("a file is not writable as a folder, for root either")
    with pytest.raises(UserError, match="expected a folder that can be written.*--data_dir"):
        data.load(name, tmp_path / "home")


def test_a_reader_that_goes_away_is_no_error():
    """As in `| head -1`: status 141, which shells know, and nothing on stderr."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tfgan_mnist.train", "--dry_run"],
            stdout=write,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_windows_is_told_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda arguments: None, cli.Parser("any", ""))
    assert stopped.value.code == 2
    assert "WSL2" in capsys.readouterr().err


def test_modules_import_where_there_is_no_fcntl():
    modules = "tfgan_mnist.train, tfgan_mnist.serve, tfgan_mnist.data.cache"
    program = f"import sys; sys.modules['fcntl'] = None; import {modules}"
    subprocess.run([sys.executable, "-c", program], check=True)
