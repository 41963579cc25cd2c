"""The evaluate command: real digits, images that are no digits, tiny models, and refusals."""

import functools
import json

import numpy as np
import pytest
from PIL import Image

from tfgan_mnist import data, evaluate, export, generate, runs
from tfgan_mnist.config import resolve
from tfgan_mnist.errors import UserError
from tfgan_mnist.evaluation import classifier_training, comparison, metrics, protocol, report
from tfgan_mnist.exports import card
from tfgan_mnist.training import build, checkpoints

FACTS = runs.DataFacts(image_shape=(28, 28, 1), num_classes=10, num_images=60_000)
COUNT = 2000  # the same in all tests, so that they share a reference
NUM_TRAIN = 12_000
draw_report = report.draw
MIN_IMAGES = protocol.MIN_SAMPLES


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data_dir without cached references."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module", autouse=True)
def quick(mnist):
    """A part of the data, fewer neighbours, subsets and steps; no pictures."""
    few = mnist._replace(
        train=data.Split(*(part[:NUM_TRAIN] for part in mnist.train)),
        test=data.Split(*(part[:COUNT] for part in mnist.test)),
    )
    few_subsets = functools.partial(metrics.kernel_distance, subsets=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "kernel_distance", few_subsets)
        patch.setattr(protocol, "NEAREST", 200)
        patch.setattr(classifier_training, "GAN_TRAIN_STEPS", 40)
        patch.setattr(data, "load", lambda *arguments: few)
        patch.setattr(report, "draw", lambda path, found: None)
        yield


@pytest.fixture
def command(place):
    def command(*flags):
        flags = (*flags, f"--data_dir={place}")
        evaluate.main(evaluate.parser().parse_args([str(flag) for flag in flags]))

    return command


@pytest.fixture
def results_of(command, tmp_path):
    """The results of the command for images."""

    def results_of(pixels, *flags, **arrays):
        np.savez(tmp_path / "some.npz", images=pixels, **arrays)
        command(f"--images={tmp_path / 'some.npz'}", f"--output={tmp_path}", *flags)
        return samples_in(tmp_path)

    return results_of


def samples_in(folder):
    return json.loads((folder / runs.METRICS).read_text())["samples"]


def make_run(root, name="gan"):
    """A run folder as training leaves it, of a tiny model without training."""
    widths = {"g_hidden_widths": (8,), "d_hidden_widths": (4,)}
    sizes = widths if name == "gan" else {"g_width": 2, "d_width": 2}
    config = resolve({"model": name, "latent_dim": 4, "steps_per_epoch": 1, **sizes})
    run = runs.create(root, config, FACTS)
    checkpoints.save(run, build.build(config, FACTS.image_shape, FACTS.num_classes))
    return run


# Images


def test_real_images_are_near_the_baseline(results_of, tmp_path, mnist, monkeypatch, capsys):
    monkeypatch.setattr(report, "draw", draw_report)
    # Neither the test images nor those of the baseline.
    drawn = np.random.default_rng(protocol.BASELINE_SEED).choice(NUM_TRAIN, COUNT, replace=False)
    rows = np.setdiff1d(np.arange(NUM_TRAIN), drawn)[:COUNT]
    results = results_of(mnist.train.images[rows], labels=mnist.train.labels[rows].astype(int))
    scores, real = results["scores"], results["floor"]
    assert real["fid"] / 2 < scores["fid"] < real["fid"] * 2 < 2
    assert abs(scores["kid"]) < 0.005
    for key in ("classifier_score", "precision", "recall"):
        assert scores[key] == pytest.approx(real[key], rel=0.1)
    assert scores["classes_covered"] == real["classes_covered"] == 10
    assert scores["histogram_divergence"] < 0.01
    assert scores["label_accuracy"] == pytest.approx(real["label_accuracy"], abs=0.01)

    # So they are to the second set of features.
    second = results["second"]
    assert second["features"].startswith("random-28x1-v1 (")
    assert second["floor"]["fid"] / 2 < second["scores"]["fid"] < second["floor"]["fid"] * 2
    assert "classifier_score" not in second["scores"]

    stated = [results[key] for key in ("generated", "real", "split", "dataset", "seed")]
    assert stated == [2000, 2000, "test", "mnist", 0]
    assert results["features"].startswith("mnist-28x1-v1 (")
    output = capsys.readouterr().out
    assert "2,000 samples, 2,000 test images of mnist" in output
    assert "Real: the same metric on real images" in output
    low, high = results["fid_interval"]
    assert low < scores["fid"] < high
    for text in (
        second["features"],
        results["features"],
        f"{scores['fid']:.4g}",
        f"{real['fid']:.4g}",
        f"interval of the FID, over samples: {low:.4g} to {high:.4g}",
    ):
        assert text in output
    with Image.open(tmp_path / runs.REPORT) as picture:
        assert min(picture.size) >= 800


def test_copies_of_training_images_are_at_distance_zero(command, tmp_path, mnist, capsys):
    folder = tmp_path / "copies"
    folder.mkdir()
    for i, image in enumerate(mnist.train.images[:COUNT]):
        Image.fromarray(image[..., 0]).save(folder / f"{i:05d}.png")
    command(f"--images={folder}")
    lines = capsys.readouterr().out.splitlines()
    (nearest,) = (line.split() for line in lines if line.startswith("nearest training image, med"))
    assert float(nearest[4]) == 0 and float(nearest[5]) > 1
    assert not any(line.startswith("label accuracy") for line in lines)
    # Without --output nothing is written.
    assert [path.name for path in tmp_path.iterdir()] == ["copies"]


@pytest.mark.parametrize("kind", ["black", "grey", "noise", "one class", "one image"])
def test_bad_samples_have_bad_scores(kind, results_of, mnist):
    shape = (MIN_IMAGES, 28, 28, 1)
    pixels = {
        "black": np.zeros(shape, np.uint8),
        "grey": np.full(shape, 128, np.uint8),
        "noise": np.random.default_rng(0).integers(0, 256, shape, np.uint8),
        "one class": mnist.train.images[mnist.train.labels == 1][:MIN_IMAGES],
        "one image": np.repeat(mnist.test.images[:1], MIN_IMAGES, axis=0),
    }[kind]
    results = results_of(pixels)
    scores, second = results["scores"], results["second"]
    if kind != "one class":
        assert second["scores"]["fid"] > 50 * second["floor"]["fid"]
    assert scores["fid"] > 50 * results["floor"]["fid"]
    assert scores["kid"] > 1
    assert scores["recall"] < 0.2 and scores["coverage"] < 0.2
    assert scores["histogram_divergence"] > 1
    if kind.startswith("one"):  # good digits without diversity
        assert scores["precision"] > 0.8
        assert max(results["class_histogram"]) > 0.99 * MIN_IMAGES
    else:
        assert scores["density"] < 0.2
    if kind in ("black", "grey", "one image"):
        assert scores["classes_covered"] == 1
        assert scores["classifier_score"] == pytest.approx(1)


@pytest.mark.slow
def test_gan_train(results_of, mnist):
    images, labels = mnist.train.images[:MIN_IMAGES], mnist.train.labels[:MIN_IMAGES]
    right = results_of(images, "--gan_train", labels=labels)
    real = right["floor"]["gan_train_accuracy"]
    assert real > 0.5
    assert right["scores"]["gan_train_accuracy"] == pytest.approx(real, abs=0.15)
    wrong = results_of(images, "--gan_train", labels=(labels + 1) % 10)
    assert wrong["scores"]["gan_train_accuracy"] < 0.1


def test_many_samples_are_compared_with_few_real_images(results_of, mnist, monkeypatch):
    few = data.load()
    few = few._replace(train=data.Split(*(part[:1200] for part in few.train)))
    monkeypatch.setattr(data, "load", lambda *arguments: few)
    monkeypatch.setattr(protocol, "MIN_EXTRAPOLATED", 1500)
    results = results_of(mnist.train.images[1 - COUNT :])
    assert results["scores"].keys() == results["floor"].keys()
    assert "fid_infinity" not in results["scores"]


def test_results_do_not_depend_on_the_order_of_the_samples(results_of, mnist):
    images = mnist.test.images[:MIN_IMAGES]
    by_class = np.argsort(mnist.test.labels[:MIN_IMAGES], kind="stable")
    mixed, ordered = (results_of(some)["scores"] for some in (images, images[by_class]))
    for key in ("fid", "nearest_training_image"):
        assert mixed[key] == pytest.approx(ordered[key], rel=0.1)


# Runs and exports


def test_an_untrained_run_keeps_what_train_wrote(command, tmp_path):
    run = make_run(tmp_path)
    trained = {"test_images": 10_000, "test": {"d_loss": 1.0}}
    (run / runs.METRICS).write_text(json.dumps(trained))
    command(f"--run={run}", f"--num={COUNT}")
    written = runs.read_metrics(run)
    results = written.pop("samples")
    assert written == trained
    assert results["source"] == "run 0001-gan, step 0"
    assert results["scores"]["fid"] > 20 * results["floor"]["fid"]


def test_an_export_scores_as_the_images_that_it_makes(command, place, tmp_path, mnist):
    version = export.export_run(make_run(tmp_path / "runs", "cdcgan"), tmp_path / "exports")
    command(f"--saved_model={version.parent}", f"--num={COUNT}", "--seed=3", f"--output={tmp_path}")
    of_export = samples_in(tmp_path)
    assert of_export["source"] == "export cdcgan/1"
    assert of_export["scores"]["label_accuracy"] == pytest.approx(0.1, abs=0.1)

    file = tmp_path / "samples.npz"
    labels = ",".join(map(str, protocol.draw_labels(mnist.train.labels[:NUM_TRAIN], COUNT, 3)))
    flags = [f"--saved_model={version}", f"--labels={labels}", "--seed=3", f"--output={file}"]
    generate.main(generate.parser().parse_args(flags))
    # A damaged file in the cache is written anew.
    (kept,) = (place / protocol.CACHE).glob(f"mnist-mnist-28x1-*-{COUNT}-*.npz")
    size = kept.stat().st_size
    kept.write_bytes(kept.read_bytes()[:1000])
    command(f"--images={file}", f"--output={tmp_path}")
    for key in ("scores", "floor"):
        assert samples_in(tmp_path)[key] == pytest.approx(of_export[key], rel=1e-3)
    assert kept.stat().st_size == size


def test_json_has_null_for_infinity(tmp_path):
    runs.add_metrics(tmp_path, samples={"scores": {"histogram_divergence": np.inf, "fid": 1.0}})
    assert samples_in(tmp_path)["scores"] == {"histogram_divergence": None, "fid": 1.0}


# Several runs


def evaluated_run(root, name, seed, fid, **sizes):
    """A run folder with all that a comparison reads, but no checkpoint."""
    config = resolve({"model": name, "seed": seed, "steps_per_epoch": 1, **sizes})
    run = runs.create(root, config, FACTS)
    results = {
        "source": runs.name_of(run, 2),
        "dataset": "mnist",
        "split": "test",
        "generated": protocol.NUM,
        "real": 10_000,
        "pixel_range": "uint8 in [0, 255]",
        "features": "mnist-28x1-v1 (0)",
        "seed": 0,
        "scores": {"fid": fid, "small_batch_score": 8.0},  # as in files of older versions
        "floor": {"fid": 0.25, "small_batch_score": 8.5},
        "second": {"features": "random (0)", "scores": {"fid": 2 * fid}, "floor": {"fid": 0.5}},
    }
    runs.add_metrics(run, samples=results)
    runs.write_rows(run / runs.LOG, [{"epoch": i, "seconds": 10.0 * i} for i in (1, 2)])
    row = {"epoch": 2, "step": 2, "fid": fid, "seconds": 1.5}
    runs.write_rows(run / runs.EVALUATIONS, [row])
    return run


def test_runs_side_by_side(command, tmp_path, capsys):
    made = [evaluated_run(tmp_path, "gan", i, fid) for i, fid in enumerate((8.0, 10.0, 9.0))]
    alone = [evaluated_run(tmp_path, "dcgan", 0, 3.5, g_width=8)]
    alone.append(evaluated_run(tmp_path, "dcgan", 0, 2.5, g_width=16))
    command("--run", *made, *alone, f"--output={tmp_path / 'out'}")
    table = (tmp_path / "out" / comparison.TABLE).read_text()
    assert table in capsys.readouterr().out
    lines = [line.strip("| ").split("|") for line in table.splitlines() if line.startswith("|")]
    rows = {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}
    assert rows["metric"] == ["gan", "dcgan g_width=8", "dcgan g_width=16", "real", "better"]
    assert rows["seeds"][:3] == ["0, 1, 2", "0", "0"]
    # The standard error of 8, 9, 10 is 1 / sqrt(3).
    assert rows["Frechet distance (FID)"] == ["9 ± 0.58", "3.5", "2.5", "0.25", "lower"]
    second = rows["Frechet distance (FID), second"]
    assert second == ["18 ± 1.2", "7", "5", "0.5", "lower"]
    assert "features mnist-28x1-v1 (0), second random (0)." in table
    assert rows["training, s"][1] == "20"
    assert rows["evaluations, s"][1] == "1.5"
    assert len(rows) == 7
    Image.open(tmp_path / "out" / comparison.PICTURE).verify()

    others = [evaluated_run(tmp_path, "cdcgan", i, fid) for i, fid in enumerate((4.0, 5.0))]
    command("--run", *made, *others)
    chance = "| FID, p-value against gan"
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith(chance))
    assert [cell.strip() for cell in line.split("|")[2:4]] == ["", "0.1"]  # of ten divisions


@pytest.mark.parametrize(
    ("seeds", "features", "message"),
    [
        ((0, 1), "another", "features: expected the same in all runs; received .*another"),
        ((3, 3), "mnist-28x1-v1 (0)", "a different seed in every run; .*both with seed 3"),
    ],
)
def test_runs_that_are_not_comparable_are_refused(seeds, features, message, command, tmp_path):
    made = [evaluated_run(tmp_path, "gan", seed, 8.0) for seed in seeds]
    runs.add_metrics(made[1], samples=samples_in(made[1]) | {"features": features})
    with pytest.raises(UserError, match=message):
        command("--run", *made)


def test_runs_without_results_are_evaluated_first(command, tmp_path, monkeypatch, capsys):
    made = [evaluated_run(tmp_path, "gan", 0, 8.0), make_run(tmp_path)]
    results = samples_in(made[0]) | {"generated": COUNT}
    runs.add_metrics(made[0], samples=results)
    evaluated = []
    monkeypatch.setattr(
        evaluate, "evaluate", lambda samples, *others: evaluated.append(samples.name) or results
    )
    command("--run", *made, f"--num={COUNT}")
    assert evaluated == [runs.name_of(made[1], 0)]
    assert "g_hidden_widths=(8,)" in capsys.readouterr().out
    # Results of another checkpoint are not used.
    evaluated.clear()
    runs.add_metrics(made[0], samples=results | {"source": runs.name_of(made[0], 1)})
    monkeypatch.setattr(
        evaluate.generate, "from_run", lambda run: generate.Source(run.name, 0, None, None)
    )
    command("--run", *made, f"--num={COUNT}")
    assert evaluated == [path.name for path in made]


# Refusals


ZEROS = np.zeros((MIN_IMAGES, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (ZEROS[1:], None, "samples: expected at least 1,000 images; received 999"),
        (ZEROS[:, :, :20], None, "square images; received 20 x 28"),
        (np.zeros((MIN_IMAGES, 32, 32, 3), np.uint8), None, "unknown data set; give --dataset"),
        (ZEROS, np.zeros(5, int), r"1000 labels; received shape \(5,\)"),
        (ZEROS, np.zeros(MIN_IMAGES), "mnist: .*integers; received .*float64"),
        (ZEROS, np.full(MIN_IMAGES, 10), r"mnist: expected labels 0\.\.9; received 10\.\.10"),
        (ZEROS, np.full(MIN_IMAGES, None), "cannot be read as arrays"),
    ],
)
def test_images_and_labels_that_are_refused(pixels, labels, message, results_of):
    with pytest.raises(UserError, match=message):
        results_of(pixels, **({} if labels is None else {"labels": labels}))


def test_other_refusals(command, results_of, tmp_path):
    for flags, message in (
        ([f"--run={tmp_path}"], "expected a run folder"),
        ([f"--saved_model={tmp_path}"], "expected the folder of a SavedModel"),
        ([f"--run={tmp_path}", "--num=10"], "--num: expected at least 1,000 images; received 10"),
        ([f"--run={tmp_path}", "--seed=-1"], "--seed: expected 0 or more"),
    ):
        with pytest.raises(UserError, match=message):
            command(*flags)
    with pytest.raises(UserError, match="--num: expected at most 1,000"):
        results_of(ZEROS, "--num=1001")
    (tmp_path / runs.METRICS).write_text("[1]")
    with pytest.raises(UserError, match="expected a JSON object"):
        results_of(ZEROS)


def test_an_export_without_a_data_set_in_its_card(command, tmp_path):
    version = export.export_run(make_run(tmp_path / "runs"), tmp_path / "exports")
    described = json.loads((version / card.CARD).read_text())
    del described["config"]
    (version / card.CARD).write_text(json.dumps(described))
    with pytest.raises(UserError, match="unknown data set; give --dataset"):
        command(f"--saved_model={version}", f"--num={MIN_IMAGES}")
