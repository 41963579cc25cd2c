"""The commands on pictures of one's own: from a folder to an export, and what stops them."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tfgan_mnist import evaluate, generate, runs, train, train_classifier
from tfgan_mnist.errors import UserError
from tfgan_mnist.evaluation import protocol
from tfgan_mnist.training import evaluation_callback


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
    run = run_train("--dataset=pets", "--augment=auto")
    output = capsys.readouterr().out
    assert "batch_size: " in output
    assert "instead of 32" in output
    assert "Samples are not evaluated: that takes 250 images" in output
    config, facts = runs.read(run)
    assert config.dataset == str(root)
    assert (config.image_size, config.channels) == (28, 3)
    assert config.augment == "translation,cutout,color"
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
    with pytest.raises(UserError, match="no classifier for .*pets.*train_classifier --dataset"):
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


def test_pictures_without_labels(tmp_path, run_train, capsys):
    np.save(tmp_path / "some.npy", np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8))
    with pytest.raises(UserError, match="cdcgan: expected pictures with labels: .* has none"):
        run_train(f"--dataset={tmp_path / 'some.npy'}")
    assert not (tmp_path / "runs").exists()
    run = run_train(f"--dataset={tmp_path / 'some.npy'}", "--image_size=10", model="dcgan")
    output = capsys.readouterr().out
    assert "pictures with labels" in output
    assert "image_size: 8 instead of 10, as the networks of dcgan need a multiple of 4" in output
    assert runs.read(run)[0].image_size == 8
    version = tmp_path / "saved_models" / "dcgan" / "1"
    for source in f"--run={run}", f"--saved_model={version}":
        with pytest.raises(UserError, match=r"cannot be scored.* some\.npy has no labels"):
            command(evaluate, source)
    with pytest.raises(UserError, match="expected pictures of 2 classes or more"):
        command(
            train_classifier,
            f"--dataset={tmp_path / 'some.npy'}",
            f"--data_dir={tmp_path / 'data'}",
        )


def test_few_pictures_are_scored_with_what_there_is(tmp_path, run_train, capsys, monkeypatch):
    monkeypatch.setattr(protocol, "NUM", protocol.MIN_SAMPLES)
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 2100)
    images = random.integers(0, 100, (2100, 8, 8), np.uint8) + 120 * labels[:, None, None]
    names = np.array(["dark", "bright"])[labels]
    np.savez(tmp_path / "some.npz", images=images.astype(np.uint8), labels=names)
    place = f"--dataset={tmp_path / 'some.npz'}", f"--data_dir={tmp_path / 'data'}"
    command(train_classifier, *place)
    run = run_train(*place[:1])
    with open(run / runs.EVALUATIONS, newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["fid"]) > 0
    output = capsys.readouterr().out
    results = runs.read_metrics(run)["samples"]
    assert results["class_names"] == ["bright", "dark"]
    assert results["split"] == "held-out"
    (line,) = [line for line in output.splitlines() if line.startswith("class  ")]
    assert line.split() == ["class", "bright", "dark"]

    # A class more, and the classifier no longer fits.
    names[:50] = "red"
    np.savez(tmp_path / "some.npz", images=images.astype(np.uint8), labels=names)
    run_train(*place[:1])
    assert "has 3 classes now, and its classifier" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("images", "held_out"), [(999, 0), (1000, 250), (3600, 300), (60_000, 5000), (10**6, 5000)]
)
def test_how_many_are_held_out_for_evaluations(images, held_out):
    assert evaluation_callback.num_held_out(images) == held_out
