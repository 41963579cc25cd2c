"""Objectives and penalties against closed forms in NumPy, written from the papers' formulas."""

import numpy as np
import pytest
import tensorflow as tf

from tfgan_mnist.models import losses, rules

REAL = np.array([-3.0, -0.5, 0.0, 0.7, 4.0], np.float32)
FAKE = np.array([2.0, -1.5, 0.3, -0.2, -5.0], np.float32)


def sigmoid(logits):
    return 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))


D_REAL, D_FAKE = sigmoid(REAL), sigmoid(FAKE)
CROSS_ENTROPY = -np.log(D_REAL) - np.log(1 - D_FAKE)

CLOSED_FORMS = {
    "minimax": (CROSS_ENTROPY, np.log(1 - D_FAKE)),
    "non_saturating": (CROSS_ENTROPY, -np.log(D_FAKE)),
    "least_squares": (((REAL - 1) ** 2 + FAKE**2) / 2, (FAKE - 1) ** 2 / 2),
    "hinge": (np.maximum(0, 1 - REAL) + np.maximum(0, 1 + FAKE), -FAKE),
    "wasserstein": (FAKE - REAL, -FAKE),
    "relativistic": (-np.log(sigmoid(REAL - FAKE)), -np.log(sigmoid(FAKE - REAL))),
}


def test_every_loss_that_can_be_configured_has_a_closed_form_here():
    assert set(CLOSED_FORMS) == set(losses.OBJECTIVES)
    assert tuple(losses.OBJECTIVES) == rules.LOSSES


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_objective_is_its_papers_formula(name):
    objective = losses.get(name)
    discriminator, generator = CLOSED_FORMS[name]
    np.testing.assert_allclose(objective.discriminator(REAL, FAKE), discriminator, rtol=1e-5)
    np.testing.assert_allclose(
        objective.generator(FAKE, REAL if objective.paired else None), generator, rtol=1e-5
    )


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_objective_is_finite_with_finite_gradients_at_huge_logits(name):
    objective = losses.get(name)
    real, fake = tf.constant([-1e4, 1e4]), tf.constant([1e4, -1e4])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([real, fake])
        d = objective.discriminator(real, fake)
        g = objective.generator(fake, real)
    for value in (d, g, *tape.gradient(d, [real, fake]), tape.gradient(g, fake)):
        assert np.isfinite(value).all()


def test_one_sided_smoothing_is_cross_entropy_to_the_lowered_target():
    objective = losses.get("non_saturating", label_smoothing=0.1)
    expected = -0.9 * np.log(D_REAL) - 0.1 * np.log(1 - D_REAL) - np.log(1 - D_FAKE)
    np.testing.assert_allclose(objective.discriminator(REAL, FAKE), expected, rtol=1e-5)
    squares = losses.get("least_squares", label_smoothing=0.1)
    expected = ((REAL - 0.9) ** 2 + FAKE**2) / 2
    np.testing.assert_allclose(squares.discriminator(REAL, FAKE), expected, rtol=1e-5)


def test_accuracy_is_by_sign_where_zero_decides_and_by_the_middle_elsewhere():
    real, fake = tf.constant([5.0, 7.0, -1.0]), tf.constant([3.0, 1.0, -2.0])
    on_real, on_fake = losses.accuracies(losses.get("hinge"), real, fake)
    np.testing.assert_array_equal(on_real, [1, 1, 0])
    np.testing.assert_array_equal(on_fake, [0, 0, 1])
    # Means 11/3 and 2/3: the border is 13/6.
    on_real, on_fake = losses.accuracies(losses.get("wasserstein"), real, fake)
    np.testing.assert_array_equal(on_real, [1, 1, 0])
    np.testing.assert_array_equal(on_fake, [0, 1, 1])


def test_squared_gradient_norm_of_a_quadratic():
    # D(x) = sum(x^2) / 2 has the gradient x.
    images = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype(np.float32)
    norms = losses.squared_gradient_norm(
        lambda x: tf.reduce_sum(tf.square(x), axis=[1, 2, 3]) / 2, tf.constant(images)
    )
    np.testing.assert_allclose(norms, (images**2).sum(axis=(1, 2, 3)), rtol=1e-5)


def test_gradient_penalty_is_taken_between_real_and_fake():
    real, fake = tf.ones([2, 2, 2, 1]) * 3.0, tf.ones([2, 2, 2, 1])
    alpha = tf.reshape([0.0, 0.5], [2, 1, 1, 1])
    # The gradient of sum(x^2) / 2 at 1 everywhere, and at 2 everywhere, over four pixels.
    expected = (np.sqrt([4 * 1.0, 4 * 4.0]) - 1) ** 2
    penalty = losses.gradient_penalty(
        lambda x: tf.reduce_sum(tf.square(x), axis=[1, 2, 3]) / 2, real, fake, alpha
    )
    np.testing.assert_allclose(penalty, expected, rtol=1e-5)


def test_gradient_penalty_has_a_finite_gradient_where_the_discriminator_is_flat():
    # keras-io issue 624: the square root's slope at 0 made every weight NaN.
    weight = tf.Variable(0.0)
    with tf.GradientTape() as tape:
        penalty = losses.gradient_penalty(
            lambda x: weight * tf.reduce_sum(x, axis=[1, 2, 3]),
            tf.ones([2, 2, 2, 1]),
            tf.zeros([2, 2, 2, 1]),
            tf.fill([2, 1, 1, 1], 0.5),
        )
        loss = tf.reduce_mean(penalty)
    assert np.isfinite(tape.gradient(loss, weight))
