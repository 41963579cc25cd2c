import gzip
import hashlib
import io
import shutil
import urllib.error
import zipfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.checksums import UrlInfo

from tfgan_mnist import data
from tfgan_mnist.data import datasets, order
from tfgan_mnist.data import tfds as tfds_data
from tfgan_mnist.data.tfds import PACKAGED_MNIST
from tfgan_mnist.errors import UserError

# --- Tiny data sets that TFDS knows while these tests run -------------------------------------


class _Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    SHAPE = (32, 32, 3)
    SPLITS = ("train", "test")
    LABELS = (0, 1, 2)

    def _info(self):
        features = tfds.features.FeaturesDict(self.features())
        return tfds.core.DatasetInfo(builder=self, features=features)

    def features(self):
        return {
            "image": tfds.features.Image(shape=self.SHAPE),
            "label": tfds.features.ClassLabel(names=["ant", "bee", "cat"]),
        }

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.SPLITS}

    def _generate_examples(self, split):
        random = np.random.default_rng(len(split))
        for i in range(12):
            image = random.integers(256, size=self.SHAPE, dtype=np.uint8)
            yield i, {"image": image, "label": self.LABELS[i % 3]}


class TinyColour(_Tiny):
    SPLITS = ("train", "validation")  # no test


class TinyGray(_Tiny):
    SHAPE = (28, 28, 1)


class TinyAlpha(_Tiny):
    SHAPE = (28, 28, 4)


class TinyTrainOnly(_Tiny):
    SPLITS = ("train",)


class TinyTestOnly(_Tiny):
    SPLITS = ("test",)


class TinyOblong(_Tiny):
    SHAPE = (28, 60, 3)


class TinyHiddenLabels(_Tiny):
    LABELS = (0, 1, -1)  # as TFDS has it for labels that are kept secret


class TinyUnlabelled(_Tiny):
    def features(self):
        return {"image": tfds.features.Image(shape=self.SHAPE)}


class TinyManual(_Tiny):
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Ask the authors for ants.zip."

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(str(dl_manager.manual_dir))}


class TinyFull(_Tiny):
    def _generate_examples(self, split):
        yield from list(super()._generate_examples(split))[:5]
        raise OSError(28, "No space left on device")


def examples(builder, split="train"):
    """The images that a tiny data set was made of, in no order."""
    return [x["image"] for _, x in builder._generate_examples(builder, split)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("tensorflow_datasets")


def files_in(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


# --- MNIST ------------------------------------------------------------------------------------


def test_mnist_is_the_original(mnist):
    assert mnist.name == "mnist"
    assert mnist.num_classes == 10
    assert mnist.class_names == tuple("0123456789")
    for split, prefix, num in (mnist.train, "train", 60_000), (mnist.test, "t10k", 10_000):
        assert split.images.shape == (num, 28, 28, 1)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        # TFDS shuffles; the multiset of (image, label) is that of the archives.
        originals = []
        for name, header in ("images-idx3", 16), ("labels-idx1", 8):
            packed = (PACKAGED_MNIST / f"{prefix}-{name}-ubyte.gz").read_bytes()
            originals.append(np.frombuffer(gzip.decompress(packed), np.uint8, offset=header))
        expected = np.column_stack([originals[0].reshape(num, 784), originals[1]])
        pairs = np.column_stack([split.images.reshape(num, 784), split.labels.astype(np.uint8)])
        assert sorted(map(bytes, pairs)) == sorted(map(bytes, expected))


def test_stacked_mnist(mnist, monkeypatch):
    assert datasets.STACKS == {"train": 128_000, "test": 26_000}
    monkeypatch.setattr(datasets, "STACKS", {"train": 3000, "test": 200})
    monkeypatch.setattr(tfds_data, "load", lambda *_: mnist)
    stacked = data.load("stacked_mnist")
    assert stacked.name == "stacked_mnist"
    assert stacked.num_classes == len(stacked.class_names) == 1000
    assert stacked.class_names[42] == "042"
    assert len(set(stacked.train.labels)) > 900
    for split, digits, num in (stacked.train, mnist.train, 3000), (stacked.test, mnist.test, 200):
        assert split.images.shape == (num, 28, 28, 3)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        # The channels are digits of the same split, in the order of the label's.
        label_of = dict(zip(map(bytes, digits.images), digits.labels))
        for image, label in zip(split.images[:200], split.labels):
            channels = [label_of[image[..., channel].tobytes()] for channel in range(3)]
            assert channels == [label // 100, label // 10 % 10, label % 10]
    # The same at any time; if this fails, TFDS reads in another order or NumPy draws differently.
    assert stacked.train.labels[:5].tolist() == [264, 724, 862, 714, 670]
    with pytest.raises(UserError, match="has 3 channels; received channels=1"):
        data.load("stacked_mnist", channels=1)


# --- Other data sets --------------------------------------------------------------------------


def test_a_data_set_is_brought_to_size_and_channels(root):
    own = data.load("tiny_colour", root, image_size=32)
    assert own.train.images.shape == (12, 32, 32, 3)
    assert own.num_classes == 3
    assert own.class_names == ("ant", "bee", "cat")
    assert sorted(own.train.labels) == [0] * 4 + [1] * 4 + [2] * 4
    # Images of the right size are not touched; the validation split stands in for test images.
    for split, name in (own.train, "train"), (own.test, "validation"):
        assert sorted(map(bytes, split.images)) == sorted(map(bytes, examples(TinyColour, name)))

    gray = data.load("tiny_colour", root, image_size=32, channels=1)
    luma = own.train.images @ [0.299, 0.587, 0.114]  # ITU-R BT.601
    np.testing.assert_allclose(gray.train.images[..., 0], luma, atol=1.0)

    grays = data.load("tiny_gray", root).test.images
    colours = data.load("tiny_gray", root, channels=3).test.images
    np.testing.assert_array_equal(colours, np.repeat(grays, 3, axis=-1))

    # Halved: averages over areas, and noise shrinks accordingly; picked pixels would keep it.
    small = data.load("tiny_colour", root, image_size=16)
    assert small.train.images.shape == (12, 16, 16, 3)
    np.testing.assert_allclose(
        small.train.images.mean((1, 2)), own.train.images.mean((1, 2)), atol=3
    )
    assert small.train.images.std() < 0.6 * own.train.images.std()


def test_emnist_letters_stand_upright(tmp_path, monkeypatch):
    # Two letters of NIST's files, which hold them transposed, in a zip file as NIST has it.
    upright = np.zeros((2, 28, 28), np.uint8)
    upright[:, 2:4] = 255  # the bar of a T
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for split in "train", "test":
            images = bytes(16) + upright.transpose(0, 2, 1).tobytes()
            stem = f"gzip/emnist-letters-{split}"
            archive.writestr(f"{stem}-images-idx3-ubyte.gz", gzip.compress(images))
            archive.writestr(f"{stem}-labels-idx1-ubyte.gz", gzip.compress(bytes(8) + b"\x01\x14"))
    (tmp_path / "gzip.zip").write_bytes(packed.getvalue())
    emnist = tfds.builder_cls("emnist")
    checksum = hashlib.sha256(packed.getvalue()).hexdigest()
    known = {emnist.URL: UrlInfo(len(packed.getvalue()), checksum, "gzip.zip")}
    monkeypatch.setattr(emnist, "url_infos", known)
    for split in "train", "test":
        monkeypatch.setattr(emnist.builder_configs["letters"], f"{split}_examples", 2)

    letters = data.load("emnist/letters", tmp_path / "data", manual_dir=tmp_path)
    np.testing.assert_array_equal(letters.train.images[..., 0], upright)
    assert sorted(letters.test.labels) == [1, 20]
    assert letters.num_classes == 37


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny_unlabelled", r"expected .* `label`; its features are .*'image'"),
        ("imdb_reviews", r"expected .* `image`.*'text'"),
        ("tiny_test_only", "expected a split train; it has test"),
        ("tiny_hidden_labels", "expected labels from 0 to 2 in split train; it has -1 to 1"),
        ("tiny_manual", "Manual directory.*Ask the authors for ants.zip"),
        ("fashion_mnits", "no such data set. Did you mean fashion_mnist"),
        ("xqzw", "no such data set. tensorflow.org/datasets lists them"),
        ("huggingface:mnist", "Community data sets contain code"),
        ("emnist/letter", "cannot open this data set.*Known: .*balanced, letters"),
        ("not a name", "cannot open this data set"),
    ],
)
def test_what_cannot_be_loaded_says_why(root, name, message):
    with pytest.raises(UserError, match=f"(?s)^{name}: .*{message}"):
        data.load(name, root)


def test_alpha_is_laid_on_the_background(root):
    images = data.load("tiny_alpha", root, background="#ff0000").train.images
    assert images.shape == (12, 28, 28, 3)
    expected = []
    for image in examples(TinyAlpha):
        alpha = image[..., 3:] / 255
        expected.append(alpha * image[..., :3] + (1 - alpha) * np.array([255, 0, 0]))
    difference = np.abs(images[:, None].astype(float) - np.stack(expected)).max((2, 3, 4))
    assert sorted(difference.argmin(axis=1)) == list(range(12))
    assert difference.min(axis=1).max() <= 1
    assert data.load("tiny_alpha", root, channels=1).train.images.shape == (12, 28, 28, 1)


def test_of_oblong_images_the_centred_square_is_used(root, capsys):
    images = data.load("tiny_oblong", root).train.images
    assert "tiny_oblong: of oblong images the central square" in capsys.readouterr().err
    expected = sorted(image[:, 16:44].tobytes() for image in examples(TinyOblong))
    assert sorted(map(bytes, images)) == expected


def test_without_a_test_split_some_are_held_out(root):
    images = data.load("tiny_train_only", root, image_size=32)
    assert images.test_split == "held-out"
    splits = (images.train, images.test)
    assert min(len(split.images) for split in splits) >= 1
    rows = sorted(bytes(image) for split in splits for image in split.images)
    assert rows == sorted(map(bytes, examples(TinyTrainOnly)))


def test_archives_that_were_compressed_anew(archives, root, monkeypatch):
    mnist = tfds.builder_cls("mnist")
    monkeypatch.setattr(mnist, "url_infos", dict(mnist.url_infos))
    file = archives / "t10k-labels-idx1-ubyte.gz"
    content = gzip.decompress(file.read_bytes())
    contents = {"t10k-labels": hashlib.sha256(content).hexdigest()}
    monkeypatch.setitem(tfds_data.CONTENTS, "mnist", contents)
    file.write_bytes(gzip.compress(content, 1))
    builder = tfds.builder("mnist", data_dir=root)
    assert tfds_data._archives("mnist", builder, archives) == archives
    (known,) = (info for info in mnist.url_infos.values() if info.filename == file.name)
    assert known.checksum == hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_bytes(gzip.compress(content[1:]))
    with pytest.raises(UserError, match=f"{file.name} is damaged or of another data set"):
        tfds_data._archives("mnist", builder, archives)


# --- What goes wrong while a data set is prepared ----------------------------------------------


@pytest.fixture
def archives(tmp_path):
    """A copy of the packaged archives, to be damaged."""
    return shutil.copytree(PACKAGED_MNIST, tmp_path / "archives")


def remove(archive):
    archive.unlink()


def truncate(archive):
    archive.write_bytes(archive.read_bytes()[:1000])


def corrupt(archive):
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)


@pytest.mark.parametrize("packaged", [True, False], ids=["packaged", "manual_dir"])
@pytest.mark.parametrize("harm", [remove, truncate, corrupt])
def test_a_damaged_archive_is_named(archives, tmp_path, monkeypatch, packaged, harm):
    name = "t10k-images-idx3-ubyte.gz"
    harm(archives / name)
    if packaged:
        monkeypatch.setattr(tfds_data, "PACKAGED_MNIST", archives)
    message = rf"mnist: .*{archives}.*{name}|mnist: {archives}/{name} is damaged"
    with pytest.raises(UserError, match=message) as caught:
        data.load("mnist", tmp_path / "data", manual_dir=None if packaged else archives)
    assert ("Reinstall" if packaged else "Put the original") in str(caught.value)
    assert not files_in(tmp_path / "data")


def test_no_network(root, tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    expected = "www.cs.toronto.edu cannot be reached.*put cifar-10-binary.tar.gz into a folder"
    with pytest.raises(UserError, match=expected):
        data.load("cifar10", tmp_path)
    with pytest.raises(
        UserError, match="expected in .*: cifar-10-binary.tar.gz. Put the original there"
    ):
        data.load("cifar10", tmp_path, manual_dir=root)
    assert not files_in(tmp_path)


def test_trouble_midway_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        yield next(_Tiny._generate_examples(TinyGray, "train"))
        raise KeyboardInterrupt

    with pytest.raises(UserError, match="cannot be prepared in .*No space left on device"):
        data.load("tiny_full", tmp_path)
    monkeypatch.setattr(TinyGray, "_generate_examples", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.load("tiny_gray", tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == {"tiny_full", "tiny_gray", ".lock"}


def test_a_data_set_is_prepared_once(tmp_path, capfd, monkeypatch):
    def overtaken(*_):
        """Another command prepares it after this one has looked for it."""
        monkeypatch.undo()
        data.load("tiny_gray", tmp_path)

    monkeypatch.setattr(tfds_data, "_archives", overtaken)
    assert len(data.load("tiny_gray", tmp_path).train.images) == 12
    assert capfd.readouterr() == ("", f"Preparing tiny_gray in {tmp_path}\n")
    assert sorted(path.name for path in (tmp_path / "tiny_gray").iterdir()) == [".lock", "1.0.0"]


def flipped_bit(folder):
    corrupt(next(folder.glob("*train.tfrecord*")))


def no_record(folder):
    next(folder.glob("*train.tfrecord*")).unlink()


def no_files(folder):
    for file in folder.iterdir():
        file.unlink()


def cut_info(folder):
    truncated = (folder / "dataset_info.json").read_text()[:100]
    (folder / "dataset_info.json").write_text(truncated)


@pytest.mark.parametrize("harm", [flipped_bit, no_record, no_files, cut_info])
def test_damaged_prepared_files(root, tmp_path, harm):
    data.load("tiny_gray", root)
    shutil.copytree(root / "tiny_gray", tmp_path / "tiny_gray")
    harm(tmp_path / "tiny_gray" / "1.0.0")
    with pytest.raises(UserError, match=f"(?s)tiny_gray: .*{tmp_path / 'tiny_gray'}") as error:
        data.load("tiny_gray", tmp_path)
    assert "damaged" in str(error.value)
    # What the message advises helps.
    shutil.rmtree(tmp_path / "tiny_gray")
    assert len(data.load("tiny_gray", tmp_path).test.images) == 12


# --- Batches ----------------------------------------------------------------------------------


@pytest.fixture
def numbered():
    """23 images, all pixels of image i being i, with label i % 5."""
    numbers = np.arange(23, dtype=np.uint8)
    images = np.broadcast_to(numbers[:, None, None, None], (23, 4, 4, 1)).copy()
    return data.Split(images, (numbers % 5).astype(np.int32))


def numbers(batches: tf.data.Dataset, steps: int) -> np.ndarray:
    """(steps, B): which images `batches` of `numbered` are made of."""
    pixels = np.stack([images[:, 0, 0, 0] for images, _ in batches.take(steps).as_numpy_iterator()])
    return np.rint((pixels + 1) * 127.5).astype(int)


def test_an_epoch_is_a_permutation_of_its_own(numbered):
    steps = order.steps_per_epoch(numbered, 4)
    assert steps == 5
    epochs = numbers(order.batches(numbered, 4, seed=0), 50 * steps).reshape(50, -1)
    for epoch in epochs:
        assert len(set(epoch)) == 20
    assert len({tuple(epoch) for epoch in epochs}) == 50
    assert set(epochs.flat) == set(range(23))  # what is dropped differs from epoch to epoch
    whole = numbers(order.batches(numbered, 23, seed=0), 2)
    assert [sorted(epoch) for epoch in whole] == [list(range(23))] * 2


def test_a_batch_is_a_function_of_seed_and_step(numbered):
    expected = numbers(order.batches(numbered, 4, seed=7), 20)
    for first in 1, 5, 13:
        resumed = numbers(order.batches(numbered, 4, seed=7, first_step=first), 20 - first)
        np.testing.assert_array_equal(resumed, expected[first:])
    assert np.any(numbers(order.batches(numbered, 4, seed=8), 20) != expected)
    numbers(order.batches(numbered, 4, seed=0, first_step=10**12), 1)  # without counting to it


def test_seeds_stay_what_they_were(numbered):
    # A run resumed with another TensorFlow goes on where it stopped; if this fails, it does not.
    assert numbers(order.batches(numbered, 8, seed=0), 1).tolist() == [[4, 14, 5, 3, 22, 16, 17, 8]]


def test_the_order_is_random():
    # `tf.random.experimental.index_shuffle`, which needs no list, fails this with 0.09.
    split = data.Split(np.zeros((60_000, 1, 1, 1), np.uint8), np.arange(60_000, dtype=np.int32))
    (_, first), (_, second) = order.batches(split, 60_000, seed=0).take(2)
    for one, other in (first[1:], first[:-1]), (first, second):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.02  # 5 standard deviations


@pytest.mark.parametrize("batch_size", [0, 24])
def test_batch_sizes_out_of_range(numbered, batch_size):
    with pytest.raises(UserError, match=f"expected 1 to 23, .* received {batch_size}"):
        order.batches(numbered, batch_size, seed=0)
