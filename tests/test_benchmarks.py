"""The contestants of the benchmarks: they are what was published, they learn, and can be paused."""

import importlib.util
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import contestants
from benchmarks.contestants.pacing import Paced

IMAGES, BATCH = 256, 8
# Of the generator and the discriminator, batch norm's statistics included, as the peers' own
# summaries state them; PyTorch's is a scaled one, counted from its layers by hand.
PARAMETERS = {
    "keras_io_cgan": (1_491_215, 80_385),
    "tf_dcgan": (2_330_944, 212_865),
    "tf_gan": (13_307_265, 6_560_961),
    "pytorch_dcgan": (
        100 * 128 * 49 + 4 * 128 + 128 * 64 * 16 + 4 * 64 + 64 * 16,
        64 * 16 + 64 * 128 * 16 + 4 * 128 + 128 * 49,
    ),
}
TINY = {
    "gan": {"g_hidden_widths": (8,), "d_hidden_widths": (4,)},
    "dcgan": {"width": 2},
    "cdcgan": {"width": 2},
}


def digits():
    random = np.random.default_rng(0)
    return random.integers(0, 256, (IMAGES, 28, 28, 1), np.uint8), np.arange(IMAGES) % 10


def expect_contestant(name):
    kind, options = contestants.load(name), {}
    if name in TINY:
        options = {"overrides": TINY[name] | {"batch_size": BATCH}}
    else:
        kind = type(name, (kind,), {"batch_size": BATCH})
    entered = kind(*digits(), seed=0, published=False, **options)
    if name in PARAMETERS:
        assert entered.parameters() == PARAMETERS[name]
    before, labels = entered.sample(3, seed=1)
    assert before.shape == (3, 28, 28, 1) and before.dtype == np.uint8
    conditional = name in ("keras_io_cgan", "cdcgan")
    assert (labels.tolist() == [0, 1, 2]) if conditional else labels is None

    start = time.perf_counter()
    assert entered.train(0)[0] == BATCH
    images, seconds = entered.train(0)
    assert images == 2 * BATCH
    assert 0 < seconds < time.perf_counter() - start
    after, _ = entered.sample(3, seed=1)
    again, _ = entered.sample(3, seed=1)
    assert np.array_equal(after, again)
    assert not np.array_equal(before, after)
    entered.close()


@pytest.mark.parametrize(
    "name", [name for name in contestants.CONTESTANTS if name != "pytorch_dcgan"]
)
def test_a_contestant_trains_for_a_while_and_goes_on(name):
    expect_contestant(name)


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs PyTorch")
def test_the_one_of_pytorch_does_too(run_python):
    # In one process with TensorFlow, importing PyTorch crashes.
    run_python(
        f"""
        import sys
        sys.path[:0] = {[str(Path(__file__).parents[1]), str(Path(__file__).parent)]}
        import test_benchmarks
        test_benchmarks.expect_contestant("pytorch_dcgan")
        assert "tensorflow" not in sys.modules
        """
    )


def test_ours_ends_with_its_recipe_and_pauses_change_nothing():
    recipe = TINY["gan"] | {"epochs": 2, "steps_per_epoch": 2, "batch_size": 16}
    through, paused = (
        contestants.load("gan")(*digits(), seed=0, overrides=recipe) for _ in range(2)
    )
    assert through.train(1000)[0] == 2 * 2 * 16
    for images in (16, 32, 48, 64, 64):
        assert paused.train(0)[0] == images
        paused.sample(2, seed=0)
    for one, other in zip(through.model.weights, paused.model.weights):
        assert np.array_equal(one, other)


def test_time_between_two_turns_does_not_count():
    class Idle(Paced):
        def run(self, tick):
            while True:
                tick(1)

    idle = Idle()
    idle.train(0)
    time.sleep(0.2)
    assert idle.train(0)[1] < 0.2
    idle.close()


def test_a_failure_is_passed_on():
    class Failing(Paced):
        def run(self, tick):
            tick(1)
            raise ArithmeticError("NaN")

    failing = Failing()
    assert failing.train(0)[0] == 1
    with pytest.raises(ArithmeticError):
        failing.train(1)
