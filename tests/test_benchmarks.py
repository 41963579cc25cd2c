"""The benchmarks: the baselines are what was published, all models learn and can be paused."""

import importlib.util
import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import baselines, few_images, modes, records, search, step, time_to_quality
from benchmarks.timed import TimedTraining
from tfgan_mnist import config, data
from tfgan_mnist.data import datasets
from tfgan_mnist.evaluation import protocol

BATCH = 8
# With batch norm's statistics, as in the examples' own summaries; PyTorch's is counted by hand.
PARAMETERS = {
    "keras_io_cgan": (1_491_215, 80_385),
    "tf_dcgan": (2_330_944, 212_865),
    "tf_gan": (13_307_265, 6_560_961),
    "pytorch_dcgan": (760_064, 138_880),
}
TINY = {"gan": {"g_hidden_widths": (8,), "d_hidden_widths": (4,), "batch_size": BATCH}}
TINY |= {key: {"g_width": 2, "d_width": 2, "batch_size": BATCH} for key in ("dcgan", "cdcgan")}


@pytest.fixture(autouse=True)
def _eagerly():
    # A few steps of so many loops take less time than tracing them.
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def start(name, **values):
    images = np.random.default_rng(0).integers(0, 256, (256, 28, 28, 1), np.uint8)
    kind = baselines.load(name)
    if name in PARAMETERS:
        kind = type(name, (kind,), {"batch_size": BATCH})
    return kind(images, np.arange(256) % 10, seed=0, **TINY.get(name, {}) | values)


def expect_training(name):
    training = start(name)
    assert PARAMETERS.get(name) in (None, training.parameters())
    before, labels = training.sample(3, seed=1)
    assert before.shape == (3, 28, 28, 1) and before.dtype == np.uint8
    conditional = name in ("keras_io_cgan", "cdcgan")
    assert (labels is not None and labels.tolist() == [0, 1, 2]) == conditional
    assert [training.train(0)[0] for _ in range(2)] == [BATCH, 2 * BATCH]
    assert not np.array_equal(before, training.sample(3, seed=1)[0])
    training.close()


@pytest.mark.parametrize("name", ["keras_io_cgan", "tf_dcgan", "tf_gan", *TINY])
def test_a_model_trains_for_a_time_and_continues(name):
    expect_training(name)


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs PyTorch")
def test_pytorch_trains_for_a_time_and_continues(run_python):
    # In one process with TensorFlow, importing PyTorch crashes.
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
    program = "from test_benchmarks import expect_training; expect_training('pytorch_dcgan')"
    run_python(f"import sys; sys.path[:0] = {paths}; {program}; assert 'keras' not in sys.modules")


def test_our_training_ends_with_its_recipe_and_pauses_change_nothing():
    through, paused = (start("gan", epochs=2, steps_per_epoch=2) for _ in range(2))
    assert through.train(1000)[0] == 4 * BATCH
    assert [paused.train(0)[0] // BATCH for _ in range(5)] == [1, 2, 3, 4, 4]
    for one, other in zip(through.model.weights, paused.model.weights):
        assert np.array_equal(one, other)


def test_pauses_do_not_count_and_errors_reach_the_caller():
    class Failing(TimedTraining):
        def run(self, tick):
            tick(1)
            raise ArithmeticError("NaN")

    failing = Failing()
    failing.train(0)
    time.sleep(0.2)
    with pytest.raises(ArithmeticError):
        failing.train(1)
    assert failing.images_seen == 1 and failing.seconds < 0.2


def row(name="tf_gan", mark=60, fid=40.0, processor="slow", **values) -> dict:
    machine = {"processor": processor, "cores": 2, "bfloat16": False}
    scores = {"fid": fid, "precision": 0.5, "recall": 0.5, "smallest_class": 0.1}
    scores["floor"] = {"fid": 0.25, "precision": 0.85, "recall": 0.87}
    case = {"contestant": name, "seed": 0, "mark": mark, "seconds": mark}
    return {"date": "2026-01-01", "machine": machine, **case, **scores, **values}


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.setattr(time_to_quality, "LOG", tmp_path / "time_to_quality.jsonl")
    monkeypatch.setattr(time_to_quality, "PLOT", tmp_path / "plot.png")
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    return lambda *rows: time_to_quality.LOG.write_text("\n".join(map(json.dumps, rows)) + "\n")


def test_only_the_latest_rows_of_todays_recipes_are_read(log):
    recipe = time_to_quality.recipe("dcgan") | {"a_removed_field": 1}
    del recipe["on_collapse"]  # as if it had been added later
    ours = row("dcgan", recipe=recipe)
    log(row(), ours, row("dcgan", recipe=time_to_quality.recipe("cdcgan")), row("gan"), row(fid=1))
    assert time_to_quality.read() == {"slow, without bfloat16, 2 cores": [row(fid=1), ours]}


def test_the_report_has_tables_for_each_machine_and_a_plot(log, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["time_to_quality", "--report"])
    log(row(), row(mark=120, fid=30.0), row(fid=20.0, processor="quick"))
    time_to_quality.main()
    slow, _, quick = capsys.readouterr().out.partition("quick, without bfloat16, 2 cores:")
    assert slow.count("| tf_gan |          40 |           30 |") == 2  # means and medians
    assert "| tf_gan |          20 |" in quick and "30" not in quick
    assert time_to_quality.PLOT.stat().st_size > 0


@pytest.mark.parametrize("processor", ["slow", "quick"])
def test_a_measurement_continues_on_its_own_machine(processor, log, monkeypatch):
    log(row())
    started = []
    monkeypatch.setattr(data, "load", lambda name: None)
    monkeypatch.setattr(records, "machine", lambda: row(processor=processor)["machine"])

    def run(command, check):
        started.append(command)
        return subprocess.CompletedProcess(command, "tf_dcgan" in command)

    monkeypatch.setattr("subprocess.run", run)
    rows = {budget: row("tf_gan", budget) for budget in (60, 120)}
    monkeypatch.setattr(time_to_quality, "score", lambda *given: [rows[b] for b in given[2]])
    assert time_to_quality.measure(["tf_dcgan", "tf_gan"], [0], (60,)) == ["tf_dcgan, seed 0"]
    assert len(started) == 1 + (processor == "quick")
    time_to_quality.measure(["tf_gan"], [0], (60, 120))
    assert time_to_quality.read()["slow, without bfloat16, 2 cores"][-1] == rows[120]


def test_a_trial_records_what_differs(log, mnist, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "HELD_OUT", 60)
    # Recipes are chosen on held-out training images: without test images nothing is missing.
    monkeypatch.setattr(data, "load", lambda *arguments: mnist._replace(test=None))
    values = TINY["gan"] | {"epochs": 2, "steps_per_epoch": 3, "seed": 5}
    search.run(config.resolve({"model": "gan", "data_dir": str(data_dir), **values}), "narrower")
    rows = [json.loads(line) for line in (tmp_path / "search.jsonl").read_text().splitlines()]
    assert [(row["epoch"], row["steps"], row["seed"]) for row in rows] == [(1, 3, 5), (2, 6, 5)]
    setting = {"epochs": 2, "batch_size": BATCH, "g_hidden_widths": [8], "d_hidden_widths": [4]}
    assert rows[0]["setting"] == setting and "data_dir" not in rows[0]["configuration"]
    assert {"why", "seconds", "wall", "fid", "recall", "d_loss"} <= set(rows[0])


@pytest.mark.slow
def test_modes_are_counted_and_a_finished_run_is_not_trained_again(
    log, data_dir, mnist, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(datasets, "STACKS", {"train": 12_000, "test": 300})
    monkeypatch.setattr(modes, "NUM", 40)
    quick = {"steps_per_epoch": 2, "epochs_per_evaluation": 0, "latent_dim": 4}
    monkeypatch.setattr(modes, "RECIPE", modes.RECIPE | TINY["dcgan"] | quick)
    flags = ["modes", "--variants", "packing", "--seeds", "3", "--epochs", "1"]
    monkeypatch.setattr("sys.argv", [*flags, f"--runs={tmp_path}/r", f"--data_dir={data_dir}"])
    for _ in range(2):
        modes.main(modes.parser().parse_args())
    output = capsys.readouterr().out
    assert output.count("Nothing left to do") == 1
    first, again = map(json.loads, (tmp_path / "modes.jsonl").read_text().splitlines())
    assert (first["variant"], first["seed"], first["configuration"]["packing"]) == ("packing", 3, 2)
    assert first["modes"] == again["modes"] <= 40
    assert 0 < first["real"]["kl"] < first["kl"]
    *_, variant, real = output.splitlines()
    assert variant.startswith("| packing ") and real.startswith("| real ")


@pytest.mark.slow
def test_augmentation_is_compared_on_few_digits(
    log, data_dir, mnist, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    monkeypatch.setattr(protocol, "NUM", protocol.MIN_SAMPLES)
    small = {key: {**values, **TINY["dcgan"]} for key, values in few_images.VARIANTS.items()}
    monkeypatch.setattr(few_images, "VARIANTS", small)
    flags = ["few_images", "--seeds", "3", "--nums", "100", "--updates", "8"]
    monkeypatch.setattr("sys.argv", [*flags, f"--runs={tmp_path}/r"])
    few_images.main(few_images.parser().parse_args())
    rows = [json.loads(line) for line in (tmp_path / "few_images.jsonl").read_text().splitlines()]
    assert [row["configuration"]["augment"] for row in rows] == ["none", "translation"]
    assert all(row["fid"] > row["real"]["fid"] > 0 for row in rows)
    *_, none, translation, real = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in (none, translation, real)] == [*small, "real"]


def test_steps_are_compared_in_two_rounds(monkeypatch, capsys):
    variants = {"step": TINY["dcgan"], "fit": {"loop": "fit", **TINY["dcgan"]}}
    monkeypatch.setattr(step, "variants_of", lambda comparison, model: variants)
    flags = ["--models", "dcgan", "--rounds=2", "--seconds=0"]
    monkeypatch.setattr("sys.argv", ["step", *flags])
    step.main()
    _, _, *rows = capsys.readouterr().out.splitlines()
    cells = [[float(cell) for cell in row.split("|")[3:-1]] for row in rows]
    assert np.isfinite(cells).all() and len(cells) == 2
    assert cells[0][-3:] == [1, 1, 1]
