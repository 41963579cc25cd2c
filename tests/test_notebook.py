"""The names of the package itself, as a notebook uses them in anybody's `fit`."""

import numpy as np
import pytest
from PIL import Image
from tiny_training import assert_same, batch, step, tiny

import tfgan_mnist
from tfgan_mnist import (
    Evaluation,
    ExportSavedModel,
    SampleGrid,
    data,
    load_model,
    load_run,
    runs,
    score,
    show,
)
from tfgan_mnist.config import resolve
from tfgan_mnist.errors import UserError
from tfgan_mnist.evaluation import protocol
from tfgan_mnist.training import checkpoints


@pytest.fixture
def digits(mnist):
    """MNIST cut to what a callback needs."""
    few = [data.Split(*(part[:1000] for part in split)) for split in (mnist.train, mnist.test)]
    return mnist._replace(train=few[0], test=few[1])


def test_every_name_of_the_package_is_there():
    assert all(hasattr(tfgan_mnist, name) for name in tfgan_mnist.__all__)
    with pytest.raises(AttributeError, match="no attribute 'WGAN'"):
        _ = tfgan_mnist.WGAN


def test_callbacks_need_no_run_folder(digits, tmp_path):
    """And what they report is in the history."""
    model = tiny(shape=(28, 28, 1), classes=10)
    export = ExportSavedModel(tmp_path / "exports")
    callbacks = [SampleGrid(str(tmp_path)), Evaluation(digits, every=2, num=300), export]
    history = model.fit(
        digits.train.images, epochs=4, batch_size=500, callbacks=callbacks, verbose=0
    ).history
    assert len(history["d_loss"]) == 4
    assert len(history["fid"]) == len(history["recall"]) == 2
    assert np.isfinite(history["fid"]).all()
    assert (export.exported / "saved_model.pb").exists()
    grids = [f"epoch_{epoch:03d}.png" for epoch in range(5)]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == grids


def test_scores_of_a_model_and_of_images_beside_real_ones(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))  # where baselines are kept
    real = score(digits.train.images, digits, labels=digits.train.labels)
    assert real["fid"].samples == pytest.approx(real["fid"].real, rel=0.5)
    assert real["label_accuracy"].samples > 0.99
    model = tiny("cdcgan", shape=(28, 28, 1), classes=10)
    of_model = score(model, digits, num=1000)
    labels = protocol.draw_labels(digits.train.labels, 1000, seed=0)  # as frequent as in the data
    images = model.sample(model.latents(1000), labels)
    of_images = score(images, digits, labels=labels)
    assert of_model == of_images
    assert of_model["fid"].samples > 100 * of_model["fid"].real
    with pytest.raises(UserError, match="at least 1,000 images; received 10"):
        score(images[:10], digits)
    for wrong in ((images + 1) * 127.5, (images - images.min()) / np.ptp(images)):
        with pytest.raises(ValueError, match="images: expected floats in"):
            score(wrong, digits)


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 1), (np.float32, 3)])
def test_images_are_shown_in_a_grid(dtype, channels):
    images = np.zeros((6, 8, 8, channels), dtype)
    picture = show(images, columns=3)
    assert isinstance(picture, Image.Image)
    assert picture.size == show(images[:5], columns=3).size  # three columns, two rows
    assert picture.width > picture.height


def test_models_are_loaded_from_files_and_runs(tmp_path):
    model = tiny("cdcgan")
    step(model)
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    assert_same(loaded.get_weights(), model.get_weights())
    settings = resolve(
        {"model": "cdcgan", "latent_dim": 6, "steps_per_epoch": 200, "g_width": 4, "d_width": 4}
    )
    run = runs.create(tmp_path, settings, runs.DataFacts((8, 8, 1), 3, 8))
    checkpoints.save(run, model)
    assert_same(load_run(str(run)).sample(4), model.sample(4), atol=1e-6)
    images, labels = batch()
    loaded.fit(images, labels, verbose=0)
