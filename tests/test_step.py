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
    model = tiny("gan", discriminator_steps=3)
    model.fit(batch(10)[0], batch_size=8, verbose=0)  # the last batch has two
    assert model.skipped_updates == 0 and model.steps_done == 2
    assert all(np.isfinite(weights).all() for weights in model.get_weights())


def test_layers_run_in_training_mode():
    model = tiny("dcgan", d_dropout=0.5)
    variables = [*model.generator.variables, *model.discriminator.variables]
    written = [v for v in variables if "moving" in v.path or "seed" in v.path]
    assert {v.path.rpartition("/")[2] for v in written} >= {"moving_mean", "seed_generator_state"}
    before = values(written)
    step(model)
    assert all(changed([old], [np.array(new)]) for old, new in zip(before, written))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("gan", {"loss": loss}) for loss in rules.LOSSES),
        ("dcgan", {"d_batch_norm": False, "hidden_dense": False, "r1": 0.1, "r2": 0.1}),
        ("cdcgan", {"d_batch_norm": False, "gradient_penalty": 1.0, "discriminator_steps": 2}),
        (
            "cdcgan",
            {"class_head": True, "embedding_dim": 3, "spectral_norm": True, "d_batch_norm": False},
        ),
    ],
)
def test_every_model_trains_with_every_loss_and_regulariser(name, options):
    model = tiny(name, **options)
    networks = model.generator.trainable_variables, model.discriminator.trainable_variables
    before = [values(weights) for weights in networks]
    assert all(np.isfinite(value) for value in step(model).values())
    assert all(changed(old, values(new)) for old, new in zip(before, networks))


def test_label_smoothing_reaches_the_step():
    logits = np.array(tiny("gan", d_dropout=0.0).discriminate(batch()[0], training=True).logits)
    plain = step(tiny("gan", d_dropout=0.0))["d_loss"]
    smooth = step(tiny("gan", d_dropout=0.0, label_smoothing=0.2))["d_loss"]
    assert smooth - plain == pytest.approx(0.2 * logits.mean(), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gan", {}),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("dcgan", {}),
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
    model.fit(batch()[0], batch_size=8, epochs=30, verbose=0)
    for kernel in (v for v in model.discriminator.trainable_variables if "kernel" in v.path):
        matrix = np.array(kernel).reshape(-1, kernel.shape[-1])
        assert np.linalg.norm(matrix, 2) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("name", MODELS)
def test_mixed_float16_outputs_float32(name):
    keras.config.set_dtype_policy("mixed_float16")
    model = tiny(name)
    assert np.isfinite(list(step(model).values())).all()
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
    scales = [optimizer.dynamic_scale for optimizer in (model.d_optimizer, model.g_optimizer)]
    scales[1].assign(1e38)
    before, scale_of_d = values(model.generator.trainable_variables), float(scales[0])
    logs = step(model)
    assert not changed(before, values(model.generator.trainable_variables))
    assert np.isnan(logs["g_gradient_norm"]) and np.isfinite(logs["g_loss"])
    assert [float(scale) for scale in scales] == pytest.approx([scale_of_d, 5e37])
    assert model.skipped_updates == 1


def test_two_replicas_take_the_step_of_one(run_python):
    """The mean is over the global batch, and its latents do not depend on how it is divided.

    The last batch, of three images, does not divide evenly.
    """
    run_python("""
        import keras, numpy as np, tensorflow as tf
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
        models, histories = [], []
        mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        fit = {"batch_size": 8, "epochs": 2, "verbose": 0, "shuffle": False}
        for strategy in (tf.distribute.get_strategy(), mirrored):
            with strategy.scope():
                keras.utils.set_random_seed(0)
                model = build(config, (8, 8, 1), 10)
            histories.append(model.fit(images, **fit).history)
            models.append(model)
        one, two = models
        for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
        samples = [model.sample(model.latents(3)) for model in models]
        np.testing.assert_allclose(*samples, atol=1e-5)
        # A gradient's norm is that of the replica's own part of the batch.
        for key in (key for key in histories[0] if not key.endswith("gradient_norm")):
            np.testing.assert_allclose(*(each[key] for each in histories), atol=1e-5, err_msg=key)

        # NaN on one replica: no weight moves on either.
        images[7] = np.nan
        history = two.fit(images, **fit).history
        assert np.isnan(history["d_loss"]).all() and two.skipped_updates == 2, history
        assert all(np.isfinite(each).all() for each in two.get_weights())
    """)


# --- Values that are not finite ------------------------------------------------------------------


def poisoned(forward=0.0, backward=0.0):
    """A function that adds to values that pass, and to gradients that return."""

    @tf.custom_gradient
    def through(x):
        return x + forward, lambda upstream: upstream + backward

    return through


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.parametrize(
    ("where", "poison", "skipped"),
    [
        ("D's loss", poisoned(forward=np.nan), "d"),
        ("D's loss", poisoned(backward=np.inf), "d"),
        ("G's images", poisoned(backward=np.nan), "g"),
        ("G's images", poisoned(forward=np.inf), "dg"),
    ],
)
def test_an_update_by_what_is_not_finite_is_skipped(where, poison, skipped, precision, monkeypatch):
    keras.config.set_dtype_policy(precision)
    model = tiny("gan")
    if precision == "mixed_float16":
        for optimizer in (model.d_optimizer, model.g_optimizer):
            optimizer.dynamic_scale.assign(1.0)  # so small that nothing overflows by itself
    owners = {"d": model.discriminator, "g": model.generator}
    before = {key: values(network.trainable_variables) for key, network in owners.items()}
    if where == "G's images":
        generate = model.generate
        monkeypatch.setattr(model, "generate", lambda *a, **k: poison(generate(*a, **k)))
    else:
        loss = model.objective.discriminator
        model.objective = model.objective._replace(
            discriminator=lambda real, fake: loss(poison(real), fake)
        )
    logs = step(model)
    for key, network in owners.items():
        is_skipped = key in skipped
        assert changed(before[key], values(network.trainable_variables)) != is_skipped
        slots = [v for v in values(getattr(model, f"{key}_optimizer").variables) if v.ndim]
        assert changed(slots, [0 * slot for slot in slots]) != is_skipped
        assert np.isnan(logs[f"{key}_gradient_norm"]) == is_skipped
    assert model.skipped_updates == len(skipped)


def test_logs_and_keras_callbacks_see_nan():
    """`TerminateOnNaN` ends a run, and an epoch of NaN is not the best one."""
    images, labels = batch(16)
    with_nan = np.where(np.arange(16)[:, None, None, None] == 0, np.nan, images)
    stop = keras.callbacks.TerminateOnNaN()
    fit = {"batch_size": 8, "epochs": 3, "verbose": 0}
    model = tiny("gan")
    history = model.fit(with_nan, labels, callbacks=[stop], **fit).history
    assert np.isnan(history["d_loss"]).tolist() == [True]
    assert model.skipped_updates == 1
    assert all(np.isfinite(weights).all() for weights in values(model.discriminator.weights))

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
