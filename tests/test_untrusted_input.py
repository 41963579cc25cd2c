"""Files of other people: runs, model cards, archives, pictures. They are read, never executed."""

import io
import json
import zipfile

import keras
import numpy as np
import pytest

from tfgan_mnist import runs
from tfgan_mnist.config import resolve
from tfgan_mnist.data import pictures
from tfgan_mnist.errors import UserError
from tfgan_mnist.evaluation import comparison, curves
from tfgan_mnist.exports import card
from tfgan_mnist.models import mlp
from tfgan_mnist.models.gan import GAN
from tfgan_mnist.training import build, checkpoints

CARD = {
    "image_shape": [2, 2, 1],
    "latent_dim": 4,
    "num_classes": None,
    "signatures": {"serving_default": ""},
}


@pytest.mark.parametrize("key", ["num_classes", "latent_dim", "image_shape"])
@pytest.mark.parametrize("value", ["9", [1], -1, 0.5])
def test_a_card_with_invalid_numbers_is_refused(key, value, tmp_path):
    (tmp_path / card.CARD).write_text(json.dumps(CARD | {key: value}))
    with pytest.raises(UserError, match="expected a model card; received"):
        card.read(tmp_path)


@pytest.fixture
def run(tmp_path):
    return runs.create(tmp_path / "runs", runs.Config(), runs.DataFacts((8, 8, 1), 10, 64))


@pytest.mark.parametrize("row", ["1;2", "1,2,3", "1,many"])
def test_a_broken_table_is_refused_by_name(row, run):
    (run / runs.EVALUATIONS).write_text(f"epoch,fid\n{row}\n")
    with pytest.raises(UserError, match=r"evaluations.csv: expected a table of numbers"):
        runs.best_step(run)


def test_curves_are_drawn_of_tables_with_few_columns(run):
    runs.write_rows(run / runs.LOG, [{"epoch": 1, "seconds": 2.0}])
    runs.write_rows(run / runs.EVALUATIONS, [{"epoch": 1, "step": 3, "fid": 4.0, "class_0": 5}])
    curves.draw(*runs.read_history(run), run / runs.CURVES)
    assert (run / runs.CURVES).exists()


@pytest.mark.parametrize(
    "samples", [None, [], "x", {"scores": {}}, {"real": 1, "scores": {"fid": "x"}, "floor": {}}]
)
def test_incomplete_figures_are_computed_anew(samples, run):
    (run / runs.METRICS).write_text(json.dumps({"samples": samples}))
    assert not comparison.is_complete(runs.read_metrics(run)["samples"])


def test_removing_old_checkpoints_does_not_follow_links(run, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    folder = run / checkpoints.FOLDER
    folder.mkdir()
    (folder / "step_00000001").symlink_to(precious, target_is_directory=True)
    tiny = {"g_hidden_widths": (4,), "d_hidden_widths": (4,), "latent_dim": 4}
    model = build.build(resolve({"model": "gan", "steps_per_epoch": 1} | tiny), (8, 8, 1), 10)
    for step in (5, 6, 7):
        model.global_step.assign(step)
        checkpoints.save(run, model)
    assert (precious / "file").exists()


def zip_with(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def header(shape, descr="|u1"):
    """The head of an array file of any size, and no more."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        header((10**6, 10**4, 10**4)),  # 91 TiB
        header((3,)),
        header((2,), "|O"),
        b"\x93NUMPY\x01\x00\x10\x00{'descr': f(), } ",
        b"",
    ],
    ids=["bomb", "short", "objects", "code", "empty"],
)
def test_an_invalid_archive_of_images_is_refused(content, tmp_path):
    path = zip_with(tmp_path / "some.npz", **{"images.npy": content})
    with pytest.raises(UserError, match="cannot be read as an .npz archive"):
        pictures.read(path)


def test_members_of_an_archive_stay_inside(tmp_path):
    whole = header((1, 2, 2, 1)) + b"\0" * 4
    members = {"images.npy": whole, "../outside.npy": whole, "/tmp/outside.npy": whole}
    path = zip_with(tmp_path / "some.npz", **members)
    assert pictures.read(path).shape == (1, 2, 2, 1)
    assert [each.name for each in tmp_path.iterdir()] == ["some.npz"]


def test_a_broken_picture_is_refused(tmp_path):
    path = tmp_path / "some.png"
    path.write_bytes(pictures.png_bytes(np.zeros((8, 8, 1), np.uint8))[:40])
    with pytest.raises(UserError, match="cannot be read as one"):
        pictures.read(path)


def test_a_keras_archive_with_code_in_it_is_refused(tmp_path):
    latents = keras.Input((4,))
    made = keras.layers.Lambda(lambda x: keras.ops.reshape(x, (-1, 2, 2, 1)))(latents)
    model = GAN(keras.Model(latents, made), mlp.mlp_discriminator((2, 2, 1), (2,)))
    model.save(tmp_path / "some.keras")
    with pytest.raises(ValueError, match="safe"):
        keras.saving.load_model(tmp_path / "some.keras")
