"""The three models: their networks, what they accept, and what a Keras user does with them."""

import copy
import random
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_training import (
    CLASSES,
    MODELS,
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
from tfgan_mnist.models.layers import BatchNormalization
from tfgan_mnist.models.mlp import mlp_discriminator, mlp_generator
from tfgan_mnist.training.build import build

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
        layers = [layer.get_config() | {"name": ""} for layer in network.layers]
        others = [layer.get_config() | {"name": ""} for layer in other.layers]
        assert [str(a) for a in layers] == [str(b) for b in others]
    for which in ("d_optimizer", "g_optimizer"):
        one, other = (getattr(model, which) for model in (by_default, by_recipe))
        rates, rates_of_other = (
            each.get_config()["learning_rate"]["config"] for each in (one, other)
        )
        assert rates == pytest.approx(rates_of_other)
        assert (one.beta_1, one.beta_2) == (other.beta_1, other.beta_2)
        rate = float(getattr(kind().compile(), which).learning_rate)  # which stays
        assert rate == pytest.approx(rates["initial_learning_rate"])
    assert by_default.ema == config.ema
    assert by_default.latent_dim == config.latent_dim == 100


def test_default_networks_fit_other_images_and_classes():
    assert DCGAN(image_shape=(64, 64, 3)).image_shape == (64, 64, 3)
    letters = CDCGAN(num_classes=26)
    assert letters.num_classes == 26
    assert letters.sample(letters.latents(2), [0, 25]).shape == (2, 28, 28, 1)
    own = CDCGAN(cdcgan.cdcgan_generator(num_classes=5), image_shape=(28, 28, 1))
    assert own.num_classes == 5


def test_the_seed_alone_determines_the_first_weights():
    first, other = DCGAN(seed=3), DCGAN(seed=4)
    random.random()
    before = random.getstate()
    again = DCGAN(seed=3)
    assert random.getstate() == before
    assert not changed(first.get_weights(), again.get_weights())
    assert changed(first.generator.get_weights(), other.generator.get_weights())


def test_the_papers_network_at_64_pixels():
    options = {"width": 128, "kernel_size": 5, "hidden_dense": False}
    generator = dcgan.dcgan_generator((64, 64, 3), **options)
    shapes = [tuple(layer.output.shape[1:]) for layer in generator.layers]
    path = [(4, 4, 1024), (8, 8, 512), (16, 16, 256), (32, 32, 128), (64, 64, 3)]
    assert [shape for shape in dict.fromkeys(shapes) if len(shape) == 3] == path
    layers = dcgan.dcgan_discriminator((64, 64, 3), **options).layers
    filters = [layer.filters for layer in layers if isinstance(layer, keras.layers.Conv2D)]
    assert filters == [128, 256, 512, 1024]


def test_without_hidden_dense_layers_dcgan_keeps_the_five_guidelines():
    generator = dcgan.dcgan_generator(hidden_dense=False)
    discriminator = dcgan.dcgan_discriminator(hidden_dense=False)
    layers = generator.layers + discriminator.layers
    kinds = {type(layer).__name__ for layer in layers}
    assert not {kind for kind in kinds if "Pool" in kind or "UpSampling" in kind}
    convolutions = (keras.layers.Conv2D, keras.layers.Conv2DTranspose)
    assert {layer.strides for layer in layers if isinstance(layer, convolutions)} == {(2, 2)}
    # Dense layers are G's "project and reshape" and D's logit alone.
    assert sum(isinstance(layer, keras.layers.Dense) for layer in layers) == 2
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


def test_label_planes_are_one_hot_at_every_pixel():
    labels = np.array([3, 0], np.int32)
    images = np.zeros((2, 4, 4, 1), np.float32)
    planes = np.array(cdcgan.with_planes(images, keras.ops.one_hot(labels, 5)))[..., 1:]
    for row, label in enumerate(labels):
        np.testing.assert_array_equal(planes[row], np.tile(np.eye(5)[label], (4, 4, 1)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"conditioning": "planes", "embedding_dim": 5},
        {"class_head": True},
        {"spectral_norm": True, "d_batch_norm": False},
        {"hidden_dense": True, "conditioning": "planes"},
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


def nested_batch_norm():
    inner = keras.Sequential([keras.Input((64,)), BatchNormalization(), keras.layers.Dense(1)])
    return discriminator(keras.layers.Flatten(), inner)


FLAT, DENSE = keras.layers.Flatten, keras.layers.Dense


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: GAN(mlp_generator((8, 8, 3)), mlp_discriminator(SHAPE)),
            r"expected images of one shape; received generator \(8, 8, 3\), discriminator",
        ),
        (
            lambda: GAN(mlp_generator(SHAPE), image_shape=(28, 28, 1)),
            r"received image_shape \(28, 28, 1\), generator \(8, 8, 1\)",
        ),
        (
            lambda: GAN(mlp_generator(SHAPE), discriminator(FLAT(), DENSE(1, "sigmoid"))),
            "expected logits.*received the output of a sigmoid",
        ),
        (
            lambda: GAN(
                mlp_generator(SHAPE),
                discriminator(FLAT(), keras.Sequential([keras.Input((64,)), DENSE(1, "sigmoid")])),
            ),
            "received the output of a sigmoid",
        ),
        (
            lambda: GAN(mlp_generator(SHAPE), discriminator(FLAT(), DENSE(2))),
            r"expected logits of shape \(B, 1\); received \(None, 2\)",
        ),
        (
            lambda: GAN(mlp_generator(SHAPE), discriminator(keras.layers.Conv2D(1, 3))),
            r"expected logits of shape \(B, 1\); received \(None, 6, 6, 1\)",
        ),
        (
            lambda: GAN(discriminator(keras.layers.Conv2D(1, 1)), mlp_discriminator(SHAPE)),
            r"expected latents of shape \(B, Z\)",
        ),
        (
            lambda: CDCGAN(mlp_generator(SHAPE), mlp_discriminator(SHAPE)),
            "generator: expected the inputs latents, labels; received 1",
        ),
        (
            lambda: CDCGAN(
                cdcgan.cdcgan_generator(num_classes=3), cdcgan.cdcgan_discriminator(num_classes=4)
            ),
            "num_classes: expected 4 in both networks; received 3, 4",
        ),
        (
            lambda: CDCGAN(
                cdcgan.cdcgan_generator(),
                cdcgan.cdcgan_discriminator(class_head=True),
                num_classes=26,
            ),
            "num_classes: expected 26 in both networks; received 10",
        ),
        (
            lambda: cdcgan.cdcgan_discriminator(conditioning="planes", class_head=True),
            "class_head: expected conditioning=projection",
        ),
        (lambda: dcgan.dcgan_generator((30, 30, 1)), "multiple of 4, at least 8; received 30x30"),
        (
            lambda: dcgan.dcgan_discriminator(batch_norm=False),
            "hidden_dense: expected a discriminator with batch norm",
        ),
        (lambda: GAN(ema=1.0), "ema: expected 0 <= ema < 1; received 1.0"),
    ],
)
def test_networks_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "huber"}, "loss: expected one of minimax"),
        ({"discriminator_steps": 0}, "discriminator_steps: expected >= 1; received 0"),
        ({"r1": -1.0}, "r1: expected >= 0; received -1.0"),
        ({"r1": 1.0}, "r1: expected a discriminator without batch norm"),
        ({"loss": "wasserstein"}, "gradient_penalty: expected a discriminator without batch norm"),
        ({"label_smoothing": 2.0}, "label_smoothing: expected 0 <= value < 1; received 2.0"),
        ({"label_smoothing": 0.1, "loss": "hinge"}, "label_smoothing: expected a loss of minimax"),
        (
            {"d_optimizer": "adam", "g_optimizer": keras.optimizers.Adam(use_ema=True)},
            "expected use_ema=False",
        ),
        (
            {"d_optimizer": "adam", "g_optimizer": "adam", "decay_steps": 9},
            "decay_steps: expected none with optimizers of your own",
        ),
        ({"d_optimizer": "adam"}, "expected both d_optimizer and g_optimizer, or none"),
        (
            dict.fromkeys(("d_optimizer", "g_optimizer"), keras.optimizers.Adam()),
            "g_optimizer: expected an optimizer of its own",
        ),
    ],
)
def test_wrong_compile_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GAN(mlp_generator(SHAPE), nested_batch_norm()).compile(**arguments)


# --- Images and labels: the door -----------------------------------------------------------------


@pytest.mark.parametrize("method", ["fit", "test_on_batch"])
def test_pixels_gray_images_and_columns_of_labels_are_converted(method):
    images, labels = batch()
    pixels = np.clip(np.rint((images + 1) * 127.5), 0, 255).astype(np.uint8)
    quiet = {"verbose": 0} if method == "fit" else {}
    results = []
    for x, y in (
        (pixels / np.float32(127.5) - 1, labels),
        (pixels, labels),
        (pixels[..., 0].astype(np.int64), labels[:, None]),
    ):
        model = tiny("cdcgan", class_head=True)
        getattr(model, method)(x, y, **quiet)
        results.append([*values(model.discriminator.weights), *values(model.means.variables)])
    for other in results[1:]:
        assert_same(results[0], other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("as_dataset", [False, True])
@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (lambda x: (x - x.min()) / 2, lambda y: y, r"received 0 to .*, which is \[0, 1\]. Give"),
        (lambda x: 127.5 * (x + 1), lambda y: y, r"expected floats in \[-1, 1\], or integers in 0"),
        (lambda x: (300 * x).astype(np.int32), lambda y: y, r"expected integers in 0..255"),
        (lambda x: (x > 0).astype(np.uint8), lambda y: y, r"in 0..255; received 0..1"),
        (lambda x: x[:, :7], lambda y: y, r"expected shape \(B, 8, 8, 1\); received \(.*, 7, 8, 1"),
        (lambda x: np.repeat(x, 3, -1), lambda y: y, r"received \(.*, 8, 8, 3\)"),
        (lambda x: x, lambda y: y + 1, r"labels: expected .* in 0..2; received 1..3"),
        (lambda x: x, lambda y: y - 1, r"labels: expected .* in 0..2; received -1..1"),
        (lambda x: x, lambda y: y + 0.9, "labels: expected integers"),
        (lambda x: x, lambda y: np.eye(3)[y], "labels: expected integers"),
        (lambda x: x, None, "expected .images, labels., one integer an image; received none"),
    ],
)
def test_other_images_and_labels_are_refused_before_the_first_step(
    images, labels, message, as_dataset
):
    model = tiny("cdcgan")
    data = batch()
    data = (images(data[0]),) if labels is None else (images(data[0]), labels(data[1]))
    if as_dataset:
        data = (tf.data.Dataset.from_tensor_slices(data if labels else data[0]).batch(8),)
    with pytest.raises(ValueError, match=message):
        model.fit(*data, verbose=0)
    assert model.steps_done == 0


def test_pale_pictures_are_no_mistake():
    """All pixels of a sketch may lie in [0, 1] of [-1, 1]."""
    images = np.random.default_rng(0).integers(140, 256, (8, *SHAPE)) / 127.5 - 1
    model = tiny("gan")
    model.fit(images, verbose=0)
    model.train_on_batch(images[:1])
    assert model.steps_done == 2


def test_what_the_first_batch_does_not_show_ends_the_step():
    images, labels = batch(16)
    labels[-1] = CLASSES
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"labels: expected integers in 0..2"):
        tiny("cdcgan").fit(data, verbose=0)
    model = tiny("gan")
    with pytest.raises(ValueError, match="images: expected floats"):
        model.fit(images, validation_data=127.5 * (images + 1), verbose=0)
    assert model.steps_done == 0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "expected 2 integers in 0..2; received none"),
        ([0, 3], "expected 2 integers in 0..2; received 0..3"),
        ([-1, 0], "expected 2 integers in 0..2; received -1..0"),
        ([0], r"received int64 of shape \(1,\)"),
        ([0.0, 1.0], "received float64"),
    ],
)
def test_wrong_labels_of_samples_are_refused(labels, message):
    model = tiny("cdcgan")
    with pytest.raises(ValueError, match=message):
        model.sample(model.latents(2), labels)


def test_wrong_latents_and_needless_labels_are_refused():
    model = tiny("dcgan")
    with pytest.raises(ValueError, match=r"expected shape \(N, 6\); received \(2, 5\)"):
        model.sample(np.zeros((2, 5)))
    with pytest.raises(ValueError, match="labels: expected none"):
        model.sample(model.latents(2), [0, 1])


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


@pytest.mark.parametrize("name", MODELS)
def test_every_way_to_images_gives_the_same(name, tmp_path):
    """`sample`, `predict`, a call, and `.keras` files loaded with and without `compile`."""
    model = tiny(name, ema=0.9)
    model.fit(*batch(32), batch_size=8, epochs=2, verbose=0)
    latents, labels = model.latents(8), labels_for(model)
    samples = model.sample(latents, labels)
    inputs = latents if labels is None else [latents, labels]
    np.testing.assert_allclose(model.predict(inputs, verbose=0), samples, atol=1e-6)
    np.testing.assert_allclose(
        model(tf.nest.map_structure(tf.constant, inputs)), samples, atol=1e-6
    )
    model.save(tmp_path / "model.keras")
    for with_compile in (True, False):
        loaded = keras.saving.load_model(tmp_path / "model.keras", compile=with_compile)
        np.testing.assert_array_equal(loaded.sample(latents, labels), samples)
    model.save_weights(tmp_path / "model.weights.h5")
    other = tiny(name, seed=1, ema=0.9)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.sample(latents, labels), samples)


@pytest.mark.parametrize("name", MODELS)
def test_a_keras_file_trains_on(name, tmp_path):
    model = tiny(name, ema=0.9, d_dropout=0.2)
    model.fit(*batch(32), batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.steps_done == model.steps_done == 4
    assert loaded.skipped_updates == 0
    for owner, variables in model.training_state().items():
        # Running means begin anew, and Keras files do not hold dropout's seeds; checkpoints do.
        if owner != "metrics":
            one = [v for v in variables if "seed" not in v.path]
            two = [v for v in loaded.training_state()[owner] if "seed" not in v.path]
            assert_same(values(one), values(two), rtol=0)


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
    kept = values(w for w in layer.weights if "moving" not in w.path)
    before = values(trained)
    model.fit(batch()[0], batch_size=8, epochs=2, verbose=0)
    assert not changed(kept, values(w for w in layer.weights if "moving" not in w.path))
    assert changed(before, values(trained))
    of_average = [
        average
        for weight, average in zip(model.generator.weights, model.averaged_generator.weights)
        if not weight.trainable
    ]
    of_network = [weight for weight in model.generator.weights if not weight.trainable]
    assert not changed(values(of_network), values(of_average))
    assert np.isfinite(model.sample(model.latents(2))).all()


def test_sampling_from_threads_while_one_trains_changes_no_weight():
    model, alone = tiny("gan", ema=0.5), tiny("gan", ema=0.5)
    latents = model.latents(20)
    images = batch(16)[0]
    fit = {"batch_size": 8, "epochs": 20, "verbose": 0, "shuffle": False}
    alone.fit(images, **fit)
    model.sample(latents)
    ended, problems = threading.Event(), []

    def draw():
        while not ended.is_set():
            if not np.isfinite(model.sample(latents)).all():
                problems.append("not finite")

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    model.fit(images, **fit)
    ended.set()
    for thread in threads:
        thread.join()
    assert not problems
    assert not changed(model.get_weights(), alone.get_weights())
    np.testing.assert_array_equal(model.sample(latents), alone.sample(latents))


def test_a_configuration_round_trips():
    model = tiny("cdcgan", embedding_dim=4, class_head=True, ema=0.7)
    config = model.get_config()
    assert CDCGAN.from_config(copy.deepcopy(config)).get_config() == config
    assert (config["num_classes"], config["ema"]) == (CLASSES, 0.7)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_discriminators_in_inference_mode(name):
    model, images = tiny(name, d_dropout=0.5), batch(5)[0]
    labels = labels_for(model, 5)
    given = None if labels is None else tf.constant(labels)
    expected = model.discriminate(tf.constant(images), given, training=False).logits
    np.testing.assert_allclose(model.logits(images, labels), expected, atol=1e-6)


def test_one_image_is_the_same_alone_and_in_a_batch():
    model = tiny("dcgan")
    step(model)
    latents = model.latents(7)
    np.testing.assert_allclose(model.sample(latents)[3:4], model.sample(latents[3:4]), atol=1e-5)


def test_colour_images():
    model = tiny("dcgan", shape=(8, 8, 3))
    step(model, batch(shape=(8, 8, 3)))
    assert model.sample(model.latents(8)).shape == (8, 8, 8, 3)
