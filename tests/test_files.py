import os
import subprocess
import sys

import pytest

from tfgan_mnist import files


def write_folder(path, **contents):
    with files.write_atomically(path) as partial:
        partial.mkdir()
        for name, text in contents.items():
            (partial / name).write_text(text)


def test_a_file_appears_whole_in_place_of_another(tmp_path):
    path = tmp_path / "new" / "folder" / "log.csv"
    with files.write_atomically(path) as partial:
        partial.write_text("old")
        assert partial.parent == path.parent  # a rename within one file system is atomic
        assert partial.suffix == path.suffix  # writers choose a format by it
        assert not path.exists()
    with files.write_atomically(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["log.csv"]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.write_atomically(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="bad"), files.write_atomically(path) as partial:
        (partial / "inner").mkdir(parents=True)
        (partial / "inner" / "file").write_text("half")
        raise ValueError("bad")
    with pytest.raises(ZeroDivisionError), files.write_atomically(path):
        raise ZeroDivisionError  # before anything was written
    assert os.listdir(tmp_path) == ["metrics.json"]
    assert path.read_text() == "old"


def test_a_folder_appears_whole_and_replaces_no_other(tmp_path):
    write_folder(tmp_path / "1", model="first")
    with pytest.raises(OSError, match="not empty"):
        write_folder(tmp_path / "1", model="second")
    assert os.listdir(tmp_path) == ["1"]
    assert (tmp_path / "1" / "model").read_text() == "first"


def test_a_killed_writer_leaves_no_output(tmp_path):
    script = (
        "import os, signal, sys\n"
        "from tfgan_mnist import files\n"
        "with files.write_atomically(sys.argv[1]) as partial:\n"
        "    partial.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "weights.h5"
    assert subprocess.run([sys.executable, "-c", script, path]).returncode == -9
    assert not path.exists()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".")  # hidden from readers
    (tmp_path / ".film.partial.mp4").touch()  # somebody else's
    files.remove_partial(tmp_path)
    assert os.listdir(tmp_path) == [".film.partial.mp4"]


def test_a_folder_is_removed_at_once(tmp_path, monkeypatch):
    folder = tmp_path / "step_00000008"
    (folder / "inner").mkdir(parents=True)
    seen = []
    rmtree = files.shutil.rmtree
    monkeypatch.setattr(
        files.shutil,
        "rmtree",
        lambda path, **options: (seen.append(folder.exists()), rmtree(path, **options)),
    )
    files.remove(folder)
    assert seen == [False]
    assert os.listdir(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        files.remove(folder)


@pytest.mark.parametrize("harm", ["read-only", "full"])
def test_an_error_names_the_path_and_not_the_temporary_one(harm, tmp_path, monkeypatch):
    def refuse(self, text):
        raise OSError(28, "No space") if harm == "full" else OSError(30, "Read-only", str(self))

    monkeypatch.setattr(files.Path, "write_text", refuse)
    with (
        pytest.raises(OSError) as raised,  # noqa: PT011 - of any number
        files.write_atomically(tmp_path / "log.csv") as partial,
    ):
        partial.write_text("")
    assert raised.value.filename == str(tmp_path / "log.csv")
