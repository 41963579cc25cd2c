"""The commands on pictures of one's own: from a folder to an export, and what stops them."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tfgan_mnist import evaluate, generate, runs, train, train_classifier
from tfgan_mnist.errors import UserError
from tfgan_mnist.evaluation import classifier_training, protocol
from tfgan_mnist.training import evaluation_callback


@pytest.fixture
def tmp_path(tmp_path):
    """A folder whose name has patterns' characters, a space and other alphabets."""
    (tmp_path / "runs [v2] *?\\ 手写 é").mkdir()
    return tmp_path / "runs [v2] *?\\ 手写 é"


@pytest.fixture
def run_train(tmp_path):
    """Trains a tiny model and returns the run's folder."""

    def run_train(*flags, model="cdcgan"):
        given = [
            *(f"--model={model}", f"--data_dir={tmp_path / 'data'}"),
            *(f"--run_root={tmp_path / 'runs'}", f"--export_root={tmp_path / 'saved_models'}"),
            *("--epochs=1", "--steps_per_epoch=3", "--latent_dim=4", "--batch_size=32"),
            *("--g_width=2", "--d_width=2"),
        ]
        train.main(train.parser().parse_args([*given, *flags]))
        return max((tmp_path / "runs").iterdir())

    return run_train


def draw_pets(root):
    """Twenty coloured cats and dogs of several sizes, some with alpha."""
    random = np.random.default_rng(0)
    for name in "cat", "dog":
        (root / name).mkdir(parents=True)
        for i in range(10):
            shape = (20 + i, 16 + 2 * i, 4 if i % 2 else 3)
            picture = Image.fromarray(random.integers(0, 256, shape, np.uint8))
            picture.save(root / name / f"{i}.png")
    return root


def command(module, *flags):
    module.main(module.parser().parse_args([str(flag) for flag in flags]))


def test_from_a_folder_to_an_export(tmp_path, run_train, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = draw_pets(tmp_path / "pets")
    run = run_train("--dataset=pets")
    output = capsys.readouterr().out
    assert "batch_size: " in output
    assert "instead of 32" in output
    too_few = "pets, the smaller split: expected at least 100 images .*; received 3"
    assert re.search(f"Samples are not evaluated: {too_few}", output)
    config, facts = runs.read(run)
    assert config.dataset == str(root)
    assert (config.image_size, config.channels) == (28, 3)
    assert config.augment == "translation"
    assert facts.class_names == ("cat", "dog")
    grid = np.asarray(Image.open(run / "samples" / "epoch_001.png"))
    named = grid.shape[1] - 2 * 302  # ten samples of 28 pixels, enlarged
    for row in grid[: 2 * 32], grid[2 * 32 :]:
        assert row[:, :named].max() == 255 and row[:, :named].min() == 0
    assert (grid[: 2 * 32, :named] != grid[-2 * 32 :, :named]).any()

    # Classes by their names, of the run and of its export, which names no folder of this machine.
    version = tmp_path / "saved_models" / "cdcgan" / "1"
    card = json.loads((version / "model_card.json").read_text())
    assert card["class_names"] == ["cat", "dog"]
    assert card["config"]["dataset"] == "pets"
    assert str(tmp_path) not in json.dumps(card)
    for source in f"--run={run}", f"--saved_model={version}":
        command(generate, source, "--labels=dog,cat,1", f"--output={tmp_path}/a.npz")
        assert np.load(tmp_path / "a.npz")["labels"].tolist() == [1, 0, 1]
    with pytest.raises(UserError, match="--labels: expected classes of cat, dog; received 'cow'"):
        command(generate, f"--run={run}", "--labels=cow")
    with pytest.raises(UserError, match=too_few):
        command(evaluate, f"--run={run}")

    # The run goes on where the pictures are elsewhere, and not where they are others.
    moved = shutil.move(root, tmp_path / "animals")
    run_train(
        f"--resume={run}", f"--dataset={moved}", "--epochs=2", f"--batch_size={config.batch_size}"
    )
    assert len(runs.read_history(run)[0]) == 2
    shutil.copy(moved / "cat" / "1.png", moved / "dog" / "new.png")
    with pytest.raises(UserError, match="other data than what .*animals holds now: .*fingerprint"):
        run_train(
            f"--resume={run}",
            f"--dataset={moved}",
            "--epochs=3",
            f"--batch_size={config.batch_size}",
        )


def read_evaluations(run):
    with open(run / runs.EVALUATIONS, newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def few_samples(monkeypatch):
    monkeypatch.setattr(protocol, "NUM", protocol.MIN_SAMPLES)


def test_pictures_without_labels(tmp_path, run_train, few_samples, capsys):
    """They are scored by random features, with what needs no classes."""
    file = tmp_path / "some.npy"
    np.save(file, np.random.default_rng(0).integers(0, 256, (900, 8, 8), np.uint8))
    with pytest.raises(UserError, match="cdcgan: expected pictures with labels: .* has none"):
        run_train(f"--dataset={file}")
    assert not (tmp_path / "runs").exists()
    run = run_train(f"--dataset={file}", "--image_size=10", model="dcgan")
    assert runs.read(run)[0].image_size == 8
    (row,) = read_evaluations(run)
    assert float(row["fid"]) > 1
    assert float(row["kid"]) > 0.1
    assert not any("class" in key for key in row)
    results = runs.read_metrics(run)["samples"]
    assert {"fid", "kid", "precision", "recall", "nearest_training_image"} <= set(results["scores"])
    assert not {"classifier_score", "classes_covered", "label_accuracy"} & set(results["scores"])
    assert results["features"].startswith("random-8x1-v1 (")
    assert runs.read_metrics(run)["evaluations"] == {"features": results["features"]}
    output = capsys.readouterr().out
    assert f"evaluated by the features {results['features']}, during training" in output
    assert "image_size: 8 instead of 10, as the networks of dcgan need a multiple of 4" in output
    assert f"Exported: {tmp_path / 'saved_models' / 'dcgan' / '1'}" in output
    # The other command prints the same, and an export tells both numbers and the features.
    command(evaluate, f"--run={run}", f"--num={protocol.NUM}")
    assert runs.read_metrics(run)["samples"]["scores"] == results["scores"]
    export = tmp_path / "saved_models" / "dcgan"
    command(generate, f"--saved_model={export}", "--num=2", f"--output={tmp_path / 'two.png'}")
    assert re.search(r"FID \S+, KID \S+ on some.npy by random-8x1-v1", capsys.readouterr().out)
    with pytest.raises(UserError, match="expected pictures of 2 classes or more"):
        command(train_classifier, f"--dataset={file}", f"--data_dir={tmp_path / 'data'}")


def save_shades(file, names):
    """Pictures of as many shades of gray as there are names."""
    random = np.random.default_rng(0)
    kinds = random.integers(0, len(names), 1200)
    images = random.integers(0, 60, (1200, 8, 8)) + 60 * kinds[:, None, None]
    np.savez(file, images=images.astype(np.uint8), labels=np.array(names)[kinds])


def test_the_first_run_makes_the_classifier(tmp_path, run_train, few_samples, capsys):
    file = tmp_path / "some.npz"
    save_shades(file, ["dark", "bright"])
    run = run_train(f"--dataset={file}")
    (row,) = read_evaluations(run)
    assert float(row["fid"]) > 0
    assert float(row["kid"]) > 0
    output = capsys.readouterr()
    assert "Training the classifier of some.npz, " in output.err
    assert "at most 5 minutes on 2 cores" in output.err
    results = runs.read_metrics(run)["samples"]
    assert results["class_names"] == ["bright", "dark"]
    assert results["split"] == "held-out"
    assert results["floor"]["label_accuracy"] == 1
    (line,) = [line for line in output.out.splitlines() if line.startswith("class  ")]
    assert line.split() == ["class", "bright", "dark"]
    assert list((tmp_path / "data" / "tfgan_mnist_classifiers").glob("some.npz-*"))
    # Figures of other features are not mixed.
    runs.add_metrics(run, evaluations={"features": "some others"})
    with pytest.raises(UserError, match="evaluations.csv: has scores by the features some others"):
        run_train(f"--resume={run}", "--epochs=2")


def test_an_interrupted_classifier_leaves_nothing(tmp_path, run_train, monkeypatch):
    """And no run folder: the same command begins again."""
    file = tmp_path / "some.npz"
    save_shades(file, ["dark", "bright"])

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(classifier_training, "augment", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_train(f"--dataset={file}")
    assert not (tmp_path / "runs").exists()
    folder = tmp_path / "data" / "tfgan_mnist_classifiers"
    assert [path.name for path in folder.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("images", "held_out"), [(399, 0), (400, 100), (3600, 300), (60_000, 5000), (10**6, 5000)]
)
def test_how_many_are_held_out_for_evaluations(images, held_out):
    assert evaluation_callback.num_held_out(images) == held_out
