"""The yardstick: the shipped weights on real images, and verdicts as a person's."""

import json
import shutil

import keras
import numpy as np
import pytest

from tfgan_mnist import classifier, data, metrics, train_classifier
from tfgan_mnist.errors import UserError

GRAY = (28, 28, 1)
COUNT = 2000  # images of each side in the verdicts


@pytest.fixture(scope="module")
def shipped():
    return classifier.load("mnist", GRAY)


@pytest.fixture(scope="module")
def test_outputs(shipped, mnist):
    """Features and logits of all test images."""
    return shipped.features_and_logits(mnist.test.images)


# --- The shipped weights --------------------------------------------------------------------------


def test_shipped_accuracy(shipped, mnist, test_outputs):
    accuracy = metrics.label_accuracy(test_outputs[1], mnist.test.labels)
    assert accuracy >= 0.995
    # Two images may fall the other way on a machine that rounds differently.
    assert shipped.about["test_accuracy"] == pytest.approx(accuracy, abs=2e-4)


def test_shipped_files(shipped):
    folder = classifier.folder_of("mnist", GRAY)
    assert folder.is_relative_to(classifier.SHIPPED)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3_000_000
    assert shipped.version == f"mnist-28x1-v1 ({shipped.about['sha256'][:8]})"
    assert {"seed", "date", "command", "test_accuracy", "train_images"} <= set(shipped.about)


def test_loading_is_deterministic(shipped, mnist, test_outputs):
    again = classifier.load("mnist", GRAY)
    features, logits = again.features_and_logits(mnist.test.images[:500])
    np.testing.assert_array_equal(features, test_outputs[0][:500])
    np.testing.assert_array_equal(logits, test_outputs[1][:500])


def test_float32_whatever_the_policy(mnist, test_outputs):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        features, logits = classifier.load("mnist", GRAY).features_and_logits(mnist.test.images[:9])
    finally:
        keras.config.set_dtype_policy(policy)
    assert features.dtype == logits.dtype == np.float32
    np.testing.assert_allclose(logits, test_outputs[1][:9], rtol=1e-3, atol=1e-3)


def test_an_image_is_judged_alone(shipped, mnist, test_outputs):
    # In whatever batch it comes, also in the last, incomplete one.
    count = classifier.INFERENCE_BATCH_SIZE + 3
    features, logits = shipped.features_and_logits(mnist.test.images[:count])
    assert features.shape == (count, classifier.FEATURES) and logits.shape == (count, 10)
    one, _ = shipped.features_and_logits(mnist.test.images[count - 1 : count])
    np.testing.assert_allclose(one[0], features[-1], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(features, test_outputs[0][:count], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("images", "received"),
    [
        (np.zeros((2, 28, 28, 1), np.float32), r"\(2, 28, 28, 1\) float32"),
        (np.zeros((2, 32, 32, 1), np.uint8), r"\(2, 32, 32, 1\) uint8"),
        (np.zeros((28, 28, 1), np.uint8), r"\(28, 28, 1\) uint8"),
        (np.zeros((0, 28, 28, 1), np.uint8), r"\(0, 28, 28, 1\) uint8"),
    ],
)
def test_images_that_are_none(shipped, images, received):
    with pytest.raises(ValueError, match=f"expected images .*28, 28, 1.*received {received}"):
        shipped.features_and_logits(images)


# --- Verdicts that a person would give ------------------------------------------------------------


class DiscriminatorOutput:
    """All metrics of some images, against the first `COUNT` of a shuffled test split."""

    def __init__(self, judge, mnist, test_outputs):
        rows = np.random.default_rng(0).permutation(len(mnist.test.images))[:COUNT]
        self.judge, self.train = judge, mnist.train
        self.real_images = mnist.test.images[rows]
        self.real_features = test_outputs[0][rows]
        self.real_histogram = metrics.class_histogram(mnist.test.labels, 10)
        self.real = metrics.statistics(self.real_features)
        self.real_manifold = metrics.manifold(self.real_features)

    def train_images(self, part):
        """A disjoint part of the shuffled training images, and its labels."""
        order = np.random.default_rng(1).permutation(len(self.train.images))
        rows = order[part * COUNT :][:COUNT]
        return self.train.images[rows], self.train.labels[rows]

    def __call__(self, images):
        features, logits = self.judge.features_and_logits(images)
        histogram = metrics.class_histogram(logits.argmax(axis=1), 10)
        scores = metrics.manifold_scores(self.real_manifold, metrics.manifold(features))
        return {
            "fid": metrics.frechet_distance(self.real, metrics.statistics(features)),
            "kid": metrics.kernel_distance(self.real_features, features, subsets=10).mean,
            "score": metrics.classifier_score(logits),
            "classes": metrics.classes_covered(histogram),
            "divergence": metrics.histogram_divergence(histogram, self.real_histogram),
            **scores._asdict(),
        }


@pytest.fixture
def quick(monkeypatch):
    """Training in seconds."""
    monkeypatch.setattr(classifier, "BATCH_SIZE", 32)
    monkeypatch.setattr(classifier, "GAN_TRAIN_STEPS", 40)
    monkeypatch.setattr(classifier, "EPOCHS", 2)


@pytest.fixture(scope="module")
def verdict(shipped, mnist, test_outputs):
    return DiscriminatorOutput(shipped, mnist, test_outputs)


@pytest.fixture(scope="module")
def floor(verdict):
    return verdict(verdict.train_images(0)[0])


def test_other_real_images_are_at_the_floor(verdict, floor):
    other = verdict(verdict.train_images(1)[0])
    assert 0.5 < other["fid"] / floor["fid"] < 2.0
    for share in ("precision", "recall", "density", "coverage"):
        assert other[share] == pytest.approx(floor[share], abs=0.05)
        assert 0.7 < other[share] < 1.1
    assert other["score"] > 9.5
    assert other["classes"] == 10 and other["divergence"] < 0.01


def test_black_images(verdict, floor):
    black = verdict(np.zeros((COUNT, *GRAY), np.uint8))
    assert black["fid"] > 50 * floor["fid"]
    assert black["score"] == pytest.approx(1.0)
    assert black["classes"] == 1
    assert black["precision"] == black["recall"] == black["density"] == black["coverage"] == 0


def test_one_digit_again_and_again(verdict, floor):
    # A real one: every sample is perfect, and nothing is covered.
    constant = verdict(np.repeat(verdict.real_images[:1], COUNT, axis=0))
    assert constant["fid"] > 50 * floor["fid"]
    assert constant["precision"] == 1.0
    assert constant["recall"] < 0.01 and constant["coverage"] < 0.02
    assert constant["classes"] == 1 and constant["score"] == pytest.approx(1.0)


def test_one_class_only(verdict, floor):
    ones = verdict.train.images[verdict.train.labels == 1][:COUNT]
    result = verdict(ones)
    assert result["fid"] > 50 * floor["fid"]
    assert result["precision"] > 0.7  # they are fine ones,
    assert result["recall"] < 0.15 and result["coverage"] < 0.15  # of ten classes
    assert result["divergence"] == pytest.approx(np.log(10), abs=0.3)
    assert result["score"] < 1.1


def test_noise(verdict, floor):
    noise = np.random.default_rng(0).integers(0, 256, (COUNT, *GRAY), np.uint8)
    result = verdict(noise)
    assert result["fid"] > 50 * floor["fid"]
    assert result["kid"] > 1.0
    assert result["precision"] < 0.01 and result["coverage"] < 0.01


def test_copies_of_training_images(verdict, floor):
    copies, _ = verdict.train_images(0)
    assert verdict(copies) == floor  # samples alone cannot tell; the nearest neighbours do
    references = verdict.train.images[:10_000]
    held_out = metrics.nearest_images(verdict.real_images[:200], references).distances
    index, distance = metrics.nearest_images(references[300:500], references)
    assert index.tolist() == list(range(300, 500))
    assert (distance == 0.0).all() and held_out.min() > 0.0


# --- Stacked digits -------------------------------------------------------------------------------


def test_stacked_digits_are_read_channel_by_channel(mnist, test_outputs):
    judge = classifier.load("stacked_mnist", (28, 28, 3))
    rows = np.random.default_rng(0).integers(0, len(mnist.test.images), (300, 3))
    stacks = np.concatenate([mnist.test.images[rows[:, c]] for c in range(3)], axis=-1)
    features, logits = judge.features_and_logits(stacks)
    assert judge.num_classes == 1000 and judge.image_shape == (28, 28, 3)
    assert logits.shape == (300, 1000) and features.shape == (300, 3 * classifier.FEATURES)
    labels = mnist.test.labels[rows] @ [100, 10, 1]
    assert metrics.label_accuracy(logits, labels) > 0.97
    np.testing.assert_allclose(
        features[:, -classifier.FEATURES :], test_outputs[0][rows[:, 2]], rtol=1e-3, atol=1e-3
    )
    # The sum of logits is the product of probabilities.
    p = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    red = test_outputs[1][rows[:, 0]]
    red = np.exp(red - np.logaddexp.reduce(red, axis=1, keepdims=True))
    np.testing.assert_allclose(p.reshape(300, 10, 100).sum(2), red, atol=1e-3)
    with pytest.raises(ValueError, match=r"28, 28, 3\), received \(5, 28, 28, 1\)"):
        judge.features_and_logits(mnist.test.images[:5])


# --- Training -------------------------------------------------------------------------------------


def test_training_learns_and_is_a_function_of_its_seed(mnist, quick):
    def trained(seed):
        few = mnist.train.images[:1280], mnist.train.labels[:1280]
        return classifier.train(*few, 10, steps=40, seed=seed)

    def weights(judge):
        return np.concatenate([w.numpy().ravel() for w in judge.network.weights])

    first, again, other = trained(0), trained(0), trained(1)
    np.testing.assert_array_equal(weights(first), weights(again))
    assert not np.array_equal(weights(first), weights(other))
    _, logits = first.features_and_logits(mnist.test.images[:1000])
    assert metrics.label_accuracy(logits, mnist.test.labels[:1000]) > 0.7


def test_augmentation_moves_a_little_and_stays_in_range():
    batch = np.full((64, *GRAY), -1.0, np.float32)
    batch[:, 10:18, 10:18] = 1.0
    moved = np.asarray(classifier._augment(batch, (0, 0)))
    assert moved.shape == batch.shape and moved.min() >= -1.0 and moved.max() <= 1.0
    assert (moved != batch).any(axis=(1, 2, 3)).all()
    assert (moved[:, 13:15, 13:15] == 1.0).all()  # the middle of the square
    assert (moved[:, [0, -1]] == -1.0).all()  # and nothing at the border
    np.testing.assert_array_equal(moved, classifier._augment(batch, (0, 0)))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((127, *GRAY), np.uint8), np.zeros(127, int), "N >= 128"),
        (np.zeros((128, *GRAY), np.float32), np.zeros(128, int), "received .* float32"),
        (np.zeros((128, *GRAY), np.uint8), np.full(128, 10), r"\[0, 10\), received \[10, 10\]"),
        (np.zeros((128, *GRAY), np.uint8), np.zeros(127, int), "128 labels, received 127"),
    ],
)
def test_what_cannot_be_trained_on(images, labels, message):
    with pytest.raises(ValueError, match=message):
        classifier.train(images, labels, 10)


def test_gan_train(mnist, quick):
    images, labels = mnist.train.images[:1280], mnist.train.labels[:1280]
    test = mnist.test.images[:1000], mnist.test.labels[:1000]
    assert classifier.gan_train_accuracy(images, labels, *test, 10) > 0.7
    wrong = (labels + 1) % 10  # good images, none of which shows its label
    assert classifier.gan_train_accuracy(images, wrong, *test, 10) < 0.1


# --- Files ----------------------------------------------------------------------------------------


def test_saved_and_read_again(shipped, mnist, tmp_path):
    copy = classifier.Classifier(shipped.network, dict(shipped.about))
    classifier.save(copy, tmp_path / "copy")
    again = classifier.read(tmp_path / "copy")
    assert again.about == copy.about
    # The archive's bytes are other ones in Python 3.11.2 than in 3.11.7.
    assert copy.about | {"sha256": shipped.about["sha256"]} == shipped.about
    for left, right in zip(
        shipped.features_and_logits(mnist.test.images[:9]),
        again.features_and_logits(mnist.test.images[:9]),
        strict=True,
    ):
        np.testing.assert_array_equal(left, right)
    with pytest.raises(OSError, match="not empty"):
        classifier.save(copy, tmp_path / "copy")


def damage_weights(folder):
    weights = folder / classifier.WEIGHTS
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)


def change_about(**changes):
    def change(folder):
        about = json.loads((folder / classifier.ABOUT).read_text())
        (folder / classifier.ABOUT).write_text(json.dumps({**about, **changes}))

    return change


@pytest.mark.parametrize(
    "damage",
    [
        damage_weights,
        change_about(num_classes=11),
        change_about(image_shape=None),
        lambda folder: (folder / classifier.ABOUT).write_text("{"),
        lambda folder: (folder / classifier.ABOUT).write_text("[]"),
        lambda folder: (folder / classifier.ABOUT).unlink(),
        lambda folder: (folder / classifier.WEIGHTS).unlink(),
        shutil.rmtree,
    ],
)
def test_damaged_files(damage, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(classifier.folder_of("mnist", GRAY), folder)
    damage(folder)
    with pytest.raises(UserError, match="not a usable classifier .*Remove the folder and make it"):
        classifier.read(folder)


def test_where_classifiers_are(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "env"))
    name = "tfgan_mnist_classifiers/emnist-balanced-32x3-v1"
    shape = (32, 32, 3)
    assert classifier.folder_of("emnist/balanced", shape) == tmp_path / "env" / name
    assert classifier.folder_of("emnist/balanced", shape, "/d").as_posix() == f"/d/{name}"
    with pytest.raises(UserError, match="no classifier for kmnist at 28x28x1.*--dataset=kmnist"):
        classifier.load("kmnist", GRAY)


# --- The command ----------------------------------------------------------------------------------


@pytest.fixture
def tiny(mnist, quick, monkeypatch):
    """A data set that trains in a second or two."""
    few = data.Split(mnist.train.images[:1280], mnist.train.labels[:1280])
    test = data.Split(mnist.test.images[:500], mnist.test.labels[:500])
    tiny = mnist._replace(train=few, test=test)
    monkeypatch.setattr(data, "load", lambda *arguments: tiny)


def test_the_command_makes_what_load_finds(tiny, tmp_path, capsys):
    folder = train_classifier.train_classifier("kmnist", data_dir=str(tmp_path), seed=3)
    judge = classifier.load("kmnist", GRAY, data_dir=str(tmp_path))
    assert str(folder) in capsys.readouterr().out
    assert (judge.about["seed"], judge.about["train_images"]) == (3, 1280)
    with pytest.raises(UserError, match="exists; remove it, or give another place"):
        train_classifier.train_classifier("kmnist", data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "stacked_mnist"}, "read by mnist's classifier"),
        ({"seed": -1}, "--seed: expected 0 to 2147483647; received -1"),
        ({"image_size": 4}, "--image_size: expected 8 to 1,024; received 4"),
    ],
)
def test_what_the_command_refuses(arguments, message):
    with pytest.raises(UserError, match=message):
        train_classifier.train_classifier(**arguments)


def test_flags():
    flags = train_classifier.parser().parse_args(["--dataset=kmnist", "--seed=7"])
    assert (flags.dataset, flags.seed, flags.image_size, flags.output) == ("kmnist", 7, 28, "")
