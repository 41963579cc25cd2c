"""Keras's layers and Adam in faster forms: the same functions, and the same gradients."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgan_mnist.models import layers, optimizers

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def value_and_gradients(layer, x, upstream):
    """What a layer makes of x in training, and the gradients by x and by its weights."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    weights = [weight.value for weight in layer.trainable_variables]
    return y, *tape.gradient(y, [x, *weights], upstream)


def twins(ours, keras_layer, shape):
    """Two built layers of the same configuration and weights."""
    config = ours.get_config()
    other = keras_layer.from_config(config)
    for layer in (ours, other):
        layer.build(shape)
    generator = np.random.default_rng(0)
    for weight in ours.weights:
        weight.assign(generator.uniform(0.5, 1.5, weight.shape))
    other.set_weights(ours.get_weights())
    return ours, other


@pytest.mark.parametrize(
    ("name", "options", "shape", "out"),
    [
        ("Conv2DTranspose", {"filters": 1, "kernel_size": 4}, (2, 7, 7, 6), (2, 14, 14, 1)),
        ("Conv2DTranspose", {"filters": 3, "kernel_size": 2}, (2, 3, 5, 4), (2, 6, 10, 3)),
        ("Conv2DTranspose", {"filters": 1, "kernel_size": 6}, (2, 7, 7, 6), (2, 14, 14, 1)),
        ("Conv2DTranspose", {"filters": 1, "kernel_size": 5}, (2, 7, 7, 6), (2, 14, 14, 1)),
        ("Conv2D", {"filters": 5, "kernel_size": 4}, (2, 14, 14, 1), (2, 7, 7, 5)),
        ("Conv2D", {"filters": 5, "kernel_size": 4}, (2, 14, 14, 8), (2, 7, 7, 5)),
        ("Conv2D", {"filters": 5, "kernel_size": 2}, (2, 6, 10, 3), (2, 3, 5, 5)),
    ],
)
@pytest.mark.parametrize("use_bias", [True, False])
def test_convolutions_are_keras_s(name, options, shape, out, use_bias):
    options = {**options, "strides": 2, "padding": "same", "use_bias": use_bias}
    ours, kerass = twins(getattr(layers, name)(**options), getattr(keras.layers, name), shape)
    x, upstream = tf.random.normal(shape, seed=1), tf.random.normal(out, seed=2)
    for mine, theirs in zip(
        value_and_gradients(ours, x, upstream), value_and_gradients(kerass, x, upstream)
    ):
        np.testing.assert_allclose(mine, theirs, **CLOSE)
    np.testing.assert_allclose(ours(x), kerass(x), **CLOSE)


def test_gradients_of_the_convolutions_have_gradients():
    ours, kerass = twins(
        layers.Conv2D(5, 4, strides=2, padding="same"), keras.layers.Conv2D, (2, 8, 8, 1)
    )
    x = tf.random.normal([2, 8, 8, 1], seed=1)

    def of_penalty(layer):
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = tf.reduce_sum(layer(x, training=True) ** 2)
            penalty = tf.reduce_sum(inner.gradient(y, x) ** 2)
        return outer.gradient(penalty, layer.kernel.value)

    np.testing.assert_allclose(of_penalty(ours), of_penalty(kerass), rtol=1e-4)


@pytest.mark.parametrize("shape", [(8, 7, 7, 6), (64, 5)])
@pytest.mark.parametrize("options", [{}, {"scale": False, "center": False, "momentum": 0.5}])
def test_batch_normalization_is_keras_s(shape, options):
    ours, kerass = twins(
        layers.BatchNormalization(**options), keras.layers.BatchNormalization, shape
    )
    x, upstream = 3 + 2 * tf.random.normal(shape, seed=1), tf.random.normal(shape, seed=2)
    for mine, theirs in zip(
        value_and_gradients(ours, x, upstream), value_and_gradients(kerass, x, upstream)
    ):
        np.testing.assert_allclose(mine, theirs, **CLOSE)
    for mine, theirs in zip(ours.weights, kerass.weights):  # moving statistics
        np.testing.assert_allclose(mine, theirs, **CLOSE)
    np.testing.assert_allclose(ours(x, training=False), kerass(x, training=False), **CLOSE)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_batch_normalization_in_half_precision(precision):
    ours = layers.BatchNormalization(dtype=keras.DTypePolicy(precision))
    x = tf.cast(3 + 2 * tf.random.normal([64, 6], seed=1), ours.compute_dtype)
    y = ours(x, training=True)
    assert y.dtype == ours.compute_dtype
    assert np.abs(np.mean(tf.cast(y, tf.float32))) < 0.01
    assert all(weight.dtype == "float32" for weight in ours.weights)
    np.testing.assert_allclose(ours.moving_mean, 0.03 * np.ones(6), atol=0.01)


def test_adam_is_keras_s():
    generator = np.random.default_rng(0)
    start = [generator.normal(size=shape) for shape in ((3, 4), (5,))]
    options = {"learning_rate": 0.01, "beta_1": 0.5, "beta_2": 0.99}
    found = []
    for kind in (optimizers.Adam, keras.optimizers.Adam):
        generator = np.random.default_rng(1)
        variables = [keras.Variable(value, dtype="float32") for value in start]
        optimizer = kind(**options)
        for _ in range(20):
            gradients = [tf.constant(generator.normal(size=v.shape), tf.float32) for v in variables]
            # Of an embedding, in which a row was looked up twice.
            gradients[0] = tf.IndexedSlices(gradients[0], tf.constant([0, 2, 0]), (3, 4))
            optimizer.apply_gradients(zip(gradients, variables))
        found.append([v.numpy() for v in (*variables, *optimizer.variables)])
    for mine, theirs in zip(*found):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_adam_by_rows_is_keras_s_without_a_scatter(monkeypatch):
    monkeypatch.setattr(optimizers, "on_gpu", lambda: True)
    indices = tf.constant([0, 2, 0, 0])  # one several times, one never
    values = tf.random.normal((3, 4, 5), seed=0)

    def train(kind):
        weight = keras.Variable(np.ones((3, 5), np.float32))
        optimizer = kind(0.1, 0.5, 0.99)
        optimizer.build([weight])
        update = tf.function(
            lambda rows: optimizer.apply([tf.IndexedSlices(rows, indices, [3, 5])], [weight])
        )
        for rows in values:
            update(rows)
        graph = update.get_concrete_function(values[0]).graph.as_graph_def()
        nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
        scatters = {node.op for node in nodes if re.search("Scatter|Segment", node.op)}
        return [weight, *optimizer.variables], scatters

    with tf.device("CPU"):  # a GPU's products round to TF32
        mine, theirs = train(optimizers.Adam), train(keras.optimizers.Adam)
    for one, other in zip(mine[0], theirs[0], strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)
    assert not mine[1] and theirs[1]
