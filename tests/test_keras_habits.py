"""What a user of Keras is used to: callbacks, compile's arguments, saving, a fresh process."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_training import assert_same, batch, step, tiny

from tfgan_mnist import GAN
from tfgan_mnist.models import losses, registration

IMAGES, _ = batch(16)


def rates(model) -> list[float]:
    return [float(each.learning_rate) for each in (model.d_optimizer, model.g_optimizer)]


HALVING = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
# No loss falls by 9 from one epoch to the next.
ON_PLATEAU = keras.callbacks.ReduceLROnPlateau("d_loss", 0.1, 1, mode="min", min_delta=9)


@pytest.mark.parametrize(
    ("callback", "factor"), [(HALVING, 1 / 4), (ON_PLATEAU, 0.1)], ids=["schedule", "plateau"]
)
def test_keras_sets_both_learning_rates(callback, factor):
    model = tiny(final_learning_rate=1.0)
    before = rates(model)
    history = model.fit(IMAGES, epochs=2, batch_size=8, callbacks=[callback], verbose=0).history
    np.testing.assert_allclose(rates(model), np.multiply(before, factor), rtol=1e-5)
    assert {"learning_rate_discriminator", "learning_rate_generator"} <= set(history)


def discriminator_loss(real, fake):
    return tf.nn.softplus(-real) + tf.nn.softplus(fake)


def generator_loss(fake, real=None):
    return tf.nn.softplus(-fake)


OWN = (discriminator_loss, generator_loss)


@pytest.mark.parametrize("loss", [OWN, losses.Objective(*OWN, paired=True)], ids=["pair", "full"])
def test_an_objective_of_ones_own(loss, tmp_path):
    """It trains as the same objective of ours does, and goes through a file."""
    own, ours = tiny(), tiny()
    own.compile(loss=loss)
    ours.compile(loss="non_saturating")
    assert step(own) == step(ours)
    own.save(tmp_path / "own.keras")
    functions = {function.__name__: function for function in OWN}
    loaded = keras.saving.load_model(tmp_path / "own.keras", custom_objects=functions)
    own.reset_metrics()
    assert step(loaded) == step(own)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": "adam"}, "optimizer: expected none. Two networks have d_optimizer"),
        ({"metrics": ["mae"]}, "metrics: expected none"),
        ({"loss": discriminator_loss}, "loss: expected one of .* or a pair of functions"),
        ({"loss": OWN, "label_smoothing": 0.1}, "label_smoothing: expected 0"),
    ],
)
def test_what_two_networks_give_no_meaning_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny("gan").compile(**arguments)


@pytest.mark.parametrize("weights", [{"sample_weight": np.ones(16)}, {"class_weight": {0: 1.0}}])
def test_weights_of_images_are_refused(weights):
    with pytest.raises(ValueError, match="class_weight: expected none"):
        tiny("gan").fit(IMAGES, np.zeros(16, np.int32), verbose=0, **weights)


def test_other_file_formats_are_refused_with_the_one_to_use(tmp_path):
    model = tiny("gan")
    for name in ("model.h5", "model"):
        with pytest.raises(ValueError, match=r"\.keras"):
            model.save(tmp_path / name)
    with pytest.raises(ValueError, match=r"\.keras"):
        keras.saving.save_model(model, str(tmp_path / "model.h5"))


def test_keras_exports_the_averaged_generator(tmp_path):
    model = tiny("dcgan")
    model.export(tmp_path / "export", verbose=False)
    latents = model.latents(4)
    loaded = tf.saved_model.load(str(tmp_path / "export"))
    np.testing.assert_allclose(loaded.serve(latents), model.sample(latents), atol=1e-6)


def test_a_fresh_process_loads_a_file(tmp_path, run_python, monkeypatch):
    """Also where another backend is chosen, as long as Keras is not imported yet."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    tiny("cdcgan").save(path := tmp_path / "cdcgan.keras")
    load = "import tfgan_mnist, keras; print(type(keras.saving.load_model({!r})).__name__)"
    assert run_python(load.format(str(path))).split()[-1] == "CDCGAN"


def test_keras_on_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(ImportError, match="expected Keras on TensorFlow"):
        registration.register()


def test_images_are_channels_last_whatever_keras_json_says():
    expected = tiny("cdcgan")
    keras.config.set_image_data_format("channels_first")
    try:
        received = tiny("cdcgan")
    finally:
        keras.config.set_image_data_format("channels_last")
    assert step(received) == step(expected)
    assert_same(received.get_weights(), expected.get_weights(), rtol=0)


def test_evaluate_names_its_values():
    model = tiny("dcgan")
    named = model.evaluate(IMAGES, verbose=0)
    assert set(named) == {*model.log_keys, "loss"} - {"d_gradient_norm", "g_gradient_norm"}
    plain = model.evaluate(IMAGES, verbose=0, return_dict=False)
    assert sorted(plain) == pytest.approx(sorted(named.values()))


def test_summary_names_the_networks(capsys):
    GAN(name="perceptrons").summary()
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("perceptrons", "generator", "discriminator"))
