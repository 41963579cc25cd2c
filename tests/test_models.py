"""The three models: their networks, what they accept, and what a Keras user does with them."""

import random
import re
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_training import (
    CLASSES,
    SHAPE,
    assert_same,
    batch,
    changed,
    labels_for,
    step,
    tiny,
    values,
)

from tfgan_mnist import CDCGAN, DCGAN, GAN
from tfgan_mnist.config import resolve
from tfgan_mnist.models import cdcgan, dcgan
from tfgan_mnist.models.mlp import mlp_discriminator, mlp_generator
from tfgan_mnist.training.build import build

FLAT, DENSE, CONVOLUTION = keras.layers.Flatten, keras.layers.Dense, keras.layers.Conv2D

# --- The networks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        # From the layers' shapes, so that a change of architecture is noticed.
        (GAN, (1_489_936, 533_505)),
        (DCGAN, (1_661_697, 978_769)),
        (CDCGAN, (682_241, 260_593)),
    ],
)
def test_a_models_defaults_are_its_recipe(kind, parameters):
    config = resolve({"model": kind.__name__.lower(), "steps_per_epoch": 9})
    by_default = kind().compile(decay_steps=9 * config.epochs)
    by_recipe = build(config, (28, 28, 1), 10)
    networks = by_default.generator, by_default.discriminator
    assert tuple(network.count_params() for network in networks) == parameters
    for network, other in zip(networks, (by_recipe.generator, by_recipe.discriminator)):
        layers = [str(layer.get_config() | {"name": ""}) for layer in network.layers]
        assert layers == [str(layer.get_config() | {"name": ""}) for layer in other.layers]
    of_default, of_recipe = (
        [each.get_config() | {"name": ""} for each in model.optimizer.optimizers]
        for model in (by_default, by_recipe)
    )
    assert str(of_default) == str(of_recipe)
    by_default.compile()  # whose learning rates stay
    for config_of, optimizer in zip(of_default, by_default.optimizer.optimizers):
        first = config_of["learning_rate"]["config"]["initial_learning_rate"]
        assert float(optimizer.learning_rate) == pytest.approx(first)
    assert by_default.ema == config.ema
    assert by_default.latent_dim == config.latent_dim == 100


def test_default_networks_fit_other_images_and_classes():
    assert DCGAN(image_shape=(64, 64, 3)).image_shape == (64, 64, 3)
    assert CDCGAN(num_classes=26, image_shape=(8, 8, 1)).num_classes == 26
    five = CDCGAN(cdcgan.cdcgan_generator((8, 8, 1), num_classes=5))
    assert (five.num_classes, five.image_shape) == (5, (8, 8, 1))
    packs = DCGAN(image_shape=(8, 8, 3), packing=2).discriminator
    assert packs.inputs[0].shape[1:] == (8, 8, 6)
    assert DCGAN(discriminator=packs, packing=2).image_shape == (8, 8, 3)


def test_the_seed_alone_determines_the_first_weights():
    first, other = GAN(seed=3), GAN(seed=4)
    random.random()
    before = random.getstate()
    again = GAN(seed=3)
    assert random.getstate() == before
    assert not changed(first.get_weights(), again.get_weights())
    assert changed(first.generator.get_weights(), other.generator.get_weights())


def test_without_hidden_dense_layers_dcgan_is_the_papers():
    """Its network at 64 pixels, at a 16th of its width, and its five guidelines."""
    options = {"width": 8, "kernel_size": 5, "hidden_dense": False}
    generator = dcgan.dcgan_generator((64, 64, 3), **options)
    discriminator = dcgan.dcgan_discriminator((64, 64, 3), **options)
    shapes = [tuple(layer.output.shape[1:]) for layer in generator.layers]
    path = [(4, 4, 64), (8, 8, 32), (16, 16, 16), (32, 32, 8), (64, 64, 3)]
    assert [shape for shape in dict.fromkeys(shapes) if len(shape) == 3] == path
    of_discriminator = [each for each in discriminator.layers if isinstance(each, CONVOLUTION)]
    assert [layer.filters for layer in of_discriminator] == [8, 16, 32, 64]
    layers = generator.layers + discriminator.layers
    kinds = {type(layer).__name__ for layer in layers}
    assert not {kind for kind in kinds if "Pool" in kind or "UpSampling" in kind}
    convolutions = (CONVOLUTION, keras.layers.Conv2DTranspose)
    assert {layer.strides for layer in layers if isinstance(layer, convolutions)} == {(2, 2)}
    # Dense layers are G's "project and reshape" and D's logit alone.
    assert sum(isinstance(layer, DENSE) for layer in layers) == 2
    normalised = [isinstance(layer, keras.layers.BatchNormalization) for layer in layers]
    ends = len(generator.layers)
    assert any(normalised[:ends]) and any(normalised[ends:])
    assert not any(normalised[ends - 2 : ends + 3])  # G's output and D's input
    slopes = {getattr(layer, "negative_slope", 0.2) for layer in discriminator.layers}
    assert slopes == {0.2}


@pytest.mark.parametrize(("side", "convolutions"), [(28, 2), (64, 3), (16, 1), (8, 1)])
def test_hidden_dense_layers(side, convolutions):
    """G begins with one; one is D's last hidden layer, and the only one with batch norm."""
    generator = dcgan.dcgan_generator((side, side, 1), width=4)
    discriminator = dcgan.dcgan_discriminator((side, side, 1), width=4)
    first, normalised = generator.layers[1:3]
    assert first.units == 2 * generator.layers[5].target_shape[-1]
    assert isinstance(normalised, keras.layers.BatchNormalization)
    kinds = [type(layer).__name__ for layer in discriminator.layers[1:]]
    convolution, dense = ["Conv2D", "LeakyReLU"], ["Dense", "BatchNormalization", "LeakyReLU"]
    assert kinds == [*convolution * convolutions, "Flatten", *dense, "Dense"]
    assert discriminator.layers[-4].units == 4 * 2**convolutions


@pytest.mark.parametrize(
    "options",
    [
        {"class_head": True},
        {"conditioning": "planes", "embedding_dim": 5, "hidden_dense": True},
        {"spectral_norm": True, "d_batch_norm": False},
    ],
)
def test_labels_reach_both_networks(options):
    model = tiny("cdcgan", **options)
    images, latents = tf.constant(batch()[0]), model.latents(8)
    ones, twos = tf.fill([8], 1), tf.fill([8], 2)
    assert changed([model.sample(latents, ones)], [model.sample(latents, twos)])
    logits = [np.array(model.discriminate(images, labels).logits) for labels in (ones, twos)]
    assert logits[0].shape == (8,) and changed([logits[0]], [logits[1]])


def test_temperature_widens_the_latents_of_samples_alone():
    plain, warm = (tiny("cdcgan", temperature=factor) for factor in (1.0, 1.5))
    warm.set_weights(plain.get_weights())
    latents, labels = plain.latents(8), tf.range(8) % 3
    given = tf.constant(latents), labels
    np.testing.assert_array_equal(*(each.generate(*given, training=True) for each in (plain, warm)))
    samples = warm.sample(latents, labels)
    np.testing.assert_allclose(samples, plain.sample(1.5 * latents, labels), rtol=1e-4, atol=1e-5)
    assert changed([samples], [plain.sample(latents, labels)])


def test_a_class_head_learns_and_is_reported():
    model = tiny("cdcgan", class_head=True, d_learning_rate=5e-3)
    labels = np.arange(60, dtype=np.int32) % 3
    images = np.full((60, *SHAPE), -1.0, np.float32)
    for row, label in enumerate(labels):
        images[row, label * 3 : label * 3 + 2] = 1.0  # a bar at a third of the height
    logs = model.fit(images, labels, batch_size=20, epochs=20, verbose=0).history
    assert logs["d_class_accuracy"][-1] > 0.95
    assert model.evaluate(images, labels, verbose=0, return_dict=True)["d_class_accuracy"] > 0.9


# --- Networks and arguments that do not fit ------------------------------------------------------


def discriminator(*layers, shape=SHAPE):
    return keras.Sequential([keras.Input(shape), *layers], name="discriminator")


def gan(discriminator, **options):
    return GAN(mlp_generator(SHAPE), discriminator, **options)


SIGMOID = keras.Sequential([keras.Input((64,)), DENSE(1, "sigmoid")])
TEN_CLASSES, THREE_CLASSES = {"width": 4}, {"width": 4, "num_classes": 3}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gan(mlp_discriminator((8, 8, 3))), "inputs of shapes {'images': (8, 8, 1)"),
        (lambda: gan(mlp_discriminator(SHAPE), packing=2), "inputs of shapes {'images': (8, 8, 2)"),
        (lambda: gan(discriminator(FLAT(), DENSE(2))), "outputs [(1,)]; received"),
        (lambda: gan(discriminator(FLAT(), SIGMOID)), "received the output of a sigmoid"),
        (lambda: GAN(discriminator(FLAT())), "expected images (H, W, C); received (64,)"),
        (
            lambda: GAN(discriminator(CONVOLUTION(1, 1))),
            "expected inputs of shapes {'latents': (1,",
        ),
        (
            lambda: CDCGAN(mlp_generator()),
            "generator: expected inputs of shapes {'latents': (100,), 'labels': ()}",
        ),
        (
            lambda: CDCGAN(
                cdcgan.cdcgan_generator(**THREE_CLASSES), cdcgan.cdcgan_discriminator(**TEN_CLASSES)
            ),
            "num_classes: expected 10 in both networks; received 3, 10",
        ),
        (
            lambda: cdcgan.cdcgan_discriminator(conditioning="planes", class_head=True),
            "class_head: expected conditioning=projection",
        ),
        (lambda: dcgan.dcgan_generator((30, 30, 1)), "multiple of 4, at least 8; received 30x30"),
        (
            lambda: dcgan.dcgan_discriminator(batch_norm=False),
            "hidden_dense: expected",
        ),
        (lambda: GAN(packing=0), "packing: expected >= 1"),
        (lambda: CDCGAN(packing=2), "1 for a conditional model; received 2"),
        (lambda: GAN(ema=1.0), "ema: expected 0 <= ema < 1; received 1.0"),
    ],
)
def test_networks_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "huber"}, "loss: expected one of minimax"),
        ({"discriminator_steps": 0}, "discriminator_steps: expected >= 1; received 0"),
        ({"r1": 1.0}, "r1: expected a discriminator without batch norm"),
        ({"loss": "wasserstein"}, "gradient_penalty: expected a discriminator without batch norm"),
        ({"label_smoothing": 0.1, "loss": "hinge"}, "label_smoothing: expected a loss of minimax"),
        ({"augment": "color,flip"}, "augment: expected some of"),
        ({"d_optimizer": "adam", "g_optimizer": "adam", "decay_steps": 9}, "decay_steps: expected"),
        ({"d_optimizer": "adam"}, "expected both d_optimizer and g_optimizer, or none"),
        (
            dict.fromkeys(("d_optimizer", "g_optimizer"), keras.optimizers.Adam()),
            "g_optimizer: expected an optimizer of its own",
        ),
    ],
)
def test_wrong_compile_arguments_are_refused(arguments, message):
    inner = [keras.Input((64,)), keras.layers.BatchNormalization(), DENSE(1)]
    with pytest.raises(ValueError, match=message):
        gan(discriminator(FLAT(), keras.Sequential(inner))).compile(**arguments)


# --- Images and labels: the door -----------------------------------------------------------------


@pytest.fixture(scope="module")
def conditional():
    """A model that no test trains."""
    return tiny("cdcgan", class_head=True)


def test_pixels_gray_images_and_columns_of_labels_are_converted(conditional):
    """Of a pale sketch, whose pixels may all lie in [0, 1] of [-1, 1]."""
    pixels = np.random.default_rng(0).integers(140, 256, (8, *SHAPE)).astype(np.uint8)
    labels = labels_for(conditional)
    expected = conditional.evaluate(pixels / 127.5 - 1, labels, verbose=0)
    assert np.isfinite(list(expected.values())).all()
    for x, y in ((pixels, labels), (pixels[..., 0].astype(np.int64), labels[:, None])):
        assert conditional.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (lambda x: (x - x.min()) / 2, lambda y: y, r"received 0 to .*, which is \[0, 1\]. Give"),
        (lambda x: 127.5 * (x + 1), lambda y: y, r"expected floats in \[-1, 1\], or integers in 0"),
        (lambda x: (300 * x).astype(np.int32), lambda y: y, r"expected integers in 0..255"),
        (lambda x: (x > 0).astype(np.uint8), lambda y: y, r"in 0..255; received 0..1"),
        (
            lambda x: x[:, :7],
            lambda y: y,
            r"shape \(None, 8, 8, 1\); received \(.*, 7, 8, 1",
        ),
        (lambda x: np.repeat(x, 3, -1), lambda y: y, r"received \(.*, 8, 8, 3\)"),
        (lambda x: x, lambda y: y + 1, r"labels: expected .* in 0..2; received 1..3"),
        (lambda x: x, lambda y: y - 1, r"labels: expected .* in 0..2; received -1..1"),
        (lambda x: x, lambda y: y + 0.9, "labels: expected integers"),
        (lambda x: x, lambda y: np.eye(3)[y], "labels: expected integers"),
        (lambda x: x, None, "expected .images, labels., one integer an image; received none"),
    ],
)
def test_other_images_and_labels_are_refused_before_the_first_step(
    images, labels, message, conditional
):
    x, y = batch()
    data = (images(x),) if labels is None else (images(x), labels(y))
    in_batches = tf.data.Dataset.from_tensor_slices(data if labels else data[0]).batch(8)
    for given in (data, (in_batches,)):
        with pytest.raises(ValueError, match=message):
            conditional.fit(*given, verbose=0)
    assert conditional.steps_done == 0


def test_what_the_first_batch_does_not_show_ends_the_step():
    images, labels = batch(16)
    labels[-1] = CLASSES
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"labels: expected integers"):
        tiny("cdcgan").fit(data, verbose=0)


@pytest.mark.parametrize(
    ("latents", "labels", "message"),
    [
        (2, [0, 3], "expected 2 integers in 0..2; received 0..3"),
        (2, [0], r"received int64 of shape \(1,\)"),
        (2, [0.0, 1.0], "received float64"),
        (np.zeros((2, 6)), None, "expected 2 integers in 0..2; received none"),
        (np.zeros((2, 5)), [0, 1], r"expected shape \(N, 6\); received \(2, 5\)"),
    ],
)
def test_wrong_latents_and_labels_of_samples_are_refused(latents, labels, message, conditional):
    with pytest.raises(ValueError, match=message):
        conditional.sample(latents, labels)


def test_needless_labels_are_refused():
    with pytest.raises(ValueError, match="labels: expected none"):
        tiny("gan").sample(2, [0, 1])


# --- What a Keras user does with a model ---------------------------------------------------------


def test_ten_lines_in_a_notebook():
    images, labels = batch(16, (28, 28, 1), 10)
    model = CDCGAN(cdcgan.cdcgan_generator(width=4), cdcgan.cdcgan_discriminator(width=4))
    history = model.compile(loss="hinge").fit(images, labels, batch_size=8, verbose=0).history
    assert set(history) == {*model.log_keys, "loss"}
    digits = model.sample(model.latents(4), labels=[2, 0, 2, 6])
    assert digits.shape == (4, 28, 28, 1) and np.abs(digits).max() <= 1
    by_number = model.sample(12)
    np.testing.assert_allclose(
        by_number, model.sample(model.latents(12), [*range(10), 0, 1]), atol=1e-6
    )


def test_samples_come_from_the_average_and_training_keeps_the_last_weights():
    model = tiny("gan", ema=0.15, g_learning_rate=0.05)
    trajectory = []
    for _ in range(4):
        step(model)
        trajectory.append(values(model.generator.trainable_variables))
    average = trajectory[0]
    # It grows up to the decay that was asked for: 1 / (1 + 9), then 2 / (2 + 9) would be more.
    for decay, weights in zip((0.1, 0.15, 0.15), trajectory[1:], strict=True):
        average = [decay * a + (1 - decay) * w for a, w in zip(average, weights, strict=True)]
    of_network = dict(zip(map(id, model.generator.weights), model.averaged_generator.weights))
    averages = [of_network[id(weight)] for weight in model.generator.trainable_variables]
    assert_same(values(averages), average, rtol=1e-5, atol=1e-7)
    statistics = model.generator.non_trainable_weights
    assert not changed(values(statistics), values(of_network[id(each)] for each in statistics))
    latents = model.latents(2)
    samples = model.sample(latents)
    np.testing.assert_array_equal(samples, model.averaged_generator(latents))
    assert changed([samples], [np.array(model.generator(latents))])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gan", {"packing": 2, "gradient_penalty": 1.0}),
        ("dcgan", {"packing": 2, "augment": "translation,color", "discriminator_steps": 2}),
        ("cdcgan", {"embedding_dim": 4}),
    ],
)
def test_every_way_to_images_gives_the_same_and_a_file_trains_on(name, options, tmp_path):
    """`sample`, `predict`, a call, and `.keras` files loaded with and without `compile`."""
    model = tiny(name, ema=0.9, d_dropout=0.0, **options)
    fit = {"batch_size": 4, "shuffle": False, "verbose": 0}
    model.fit(*batch(11), **fit)  # the last batch has three images
    latents, labels = model.latents(8), labels_for(model)
    samples = model.sample(latents, labels)
    assert model.image_shape == samples.shape[1:] == SHAPE
    inputs = latents if labels is None else [latents, labels]
    for images in (model.predict(inputs, verbose=0), model(inputs)):
        np.testing.assert_allclose(images, samples, atol=1e-6)
    model.save(path := tmp_path / "model.keras")
    model.save_weights(weights := tmp_path / "model.weights.h5")
    other = tiny(name, seed=1, ema=0.9, d_dropout=0.0, **options)
    other.load_weights(weights)
    loaded = keras.saving.load_model(path)
    for each in (other, loaded, keras.saving.load_model(path, compile=False)):
        np.testing.assert_array_equal(each.sample(latents, labels), samples)
    for key in model.get_config().keys() - {"generator", "discriminator"}:
        assert loaded.get_config()[key] == model.get_config()[key]
    assert (loaded.steps_done, loaded.skipped_updates) == (3, 0)
    logs = [each.fit(*batch(11), **fit).history for each in (model, loaded)]
    assert logs[0] == logs[1] and np.isfinite(list(logs[0].values())).all()
    assert not changed(model.get_weights(), loaded.get_weights())


def test_set_weights_and_early_stopping_reach_the_samples():
    model, latents = tiny("gan", ema=0.5), tiny("gan").latents(3)

    class Scores(keras.callbacks.Callback):
        """The first epoch is the best one."""

        def on_epoch_end(self, epoch, logs=None):
            logs["score"] = -epoch
            if epoch == 0:
                self.best = self.model.get_weights(), self.model.sample(latents)

    scores = Scores()
    stop = keras.callbacks.EarlyStopping("score", mode="max", patience=2, restore_best_weights=True)
    model.fit(batch(16)[0], batch_size=8, epochs=5, verbose=0, callbacks=[scores, stop])
    assert model.steps_done == 2  # restored with the weights
    weights, samples = scores.best
    np.testing.assert_array_equal(model.sample(latents), samples)
    step(model)
    assert changed([samples], [model.sample(latents)])
    model.set_weights(weights)
    np.testing.assert_array_equal(model.sample(latents), samples)


@pytest.mark.parametrize("when", ["before compile", "after compile"])
@pytest.mark.parametrize("which", ["first layer of generator", "generator", "discriminator"])
def test_frozen_layers_stay_as_they_are(which, when):
    model = tiny("gan", ema=0.5)
    frozen = getattr(model, which.split()[-1])
    layer = frozen.layers[1] if which.startswith("first") else frozen
    layer.trainable = False
    if when == "before compile":
        model.compile()
    trained = [w for w in (*model.generator.weights, *model.discriminator.weights) if w.trainable]
    kept = [w for w in layer.weights if "moving" not in w.path]  # batch norm's statistics
    before, kept_before = values(trained), values(kept)
    step(model)
    step(model)
    assert not changed(kept_before, values(kept))
    assert changed(before, values(trained))
    pairs = zip(model.generator.weights, model.averaged_generator.weights)
    of_network, of_average = zip(*(pair for pair in pairs if not pair[0].trainable))
    assert not changed(values(of_network), values(of_average))


def test_sampling_from_threads_while_one_trains_changes_no_weight():
    model, alone = tiny("gan", ema=0.5), tiny("gan", ema=0.5)
    latents = model.latents(20)
    fit = {"batch_size": 8, "epochs": 5, "verbose": 0, "shuffle": False}
    alone.fit(batch(16)[0], **fit)
    ended, problems = threading.Event(), []

    def draw():
        while not ended.is_set():
            if not np.isfinite(model.sample(latents)).all():
                problems.append("not finite")

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    model.fit(batch(16)[0], **fit)
    ended.set()
    for thread in threads:
        thread.join()
    assert not problems
    assert not changed(model.get_weights(), alone.get_weights())
    np.testing.assert_array_equal(model.sample(latents), alone.sample(latents))


@pytest.mark.parametrize("options", [{"packing": 2}, {"model": "cdcgan"}])
def test_logits_are_the_discriminators_in_inference_mode(options):
    model, images = tiny(**{"model": "gan", "d_dropout": 0.5} | options), batch(5)[0]
    labels = labels_for(model, 5)
    given = None if labels is None else tf.constant(labels)
    expected = np.array(model.discriminate(model.packed(tf.constant(images)), given).logits)
    expected = np.repeat(expected, model.packing)[:5]  # of packs one for each image
    np.testing.assert_allclose(model.logits(images, labels), expected, atol=1e-6)


def test_one_colour_image_is_the_same_alone_and_in_a_batch():
    model = tiny("dcgan", shape=(8, 8, 3))
    step(model, batch(shape=(8, 8, 3)))
    latents = model.latents(7)
    samples = model.sample(latents)
    assert samples.shape == (7, 8, 8, 3)
    np.testing.assert_allclose(samples[3:4], model.sample(latents[3:4]), atol=1e-5)
