"""The contestants of the benchmarks: they are what was published, they learn, and can be paused."""

import importlib.util
import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import contestants, entrants, mirror, records, search, time_to_quality
from benchmarks.contestants.pacing import Paced
from tfgan_mnist import config

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
    "dcgan": {"g_width": 2, "d_width": 2},
    "cdcgan": {"g_width": 2, "d_width": 2},
}


@pytest.fixture(autouse=True)
def _eagerly():
    # A few steps of so many loops take less time than tracing them.
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


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


def test_the_peers_of_the_step_have_our_networks_of_keras_layers():
    """That ours compute the same functions faster is part of what is compared."""
    for network in entrants.our_networks():
        kinds = {type(layer).__module__ for layer in network.layers}
        assert not any(kind.startswith("tfgan_mnist") for kind in kinds), kinds


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs PyTorch")
def test_the_one_of_pytorch_does_too_and_our_networks_have_a_mirror(run_python):
    networks = entrants.our_networks()
    layers = [mirror.describe(network) for network in networks]
    counts = [network.count_params() for network in networks]
    # In one process with TensorFlow, importing PyTorch crashes.
    run_python(
        f"""
        import sys
        sys.path[:0] = {[str(Path(__file__).parents[1]), str(Path(__file__).parent)]}
        import test_benchmarks
        test_benchmarks.expect_contestant("pytorch_dcgan")

        from benchmarks import mirror
        from benchmarks.contestants.pytorch_dcgan import count
        import torch
        generator, discriminator = map(mirror.in_torch, {layers})
        assert [count(generator), count(discriminator)] == {counts}
        assert generator(torch.zeros(2, {layers[0][0]["inputs"]})).shape == (2, 1, 28, 28)
        assert discriminator(torch.zeros(2, 1, 28, 28)).shape == (2, 1)
        assert "tensorflow" not in sys.modules
        """
    )


def test_products_of_a_step_are_found_and_counted():
    import keras
    import tensorflow as tf

    from benchmarks import products

    convolution = keras.layers.Conv2D(3, 4, strides=2, padding="same", use_bias=False)
    dense = keras.layers.Dense(5, use_bias=False)

    @tf.function
    def step(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            maps = convolution(images)  # (2, 4, 4, 3)
            loss = tf.reduce_sum(dense(tf.reshape(maps, [2, 48])) ** 2)
        # The kernel of the dense layer is left out: its gradient is traced, but not computed.
        return tape.gradient(loss, [images, convolution.kernel.value])

    images = tf.ones([2, 8, 8, 1])
    step(images)
    found = products.found_in(step.get_concrete_function(images).graph)
    by_kind = {kind: [p for _, p in found if p.kind == kind] for kind in products.KINDS}
    assert [len(of) for of in by_kind.values()] == [2, 1, 1, 1]
    assert {p.flops for p in by_kind["MatMul"]} == {2 * 2 * 48 * 5}
    for kind in products.KINDS[1:]:
        (product,) = by_kind[kind]
        assert product.flops == 2 * (2 * 4 * 4) * (4 * 4 * 1 * 3)
        assert str(product) == "8x8x1 ~ 4x4x3, 4x4"
        bare = product.as_matrix_product()
        assert bare.kind == "MatMul" and bare.flops == product.flops
        assert products.seconds(product) > 0 and products.seconds(bare) > 0


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


def test_results_of_another_recipe_are_not_told(tmp_path, monkeypatch):
    machine = {"processor": "slow", "cores": 2, "bfloat16": False}
    rows = [
        {"contestant": "tf_dcgan", "mark": 60},
        {"contestant": "dcgan", "mark": 60, "recipe": time_to_quality.recipe("dcgan")},
        {"contestant": "dcgan", "mark": 120, "recipe": time_to_quality.recipe("cdcgan")},
        {"contestant": "gan", "mark": 120},
    ]
    rows = [row | {"machine": machine, "seed": 0} for row in rows]
    # A field of today's was not there when the row was written.
    del rows[1]["recipe"]["on_collapse"]
    monkeypatch.setattr(time_to_quality, "LOG", tmp_path / "log.jsonl")
    time_to_quality.LOG.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert time_to_quality.read() == rows[:2]
    again = rows[0] | {"fid": 1.0}
    time_to_quality.LOG.write_text("".join(json.dumps(row) + "\n" for row in (*rows, again)))
    assert time_to_quality.read() == [again, rows[1]]


def contest_row(processor: str, mark: int, fid: float, date: str) -> dict:
    return {
        "date": date,
        "machine": {"processor": processor, "cores": 2, "bfloat16": False},
        "contestant": "tf_gan",
        "seed": 0,
        "mark": mark,
        "seconds": mark,
        "fid": fid,
        "precision": 0.5,
        "recall": 0.5,
        "smallest_class": 0.1,
        "floor": {"fid": 0.25, "precision": 0.85, "recall": 0.87},
    }


def test_the_report_has_a_table_for_each_machine(tmp_path, monkeypatch, capsys):
    rows = [
        contest_row("slow", 60, 40.0, "2026-01-01"),
        contest_row("quick", 60, 20.0, "2026-01-03"),
        contest_row("slow", 120, 30.0, "2026-01-02"),
        contest_row("another", 60, 10.0, "2026-01-02"),
    ]
    drawn = []
    monkeypatch.setattr(time_to_quality, "LOG", tmp_path / "log.jsonl")
    monkeypatch.setattr(time_to_quality, "draw", drawn.append)
    monkeypatch.setattr("sys.argv", ["time_to_quality", "--report"])
    time_to_quality.main()
    assert capsys.readouterr().out == "Nothing was measured yet.\n"
    time_to_quality.LOG.write_text("".join(json.dumps(row) + "\n" for row in rows))
    time_to_quality.main()
    slow, _, rest = capsys.readouterr().out.partition("quick, without bfloat16, 2 cores:")
    assert slow.count("| tf_gan     |          40 |           30 |") == 2  # means and medians
    assert "| tf_gan     |          20 |" in rest and "30" not in rest
    assert drawn == [rows[1:2]]


def test_times_to_a_fid_say_when_they_are_bounds(capsys):
    peer = [contest_row("slow", mark, fid, "") for mark, fid in ((60, 40.0), (120, 20.0))]
    peer += [contest_row("slow", 60, 44.0, "") | {"seed": 1}]
    # A step that was traced anew ended late.
    ours = [contest_row("slow", 60, 16.0, ""), contest_row("slow", 120, 4.0, "")]
    ours = [row | {"contestant": "dcgan", "seconds": row["mark"] + 5} for row in ours]
    rows = peer + ours

    def time_to(name, threshold):
        return time_to_quality.time_to(rows, name, [60, 120], threshold)

    of_peer = [str(time_to("tf_gan", fid)) for fid in (50, 42, 20, 9)]
    assert of_peer == ["≤ 60", "≤ 60", "120", "> 120"]
    of_ours = [str(time_to("dcgan", fid)) for fid in (16, 8, 4, 2)]
    assert of_ours == ["≤ 65", "90", "125", "> 125"]
    ratios = [
        time_to_quality.ratio(time_to("tf_gan", fid), time_to("dcgan", fid))
        for fid in (50, 20, 10, 8, 2)
    ]
    assert ratios == ["", "≥ 1.8", "> 1.4", "> 1.3", ""]
    assert time_to_quality.ratio(time_to("tf_gan", 50), time_to("dcgan", 8)) == "≤ 0.7"
    # A recipe that ended early.
    ended = [(60, 60, 4.0), (120, 120, 2.0), (600, 240, 1.0)]
    ended = [contest_row("slow", mark, fid, "") | {"seconds": s} for mark, s, fid in ended]
    assert str(time_to_quality.time_to(ended, "tf_gan", [60, 120, 600], 1)) == "240"
    assert str(time_to_quality.time_to(ended, "tf_gan", [60, 120, 600], 0.5)) == "> 600"
    time_to_quality.report(rows)
    assert "| 20  |    120 |  ≤ 65 |              ≥ 1.8 |" in capsys.readouterr().out


def test_without_pytorch_its_contestants_stay_away(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "torch" else find(n))
    for names in contestants.CONTESTANTS, entrants.ENTRANTS:
        kept = contestants.installed(names)
        # Whatever the names' spelling, in either benchmark.
        assert 0 < len(kept) < len(names)
        assert not any("torch" in name.lower() for name in kept)
    assert "PyTorch is not installed" in capsys.readouterr().out


def test_the_plot_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(time_to_quality, "PLOT", tmp_path / "plot.png")
    time_to_quality.draw([contest_row("slow", mark, 9.0, "2026-01-01") for mark in (60, 120)])
    assert time_to_quality.PLOT.stat().st_size > 0


@pytest.mark.parametrize("processor", ["slow", "quick"])
def test_a_contest_goes_on_where_its_own_machine_stopped(processor, tmp_path, monkeypatch):
    from tfgan_mnist import data

    row = contest_row("slow", 60, 40.0, "2026-01-01")
    begun = []
    monkeypatch.setattr(time_to_quality, "LOG", tmp_path / "log.jsonl")
    monkeypatch.setattr(records, "machine", lambda: row["machine"] | {"processor": processor})
    split = data.Split(*digits())
    monkeypatch.setattr(data, "load", lambda name: data.ImageData(name, split, split, 10, ()))

    def run(command, check):
        begun.append(command)
        return subprocess.CompletedProcess(command, "tf_dcgan" in command)

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr(time_to_quality, "score", lambda *arguments: [])
    time_to_quality.LOG.write_text(json.dumps(row) + "\n")
    assert time_to_quality.contest(["tf_dcgan", "tf_gan"], [0], (60,)) == ["tf_dcgan, seed 0"]
    assert len(begun) == 1 + (processor == "quick")
    # All marks of one run are kept, also those that were there.
    kept = []
    monkeypatch.setattr(records, "append", lambda name, row: kept.append(row["mark"]))
    monkeypatch.setattr(
        time_to_quality, "score", lambda *given: [{"mark": mark, "fid": 1.0} for mark in given[2]]
    )
    time_to_quality.contest(["tf_gan"], [0], (60, 120))
    assert kept == [60, 120]


def test_a_contest_with_a_failure_ends_with_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(time_to_quality, "LOG", tmp_path / "log.jsonl")
    monkeypatch.setattr(time_to_quality.cli, "start_tensorflow", lambda: None)
    monkeypatch.setattr(time_to_quality, "contest", lambda *given: ["tf_gan, seed 0"])
    monkeypatch.setattr("sys.argv", ["time_to_quality", "--contestants", "tf_gan"])
    with pytest.raises(SystemExit, match="failed: tf_gan, seed 0"):
        time_to_quality.main()


def test_a_failure_is_passed_on():
    class Failing(Paced):
        def run(self, tick):
            tick(1)
            raise ArithmeticError("NaN")

    failing = Failing()
    assert failing.train(0)[0] == 1
    with pytest.raises(ArithmeticError):
        failing.train(1)


def test_a_trial_tells_its_configuration_and_what_differs(mnist, data_dir, monkeypatch):
    # Here, as it brings TensorFlow, which must not be in the process of PyTorch's test above.
    from tfgan_mnist.training import evaluation_callback

    kept = []
    monkeypatch.setattr(records, "append", lambda name, row: kept.append((name, row)))
    monkeypatch.setattr(evaluation_callback, "num_held_out", lambda num: 60)
    chosen = TINY["gan"] | {"epochs": 2, "steps_per_epoch": 3, "batch_size": BATCH, "seed": 5}
    settings = config.resolve(
        {"model": "gan", "latent_dim": 7, "data_dir": str(data_dir), **chosen}
    )
    search.trial(settings, "fewer latents")
    assert [name for name, _ in kept] == ["search", "search"]
    assert [(row["epoch"], row["steps"], row["seed"]) for _, row in kept] == [(1, 3, 5), (2, 6, 5)]
    for _, row in kept:
        assert str(data_dir) not in json.dumps(row)
        assert row["why"] == "fewer latents" and row["configuration"]["d_dropout"] == 0.3
        assert row["setting"] == {
            "epochs": 2,
            "batch_size": BATCH,
            "latent_dim": 7,
            "g_hidden_widths": [8],
            "d_hidden_widths": [4],
        }
        assert {"seconds", "wall", "fid", "precision", "recall", "d_loss"} <= set(row)
