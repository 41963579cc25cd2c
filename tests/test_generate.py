"""The generate command: what it draws of a run and of an export, and where it writes it."""

import functools
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny_models import FACTS, settings_of, tiny

from tfgan_mnist import cli, generate, runs
from tfgan_mnist.data import pictures, pixels
from tfgan_mnist.exports import saved_model
from tfgan_mnist.models.latents import draw, interpolate
from tfgan_mnist.training import checkpoints

LATENT_DIM = 4
TILE = 8 + 2  # an image and its padding


def make_run(root, name):
    """A run folder as training leaves it, and its tiny model."""
    run, model = runs.create(root, settings_of(name), FACTS), tiny(name)
    checkpoints.save(run, model)
    return run, model


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    """(run folder, model) of an unconditional model."""
    return make_run(tmp_path_factory.mktemp("runs"), "gan")


@pytest.fixture(scope="module")
def cdcgan(tmp_path_factory):
    """(run folder, model) of a conditional model."""
    return make_run(tmp_path_factory.mktemp("runs"), "cdcgan")


@pytest.fixture(scope="module")
def exports(tmp_path_factory, cdcgan):
    """A base path with two versions, of which the second is the conditional model."""
    base_path = tmp_path_factory.mktemp("saved_models") / "cdcgan"
    (base_path / "1").mkdir(parents=True)
    (base_path / "1" / "saved_model.pb").write_text("an old version that nobody should read")
    saved_model.export(cdcgan[1], base_path)
    return base_path


@pytest.fixture(scope="module", autouse=True)
def read_once():
    """Every run and export is read once for all tests: what a command spends its time on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "from_run", functools.cache(generate.from_run))
        patch.setattr(generate, "from_saved_model", functools.cache(generate.from_saved_model))
        yield


def command(*flags):
    generate.main(generate.parser().parse_args([str(flag) for flag in flags]))


@pytest.fixture
def arrays_of(tmp_path):
    """Images and labels (None without) that the command makes with the given flags."""

    def arrays_of(*flags):
        command(*flags, f"--output={tmp_path}/a.npz")
        with np.load(tmp_path / "a.npz") as archive:
            assert archive["images"].dtype == np.uint8
            return archive["images"], archive.get("labels")

    return arrays_of


def assert_drawn(images, model, latents, labels=None):
    """Equal but for a rounding here and there: another batch size has another order of sums."""
    expected = pixels.to_uint8(model.sample(latents, labels))
    difference = abs(images.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


# What is made


@pytest.mark.parametrize("num", [3, 2 * generate.BATCH + 1])
def test_image_i_depends_on_the_seed_and_i(num, gan, arrays_of):
    run, model = gan
    images, labels = arrays_of(f"--run={run}", f"--num={num}", "--seed=3")
    assert labels is None
    assert_drawn(images, model, draw(num, LATENT_DIM, seed=3))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--labels=2,0,2,6"], [2, 0, 2, 6]),
        (["--labels=2,0,6", "--num=7"], [2, 0, 6, 2, 0, 6, 2]),
        (["--labels=2,0,6", "--num=2"], [2, 0]),
        (["--num=12"], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]),
        ([], [*range(10)] * 10),
    ],
)
def test_labels_are_drawn_once_repeated_or_cut(flags, expected, cdcgan, arrays_of):
    run, model = cdcgan
    images, labels = arrays_of(f"--run={run}", *flags)
    assert (labels.dtype, labels.tolist()) == (np.int32, expected)
    assert_drawn(images, model, draw(len(labels), LATENT_DIM, seed=0), labels)


def test_interpolation(cdcgan, arrays_of):
    run, model = cdcgan
    images, labels = arrays_of(f"--run={run}", "--interpolate=5", "--labels=7,1")
    assert labels.tolist() == [7] * 5 + [1] * 5
    way = interpolate(*draw(2, LATENT_DIM, seed=0), 5)
    assert_drawn(images, model, np.concatenate([way, way]), labels)


def test_an_export_makes_the_same_as_its_run(cdcgan, exports, arrays_of):
    for path in (exports / "2", exports):
        images, labels = arrays_of(f"--saved_model={path}", "--num=30", "--seed=5")
        assert_drawn(images, cdcgan[1], draw(30, LATENT_DIM, seed=5), labels)


# Where it goes


def size_of(columns, rows):
    return tuple(pixels.SCALE * (count * TILE + 2) for count in (columns, rows))


@pytest.mark.parametrize(
    ("model", "flags", "columns", "rows"),
    [
        ("gan", ["--num=7"], 3, 3),
        ("gan", ["--interpolate=6"], 6, 1),
        ("cdcgan", [], 10, 10),
        ("cdcgan", ["--num=25"], 10, 3),
        ("cdcgan", ["--num=4"], 4, 1),
        ("cdcgan", ["--labels=2,0,2,6", "--num=12"], 4, 3),
        ("cdcgan", ["--labels=" + ",".join("1" * 60)], 8, 8),
        ("cdcgan", ["--interpolate=6", "--labels=3,4"], 6, 2),
    ],
)
def test_layout_of_a_picture(tmp_path, request, model, flags, columns, rows, arrays_of, capsys):
    run, _ = request.getfixturevalue(model)
    path = tmp_path / "a.PNG"
    path.write_text("a file of this name is replaced")
    command(f"--run={run}", *flags, f"--output={path}")
    assert capsys.readouterr().out.startswith("Wrote ")
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == ("PNG", size_of(columns, rows))
    images, _ = arrays_of(f"--run={run}", *flags)
    (picture,) = pictures.read(path)
    np.testing.assert_array_equal(picture, pixels.enlarge(pixels.grid(images, columns)))


@pytest.mark.parametrize(
    ("model", "flags", "columns"), [("gan", [], 1), ("cdcgan", ["--labels=2,0,2,6"], 4)]
)
def test_an_animation_goes_there_and_back(tmp_path, request, model, flags, columns):
    run, _ = request.getfixturevalue(model)
    command(f"--run={run}", "--interpolate=5", *flags, f"--output={tmp_path}/a.gif")
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.size == size_of(columns, 1)
        frames = []
        for i in range(animation.n_frames):
            animation.seek(i)
            frames.append(np.asarray(animation.convert("RGB")))
    assert len(frames) == 8  # 0 1 2 3 4 3 2 1
    for there, back in ((1, 7), (2, 6), (3, 5)):
        np.testing.assert_array_equal(frames[there], frames[back])
    assert all((frame != frames[0]).any() for frame in frames[1:])


@pytest.mark.parametrize(
    ("model", "flags", "names"),
    [
        ("gan", ["--num=3"], ["00000.png", "00001.png", "00002.png"]),
        ("cdcgan", ["--labels=2,0"], ["00000_2.png", "00001_0.png"]),
    ],
)
def test_a_folder_holds_a_file_for_each_image(tmp_path, request, model, flags, names, arrays_of):
    run, _ = request.getfixturevalue(model)
    (tmp_path / "empty").mkdir()
    images, _ = arrays_of(f"--run={run}", *flags)
    for folder in ("new/", "empty"):
        command(f"--run={run}", *flags, f"--output={tmp_path}/{folder}")
        assert sorted(os.listdir(tmp_path / folder)) == names
        np.testing.assert_array_equal(pictures.read(tmp_path / folder), images)


# What is refused


def refusal(monkeypatch, capsys, *flags):
    """The one line that the command prints when it refuses."""
    monkeypatch.setattr(sys, "argv", ["generate", *map(str, flags)])
    with pytest.raises(SystemExit) as stop:
        cli.run(generate.main, generate.parser())
    assert stop.value.code == cli.EXIT_USER_ERROR
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--run --saved_model is required"),
        (["--run=RUN", "--saved_model=DIR"], "not allowed with argument --run"),
        (["--run="], "expected a run folder"),
        (["--saved_model=nothing"], "nothing: expected the folder of a SavedModel"),
        (["--run=RUN", "--num=0"], "--num: expected a number >= 1; received '0'"),
        (["--run=RUN", "--interpolate=3", "--num=3"], "--num: expected none with --interpolate"),
        (["--run=RUN", "--labels=2;0"], "expected integers like 2,0,2,6; received '2;0'"),
        (["--run=RUN", "--labels=3,10"], "--labels: expected 0..9; received 10"),
        (["--run=RUN", "--num=100001"], "at most 100,000 images"),
        (["--run=RUN", "--interpolate=10001"], "at most 100,000 images"),
        (["--run=GAN", "--labels=3"], "--labels: expected none"),
        (["--run=RUN", "--output=a.jpg"], "expected FILE.png, FILE.gif, FILE.npz or FOLDER/"),
        (["--run=RUN", "--output=a.gif"], "expected --interpolate=STEPS with a .gif"),
        (["--run=RUN", "--output=full"], "expected a new or an empty folder; full has files"),
        (["--run=RUN", "--output=full/file/a.png"], "full/file"),
    ],
)
def test_wrong_flags(tmp_path, cdcgan, gan, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("in use")
    flags = [flag.replace("RUN", str(cdcgan[0])).replace("GAN", str(gan[0])) for flag in flags]
    assert message in refusal(monkeypatch, capsys, *flags)
    assert os.listdir(tmp_path) == ["full"]
    assert os.listdir(tmp_path / "full") == ["file"]


def test_a_run_without_a_checkpoint(tmp_path, cdcgan, monkeypatch, capsys):
    shutil.copy(cdcgan[0] / runs.CONFIG, tmp_path)
    assert "no checkpoint there" in refusal(monkeypatch, capsys, f"--run={tmp_path}")


def cut_weights(version):
    (weights,) = version.glob("variables/*.data-*")
    os.truncate(weights, 10)


def no_graph(version):
    (version / "saved_model.pb").write_bytes(b"no graph")


def another_model(version):
    shutil.rmtree(version)
    module = tf.Module()
    half = tf.function(lambda x: x / 2, [tf.TensorSpec((None,), tf.float32, name="x")])
    tf.saved_model.save(module, str(version), signatures={"serving_default": half})


@pytest.mark.parametrize("damage", [cut_weights, no_graph, another_model])
def test_damaged_exports(tmp_path, exports, monkeypatch, capsys, damage):
    version = tmp_path / "7"
    shutil.copytree(exports / "2", version)
    damage(version)
    line = refusal(monkeypatch, capsys, f"--saved_model={tmp_path}", f"--output={tmp_path}/a.png")
    assert line.startswith(f"error: {version}: expected an export of tfgan_mnist; received: ")
    assert os.listdir(tmp_path) == ["7"]


def test_an_export_needs_no_code_of_its_model(tmp_path, exports):
    script = (
        "import sys\n"
        "from tfgan_mnist import generate\n"
        "sys.meta_path.pop(0)  # with Keras the models would be imported, for load_model\n"
        "generate.main(generate.parser().parse_args(sys.argv[1:]))\n"
        "assert 'tfgan_mnist.models.gan' not in sys.modules\n"
    )
    flags = (f"--saved_model={exports}", "--labels=2,0,2,6", f"--output={tmp_path}/2026.png")
    done = subprocess.run(
        [sys.executable, "-c", script, *flags], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    written = f"Wrote 4 images of export cdcgan/2 (FID not known) to {tmp_path}/2026.png\n"
    assert done.stdout == written
    assert pictures.read(tmp_path / "2026.png").shape == (1, *size_of(4, 1)[::-1], 3)
