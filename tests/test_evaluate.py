"""The evaluate command on real digits, on samples of models made tiny, and on what it refuses."""

import functools
import json

import numpy as np
import pytest
from PIL import Image

from tfgan_mnist import (
    build,
    checkpoints,
    comparison,
    config,
    data,
    evaluate,
    export,
    generate,
    metrics,
    runs,
    scoring,
)
from tfgan_mnist.errors import UserError

FACTS = runs.DataFacts(image_shape=(28, 28, 1), num_classes=10, num_images=60_000)
COUNT = 2000  # one for all tests, so that they share a reference
MIN_IMAGES = scoring.MIN_SAMPLES


@pytest.fixture(scope="module")
def place(tmp_path_factory, data_dir, mnist):
    """A data_dir of the prepared MNIST without the references that earlier tests kept."""
    place = tmp_path_factory.mktemp("data")
    (place / "mnist").symlink_to(data_dir / "mnist")
    return place


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Less of what takes the time: the data are read once, fewer neighbours and subsets taken."""
    few_subsets = functools.partial(metrics.kernel_distance, subsets=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "kernel_distance", few_subsets)
        patch.setattr(scoring, "NEAREST", 200)
        patch.setattr(data, "load", functools.cache(data.load))
        yield


@pytest.fixture
def command(place):
    def command(*flags):
        flags = (*flags, f"--data_dir={place}")
        evaluate.main(evaluate.parser().parse_args([str(flag) for flag in flags]))

    return command


def make_run(root, name, **sizes):
    """A run folder as training leaves it, of a tiny model that has learnt nothing."""
    settings = config.resolve({"model": name, "latent_dim": 4, "steps_per_epoch": 1, **sizes})
    run = runs.create(root, settings, FACTS)
    checkpoints.save(run, build.build(settings, FACTS.image_shape, FACTS.num_classes))
    return run


def write(path, pixels, **more):
    np.savez(path, images=pixels, **more)
    return path


def report_of(folder):
    return json.loads((folder / runs.METRICS).read_text())


# Verdicts


def test_real_images_score_about_the_floor(command, tmp_path, mnist, capsys):
    # Of neither the test images nor those of the floor.
    floors = np.random.default_rng(scoring.FLOOR_SEED).choice(60_000, COUNT, replace=False)
    rows = np.setdiff1d(np.arange(60_000), floors)[:COUNT]
    labels = mnist.train.labels[rows].astype(int)
    file = write(tmp_path / "real.npz", mnist.train.images[rows], labels=labels)
    command(f"--images={file}", f"--output={tmp_path / 'report'}")

    told = report_of(tmp_path / "report")["samples"]
    scores, floor = told["scores"], told["floor"]
    assert floor["fid"] / 2 < scores["fid"] < floor["fid"] * 2 < 2
    assert abs(scores["kid"]) < 0.005
    for key in ("classifier_score", "precision", "recall"):
        assert scores[key] == pytest.approx(floor[key], rel=0.1)
    assert scores["classes_covered"] == floor["classes_covered"] == 10
    assert scores["histogram_divergence"] < 0.01
    assert scores["label_accuracy"] == pytest.approx(floor["label_accuracy"], abs=0.01)

    # What stands beside the figures.
    assert {key: told[key] for key in ("generated", "real", "split", "dataset", "seed")} == {
        "generated": 2000,
        "real": 10_000,
        "split": "test",
        "dataset": "mnist",
        "seed": 0,
    }
    assert told["classifier"].startswith("mnist-28x1-v1 (")
    output = capsys.readouterr().out
    assert "2,000 samples against 10,000 test images of mnist" in output
    assert told["classifier"] in output
    assert f"{scores['fid']:.4g}" in output
    assert f"{floor['fid']:.4g}" in output
    with Image.open(tmp_path / "report" / runs.REPORT) as picture:
        assert min(picture.size) >= 800


def test_copies_of_training_images_are_seen(command, tmp_path, mnist, capsys):
    folder = tmp_path / "copies"
    folder.mkdir()
    for i, image in enumerate(mnist.train.images[:COUNT]):
        Image.fromarray(image[..., 0]).save(folder / f"{i:05d}.png")
    command(f"--images={folder}")

    lines = capsys.readouterr().out.splitlines()
    (nearest,) = (line.split() for line in lines if line.startswith("nearest training image, med"))
    assert float(nearest[4]) == 0
    assert float(nearest[5]) > 1
    assert not any(line.startswith("label accuracy") for line in lines)
    # Without --output nothing is written.
    assert [path.name for path in tmp_path.iterdir()] == ["copies"]


@pytest.mark.parametrize("kind", ["black", "grey", "ones", "noise"])
def test_what_is_no_sample_of_digits_is_told(kind, command, tmp_path, mnist):
    """Each is far off in the figures that a person would look at first."""
    shape = (MIN_IMAGES, 28, 28, 1)
    ones = mnist.train.images[mnist.train.labels == 1][:MIN_IMAGES]
    pixels = {
        "black": np.zeros(shape, np.uint8),
        "grey": np.full(shape, 128, np.uint8),
        "ones": ones,
        "noise": np.random.default_rng(0).integers(0, 256, shape, np.uint8),
    }[kind]
    command(f"--images={write(tmp_path / 'some.npz', pixels)}", f"--output={tmp_path}")
    told = report_of(tmp_path)["samples"]
    scores, floor = told["scores"], told["floor"]
    assert scores["fid"] > 50 * floor["fid"]
    assert scores["kid"] > 1
    assert scores["recall"] < 0.2
    assert scores["coverage"] < 0.2
    assert scores["histogram_divergence"] > 1
    if kind == "ones":  # digits, but few of them
        assert scores["precision"] > 0.8
        assert told["class_histogram"][1] > 0.99 * MIN_IMAGES
    else:
        assert scores["density"] < 0.2
    if kind in ("black", "grey"):
        assert scores["classes_covered"] == 1
        assert scores["classifier_score"] == pytest.approx(1)


def test_gan_train_of_real_images_is_its_floor(command, tmp_path, mnist, monkeypatch):
    monkeypatch.setattr("tfgan_mnist.classifier.GAN_TRAIN_STEPS", 40)
    real = {"images": mnist.train.images[:MIN_IMAGES], "labels": mnist.train.labels[:MIN_IMAGES]}
    for name, labels in (("real", real["labels"]), ("wrong", (real["labels"] + 1) % 10)):
        file = write(tmp_path / f"{name}.npz", real["images"], labels=labels)
        command(f"--images={file}", "--gan_train", f"--output={tmp_path / name}")
    right, wrong = (report_of(tmp_path / name)["samples"] for name in ("real", "wrong"))
    floor = right["floor"]["gan_train_accuracy"]
    assert floor > 0.5
    assert right["scores"]["gan_train_accuracy"] == pytest.approx(floor, abs=0.15)
    assert wrong["scores"]["gan_train_accuracy"] < 0.1


def test_an_untrained_run_scores_far_off_and_keeps_what_train_wrote(command, tmp_path):
    run = make_run(tmp_path, "gan", g_hidden_widths=(8,), d_hidden_widths=(4,))
    trained = {"test_images": 10_000, "test": {"d_loss": 1.0}}
    (run / runs.METRICS).write_text(json.dumps(trained))
    command(f"--run={run}", f"--num={COUNT}")

    report = report_of(run)
    told = report.pop("samples")
    assert report == trained
    assert told["source"] == "run 0001-gan, step 0"
    scores, floor = told["scores"], told["floor"]
    assert scores["fid"] > 20 * floor["fid"]
    assert scores["kid"] > 20 * abs(floor["kid"])
    assert scores["recall"] < 0.1
    assert scores["coverage"] < 0.1
    assert scores["classifier_score"] < 3
    assert (run / runs.REPORT).exists()


def test_an_export_scores_as_the_images_that_it_makes(command, place, tmp_path):
    run = make_run(tmp_path / "runs", "cdcgan", g_width=2, d_width=2)
    version = export.export_run(run, tmp_path / "exports")
    command(f"--saved_model={version.parent}", f"--num={COUNT}", "--seed=3", f"--output={tmp_path}")
    of_export = report_of(tmp_path)["samples"]
    assert of_export["source"] == "export cdcgan/1"
    assert of_export["scores"]["label_accuracy"] == pytest.approx(0.1, abs=0.1)

    file = tmp_path / "samples.npz"
    flags = [f"--saved_model={version}", f"--num={COUNT}", "--seed=3", f"--output={file}"]
    generate.main(generate.parser().parse_args(flags))
    # What was kept beside the data is made anew when it is damaged.
    (kept,) = (place / scoring.CACHE).glob(f"mnist-28x1-*-{COUNT}-*.npz")
    size = kept.stat().st_size
    kept.write_bytes(kept.read_bytes()[:1000])
    command(f"--images={file}", f"--output={tmp_path}")
    of_images = report_of(tmp_path)["samples"]
    for key in ("scores", "floor"):
        assert of_images[key] == pytest.approx(of_export[key], rel=1e-3)
    assert kept.stat().st_size == size


def test_json_has_no_infinity(tmp_path):
    runs.add_metrics(tmp_path, samples={"scores": {"histogram_divergence": np.inf, "fid": 1.0}})
    assert report_of(tmp_path)["samples"]["scores"] == {"histogram_divergence": None, "fid": 1.0}


def test_figures_do_not_depend_on_the_order_of_the_samples(command, tmp_path, mnist):
    """Folders are often sorted by class, and conditional models take classes in turn."""
    some = np.arange(MIN_IMAGES)
    by_class = np.argsort(mnist.train.labels[:MIN_IMAGES], kind="stable")
    small = []
    for name, order in (("mixed", some), ("sorted", by_class)):
        file = write(tmp_path / f"{name}.npz", mnist.train.images[order])
        command(f"--images={file}", f"--output={tmp_path / name}")
        small.append(report_of(tmp_path / name)["samples"]["scores"]["small_batch_score"])
    assert small[0] == pytest.approx(small[1], rel=0.1)


# Several runs


def judged_run(root, name, seed, fid, **sizes):
    """A run folder with all that training leaves for a comparison, but no checkpoint."""
    settings = config.resolve({"model": name, "seed": seed, "steps_per_epoch": 1, **sizes})
    run = runs.create(root, settings, FACTS)
    told = {
        "source": runs.name_of(run, 2),
        "dataset": "mnist",
        "split": "test",
        "generated": scoring.NUM,
        "real": 10_000,
        "pixel_range": "uint8 in [0, 255]",
        "classifier": "mnist-28x1-v1 (0)",
        "seed": 0,
        "scores": {"fid": fid},
        "floor": {"fid": 0.25},
    }
    runs.add_metrics(run, samples=told)
    runs.write_rows(run / runs.LOG, [{"epoch": i, "seconds": 10.0 * i} for i in (1, 2)])
    rows = [{"epoch": 2, "step": 2, "fid": fid, "seconds": 1.5}]
    runs.write_rows(run / runs.EVALUATIONS, rows)
    return run


def test_runs_side_by_side(command, tmp_path, capsys):
    made = [judged_run(tmp_path, "gan", seed, fid) for seed, fid in ((0, 8.0), (1, 10.0), (2, 9.0))]
    made.append(judged_run(tmp_path, "dcgan", 0, 3.5, g_width=8))
    made.append(judged_run(tmp_path, "dcgan", 0, 2.5, g_width=16))
    command("--run", *made, f"--output={tmp_path / 'out'}")

    table = (tmp_path / "out" / comparison.TABLE).read_text()
    assert table in capsys.readouterr().out
    lines = [line.strip("| ").split("|") for line in table.splitlines() if line.startswith("|")]
    rows = {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}
    assert rows["metric"] == ["gan", "dcgan g_width=8", "dcgan g_width=16", "floor", "better"]
    assert rows["seeds"][:3] == ["0, 1, 2", "0", "0"]
    # The standard error of 8, 9, 10 is 1 / sqrt(3).
    expected = ["9.00 ± 0.58", "3.5", "2.5", "0.25", "lower"]
    assert rows["Frechet distance (FID)"] == expected
    assert rows["training, s"][1] == "20"
    assert rows["evaluations, s"][1] == "1.5"
    Image.open(tmp_path / "out" / comparison.PICTURE).verify()


def test_only_runs_that_were_judged_alike_are_compared(command, tmp_path):
    made = [judged_run(tmp_path, "gan", seed, 8.0) for seed in (0, 1)]
    told = runs.read_metrics(made[1])["samples"] | {"classifier": "another"}
    runs.add_metrics(made[1], samples=told)
    with pytest.raises(UserError, match="classifier: expected runs that were judged alike.*other"):
        command("--run", *made)


def test_the_same_seed_twice_is_no_second_run(command, tmp_path):
    made = [judged_run(tmp_path, "gan", 3, 8.0) for _ in range(2)]
    with pytest.raises(UserError, match="another seed in every run.*both of seed 3"):
        command("--run", *made)


def test_a_run_without_figures_is_judged_first(command, tmp_path, monkeypatch, capsys):
    made = [judged_run(tmp_path, "gan", 0, 8.0)]
    made.append(make_run(tmp_path, "gan", g_hidden_widths=(8,), d_hidden_widths=(4,)))
    told = runs.read_metrics(made[0])["samples"] | {"generated": COUNT}
    runs.add_metrics(made[0], samples=told)
    judged = []
    monkeypatch.setattr(
        evaluate, "evaluate", lambda samples, *others: judged.append(samples.name) or told
    )
    command("--run", *made, f"--num={COUNT}")
    assert judged == [runs.name_of(made[1], 0)]
    assert "g_hidden_widths=(8,)" in capsys.readouterr().out
    # Figures of another checkpoint are not those of this one.
    judged.clear()
    runs.add_metrics(made[0], samples=told | {"source": runs.name_of(made[0], 1)})
    monkeypatch.setattr(
        evaluate.generate, "from_run", lambda run: generate.Source(run.name, 0, False, None, None)
    )
    command("--run", *made, f"--num={COUNT}")
    assert judged == [path.name for path in made]


# What is refused


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "one of the arguments --run --saved_model --images is required"),
        (["--run=a", "--images=b"], "not allowed with argument"),
    ],
)
def test_exactly_one_source(flags, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        evaluate.parser().parse_args(flags)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((999, 28, 28), "at least 1,000 samples; received 999"),
        ((MIN_IMAGES, 28, 20), "square images; received 20 x 28"),
        (
            (MIN_IMAGES, 32, 32, 3),
            "no classifier for mnist at 32x32x3.*train_classifier --dataset=mnist --image_size=32",
        ),
    ],
)
def test_images_that_cannot_be_judged(command, tmp_path, shape, message):
    with pytest.raises(UserError, match=message):
        command(f"--images={write(tmp_path / 'some.npz', np.zeros(shape, np.uint8))}")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(5, int), r"integers of shape \(1000,\).*received int64 of shape \(5,\)"),
        (np.zeros(MIN_IMAGES), "integers.*received float64"),
        (np.full(MIN_IMAGES, 10), "classes of mnist, 0..9; received 10..10"),
        (np.full(MIN_IMAGES, None), "'labels' cannot be read"),
    ],
)
def test_labels_that_are_none(command, tmp_path, labels, message):
    file = write(tmp_path / "some.npz", np.zeros((MIN_IMAGES, 28, 28), np.uint8), labels=labels)
    with pytest.raises(UserError, match=message):
        command(f"--images={file}")


def test_other_refusals(command, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    with pytest.raises(UserError, match="expected a picture"):
        command(f"--images={text}")
    with pytest.raises(UserError, match="expected a run folder"):
        command(f"--run={tmp_path}")
    with pytest.raises(UserError, match="expected the folder of a SavedModel"):
        command(f"--saved_model={tmp_path}")
    with pytest.raises(UserError, match="--num: expected at least 1,000 samples; received 10"):
        command(f"--run={tmp_path}", "--num=10")
    with pytest.raises(UserError, match="--seed: expected 0 or more"):
        command(f"--run={tmp_path}", "--seed=-1")

    file = write(tmp_path / "some.npz", np.zeros((MIN_IMAGES, 28, 28), np.uint8))
    with pytest.raises(UserError, match="--num: expected at most 1,000"):
        command(f"--images={file}", "--num=1001")
    with pytest.raises(UserError, match="no classifier for cats.*--dataset=cats"):
        command(f"--images={file}", "--dataset=cats")
    (tmp_path / runs.METRICS).write_text("[1]")
    with pytest.raises(UserError, match="expected a JSON object.*Remove it"):
        command(f"--images={file}", f"--output={tmp_path}")
    with pytest.raises(FileExistsError):
        command(f"--images={file}", f"--output={file}")


def test_an_export_that_does_not_tell_its_data(command, tmp_path):
    run = make_run(tmp_path / "runs", "gan", g_hidden_widths=(8,), d_hidden_widths=(4,))
    version = export.export_run(run, tmp_path / "exports")
    card = json.loads((version / export.CARD).read_text())
    del card["config"]
    (version / export.CARD).write_text(json.dumps(card))
    with pytest.raises(UserError, match=r"config.dataset; received ''. Give --dataset"):
        command(f"--saved_model={version}", f"--num={MIN_IMAGES}")
