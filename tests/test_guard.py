"""NaN and infinities that arise in training: no weight is ever touched by one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgan_mnist import checkpoints
from tfgan_mnist.config import resolve
from tfgan_mnist.errors import UserError
from tfgan_mnist.models import build

SHAPE = (8, 8, 1)
# Batch norm in both networks, dropout and G's moving average; under spectral normalisation D's
# kernels are written by its forward pass.
KINDS = {
    "batch_norm": {
        "model": "cdcgan",
        "g_width": 2,
        "d_width": 2,
        "d_dropout": 0.3,
        "class_head": True,
    },
    "spectral_norm": {
        "model": "dcgan",
        "g_width": 2,
        "d_width": 2,
        "d_batch_norm": False,
        "hidden_dense": False,
        "spectral_norm": True,
    },
    "two_updates": {"model": "gan", "g_hidden_widths": (6,), "discriminator_steps": 2},
}


@pytest.fixture(autouse=True)
def float32_policy():
    yield
    keras.config.set_dtype_policy("float32")


def tiny(kind, precision="float32"):
    keras.config.set_dtype_policy(precision)
    keras.utils.set_random_seed(0)
    sizes = {"latent_dim": 4, "steps_per_epoch": 9, "ema": 0.5}
    model = build(resolve(KINDS[kind] | sizes), SHAPE, 10)
    for optimizer in (model.d_optimizer, model.g_optimizer):
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            optimizer.dynamic_scale.assign(1.0)  # so small that nothing overflows by itself
    return model


def batch():
    images = np.random.default_rng(0).uniform(-1, 1, (8, *SHAPE)).astype(np.float32)
    return tf.constant(images), tf.constant(np.arange(8, dtype=np.int32))


def state(model) -> dict:
    """Copies of all that a NaN could get into, by owner, number and path."""
    found = {
        (owner, i, variable.path): np.array(variable)
        for owner, variables in model.training_state().items()
        for i, variable in enumerate(variables)
        if tf.as_dtype(variable.dtype).is_floating
    }
    for key, value in found.items():
        assert np.isfinite(value).all(), key
    return found


def changed(before: dict, after: dict) -> set:
    """Owners of what has changed: of weights and slots, and with a * of what passes write."""
    written = ("moving_mean", "moving_variance", "vector_u")
    return {
        owner + ("*" if path.endswith(written) and "optimizer" not in owner else "")
        for (owner, i, path), value in before.items()
        if owner != "metrics"
        and "scale" not in path
        and not np.array_equal(value, after[owner, i, path])
    }


class Poison:
    """Adds to what comes by, and to the gradient that goes back."""

    def __init__(self, forward=0.0, backward=0.0):
        self.forward, self.backward = forward, backward

    def __call__(self, x):
        @tf.custom_gradient
        def through(x):
            return x + self.forward, lambda upstream: upstream + self.backward

        return through(x)


# Where it gets in -> whose updates are left out.
PLACES = {
    "D's loss": ("objective", Poison(forward=np.nan), "d"),
    "D's gradient": ("objective", Poison(backward=np.inf), "d"),
    "G's gradient": ("generate", Poison(backward=np.nan), "g"),
    "G's images": ("generate", Poison(forward=np.inf), "dg"),
    "real images": ("images", Poison(forward=np.nan), "d"),
}


def poisoned_step(model, place) -> dict:
    where, poison, _ = PLACES[place]
    images, labels = batch()
    with pytest.MonkeyPatch.context() as patch:
        if where == "images":
            images = poison(images)
        elif where == "generate":
            generate = model.generate
            patch.setattr(model, "generate", lambda *a, **k: poison(generate(*a, **k)))
        else:
            loss = model.objective.discriminator
            changed = model.objective._replace(discriminator=lambda r, f: loss(poison(r), f))
            patch.setattr(model, "objective", changed)
        model.reset_metrics()
        return {key: float(value) for key, value in model.train_step((images, labels)).items()}


@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        ("batch_norm", "float32"),
        ("batch_norm", "mixed_float16"),
        ("batch_norm", "mixed_bfloat16"),
        ("spectral_norm", "float32"),
        ("two_updates", "mixed_float16"),
    ],
)
def test_an_update_by_what_is_not_finite_is_not_made(kind, precision):
    model = tiny(kind, precision)
    model.train_step(batch())
    updates = {"d": model.discriminator_steps, "g": 1}
    names = {"d": "discriminator", "g": "generator"}
    for place, (_, _, left_out) in PLACES.items():
        before = state(model)
        logs = poisoned_step(model, place)
        moved = changed(before, state(model))
        for key, name in names.items():
            made = key not in left_out
            assert ({f"{key}_optimizer"} <= moved) == made, (place, key, moved)
            if kind != "spectral_norm":  # all of D's weights there are written by G's update
                assert ({name} <= moved) == made, (place, key, moved)
        if left_out == "dg":
            assert moved == set()
        skipped = sum(updates[key] for key in left_out) / sum(updates.values())
        assert logs["skipped"] == pytest.approx(skipped)
        assert all(np.isfinite(value) for value in logs.values()), place
        assert all((logs[f"{key}_loss"] == 0) == (key in left_out) for key in "dg"), place
    # And on, as if nothing had been.
    before = state(model)
    model.reset_metrics()
    assert float(model.train_step(batch())["skipped"]) == 0
    assert {*names.values(), "d_optimizer", "g_optimizer"} <= changed(before, state(model))


@pytest.mark.parametrize(
    ("jit_compile", "precision"),
    [
        (False, "float32"),
        pytest.param(True, "float32", marks=pytest.mark.slow),
        pytest.param(True, "mixed_float16", marks=pytest.mark.slow),
        pytest.param(True, "mixed_bfloat16", marks=pytest.mark.slow),
    ],
)
def test_it_holds_inside_a_graph_too(jit_compile, precision):
    """Where conditions are compiled: the third of four steps is left out."""
    model = tiny("batch_norm", precision)
    at = tf.constant([0.0, 0.0, np.nan, 0.0])
    loss = model.class_loss
    model.class_loss = lambda *a: loss(*a) * (1.0 + at[tf.cast(model.global_step.value, tf.int32)])
    step = tf.function(model.train_step, jit_compile=jit_compile)
    moved = []
    for _ in range(4):
        before = state(model)
        step(batch())
        moved.append(changed(before, state(model)))
    assert [bool(owners) for owners in moved] == [True, True, False, True]
    optimizers = (model.d_optimizer, model.g_optimizer)
    inner = [getattr(each, "inner_optimizer", each) for each in optimizers]
    assert [int(each.iterations) for each in inner] == [3, 3]


@pytest.mark.parametrize("owner", ["generator", "g_optimizer", "d_optimizer"])
def test_no_checkpoint_of_what_is_not_finite(owner, tmp_path):
    model = tiny("two_updates")
    checkpoints.save(tmp_path, model)
    variable = model.training_state()[owner][-1]
    variable.assign(tf.fill(variable.shape, np.inf))
    with pytest.raises(UserError, match=f"step 0: {owner} holds values that are NaN or infinite"):
        checkpoints.save(tmp_path, model)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000000"]
