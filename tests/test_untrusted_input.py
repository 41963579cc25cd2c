"""Files of other people: runs, archives, pictures, models. They are read, never executed."""

import io
import json
import zipfile

import keras
import numpy as np
import pytest

from tfgan_mnist import runs
from tfgan_mnist.data import pictures
from tfgan_mnist.errors import UserError
from tfgan_mnist.evaluation import comparison
from tfgan_mnist.models import mlp
from tfgan_mnist.models.gan import GAN


@pytest.fixture
def run(tmp_path):
    return runs.create(tmp_path / "runs", runs.Config(), runs.DataFacts((8, 8, 1), 10, 64))


@pytest.mark.parametrize("row", ["1;2", "1,2,3", "1,many"])
def test_a_broken_table_is_refused_by_name(row, run):
    (run / runs.EVALUATIONS).write_text(f"epoch,fid\n{row}\n")
    with pytest.raises(UserError, match=r"evaluations.csv: expected a table of numbers"):
        runs.best_step(run)


@pytest.mark.parametrize(
    "samples", [None, {"scores": {}}, {"real": 1, "scores": {"fid": "x"}, "floor": {}}]
)
def test_incomplete_figures_are_computed_anew(samples, run):
    (run / runs.METRICS).write_text(json.dumps({"samples": samples}))
    assert not comparison.is_complete(runs.read_metrics(run)["samples"])


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
    ],
    ids=["bomb", "short", "objects"],
)
def test_an_invalid_archive_of_images_is_refused(content, tmp_path):
    with zipfile.ZipFile(tmp_path / "some.npz", "w") as archive:
        archive.writestr("images.npy", content)
    with pytest.raises(UserError, match=r"some\.npz: (cannot be read|expected images)"):
        pictures.read(tmp_path / "some.npz")


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
