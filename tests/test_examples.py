"""The files that people copy: they train as the package does, and stay short."""

import importlib.util
import itertools
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_training import assert_same

from tfgan_mnist import CDCGAN, GAN

EXAMPLES = Path(__file__).parents[1] / "examples"
PAIRS = {"minimal_gan": ("GAN", GAN), "minimal_cgan": ("ConditionalGAN", CDCGAN)}


def imported(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def batches(name, num=5):
    """(images (8, 28, 28, 1) in [-1, 1] [, labels (8,)]) for each step."""
    random = np.random.default_rng(0)
    for _ in range(num):
        images = random.uniform(-1, 1, (8, 28, 28, 1)).astype(np.float32)
        labels = random.integers(10, size=8).astype(np.int32)
        yield (images, labels) if name == "minimal_cgan" else (images,)


@pytest.fixture(params=PAIRS)
def name(request):
    return request.param


@pytest.fixture
def example(name):
    """The example's module, and its compiled model with few channels."""
    keras.utils.set_random_seed(0)
    module = imported(name)
    networks = module.build_generator(width=4), module.build_discriminator(width=4)
    model = getattr(module, PAIRS[name][0])(*networks)
    model.compile(*optimizers())
    return module, model


def optimizers():
    """A new pair, of D and of G, with learning rates high enough to tell each update."""
    return keras.optimizers.Adam(2e-3, 0.5), keras.optimizers.Adam(4e-3, 0.5)


def test_an_example_trains_as_the_package_does(name, example, monkeypatch):
    """The same losses and weights, step by step, from the same weights, images and latents."""
    _, model = example
    theirs = PAIRS[name][1](*map(keras.models.clone_model, (model.generator, model.discriminator)))
    theirs.generator.set_weights(model.generator.get_weights())
    theirs.discriminator.set_weights(model.discriminator.get_weights())
    theirs.compile(*optimizers())
    steps = itertools.count()
    latents = [theirs._draw_latents(8, step) for step in range(5)]
    monkeypatch.setattr(keras.random, "normal", lambda shape: latents[next(steps)])
    for batch in batches(name):
        data = tuple(map(tf.constant, batch)) if len(batch) > 1 else tf.constant(batch[0])
        theirs.reset_metrics()
        model.reset_metrics()
        ours, expected = model.train_step(data), theirs.train_step(data)
        for loss in ("d_loss", "g_loss"):
            assert float(ours[loss]) == pytest.approx(float(expected[loss]), rel=1e-4)
    assert_same(
        model.discriminator.trainable_weights, theirs.discriminator.trainable_weights, atol=1e-4
    )
    assert_same(model.generator.trainable_weights, theirs.generator.trainable_weights, atol=1e-4)


def test_fit_reports_means_of_an_epoch_and_draws_a_picture(name, example, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    module, model = example
    data = [np.concatenate(arrays) for arrays in zip(*batches(name))]
    grid = module.SampleGrid()
    history = model.fit(*data, batch_size=8, epochs=2, callbacks=[grid], verbose=0).history
    assert history.keys() == {"d_loss", "g_loss"}
    assert np.isfinite(list(history.values())).all()
    assert model.d_mean.count == 5  # steps: the mean is of this epoch alone
    pictures = sorted(tmp_path.glob("samples-*.png"))
    assert [path.name for path in pictures] == ["samples-1.png", "samples-2.png"]
    picture = keras.utils.img_to_array(keras.utils.load_img(pictures[1], color_mode="grayscale"))
    assert picture.shape == ((280, 224, 1) if name == "minimal_cgan" else (224, 224, 1))
    model.generator.save("generator.keras")
    same = keras.saving.load_model("generator.keras")
    assert_same(same.get_weights(), model.generator.get_weights())


def test_an_example_is_one_short_file_of_its_own(name):
    source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 100
    assert "import tfgan_mnist" not in source
    assert "from tfgan_mnist" not in source
