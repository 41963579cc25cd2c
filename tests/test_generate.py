import functools
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfgan_mnist import cli, config, generate, runs
from tfgan_mnist.data import pictures, pixels
from tfgan_mnist.exports import card, saved_model
from tfgan_mnist.models.latents import draw, interpolate
from tfgan_mnist.training import build, checkpoints

LATENT_DIM = 4
FACTS = runs.DataFacts(image_shape=(8, 8, 3), num_classes=10, num_images=64)
TILE = 8 + 2  # an image and its padding


def make_run(root, name, **widths):
    """A run folder as training leaves it, of a model made tiny."""
    sizes = {"latent_dim": LATENT_DIM, "image_size": 8, "steps_per_epoch": 1}
    settings = config.resolve({"model": name, **sizes, **widths})
    model = build.build(settings, FACTS.image_shape, FACTS.num_classes)
    random = np.random.default_rng(0)
    for variable in model.generator.trainable_variables:
        variable.assign(random.normal(0, 0.5, variable.shape))
    model.averaged_generator.set_weights(model.generator.get_weights())
    run = runs.create(root, settings, FACTS)
    checkpoints.save(run, model)
    return run, model


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    """(run folder, model) of an unconditional model."""
    return make_run(
        tmp_path_factory.mktemp("runs"), "gan", g_hidden_widths=(8,), d_hidden_widths=(4,)
    )


@pytest.fixture(scope="module")
def cdcgan(tmp_path_factory):
    """(run folder, model) of a conditional model."""
    return make_run(tmp_path_factory.mktemp("runs"), "cdcgan", g_width=2, d_width=2)


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


def npz(path):
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def pixels_of(model, latents, labels=None):
    return pixels.to_uint8(model.sample(latents, labels))


def assert_same_pixels(received, expected):
    """Equal but for a rounding here and there: another batch size has another order of sums."""
    difference = abs(received.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


# What is made


def test_an_unconditional_model_makes_num_images(tmp_path, gan):
    run, model = gan
    command(f"--run={run}", "--num=3", f"--output={tmp_path}/a.npz")
    arrays = npz(tmp_path / "a.npz")
    assert list(arrays) == ["images"]
    assert arrays["images"].dtype == np.uint8
    assert_same_pixels(arrays["images"], pixels_of(model, draw(3, LATENT_DIM, seed=0)))


def test_each_label_is_drawn_once(tmp_path, cdcgan):
    run, model = cdcgan
    command(f"--run={run}", "--labels=2,0,2,6", f"--output={tmp_path}/a.npz")
    arrays = npz(tmp_path / "a.npz")
    assert arrays["labels"].dtype == np.int32
    assert arrays["labels"].tolist() == [2, 0, 2, 6]
    expected = pixels_of(model, draw(4, LATENT_DIM, seed=0), [2, 0, 2, 6])
    assert_same_pixels(arrays["images"], expected)


@pytest.mark.parametrize(
    ("flags", "labels"),
    [
        (["--labels=2,0,6", "--num=7"], [2, 0, 6, 2, 0, 6, 2]),
        (["--labels=2,0,6", "--num=2"], [2, 0]),
        (["--num=12"], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]),
        ([], [*range(10)] * 10),
    ],
)
def test_labels_are_repeated_or_cut(tmp_path, cdcgan, flags, labels):
    command(f"--run={cdcgan[0]}", *flags, f"--output={tmp_path}/a.npz")
    assert npz(tmp_path / "a.npz")["labels"].tolist() == labels


def test_more_images_keep_the_first_ones(tmp_path, gan):
    many = 2 * generate.BATCH + 1
    command(f"--run={gan[0]}", "--num=4", "--seed=3", f"--output={tmp_path}/few.npz")
    command(f"--run={gan[0]}", f"--num={many}", "--seed=3", f"--output={tmp_path}/many.npz")
    few, many_images = npz(tmp_path / "few.npz")["images"], npz(tmp_path / "many.npz")["images"]
    assert many_images.shape == (many, 8, 8, 3)
    assert_same_pixels(many_images[:4], few)
    assert_same_pixels(many_images, pixels_of(gan[1], draw(many, LATENT_DIM, seed=3)))


def test_seeds_differ(tmp_path, gan):
    for seed in (1, 2):
        command(f"--run={gan[0]}", f"--seed={seed}", f"--output={tmp_path}/{seed}.npz")
    first, second = (npz(tmp_path / f"{seed}.npz")["images"] for seed in (1, 2))
    assert first.shape == second.shape == (generate.NUM, 8, 8, 3)
    assert (first != second).any(axis=(1, 2, 3)).all()


def test_interpolation(tmp_path, cdcgan):
    run, model = cdcgan
    command(f"--run={run}", "--interpolate=5", "--labels=7,1", f"--output={tmp_path}/a.npz")
    arrays = npz(tmp_path / "a.npz")
    assert arrays["labels"].tolist() == [7] * 5 + [1] * 5
    way = interpolate(*draw(2, LATENT_DIM, seed=0), 5)
    expected = pixels_of(model, np.concatenate([way, way]), arrays["labels"])
    assert_same_pixels(arrays["images"], expected)


def test_a_run_and_its_export_make_the_same(tmp_path, cdcgan, exports):
    for name, source in {
        "run": f"--run={cdcgan[0]}",
        "version": f"--saved_model={exports / '2'}",
        "base_path": f"--saved_model={exports}",
    }.items():
        command(source, "--num=30", "--seed=5", f"--output={tmp_path / name}.npz")
    of_run, of_version, of_base_path = (
        npz(tmp_path / f"{name}.npz") for name in ("run", "version", "base_path")
    )
    assert_same_pixels(of_version["images"], of_run["images"])
    np.testing.assert_array_equal(of_version["labels"], of_run["labels"])
    np.testing.assert_array_equal(of_version["images"], of_base_path["images"])


# Where it goes


def size_of(columns, rows):
    return tuple(pixels.SCALE * (count * TILE + 2) for count in (columns, rows))


@pytest.mark.parametrize(
    ("model", "flags", "columns", "rows"),
    [
        ("gan", [], 10, 10),
        ("gan", ["--num=7"], 3, 3),
        ("gan", ["--interpolate=6"], 6, 1),
        ("cdcgan", [], 10, 10),
        ("cdcgan", ["--num=25"], 10, 3),
        ("cdcgan", ["--num=4"], 4, 1),
        ("cdcgan", ["--labels=2,0,2,6"], 4, 1),
        ("cdcgan", ["--labels=2,0,2,6", "--num=12"], 4, 3),
        ("cdcgan", ["--labels=" + ",".join("1" * 60)], 8, 8),
        ("cdcgan", ["--interpolate=6"], 6, 10),
        ("cdcgan", ["--interpolate=6", "--labels=3,4"], 6, 2),
    ],
)
def test_layout_of_a_picture(tmp_path, request, model, flags, columns, rows):
    run, _ = request.getfixturevalue(model)
    command(f"--run={run}", *flags, f"--output={tmp_path}/a.PNG")
    with Image.open(tmp_path / "a.PNG") as picture:
        assert (picture.format, picture.size) == ("PNG", size_of(columns, rows))


def test_a_picture_shows_the_images_in_order(tmp_path, cdcgan):
    for output in ("a.png", "a.npz"):
        command(f"--run={cdcgan[0]}", "--labels=2,0,6", "--num=6", f"--output={tmp_path}/{output}")
    (picture,) = pictures.read(tmp_path / "a.png")
    images = npz(tmp_path / "a.npz")["images"]
    np.testing.assert_array_equal(picture, pixels.enlarge(pixels.grid(images, 3), pixels.SCALE))


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
def test_a_folder_holds_a_file_for_each_image(tmp_path, request, model, flags, names):
    run, _ = request.getfixturevalue(model)
    (tmp_path / "empty").mkdir()
    for output in ("new/", "empty", "a.npz"):
        command(f"--run={run}", *flags, f"--output={tmp_path}/{output}")
    images = npz(tmp_path / "a.npz")["images"]
    for folder in ("new", "empty"):
        assert sorted(os.listdir(tmp_path / folder)) == names
        np.testing.assert_array_equal(pictures.read(tmp_path / folder), images)


def test_a_file_is_replaced(tmp_path, gan, capsys):
    path = tmp_path / "a.png"
    path.write_text("something else")
    command(f"--run={gan[0]}", f"--output={path}")
    assert len(pictures.read(path)) == 1
    assert capsys.readouterr().out.startswith("Wrote 100 images of ")


def test_a_failure_leaves_nothing(tmp_path, gan, monkeypatch):
    written = iter([b"", b""])
    monkeypatch.setattr(pictures, "png_bytes", lambda _: next(written))
    with pytest.raises(StopIteration):
        command(f"--run={gan[0]}", f"--output={tmp_path}/folder/")
    assert os.listdir(tmp_path) == []


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
        (["--run=nothing"], "nothing: expected a run folder"),
        (["--saved_model=nothing"], "nothing: expected the folder of a SavedModel"),
        (["--run=RUN", "--num=0"], "--num: expected a number >= 1; received '0'"),
        (["--run=RUN", "--num=1e3"], "--num: expected a number >= 1; received '1e3'"),
        (["--run=RUN", "--seed=-1"], "--seed: expected a number >= 0; received '-1'"),
        (["--run=RUN", "--interpolate=1"], "--interpolate: expected a number >= 2"),
        (["--run=RUN", "--interpolate=3", "--num=3"], "--num: expected none with --interpolate"),
        (["--run=RUN", "--labels="], "expected integers like 2,0,2,6; received ''"),
        (["--run=RUN", "--labels=2;0"], "expected integers like 2,0,2,6; received '2;0'"),
        (["--run=RUN", "--labels=3,10"], "--labels: expected 0..9; received 10"),
        (["--run=RUN", "--labels=-1"], "--labels: expected 0..9; received -1"),
        (["--run=RUN", "--num=10001"], "at most 10,000 images"),
        (["--run=RUN", f"--num={10**30}", "--output=a.npz"], "at most 100,000 images"),
        (["--run=RUN", "--interpolate=1001"], "at most 10,000 images"),
        (["--run=GAN", "--labels=3"], "--labels: expected none"),
        (["--run=RUN", "--output=a.jpg"], "expected FILE.png, FILE.gif, FILE.npz or FOLDER/"),
        (["--run=RUN", "--output=samples"], "expected FILE.png, FILE.gif, FILE.npz or FOLDER/"),
        (["--run=RUN", "--output=a.gif"], "expected --interpolate=STEPS with a .gif"),
        (["--run=RUN", "--output=full"], "expected a new or an empty folder; full has files"),
        (["--run=RUN", "--output=full/"], "expected a new or an empty folder; full/ has files"),
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


def no_weights(version):
    shutil.rmtree(version / "variables")


def no_graph(version):
    (version / "saved_model.pb").write_bytes(b"no graph")


def another_model(version):
    shutil.rmtree(version)
    module = tf.Module()
    half = tf.function(lambda x: x / 2, [tf.TensorSpec((None,), tf.float32, name="x")])
    tf.saved_model.save(module, str(version), signatures={"serving_default": half})


@pytest.mark.parametrize("damage", [cut_weights, no_weights, no_graph, another_model])
def test_damaged_exports(tmp_path, exports, monkeypatch, capsys, damage):
    monkeypatch.chdir(tmp_path)
    version = tmp_path / "7"
    shutil.copytree(exports / "2", version)
    damage(version)
    line = refusal(monkeypatch, capsys, f"--saved_model={tmp_path}")
    assert line.startswith(f"error: {version}: expected an export of tfgan_mnist; received: ")
    assert os.listdir(tmp_path) == ["7"]


def test_an_export_without_its_card(tmp_path, exports, monkeypatch, capsys):
    version = tmp_path / "7"
    shutil.copytree(exports / "2", version)
    (version / card.CARD).unlink()
    line = refusal(monkeypatch, capsys, f"--saved_model={version}")
    assert "--labels: expected some, since there is no model_card.json" in line
    line = refusal(monkeypatch, capsys, f"--saved_model={version}", "--labels=3,10")
    assert "expected 0..9; received] [10]" in line  # by the graph itself
    command(f"--saved_model={version}", "--labels=3,9", f"--output={tmp_path}/a.npz")
    assert npz(tmp_path / "a.npz")["labels"].tolist() == [3, 9]


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
