"""The training step, on tiny networks."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_training import MODELS, assert_same, batch, changed, labels_for, step, tiny, values

from tfgan_mnist.models import rules


@pytest.fixture(autouse=True)
def float32_policy():
    yield
    keras.config.set_dtype_policy("float32")


def test_the_step_is_algorithm_1_written_plainly():
    """Against a reference with its own tapes, through D(G(z)) from end to end."""
    model = tiny("gan", d_dropout=0.0, final_learning_rate=1.0)
    images, _ = batch()
    g, d = (keras.models.clone_model(each) for each in (model.generator, model.discriminator))
    g.set_weights(model.generator.get_weights())
    d.set_weights(model.discriminator.get_weights())
    adam = {"beta_1": 0.5, "beta_2": 0.99}
    g_adam, d_adam = keras.optimizers.Adam(1e-3, **adam), keras.optimizers.Adam(5e-4, **adam)

    def cross_entropy(logits, target):
        targets = tf.fill(tf.shape(logits), target)
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(targets, logits))

    for number in range(2):
        latents = tf.random.stateless_normal([8, 6], seed=[0, number])
        with tf.GradientTape() as tape:
            fakes = batch_statistics(g, latents)
            loss = cross_entropy(d(images, training=True), 1.0)
            loss += cross_entropy(d(fakes, training=True), 0.0)
        d_adam.apply(tape.gradient(loss, d.trainable_variables), d.trainable_variables)
        with tf.GradientTape() as tape:
            loss = cross_entropy(d(g(latents, training=True), training=True), 1.0)
        g_adam.apply(tape.gradient(loss, g.trainable_variables), g.trainable_variables)
        step(model)
    assert_same(model.discriminator.get_weights(), d.get_weights(), atol=1e-5)
    assert_same(model.generator.get_weights(), g.get_weights(), atol=1e-5)


def batch_statistics(network, latents):
    """The network's output in training, without moving batch norm's statistics."""
    state = network.get_weights()
    outputs = network(latents, training=True)
    network.set_weights(state)
    return outputs


def test_gradient_norms_are_those_of_the_updates():
    model = tiny("gan")
    model.compile(keras.optimizers.SGD(1.0), keras.optimizers.SGD(1.0))
    networks = {"d": model.discriminator, "g": model.generator}
    before = {key: values(network.trainable_variables) for key, network in networks.items()}
    logs = step(model)
    for key, network in networks.items():
        steps = zip(before[key], values(network.trainable_variables), strict=True)
        norm = np.sqrt(sum(np.sum((after - old) ** 2) for old, after in steps))
        assert logs[f"{key}_gradient_norm"] == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("k", [1, 3])
def test_k_discriminator_updates_and_forward_passes_of_g_per_step(k, monkeypatch):
    model = tiny("gan", discriminator_steps=k)
    calls = []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda *a, **kw: calls.append(a) or generate(*a, **kw))
    step(model, (batch(7)[0],))  # the seventh image is left out where k is 3
    assert len(calls) == k  # the last one serves both networks
    assert int(model.d_optimizer.iterations) == k
    assert int(model.g_optimizer.iterations) == model.steps_done == 1
    drawn = np.concatenate([np.array(latents) for latents, *_ in calls])
    assert len(drawn) == 7 // k * k == len(np.unique(drawn, axis=0))


def test_a_last_batch_with_fewer_images_than_discriminator_updates():
    model = tiny("cdcgan", discriminator_steps=5)
    images, labels = batch(18)
    model.fit(images, labels, batch_size=8, epochs=2, verbose=0)  # the last batch has two
    assert model.skipped_updates == 0 and model.steps_done == 6
    assert all(np.isfinite(weights).all() for weights in model.get_weights())


def test_layers_run_in_training_mode():
    model = tiny("dcgan", d_dropout=0.5)
    variables = [*model.generator.variables, *model.discriminator.variables]
    written = [v for v in variables if "moving" in v.path or "seed" in v.path]
    assert {v.path.rpartition("/")[2] for v in written} >= {"moving_mean", "seed_generator_state"}
    before = values(written)
    step(model)
    assert all(changed([old], [np.array(new)]) for old, new in zip(before, written))


def test_latents_are_a_function_of_seed_and_step():
    first, again, other = tiny("gan"), tiny("gan"), tiny("gan", seed=1)
    latents = np.array(first._draw_latents(4, 7))
    np.testing.assert_array_equal(latents, again._draw_latents(4, 7))
    assert changed([latents], [first._draw_latents(4, 8)])
    assert changed([latents], [other._draw_latents(4, 7)])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {"loss": loss}) for name in MODELS for loss in rules.LOSSES),
        *(
            ("cdcgan", {"d_batch_norm": False} | options)
            for options in (
                {"r1": 0.1},
                {"r2": 0.1},
                {"gradient_penalty": 1.0},
                {"discriminator_steps": 2},
                {"class_head": True, "embedding_dim": 3, "spectral_norm": True},
            )
        ),
    ],
)
def test_every_model_trains_with_every_loss_and_regulariser(name, options):
    model = tiny(name, **options)
    networks = model.generator.trainable_variables, model.discriminator.trainable_variables
    before = [values(weights) for weights in networks]
    assert all(np.isfinite(value) for value in step(model).values())
    assert all(changed(old, values(new)) for old, new in zip(before, networks))


@pytest.mark.parametrize("penalty", ["r1", "r2"])
def test_penalties_raise_the_discriminators_loss_by_their_value(penalty):
    plain, penalised = tiny("gan", d_dropout=0.0), tiny("gan", d_dropout=0.0, **{penalty: 3.0})
    fakes = batch_statistics(plain.generator, plain._draw_latents(8, 0))
    inputs = tf.constant(batch()[0]) if penalty == "r1" else fakes
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        logits = plain.discriminate(inputs, training=True).logits
    squared = np.square(tape.gradient(logits, inputs)).sum(axis=(1, 2, 3))
    difference = step(penalised)["d_loss"] - step(plain)["d_loss"]
    assert difference == pytest.approx(1.5 * squared.mean(), rel=1e-2)


def test_label_smoothing_reaches_the_step():
    logits = np.array(tiny("gan", d_dropout=0.0).discriminate(batch()[0], training=True).logits)
    plain = step(tiny("gan", d_dropout=0.0))["d_loss"]
    smooth = step(tiny("gan", d_dropout=0.0, label_smoothing=0.2))["d_loss"]
    assert smooth - plain == pytest.approx(0.2 * logits.mean(), abs=1e-5)


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
                ("dcgan", {"packing": 2}),
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
    logs = model.fit(*batch(), batch_size=8, epochs=2, verbose=0).history
    assert all(np.isfinite(value).all() for value in logs.values())
    assert changed(before, values(model.generator.trainable_variables))


def test_spectral_norm_keeps_kernels_at_norm_one():
    model = tiny("gan", spectral_norm=True)
    for _ in range(30):
        step(model)
    for kernel in (v for v in model.discriminator.trainable_variables if "kernel" in v.path):
        matrix = np.array(kernel).reshape(-1, kernel.shape[-1])
        assert np.linalg.norm(matrix, 2) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("name", MODELS)
def test_mixed_float16_scales_both_losses_and_outputs_float32(name):
    keras.config.set_dtype_policy("mixed_float16")
    model = tiny(name)
    for optimizer in (model.g_optimizer, model.d_optimizer):
        assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    logs = step(model)
    assert np.isfinite(logs["d_loss"]) and np.isfinite(logs["g_loss"])
    labels = None if name != "cdcgan" else tf.constant(labels_for(model))
    assert model.generate(tf.zeros([8, 6]), labels).dtype == tf.float32
    assert model.discriminate(tf.constant(batch()[0]), labels).logits.dtype == tf.float32
    assert all(v.dtype == "float32" for v in model.generator.trainable_variables)


def test_the_loss_scale_changes_no_update():
    """An update under mixed_float16 is the float32 update, to half precision."""
    full = tiny("gan", d_dropout=0.0)
    start = full.get_weights()
    full_logs = step(full)
    keras.config.set_dtype_policy("mixed_float16")
    half = tiny("gan", d_dropout=0.0)
    half.set_weights(start)
    assert step(half) == pytest.approx(full_logs, rel=0.05)
    slots = [values(model.g_optimizer.variables) for model in (half, full)]
    momenta = [[v for v in each if v.ndim] for each in slots]
    assert_same(*momenta, atol=0.05 * max(np.abs(v).max() for v in momenta[1]))


def test_an_overflow_skips_the_update_and_halves_the_scale():
    keras.config.set_dtype_policy("mixed_float16")
    model = tiny("gan")
    model.g_optimizer.dynamic_scale.assign(1e38)
    before = values(model.generator.trainable_variables)
    logs = step(model)
    assert not changed(before, values(model.generator.trainable_variables))
    assert np.isnan(logs["g_gradient_norm"]) and np.isfinite(logs["g_loss"])
    assert float(model.g_optimizer.dynamic_scale) == pytest.approx(5e37)
    assert model.skipped_updates == 1


def test_two_replicas_take_the_step_of_one(run_python):
    """The mean is over the global batch, and its latents do not depend on how it is divided.

    The last batch, of three images, does not divide evenly.

    Keras 3.15 builds models under a strategy from a batch of the data (`_maybe_symbolic_build`),
    which a model of built networks must not do.
    """
    run_python("""
        import dataclasses, keras, numpy as np, tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        from tfgan_mnist.training.build import build
        from tfgan_mnist.config import resolve
        images = np.random.default_rng(0).uniform(-1, 1, (11, 8, 8, 1)).astype("float32")
        # Batch norm's statistics are each replica's own: without it the two must agree.
        config = resolve({"model": "gan", "g_hidden_widths": (8,), "d_hidden_widths": (8,),
            "d_dropout": 0.3, "g_batch_norm": False, "latent_dim": 4, "steps_per_epoch": 1,
            "gradient_penalty": 1.0, "ema": 0.5, "epochs": 2})

        packed = dataclasses.replace(config, packing=2)

        def after_two_steps(strategy, images=images, config=config):
            with strategy.scope():
                keras.utils.set_random_seed(0)
                model = build(config, (8, 8, 1), 10)
            history = model.fit(images, batch_size=8, epochs=2, verbose=0, shuffle=False).history
            return model, history

        mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        one, two = after_two_steps(tf.distribute.get_strategy()), after_two_steps(mirrored)
        for a, b in zip(one[0].get_weights(), two[0].get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
        samples = [model.sample(model.latents(3)) for model, _ in (one, two)]
        np.testing.assert_allclose(*samples, atol=1e-5)
        # A gradient's norm is that of the replica's own part of the batch.
        for key in (key for key in one[1] if not key.endswith("gradient_norm")):
            np.testing.assert_allclose(one[1][key], two[1][key], atol=1e-5, err_msg=key)

        # Packs of neighbours are the same where they fit into each replica's part.
        strategies = tf.distribute.get_strategy(), mirrored
        one, two = (after_two_steps(each, images[:8], packed)[0] for each in strategies)
        for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)

        # NaN on one replica: no weight moves on either.
        images[7] = np.nan
        model, history = after_two_steps(mirrored, images)
        assert np.isnan(history["d_loss"]).all() and model.skipped_updates == 2, history
        assert all(np.isfinite(each).all() for each in model.get_weights())
    """)


# --- Values that are not finite ------------------------------------------------------------------


class Poison:
    """Adds to values that pass, and to gradients that return."""

    def __init__(self, forward=0.0, backward=0.0):
        self.forward, self.backward = forward, backward

    def __call__(self, x):
        @tf.custom_gradient
        def through(x):
            return x + self.forward, lambda upstream: upstream + self.backward

        return through(x)


def poison(model, place, amount) -> None:
    """Changes a model so that NaN or infinity appears at a place."""
    if place == "real images":
        return
    if place.startswith("G's"):
        generate = model.generate
        model.generate = lambda *a, **k: amount(generate(*a, **k))
    else:
        loss = model.objective.discriminator
        model.objective = model.objective._replace(
            discriminator=lambda real, fake: loss(amount(real), fake)
        )


PLACES = {  # where it appears -> what appears, and whose updates are skipped
    "D's loss": (Poison(forward=np.nan), "d"),
    "D's gradient": (Poison(backward=np.inf), "d"),
    "G's gradient": (Poison(backward=np.nan), "g"),
    "G's images": (Poison(forward=np.inf), "dg"),
    "real images": (Poison(forward=np.nan), "d"),
}


@pytest.mark.parametrize("precision", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize(
    ("place", "eager"), [*((place, True) for place in PLACES), ("D's loss", False)]
)
def test_an_update_by_what_is_not_finite_is_skipped(place, eager, precision):
    amount, skipped = PLACES[place]
    keras.config.set_dtype_policy(precision)
    model = tiny("gan")
    for optimizer in (model.d_optimizer, model.g_optimizer):
        if precision == "mixed_float16":
            optimizer.dynamic_scale.assign(1.0)  # so small that nothing overflows by itself
    step(model)
    model.reset_metrics()
    owners = {"d": model.discriminator, "g": model.generator}
    before = {key: values(network.trainable_variables) for key, network in owners.items()}
    slots = {key: values(getattr(model, f"{key}_optimizer").variables) for key in owners}
    poison(model, place, amount)
    if not eager:
        model.train_step = tf.function(model.train_step)
    images, labels = batch()
    logs = step(model, (amount(images) if place == "real images" else images, labels))
    for key, network in owners.items():
        is_skipped = key in skipped
        assert changed(before[key], values(network.trainable_variables)) != is_skipped
        inner = [v for v in values(getattr(model, f"{key}_optimizer").variables) if v.ndim]
        assert changed([v for v in slots[key] if v.ndim], inner) != is_skipped
        assert np.isnan(logs[f"{key}_gradient_norm"]) == is_skipped
    assert model.skipped_updates == len(skipped)
    assert np.isfinite(logs["d_loss"]) == (place in ("D's gradient", "G's gradient"))


def test_logs_and_keras_callbacks_see_nan():
    """`TerminateOnNaN` ends a run, and an epoch of NaN is not the best one."""
    images, labels = batch(16)
    poisoned = np.where(np.arange(16)[:, None, None, None] == 0, np.nan, images)
    stop = keras.callbacks.TerminateOnNaN()
    fit = {"batch_size": 8, "epochs": 3, "verbose": 0}
    history = tiny("gan").fit(poisoned, labels, callbacks=[stop], **fit).history
    assert np.isnan(history["d_loss"]).tolist() == [True]

    class Diverge(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                kernel = self.model.discriminator.trainable_variables[0]
                kernel.assign(np.full(kernel.shape, np.nan))

    best = keras.callbacks.EarlyStopping("d_loss", mode="min", patience=3)
    history = tiny("gan").fit(images, labels, callbacks=[Diverge(), best], **fit).history
    assert np.isnan(history["d_loss"]).tolist() == [False, True, True]
    assert best.best == history["d_loss"][0]


def test_a_mean_of_nothing_is_nan():
    model = tiny("gan")
    assert all(np.isnan(float(value)) for value in model.means.result().values())
