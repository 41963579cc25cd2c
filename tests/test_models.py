"""The training step and the three models, on tiny networks."""

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgan_mnist import config
from tfgan_mnist.config import resolve
from tfgan_mnist.models import CDCGAN, DCGAN, GAN, build, cdcgan, dcgan
from tfgan_mnist.models.gan import mlp_discriminator, mlp_generator

SHAPE = (8, 8, 1)
LATENTS = 6

TINY = {
    "gan": {"g_hidden_widths": (12,), "d_hidden_widths": (12,)},
    "dcgan": {"g_width": 4, "d_width": 4},
    "cdcgan": {"g_width": 4, "d_width": 4},
}


def tiny(model="dcgan", shape=SHAPE, classes=3, **options) -> GAN:
    """The recipe of `model`, made tiny."""
    keras.utils.set_random_seed(0)
    tiny_options = {"model": model, "latent_dim": LATENTS, "epochs": 1, "steps_per_epoch": 200}
    return build(resolve(tiny_options | TINY[model] | options), shape, classes)


def batch(num=8, shape=SHAPE, classes=3):
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (num, *shape)).astype(np.float32)
    return tf.constant(images), tf.constant(np.arange(num, dtype=np.int32) % classes)


def values(variables):
    return [np.array(variable) for variable in variables]


def assert_same(first, second, **tolerance):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def changed(before, after) -> bool:
    return any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.fixture(autouse=True)
def float32_policy():
    yield
    keras.config.set_dtype_policy("float32")


# --- The step ------------------------------------------------------------------------------------


def test_step_is_algorithm_1_written_plainly():
    """Against a reference with its own tapes, through D(G(z)) from end to end."""
    model = tiny("gan", d_dropout=0.0, ema=0.0, final_learning_rate=1.0)
    images, _ = batch()
    reference_g = keras.models.clone_model(model.generator)
    reference_d = keras.models.clone_model(model.discriminator)
    reference_g.set_weights(model.generator.get_weights())
    reference_d.set_weights(model.discriminator.get_weights())
    settings = resolve({"model": "gan"})
    betas = {"beta_1": settings.beta_1, "beta_2": settings.beta_2}
    g_adam = keras.optimizers.Adam(settings.g_learning_rate, **betas)
    d_adam = keras.optimizers.Adam(settings.d_learning_rate, **betas)
    sigmoid_loss = tf.nn.sigmoid_cross_entropy_with_logits

    for step in range(2):
        latents = tf.random.stateless_normal([8, LATENTS], seed=[0, step])
        with tf.GradientTape() as tape:
            real = reference_d(images, training=True)
            fake = reference_d(_batch_statistics(reference_g, latents), training=True)
            loss = tf.reduce_mean(sigmoid_loss(tf.ones_like(real), real)) + tf.reduce_mean(
                sigmoid_loss(tf.zeros_like(fake), fake)
            )
        weights = reference_d.trainable_variables
        d_adam.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        with tf.GradientTape() as tape:
            fake = reference_d(reference_g(latents, training=True), training=True)
            loss = tf.reduce_mean(sigmoid_loss(tf.ones_like(fake), fake))
        weights = reference_g.trainable_variables
        g_adam.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        model.train_step(images)

    assert_same(model.discriminator.get_weights(), reference_d.get_weights(), atol=1e-5)
    assert_same(model.generator.get_weights(), reference_g.get_weights(), atol=1e-5)


def _batch_statistics(network, latents):
    """The network's training-mode output, without moving its batch norm's averages."""
    state = network.get_weights()
    outputs = network(latents, training=True)
    network.set_weights(state)
    return outputs


def test_gradient_norms_are_those_of_the_updates():
    model = tiny("gan")
    model.compile(keras.optimizers.SGD(1.0), keras.optimizers.SGD(1.0))
    networks = {"d": model.discriminator, "g": model.generator}
    before = {key: values(network.trainable_variables) for key, network in networks.items()}
    logs = model.train_step(batch()[0])
    for key, network in networks.items():
        steps = zip(before[key], values(network.trainable_variables), strict=True)
        norm = np.sqrt(sum(np.sum((after - old) ** 2) for old, after in steps))
        assert float(logs[f"{key}_gradient_norm"]) == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("name", TINY)
def test_an_update_touches_one_network_only(name):
    model = tiny(name)
    images, labels = batch()
    labels = labels if model.num_classes else None
    latents = model._draw_latents(8, model.global_step * 1)
    with tf.GradientTape() as tape:
        fakes = model.generate(latents, labels, training=True)

    g, d = values(model.generator.variables), values(model.discriminator.trainable_variables)
    model._update_discriminator(images, fakes, labels, 0, model._written_in_passes())
    assert not changed(g, values(model.generator.variables))
    assert changed(d, values(model.discriminator.trainable_variables))

    g, d = values(model.generator.variables), values(model.discriminator.trainable_variables)
    model._update_generator(tape, fakes, images, labels)
    assert changed(g, values(model.generator.variables))
    assert not changed(d, values(model.discriminator.trainable_variables))


@pytest.mark.parametrize("k", [1, 3])
def test_k_discriminator_updates_and_forward_passes_of_g_per_step(k, monkeypatch):
    model = tiny("gan", discriminator_steps=k)
    calls = []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda *a, **kw: calls.append(a) or generate(*a, **kw))
    model.train_step(batch(6)[0])
    assert len(calls) == k  # the last one serves both players
    assert int(model.d_optimizer.iterations) == k
    assert int(model.g_optimizer.iterations) == int(model.global_step) == 1
    drawn = [np.array(latents) for latents, *_ in calls]
    assert all(len(latents) == 6 // k for latents in drawn)
    assert len(np.unique(np.concatenate(drawn), axis=0)) == 6


def test_layers_run_in_training_mode():
    model = tiny("dcgan", d_dropout=0.5, d_batch_norm=True)
    statistics = [v for v in model.generator.variables if "moving" in v.path]
    statistics += [v for v in model.discriminator.variables if "moving" in v.path]
    seeds = [v for v in model.discriminator.variables if "seed" in v.path]
    assert seeds
    before = values(statistics), values(seeds)
    model.train_step(batch())
    for old, new in zip(before[0], values(statistics), strict=True):
        assert not np.array_equal(old, new)
    for old, new in zip(before[1], values(seeds), strict=True):
        assert not np.array_equal(old, new)


def test_latents_are_a_function_of_seed_and_step():
    first, again, other = tiny("gan"), tiny("gan"), tiny("gan", seed=1)
    draw = np.array(first._draw_latents(4, tf.constant(7, tf.int64)))
    np.testing.assert_array_equal(draw, again._draw_latents(4, tf.constant(7, tf.int64)))
    assert changed([draw], [first._draw_latents(4, tf.constant(8, tf.int64))])
    assert changed([draw], [other._draw_latents(4, tf.constant(7, tf.int64))])


@pytest.mark.parametrize("loss", config.LOSSES)
@pytest.mark.parametrize("name", TINY)
def test_every_model_trains_with_every_loss(name, loss):
    model = tiny(name, loss=loss)
    images, labels = batch()
    before = values(model.discriminator.trainable_variables)
    logs = model.train_step((images, labels))
    assert all(np.isfinite(value) for value in logs.values())
    assert changed(before, values(model.discriminator.trainable_variables))


@pytest.mark.parametrize(
    "options", [{"r1": 0.1}, {"r2": 0.1}, {"gradient_penalty": 1.0}, {"discriminator_steps": 2}]
)
def test_every_regulariser_trains(options):
    model = tiny("cdcgan", d_batch_norm=False, **options)
    before = values(model.discriminator.trainable_variables)
    logs = model.train_step(batch())
    assert all(np.isfinite(value) for value in logs.values())
    assert changed(before, values(model.discriminator.trainable_variables))


@pytest.mark.parametrize("penalty", ["r1", "r2"])
def test_penalties_raise_the_discriminators_loss_by_their_value(penalty):
    images, _ = batch()
    plain, penalised = tiny("gan", d_dropout=0.0), tiny("gan", d_dropout=0.0, **{penalty: 3.0})
    fakes = _batch_statistics(plain.generator, plain._draw_latents(8, 0))
    inputs = images if penalty == "r1" else fakes
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        logits = plain.discriminate(inputs, training=True).logits
    squared = np.square(tape.gradient(logits, inputs)).sum(axis=(1, 2, 3))
    difference = penalised.train_step(images)["d_loss"] - plain.train_step(images)["d_loss"]
    np.testing.assert_allclose(difference, 1.5 * squared.mean(), rtol=1e-2)


def test_label_smoothing_reaches_the_step():
    images, _ = batch()
    plain = tiny("gan", d_dropout=0.0).train_step(images)["d_loss"]
    smooth = tiny("gan", d_dropout=0.0, label_smoothing=0.2).train_step(images)["d_loss"]
    model = tiny("gan", d_dropout=0.0)
    logits = np.array(model.discriminate(images, training=True).logits)
    np.testing.assert_allclose(smooth - plain, 0.2 * logits.mean(), atol=1e-5)


def test_a_batch_that_cannot_be_split_is_refused():
    with pytest.raises(Exception, match="discriminator_steps=3: expected batches of a multiple"):
        tiny("gan", discriminator_steps=3).train_step(batch(8)[0])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dcgan", {}),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("gan", {}),
                ("cdcgan", {"class_head": True, "embedding_dim": 3}),
                ("dcgan", {"spectral_norm": True}),
                ("dcgan", {"discriminator_steps": 2, "loss": "relativistic"}),
                ("dcgan", {"r1": 1.0, "r2": 1.0, "d_batch_norm": False, "hidden_dense": False}),
                ("dcgan", {"loss": "wasserstein", "d_dropout": 0.1}),
                ("cdcgan", {"conditioning": "planes", "precision": "mixed_float16"}),
            ]
        ),
    ],
)
def test_the_step_compiles_with_xla(name, options):
    # Not the same step: XLA turns the same bits into other normal numbers.
    keras.config.set_dtype_policy(options.get("precision", "float32"))
    model = tiny(name, **options)
    model.jit_compile = True
    before = values(model.generator.trainable_variables)
    images, labels = map(np.array, batch())
    logs = model.fit(images, labels, batch_size=8, epochs=2, verbose=0).history
    assert all(np.isfinite(value).all() for value in logs.values())
    assert changed(before, values(model.generator.trainable_variables))


def test_a_layer_that_xla_does_not_know_is_not_compiled():
    model = tiny("dcgan")
    model.discriminator.layers[1].supports_jit = False
    with pytest.warns(UserWarning, match="no Conv2D"):
        model.compile(jit_compile=True)
    assert not model.jit_compile


def test_spectral_norm_keeps_kernels_at_norm_one():
    model = tiny("gan", spectral_norm=True)
    for _ in range(30):
        model.train_step(batch()[0])
    kernels = [v for v in model.discriminator.trainable_variables if "kernel" in v.path]
    for kernel in kernels:
        matrix = np.array(kernel).reshape(-1, kernel.shape[-1])
        assert np.linalg.norm(matrix, 2) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("name", TINY)
def test_mixed_float16_scales_both_losses_and_outputs_float32(name):
    keras.config.set_dtype_policy("mixed_float16")
    model = tiny(name)
    for optimizer in (model.g_optimizer, model.d_optimizer):
        assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    images, labels = batch()
    logs = model.train_step((images, labels))
    assert np.isfinite(logs["d_loss"]) and np.isfinite(logs["g_loss"])
    assert model.generate(tf.zeros([2, LATENTS]), labels[:2]).dtype == tf.float32
    assert model.discriminate(images, labels).logits.dtype == tf.float32
    assert all(v.dtype == "float32" for v in model.generator.trainable_variables)


def test_loss_scale_changes_no_update():
    """An update under mixed_float16 is the float32 update, to half precision."""
    before = tiny("gan", d_dropout=0.0, ema=0.0)
    start = before.generator.get_weights(), before.discriminator.get_weights()
    full_logs = before.train_step(batch()[0])
    keras.config.set_dtype_policy("mixed_float16")
    half = tiny("gan", d_dropout=0.0, ema=0.0)
    half.generator.set_weights(start[0])
    half.discriminator.set_weights(start[1])
    half_logs = half.train_step(batch()[0])
    for key, value in full_logs.items():
        assert float(half_logs[key]) == pytest.approx(float(value), rel=0.05), key
    momentum = [v for v in half.g_optimizer.variables if "momentum" in v.path]
    expected = [v for v in before.g_optimizer.variables if "momentum" in v.path]
    scale = max(np.abs(v).max() for v in values(expected))
    assert_same(values(momentum), values(expected), atol=0.05 * scale)


def test_overflow_skips_the_update_and_halves_the_scale():
    keras.config.set_dtype_policy("mixed_float16")
    model = tiny("gan")
    model.g_optimizer.dynamic_scale.assign(1e38)
    before = values(model.generator.trainable_variables)
    logs = model.train_step(batch()[0])
    assert not changed(before, values(model.generator.trainable_variables))
    assert float(logs["g_gradient_norm"]) == 0
    assert all(np.isfinite(float(value)) for value in logs.values())
    assert float(model.g_optimizer.dynamic_scale) == pytest.approx(5e37)


def test_two_replicas_take_the_step_of_one(run_python):
    """The mean is over the global batch, and its latents do not depend on how it is divided."""
    run_python("""
        import keras, numpy as np, tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        from tfgan_mnist.config import resolve
        from tfgan_mnist.models import build
        images = np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 1)).astype("float32")
        # Batch norm's statistics are each replica's own: without it the two must agree.
        settings = resolve({"model": "gan", "g_hidden_widths": (8,), "d_hidden_widths": (8,),
            "d_dropout": 0.0, "g_batch_norm": False, "latent_dim": 4, "steps_per_epoch": 1,
            "gradient_penalty": 1.0, "ema": 0.5, "epochs": 2})

        def after_two_steps(strategy):
            with strategy.scope():
                keras.utils.set_random_seed(0)
                model = build(settings, (8, 8, 1), 10)
            history = model.fit(images, batch_size=8, epochs=2, verbose=0, shuffle=False).history
            return model.get_weights(), model.sample(model.latents(3)), history

        one = after_two_steps(tf.distribute.get_strategy())
        two = after_two_steps(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
        for a, b in zip(one[0], two[0], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
        np.testing.assert_allclose(one[1], two[1], atol=1e-5)
        # A gradient's norm is that of the replica's own part of the batch.
        for key in (key for key in one[2] if not key.endswith("gradient_norm")):
            np.testing.assert_allclose(one[2][key], two[2][key], atol=1e-5, err_msg=key)
    """)


# --- The networks --------------------------------------------------------------------------------

PARAMETERS = {
    # From the layers' shapes, so that a change of architecture is noticed.
    "gan": (1_489_936, 533_505),
    "dcgan": (1_661_697, 978_769),
    "cdcgan": (682_241, 260_593),
}


@pytest.mark.parametrize(("name", "model"), [("gan", GAN), ("dcgan", DCGAN), ("cdcgan", CDCGAN)])
def test_default_networks(name, model):
    model = model()
    counts = model.generator.count_params(), model.discriminator.count_params()
    assert counts == PARAMETERS[name]
    assert model.image_shape == (28, 28, 1) and model.latent_dim == 100


def test_the_papers_network_at_64_pixels():
    generator = dcgan.dcgan_generator((64, 64, 3), width=128, kernel_size=5, hidden_dense=False)
    shapes = [tuple(layer.output.shape[1:]) for layer in generator.layers]
    path = [(4, 4, 1024), (8, 8, 512), (16, 16, 256), (32, 32, 128), (64, 64, 3)]
    assert [shape for shape in dict.fromkeys(shapes) if len(shape) == 3] == path
    discriminator = dcgan.dcgan_discriminator(
        (64, 64, 3), width=128, kernel_size=5, hidden_dense=False
    )
    convolutions = [
        layer for layer in discriminator.layers if isinstance(layer, keras.layers.Conv2D)
    ]
    assert [layer.filters for layer in convolutions] == [128, 256, 512, 1024]


def test_without_hidden_dense_layers_dcgan_keeps_the_five_guidelines():
    generator = dcgan.dcgan_generator(hidden_dense=False)
    discriminator = dcgan.dcgan_discriminator(hidden_dense=False)
    kinds = {type(layer).__name__ for layer in generator.layers + discriminator.layers}
    assert not {kind for kind in kinds if "Pool" in kind or "UpSampling" in kind}
    for layer in generator.layers + discriminator.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Conv2DTranspose)):
            assert layer.strides == (2, 2)
    # Dense layers are G's "project and reshape" and D's logit alone.
    assert sum(isinstance(layer, keras.layers.Dense) for layer in generator.layers) == 1
    assert sum(isinstance(layer, keras.layers.Dense) for layer in discriminator.layers) == 1
    last_g, first_d = generator.layers[-2], discriminator.layers[1:3]
    assert not isinstance(last_g, keras.layers.BatchNormalization)
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in first_d)
    assert any(isinstance(layer, keras.layers.BatchNormalization) for layer in generator.layers)
    slopes = [getattr(layer, "negative_slope", 0.2) for layer in discriminator.layers]
    assert set(slopes) == {0.2}


@pytest.mark.parametrize(
    ("side", "convolutions"),
    [(28, 2), (64, 3), (16, 1), (12, 1), (8, 1)],
    ids=lambda value: str(value),
)
def test_hidden_dense_layers(side, convolutions):
    """G begins with one; one is D's last hidden layer, and the only one with batch norm."""
    shape = (side, side, 1)
    generator = dcgan.dcgan_generator(shape, width=4, hidden_dense=True)
    discriminator = dcgan.dcgan_discriminator(shape, width=4, hidden_dense=True)
    first, normalised = generator.layers[1:3]
    assert isinstance(first, keras.layers.Dense)
    assert first.units == 2 * generator.layers[5].target_shape[-1]
    assert isinstance(normalised, keras.layers.BatchNormalization)
    kinds = [type(layer).__name__ for layer in discriminator.layers[1:]]
    convolution, dense = ["Conv2D", "LeakyReLU"], ["Dense", "BatchNormalization", "LeakyReLU"]
    assert kinds == [*convolution * convolutions, "Flatten", *dense, "Dense"]
    units = 4 * 2**convolutions
    assert discriminator.layers[-4].units == units
    assert discriminator.layers[-1].input.shape == (None, units)


@pytest.mark.parametrize("name", TINY)
def test_a_models_defaults_are_its_recipe(name):
    settings = resolve({"model": name, "steps_per_epoch": 1})
    by_recipe = build(settings, (28, 28, 1), 10)
    by_default = type(by_recipe)().compile()
    for network in ("generator", "discriminator"):
        one, two = getattr(by_recipe, network), getattr(by_default, network)
        assert [type(layer) for layer in one.layers] == [type(layer) for layer in two.layers]
        assert [w.shape for w in one.weights] == [w.shape for w in two.weights]
    for which in ("d", "g"):
        rate = float(getattr(by_default, f"{which}_optimizer").learning_rate)
        assert rate == pytest.approx(getattr(settings, f"{which}_learning_rate"))


@pytest.mark.parametrize("name", TINY)
def test_colour_images(name):
    model = tiny(name, shape=(8, 8, 3))
    images, labels = batch(shape=(8, 8, 3))
    model.train_step((images, labels))
    labels = None if model.num_classes is None else labels
    assert model.sample(model.latents(8), labels).shape == (8, 8, 8, 3)


def test_label_planes_are_one_hot_at_every_pixel():
    # keras-io's conditional GAN repeats without an axis and gets bands over all channels.
    labels = np.array([3, 0], np.int32)
    images = np.zeros((2, 4, 4, 1), np.float32)
    planes = np.array(cdcgan.with_planes(images, keras.ops.one_hot(labels, 5)))[..., 1:]
    for row, label in enumerate(labels):
        np.testing.assert_array_equal(planes[row], np.tile(np.eye(5)[label], (4, 4, 1)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"embedding_dim": 5},
        {"conditioning": "planes"},
        {"conditioning": "planes", "embedding_dim": 5},
        {"class_head": True},
        {"spectral_norm": True, "d_batch_norm": False},
        {"hidden_dense": True},
        {"hidden_dense": True, "conditioning": "planes"},
    ],
)
def test_labels_reach_both_networks(options):
    model = tiny("cdcgan", **options)
    images, _ = batch()
    ones, twos = tf.fill([8], 1), tf.fill([8], 2)
    latents = model.latents(8)
    assert changed([model.sample(latents, ones)], [model.sample(latents, twos)])
    logits = [np.array(model.discriminate(images, labels).logits) for labels in (ones, twos)]
    assert logits[0].shape == (8,) and changed([logits[0]], [logits[1]])


def test_temperature_widens_the_latents_of_samples_alone():
    plain, warm = (tiny("cdcgan", temperature=factor) for factor in (1.0, 1.5))
    warm.generator.set_weights(plain.generator.get_weights())
    latents, labels = plain.latents(8), tf.range(8) % 3
    given = tf.constant(latents), labels
    trained_on = [model.generate(*given, training=True) for model in (plain, warm)]
    np.testing.assert_array_equal(*trained_on)
    # Batch norm's statistics moved alike. What is widened are the latents, not the labels.
    samples = warm.sample(latents, labels)
    np.testing.assert_allclose(samples, plain.sample(1.5 * latents, labels), rtol=1e-4, atol=1e-5)
    assert changed([samples], [plain.sample(latents, labels)])


def test_class_head_learns_and_is_reported():
    model = tiny("cdcgan", class_head=True, d_learning_rate=5e-3)
    labels = np.arange(60, dtype=np.int32) % 3
    images = np.full((60, *SHAPE), -1.0, np.float32)
    for row, label in enumerate(labels):
        images[row, label * 3 : label * 3 + 2] = 1.0  # a bar at a third of the height
    logs = model.fit(images, labels, batch_size=20, epochs=20, verbose=0).history
    assert logs["d_class_accuracy"][-1] > 0.95
    assert model.evaluate(images, labels, verbose=0, return_dict=True)["d_class_accuracy"] > 0.9


def test_class_head_must_not_see_the_label():
    with pytest.raises(ValueError, match="class_head needs conditioning='projection'"):
        cdcgan.cdcgan_discriminator(conditioning="planes", class_head=True)


def test_sides_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="multiple of 4, at least 8; received 30x30"):
        dcgan.dcgan_generator((30, 30, 1))


def test_networks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"expects images of shape \(8, 8, 1\)"):
        GAN(mlp_generator((8, 8, 3)), mlp_discriminator((8, 8, 1)))


# --- What a user does with a model ---------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_keras_file_gives_the_same_images_and_trains_on(name, tmp_path):
    model = tiny(name, ema=0.9, d_dropout=0.2)
    images, labels = batch(32)
    model.fit(images, labels, batch_size=8, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")

    latents, some = model.latents(5), None if model.num_classes is None else [0, 1, 2, 0, 1]
    np.testing.assert_array_equal(model.sample(latents, some), loaded.sample(latents, some))
    assert int(loaded.global_step) == int(model.global_step) == 8
    for owner, variables in model.training_state().items():
        # Running means begin anew, and Keras files do not hold dropout's seeds; checkpoints do.
        if owner != "metrics":
            one = [v for v in variables if "seed" not in v.path]
            two = [v for v in loaded.training_state()[owner] if "seed" not in v.path]
            assert_same(values(one), values(two), rtol=0)


def test_config_round_trips():
    model = tiny("cdcgan", embedding_dim=4, class_head=True)
    config = model.get_config()
    copied = CDCGAN.from_config(copy.deepcopy(config))
    assert copied.get_config() == config


@pytest.mark.parametrize("name", TINY)
def test_logits_are_the_discriminators_verdicts_in_inference_mode(name):
    model = tiny(name, d_dropout=0.5)
    images, labels = batch(5)
    labels = labels if name == "cdcgan" else None
    expected = model.discriminate(images, labels, training=False).logits
    given = None if labels is None else labels.numpy()
    np.testing.assert_allclose(model.logits(images.numpy(), given), expected, atol=1e-6)


def test_samples_use_the_average_and_training_keeps_the_raw_weights():
    model = tiny("gan", ema=0.15, g_learning_rate=0.05)
    images, _ = batch()
    trajectory = []
    for _ in range(4):
        model.train_step(images)
        trajectory.append(values(model.generator.trainable_variables))
    average = trajectory[0]
    # It grows up to the decay that was asked for: 1 / (1 + 9), then 2 / (2 + 9) would be more.
    for decay, weights in zip((0.1, 0.15, 0.15), trajectory[1:], strict=True):
        average = [decay * a + (1 - decay) * w for a, w in zip(average, weights, strict=True)]
    with model.averaged_weights():
        assert_same(values(model.generator.trainable_variables), average, rtol=1e-5, atol=1e-7)
    assert_same(values(model.generator.trainable_variables), trajectory[-1], rtol=0)
    by_average = model.sample(model.latents(2))
    raw = np.array(model.generate(model.latents(2), training=False))
    assert changed([by_average], [raw])


def test_one_image_is_the_same_alone_and_in_a_batch():
    model = tiny("dcgan")
    model.train_step(batch())
    latents = model.latents(7)
    np.testing.assert_allclose(model.sample(latents)[3:4], model.sample(latents[3:4]), atol=1e-5)


def test_ten_lines_in_a_notebook():
    images, labels = batch(16, (28, 28, 1), 10)
    model = CDCGAN(cdcgan.cdcgan_generator(width=4), cdcgan.cdcgan_discriminator(width=4)).compile(
        loss="hinge"
    )
    history = model.fit(images, labels, batch_size=8, epochs=1, verbose=0).history
    assert set(history) == set(model.log_keys)
    digits = model.sample(model.latents(4), labels=[2, 0, 2, 6])
    assert digits.shape == (4, 28, 28, 1) and np.abs(digits).max() <= 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "expected 2 integers in 0..2"),
        ([0, 3], r"expected 0..2; received 0..3"),
        ([-1, 0], r"expected 0..2; received -1..0"),
        ([0], r"expected integers of shape \(2,\)"),
        ([0.0, 1.0], "received float64"),
    ],
)
def test_wrong_labels_are_refused(labels, message):
    model = tiny("cdcgan")
    with pytest.raises(ValueError, match=message):
        model.sample(model.latents(2), labels)


def test_wrong_latents_and_needless_labels_are_refused():
    model = tiny("dcgan")
    with pytest.raises(ValueError, match=r"expected shape \(N, 6\); received \(2, 5\)"):
        model.sample(np.zeros((2, 5)))
    with pytest.raises(ValueError, match="DCGAN is not conditional"):
        model.sample(model.latents(2), [0, 1])


def test_cdcgan_without_labels_is_refused():
    with pytest.raises(ValueError, match="trained on .images, labels.; received images only"):
        tiny("cdcgan").fit(batch()[0], verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "huber"}, "expected one of"),
        ({"discriminator_steps": 0}, "discriminator_steps: expected >= 1; received 0"),
        ({"r1": -1.0}, "r1: expected >= 0; received -1.0"),
        ({"r1": 1.0}, "r1, r2 and gradient_penalty expect a discriminator without batch norm"),
        ({"loss": "wasserstein"}, "expect a discriminator without batch norm"),
    ],
)
def test_wrong_compile_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GAN(mlp_generator(SHAPE), mlp_discriminator(SHAPE)).compile(**arguments)
