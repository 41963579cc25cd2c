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


def twins(kind, options, shape):
    """Two built layers, ours and Keras's, of the same configuration and weights."""
    ours, kerass = (getattr(each, kind)(**options) for each in (layers, keras.layers))
    for layer in (ours, kerass):
        layer.build(shape)
    generator = np.random.default_rng(0)
    for weight in ours.weights:
        weight.assign(generator.uniform(0.5, 1.5, weight.shape))
    kerass.set_weights(ours.get_weights())
    return ours, kerass


def assert_same_function(ours, kerass, x, upstream):
    """In training and in inference, with the same gradients and statistics."""
    pairs = zip(*(value_and_gradients(layer, x, upstream) for layer in (ours, kerass)))
    for mine, theirs in (*pairs, *zip(ours.weights, kerass.weights)):
        np.testing.assert_allclose(mine, theirs, **CLOSE)
    np.testing.assert_allclose(ours(x), kerass(x), **CLOSE)


@pytest.mark.parametrize(
    ("kind", "options", "shape", "out"),
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
def test_convolutions_are_keras_s(kind, options, shape, out, use_bias):
    options = {**options, "strides": 2, "padding": "same", "use_bias": use_bias}
    x, upstream = tf.random.normal(shape, seed=1), tf.random.normal(out, seed=2)
    assert_same_function(*twins(kind, options, shape), x, upstream)


def test_gradients_of_the_convolutions_have_gradients():
    options = {"filters": 5, "kernel_size": 4, "strides": 2, "padding": "same"}
    ours, kerass = twins("Conv2D", options, (2, 8, 8, 1))
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
    x, upstream = 3 + 2 * tf.random.normal(shape, seed=1), tf.random.normal(shape, seed=2)
    assert_same_function(*twins("BatchNormalization", options, shape), x, upstream)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_batch_normalization_in_half_precision(precision):
    ours = layers.BatchNormalization(dtype=keras.DTypePolicy(precision))
    x = tf.cast(3 + 2 * tf.random.normal([64, 6], seed=1), ours.compute_dtype)
    y = ours(x, training=True)
    assert y.dtype == ours.compute_dtype
    assert np.abs(np.mean(tf.cast(y, tf.float32))) < 0.01
    assert all(weight.dtype == "float32" for weight in ours.weights)
    np.testing.assert_allclose(ours.moving_mean, 0.03 * np.ones(6), atol=0.01)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_adam_is_keras_s(on_gpu, monkeypatch):
    """Of an embedding too; on a GPU without scatters."""
    monkeypatch.setattr(optimizers, "on_gpu", lambda: on_gpu)
    indices = tf.constant([0, 2, 0, 0])  # rows: one several times, one never
    gradients = tf.random.normal((9, 4, 5), seed=0)

    def train(kind):
        weights = [keras.Variable(np.ones(shape, np.float32)) for shape in ((3, 5), (4, 5))]
        optimizer = kind(0.1, 0.5, 0.99)
        optimizer.build(weights)

        @tf.function
        def update(dense):
            rows = tf.IndexedSlices(dense, indices, [3, 5])
            optimizer.apply([rows, dense], weights)

        for each in gradients:
            update(each)
        graph = update.get_concrete_function(gradients[0]).graph.as_graph_def()
        nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
        scatters = {node.op for node in nodes if re.search("Scatter|Segment", node.op)}
        return [*weights, *optimizer.variables], scatters

    with tf.device("CPU"):  # a GPU's products round to TF32
        mine, theirs = train(optimizers.Adam), train(keras.optimizers.Adam)
    for one, other in zip(mine[0], theirs[0], strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)
    assert theirs[1] and bool(mine[1]) != on_gpu
