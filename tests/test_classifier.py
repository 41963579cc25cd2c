"""The classifier: the shipped weights on real images, its training, its files, its command."""

import shutil

import keras
import numpy as np
import pytest

from benchmarks import resolution
from tfgan_mnist import data, train_classifier
from tfgan_mnist.errors import UserError
from tfgan_mnist.evaluation import (
    choice,
    classifier,
    classifier_training,
    extractor,
    metrics,
    random_features,
)

GRAY = (28, 28, 1)


@pytest.fixture(scope="module")
def shipped(mnist):
    return choice.find(mnist)


@pytest.fixture(scope="module")
def test_outputs(shipped, mnist):
    """Features and logits of all test images."""
    return shipped.features_and_logits(mnist.test.images)


# The shipped weights


def test_shipped_accuracy(shipped, mnist, test_outputs):
    accuracy = metrics.label_accuracy(test_outputs[1], mnist.test.labels)
    assert accuracy >= 0.995
    # Machines that round differently may disagree about two images.
    assert shipped.about["test_accuracy"] == pytest.approx(accuracy, abs=2e-4)


def test_shipped_files(shipped):
    folder = classifier.folder_of("mnist", GRAY)
    assert folder.is_relative_to(classifier.SHIPPED)
    assert shipped.version == f"mnist-28x1-v1 ({shipped.about['sha256'][:8]})"
    assert {"seed", "date", "command", "test_accuracy", "train_images"} <= set(shipped.about)


def test_inference_is_deterministic_and_in_float32_under_any_policy(mnist, test_outputs):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        again = choice.find(mnist).features_and_logits(mnist.test.images[:500])
    finally:
        keras.config.set_dtype_policy(policy)
    for values, expected in zip(again, test_outputs, strict=True):
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, expected[:500])


def test_outputs_do_not_depend_on_the_batch(shipped, mnist, test_outputs):
    count = extractor.INFERENCE_BATCH_SIZE + 3  # the last batch is incomplete
    features, logits = shipped.features_and_logits(mnist.test.images[:count])
    assert features.shape == (count, classifier.FEATURES) and logits.shape == (count, 10)
    one, _ = shipped.features_and_logits(mnist.test.images[count - 1 : count])
    np.testing.assert_allclose(one[0], features[-1], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(features, test_outputs[0][:count], rtol=1e-3, atol=1e-3)


def test_stacked_digits_are_classified_channel_by_channel(shipped, mnist, test_outputs, data_dir):
    rows = np.random.default_rng(0).integers(0, len(mnist.test.images), (300, 3))
    stacks = np.concatenate([mnist.test.images[rows[:, c]] for c in range(3)], axis=-1)
    in_colour = mnist._replace(name=data.STACKED_MNIST, train=data.Split(stacks, rows[:, 0]))
    stacked = choice.find(in_colour, str(data_dir))
    features, logits = stacked.features_and_logits(stacks)
    assert stacked.num_classes == 1000 and stacked.image_shape == (28, 28, 3)
    assert logits.shape == (300, 1000) and features.shape == (300, 3 * classifier.FEATURES)
    labels = mnist.test.labels[rows] @ [100, 10, 1]
    assert metrics.label_accuracy(logits, labels) > 0.97
    last = features[:, -classifier.FEATURES :]
    np.testing.assert_allclose(last, test_outputs[0][rows[:, 2]], rtol=1e-3, atol=1e-3)
    # The sum of logits is the product of probabilities.
    p = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    red = test_outputs[1][rows[:, 0]]
    red = np.exp(red - np.logaddexp.reduce(red, axis=1, keepdims=True))
    np.testing.assert_allclose(p.reshape(300, 10, 100).sum(2), red, atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 32, 32, 1), (0, 28, 28, 1), (28, 28, 1)])
def test_images_of_a_wrong_shape_are_refused(shape, shipped):
    with pytest.raises(ValueError, match="expected images .*28, 28, 1.*received .* uint8"):
        shipped.features_and_logits(np.zeros(shape, np.uint8))


# Training


@pytest.fixture
def quick(monkeypatch):
    """Training in seconds."""
    monkeypatch.setattr(classifier_training, "BATCH_SIZE", 32)
    monkeypatch.setattr(classifier_training, "MAX_PASSES", 2)


def test_training_learns_and_is_a_function_of_its_seed(mnist, quick):
    def train(seed):
        few = mnist.train.images[:1280], mnist.train.labels[:1280]
        trained = classifier_training.train(*few, 10, steps=40, seed=seed)
        return trained, np.concatenate([w.ravel() for w in trained.network.get_weights()])

    (trained, first), (_, again), (_, other) = train(0), train(0), train(1)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    _, logits = trained.features_and_logits(mnist.test.images[:1000])
    assert metrics.label_accuracy(logits, mnist.test.labels[:1000]) > 0.7


def test_augmentation_moves_a_little_and_stays_in_range():
    batch = np.full((64, *GRAY), -1.0, np.float32)
    batch[:, 10:18, 10:18] = 1.0
    moved = np.asarray(classifier_training.augment(batch, (0, 0)))
    assert moved.shape == batch.shape and moved.min() >= -1.0 and moved.max() <= 1.0
    assert (moved != batch).any(axis=(1, 2, 3)).all()
    assert (moved[:, 13:15, 13:15] == 1.0).all()  # the middle of the square
    assert (moved[:, [0, -1]] == -1.0).all()  # the border
    np.testing.assert_array_equal(moved, classifier_training.augment(batch, (0, 0)))


def test_training_refuses_too_few_images_and_wrong_labels():
    images, labels = np.zeros((128, *GRAY), np.uint8), np.zeros(128, int)
    with pytest.raises(UserError, match="at least 128 images; received 127"):
        classifier_training.train(images[:127], labels[:127], 10)
    with pytest.raises(ValueError, match=r"labels 0\.\.9; received 10\.\.10"):
        classifier_training.train(images, labels + 10, 10)


def test_the_work_of_training_is_bounded():
    steps = classifier_training.num_steps
    assert steps((60_000, 28, 28, 1)) == 6 * 60_000 // 128
    assert steps((60_000, 56, 56, 3)) == steps((60_000, 28, 28, 1)) // 4
    assert steps((1280, 28, 28, 1)) == 20 * 10
    assert steps((1, 28, 28, 1)) == 1


# Which features score a data set


def in_shades(names, num=1280):
    """A data set of images in as many shades of gray as there are names."""
    labels = np.arange(num, dtype=np.int32) % max(len(names), 1)
    images = np.full((num, 8, 8, 1), 60, np.uint8) * labels[:, None, None, None].astype(np.uint8)
    images += np.random.default_rng(0).integers(0, 60, images.shape, np.uint8)
    split = data.Split(images, labels)
    return data.ImageData("shades", split, split, len(names), tuple(names))


def test_a_classifier_is_made_once_for_the_classes_of_the_data(quick, tmp_path, capsys):
    first = choice.find(in_shades("ab"), str(tmp_path))
    assert "Training the classifier of shades, " in capsys.readouterr().err
    assert choice.find(in_shades("ab"), str(tmp_path)).version == first.version
    assert capsys.readouterr().err == ""
    for names in ("abc", "abd"):  # pictures of one's own may change
        assert choice.find(in_shades(names), str(tmp_path)).about["class_names"] == list(names)


@pytest.mark.parametrize("data_set", [in_shades(""), in_shades("a"), in_shades("ab", num=999)])
def test_without_classes_or_with_few_images_features_are_random(data_set, tmp_path):
    found = choice.find(data_set, str(tmp_path))
    assert (found.name, found.num_classes) == ("random-8x1-v1", 0)
    images = data_set.test.images[:300]
    features, logits = found.features_and_logits(images)
    assert features.dtype == np.float32 and features.shape == (300, random_features.FEATURES)
    assert logits.shape == (300, 0)
    again = random_features.RandomFeatures(data_set)
    assert again.version == found.version
    np.testing.assert_array_equal(
        again.features_and_logits(data_set.test.images[:300])[0], features
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["classifier", "random"])
def test_features_notice_altered_images(kind, shipped, mnist):
    """The quick form of `python -m benchmarks.resolution`; docs/results.md has its tables."""
    few = mnist._replace(train=data.Split(*(part[:20_000] for part in mnist.train)))
    features = shipped if kind == "classifier" else random_features.RandomFeatures(few)
    noticed = {
        found.change.split(",")[0]: found for found in resolution.measure(features, few, num=500)
    }
    assert all(found.grows for found in noticed.values())
    levels = {change: found.level for change, found in noticed.items()}
    assert levels["noise"] <= 16
    assert levels["blur"] <= 0.8
    assert levels["brighter"] <= 8
    assert levels["less contrast"] <= 0.1
    assert levels["missing modes"] <= 0.2


def test_random_features_notice_shifted_colours(mnist):
    def in_colour(split):
        return data.Split(np.repeat(split.images[:2000], 3, axis=-1), split.labels[:2000])

    few = mnist._replace(train=in_colour(mnist.train), test=in_colour(mnist.test))
    change = "redder and less blue, of 255"
    features = random_features.RandomFeatures(few)
    (found,) = resolution.measure(features, few, num=300, changes=[change])
    assert found.grows and found.level <= 8


# Files


def test_saved_and_read_again(shipped, mnist, tmp_path):
    copy = classifier.Classifier(shipped.network, dict(shipped.about))
    classifier.save(copy, tmp_path / "copy")
    again = classifier.read(tmp_path / "copy")
    assert again.about == copy.about
    # The archive's bytes differ between Python 3.11.2 and 3.11.7.
    assert copy.about | {"sha256": shipped.about["sha256"]} == shipped.about
    few = mnist.test.images[:9]
    for left, right in zip(again.features_and_logits(few), shipped.features_and_logits(few)):
        np.testing.assert_array_equal(left, right)
    with pytest.raises(OSError, match="not empty"):
        classifier.save(copy, tmp_path / "copy")


def damage_weights(folder):
    weights = folder / classifier.WEIGHTS
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        damage_weights,
        lambda folder: (folder / classifier.ABOUT).write_text("{"),
        lambda folder: (folder / classifier.WEIGHTS).unlink(),
    ],
)
def test_damaged_files_are_refused(damage, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(classifier.folder_of("mnist", GRAY), folder)
    damage(folder)
    with pytest.raises(UserError, match="not a usable classifier .*Remove the folder and make it"):
        classifier.read(folder)


def test_folders_of_classifiers(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "env"))
    name = "tfgan_mnist_classifiers/emnist-balanced-32x3-v1"
    shape = (32, 32, 3)
    assert classifier.folder_of("emnist/balanced", shape) == tmp_path / "env" / name
    assert classifier.folder_of("emnist/balanced", shape, "/d").as_posix() == f"/d/{name}"


# The command


def command(*flags):
    train_classifier.main(train_classifier.parser().parse_args(flags))


def test_the_command_makes_what_load_finds(mnist, quick, monkeypatch, tmp_path, capsys):
    few = data.Split(mnist.train.images[:1280], mnist.train.labels[:1280])
    test = data.Split(mnist.test.images[:500], mnist.test.labels[:500])
    small = mnist._replace(train=few, test=test, name="kmnist")
    monkeypatch.setattr(data, "load", lambda *arguments: small)
    flags = ("--dataset=kmnist", f"--data_dir={tmp_path}", "--seed=3")
    command(*flags)
    # What `evaluate` and `train` make themselves is the same, and they find it.
    about = choice.find(small, str(tmp_path)).about
    assert about["seed"] == 3
    assert str(tmp_path / "tfgan_mnist_classifiers") in capsys.readouterr().err
    assert (about["seed"], about["train_images"], about["dataset"]) == (3, 1280, "kmnist")
    with pytest.raises(UserError, match="exists; give a new folder with --output"):
        command(*flags)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--dataset=stacked_mnist", "mnist's classifier is used for each channel"),
        ("--seed=-1", "seed: expected a finite value >= 0; received -1"),
        ("--image_size=4", "image_size: expected a finite value >= 8; received 4"),
    ],
)
def test_the_command_refuses_wrong_flags(flag, message):
    with pytest.raises(UserError, match=message):
        command(flag)
