"""Folders of pictures and arrays of images: how they are read, kept, split and refused."""

import os

import numpy as np
import pytest
from PIL import Image

from tfgan_mnist import data
from tfgan_mnist.data import cache, class_names, datasets, folders, order, sources, squares
from tfgan_mnist.data.pixels import to_float
from tfgan_mnist.errors import UserError

CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
# What a camera stores of an upright scene under the orientations 2 to 8.
HOW_CAMERAS_STORE = (
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_90,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_270,
)
LUMA = np.rint(CORNERS @ [0.299, 0.587, 0.114]).astype(np.uint8)


def scene(width=48, height=32):
    """Red, green, blue and white corners of the centred square; the rest is black."""
    side = min(width, height)
    picture = Image.new("RGB", (width, height))
    square = Image.fromarray(CORNERS).resize((side, side), Image.Resampling.NEAREST)
    picture.paste(square, ((width - side) // 2, (height - side) // 2))
    return picture


def corners_of(image):
    """The four corners of (8, 8, C), as (2, 2, C)."""
    return image[1::5, 1::5]


def tile(number, side=28, mode="RGB"):
    """A picture of one colour, another one for each number."""
    color = (number * 37 % 256, number * 91 % 256, number % 256)
    return Image.new("RGB", (side, side), color).convert(mode)


def some(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def fill(folder, *numbers, **options):
    """Writes tiles to `folder`/<number>.png."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        tile(number, **options).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def load(tmp_path):
    """`data.load` with a data folder of the test's own."""

    def load(path, **options):
        return data.load(str(path), tmp_path / "data", **options)

    return load


def prepared(tmp_path):
    """All files that are kept, but the lock."""
    return [path for path in (tmp_path / "data").rglob("[!.]*") if path.is_file()]


def decode(path, size=8, channels=3, background="white"):
    return folders.decode(path, squares.Look(size, channels, background))


# --- One picture ------------------------------------------------------------------------------


def save_gif(picture, path):
    picture.save(path, save_all=True, append_images=[Image.new("RGB", picture.size)])


WRITERS = {
    "a.png": lambda picture, path: picture.save(path),
    "palette.png": lambda picture, path: picture.quantize(16).save(path),
    "a.jpg": lambda picture, path: picture.save(path, quality=95, subsampling=0),
    "cmyk.jpg": lambda picture, path: picture.convert("CMYK").save(path, quality=95),
    "a.webp": lambda picture, path: picture.save(path, lossless=True),
    "a.bmp": lambda picture, path: picture.save(path),
    "a.gif": save_gif,
    "a.TIFF": lambda picture, path: picture.save(path),
    "without_ending": lambda picture, path: picture.save(path, format="PNG"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_formats_become_the_centred_square(tmp_path, name):
    for size in (48, 32), (32, 70):
        WRITERS[name](scene(*size), tmp_path / name)
        corners = corners_of(decode(tmp_path / name)).astype(int)
        np.testing.assert_allclose(corners, CORNERS, atol=24)
        gray = corners_of(decode(tmp_path / name, channels=1))[..., 0].astype(int)
        np.testing.assert_allclose(gray, LUMA, atol=24)


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [(1, None), *((number, step) for number, step in enumerate(HOW_CAMERAS_STORE, 2))],
)
def test_the_cameras_orientation_is_applied(tmp_path, orientation, stored):
    picture = scene() if stored is None else scene().transpose(stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.jpg", quality=95, subsampling=0, exif=exif)
    corners = corners_of(decode(tmp_path / "a.jpg")).astype(int)
    np.testing.assert_allclose(corners, CORNERS, atol=24)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_show_the_background(tmp_path, mode):
    Image.new(mode, (8, 8), 0).save(tmp_path / "a.png", transparency=0 if mode == "P" else None)
    for background, color in ("white", [255, 255, 255]), ("#8000ff", [128, 0, 255]):
        image = decode(tmp_path / "a.png", background=background)
        assert image.reshape(-1, 3).tolist() == [color] * 64


def test_16_bits_and_two_levels(tmp_path):
    levels = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
    Image.fromarray(np.kron(levels, np.ones((4, 4), np.uint16))).save(tmp_path / "a.png")
    assert corners_of(decode(tmp_path / "a.png", channels=1))[..., 0].tolist() == [
        [0, 100],
        [200, 255],
    ]
    Image.new("1", (8, 8), 1).save(tmp_path / "b.png")
    assert decode(tmp_path / "b.png").min() == 255
    Image.new("F", (8, 8), 0.5).save(tmp_path / "c.tiff")
    with pytest.raises(UserError, match="expected 8 or 16 bits"):
        decode(tmp_path / "c.tiff")


def test_resizing_averages_and_leaves_the_right_size_alone(tmp_path):
    noise = some(64, 64, 3)
    Image.fromarray(noise).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 64), noise)
    assert decode(tmp_path / "a.png").std() < 0.3 * noise.std()  # picked pixels would keep it


@pytest.mark.parametrize(
    ("shapes", "size"),
    [
        ([(64, 64)] * 3, 64),
        ([(30, 30)] * 3, 28),  # a multiple of 4
        ([(300, 200)] * 3, 64),
        ([(40, 40), (60, 50), (35, 99)], 32),
        ([(5, 5)] * 3, 28),
    ],
)
def test_the_size_follows_from_the_pictures(shapes, size):
    assert squares.choose_size(shapes) == size


# --- Folders ----------------------------------------------------------------------------------


def test_a_folder_for_each_class(tmp_path, load, capfd):
    root = tmp_path / "pets"
    fill(root / "dog", *range(10))
    fill(root / "cat" / "more", *range(20, 30))
    (root / "cat" / "Thumbs.db").write_bytes(b"no picture")
    (root / ".DS_Store").write_bytes(b"hidden")
    (root / "empty").mkdir()
    pets = load(root)
    assert pets.name == "pets"
    assert pets.class_names == ("cat", "dog")
    assert pets.num_classes == 2
    assert pets.image_shape == (28, 28, 3)
    found = {}
    for split in pets.train, pets.test:
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        found |= {tuple(map(int, im[0, 0])): int(k) for im, k in zip(split.images, split.labels)}
    expected = {tile(n).getpixel((0, 0)): 1 for n in range(10)}
    assert found == expected | {tile(n).getpixel((0, 0)): 0 for n in range(20, 30)}
    out, err = capfd.readouterr()
    assert out == ""
    assert "1 other files ignored: cat/Thumbs.db" in err
    assert f"{len(pets.train.labels)} pictures to train on and {len(pets.test.labels)} held" in err


@pytest.mark.parametrize("test", ["test", "val", "validation"])
def test_a_test_split_of_its_own(tmp_path, load, test):
    root = tmp_path / "pets"
    for split, numbers in ("train", (1, 2, 3)), (test, (4, 5)):
        fill(root / split / "cat", *numbers)
        fill(root / split / "dog", numbers[0] + 10)
    pets = load(root)
    assert pets.class_names == ("cat", "dog")
    assert sorted(pets.train.images[:, 0, 0, 2]) == [1, 2, 3, 11]
    assert sorted(pets.test.images[:, 0, 0, 2]) == [4, 5, 14]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_gray_pictures_have_one_channel(tmp_path, load, mode):
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        tile(number, mode="L").convert(mode).save(tmp_path / "pictures" / f"{number}.png")
    pictures = load(tmp_path / "pictures")
    assert pictures.image_shape == (28, 28, 1)
    levels = [*pictures.train.images[:, 0, 0, 0], *pictures.test.images[:, 0, 0, 0]]
    assert sorted(levels) == sorted(tile(n, mode="L").getpixel((0, 0)) for n in range(4))
    assert load(tmp_path / "pictures", channels=3, image_size=12).image_shape == (12, 12, 3)


def test_who_is_held_out_stays_held_out(tmp_path, load):
    def held_out(pictures):
        return {image.tobytes() for image in pictures.test.images}

    root = fill(tmp_path / "pictures", *range(100))
    pictures = load(root)
    assert (pictures.num_classes, pictures.class_names) == (0, ())
    before = held_out(pictures)
    assert 4 <= len(before) <= 25
    assert len(pictures.train.images) + len(before) == 100
    after = held_out(load(fill(root, *range(100, 150))))
    assert before < after
    digests = np.random.default_rng(0).integers(0, 2**64, 80_000, np.uint64)
    train, test = sources.split(digests, None)
    assert abs(len(test) - 10_000) < 400
    assert sorted([*train, *test]) == list(range(80_000))


# --- What is broken, missing or wrong -----------------------------------------------------------


@pytest.mark.parametrize("harm", ["cut", "empty", "text"])
def test_a_broken_picture_stops_or_is_left_out(tmp_path, load, capfd, harm):
    root = fill(tmp_path / "pictures", *range(10))
    broken = root / "0.png"
    Image.fromarray(some(28, 28, 3)).save(broken)
    contents = {"cut": broken.read_bytes()[:1500], "empty": b"", "text": b"what is this?"}
    broken.write_bytes(contents[harm])
    with pytest.raises(UserError, match=r"0\.png: a broken picture .*--skip_broken"):
        load(root)
    assert prepared(tmp_path) == []
    pictures = load(root, skip_broken=True)
    assert len(pictures.train.images) + len(pictures.test.images) == 9
    assert "1 broken pictures left out: 0.png" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "expected a folder of pictures, .* received no such file or folder"),
        (lambda root: root.mkdir(), "at least 2 pictures .*received 0, and 0 other"),
        (lambda root: fill(root, 1), "at least 2 pictures .*received 1"),
        (lambda root: root.write_text("text"), "received another file"),
        (
            lambda root: fill(fill(root / "cat", 1, 2).parent, 3),
            "expected a folder of pictures for each class, or .* both: 1 pictures beside .* 3.png",
        ),
    ],
)
def test_wrong_folders(tmp_path, load, make, message):
    make(tmp_path / "pictures")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "pictures")
    assert prepared(tmp_path) == []


def test_a_background_that_is_no_colour(tmp_path, load):
    with pytest.raises(UserError, match="background: expected a colour .*'whiet'"):
        load(tmp_path, background="whiet")


# --- The cache --------------------------------------------------------------------------------


def test_pictures_are_decoded_once_and_anew_when_they_change(tmp_path, load, monkeypatch):
    root = fill(tmp_path / "pictures", *range(6))
    first = load(root)
    with monkeypatch.context() as patch:
        patch.setattr(folders, "decode", None)
        again = load(root)
        assert again.fingerprint == first.fingerprint
        assert isinstance(again.train.images, np.memmap)
        # As a run asks that is resumed or evaluated.
        size, _, channels = first.image_shape
        resolved = load(root, image_size=size, channels=channels)
        assert resolved.fingerprint == first.fingerprint
    load(root, image_size=32)  # beside the other
    tile(77).save(root / "0.png")
    os.utime(root / "0.png", (1, 1))
    (kept,) = (tmp_path / "data" / cache.FOLDER).iterdir()
    left = kept / ".0123abcd.partial.some"  # by a killed command
    left.mkdir()
    assert load(root).fingerprint != first.fingerprint
    assert len({path.resolve() for path in kept.iterdir() if path.is_dir()}) == 1
    assert not left.exists()


# --- Arrays -----------------------------------------------------------------------------------


def save_npz(path, **arrays):
    with open(path, "wb") as stream:
        np.savez_compressed(stream, **arrays)
    return path


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((20, 28, 28), (28, 28, 1)),
        ((20, 28, 28, 1), (28, 28, 1)),
        ((20, 32, 32, 3), (32, 32, 3)),
        ((20, 30, 50, 4), (28, 28, 3)),
    ],
)
def test_arrays(tmp_path, load, shape, expected):
    np.save(tmp_path / "images.npy", some(*shape))
    images = load(tmp_path / "images.npy")
    assert images.image_shape == expected
    assert images.num_classes == 0
    assert len(images.train.images) + len(images.test.images) == 20
    if shape[1:3] == expected[:2]:
        rows = {image.tobytes() for split in (images.train, images.test) for image in split.images}
        assert rows == {image.tobytes() for image in some(*shape)}


@pytest.mark.parametrize("names", [("3", "5"), ("boot", "coat")])
def test_labels_of_arrays(tmp_path, load, names):
    numbers = np.arange(20) % 3 % 2
    labels = np.array([int(name) if name.isdigit() else name for name in names])[numbers]
    images = load(save_npz(tmp_path / "A.NPZ", images=some(20, 28, 28), labels=labels))
    assert images.class_names == names
    wanted = {image.tobytes(): number for image, number in zip(some(20, 28, 28), numbers)}
    found = {image.tobytes(): label for s in images[1:3] for image, label in zip(*s)}
    assert found == wanted


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": some(4, 28, 28)}, "expected an array named images; it has x"),
        ({"images": some(4, 28, 28) / 255}, "expected images as uint8.*received float64"),
        ({"images": some(4, 28)}, r"expected images of shape .*received uint8 of shape \(4, 28\)"),
        ({"images": some(4, 28, 28, 5)}, "C = 1 to 4"),
        ({"images": some(1, 28, 28)}, "at least 2 pictures"),
        ({"images": some(4, 28, 28), "labels": np.zeros(3, int)}, "expected labels as 4 integers"),
        ({"images": some(4, 28, 28), "labels": np.zeros(4)}, "received float64"),
        ({"images": np.array([None] * 4)}, "cannot be read as arrays of NumPy"),
    ],
)
def test_wrong_arrays(tmp_path, load, arrays, message):
    with pytest.raises(UserError, match=message):
        load(save_npz(tmp_path / "a.npz", **arrays))
    (tmp_path / "a.npz").write_bytes(b"PK damaged")
    with pytest.raises(UserError, match="cannot be read as arrays of NumPy"):
        load(tmp_path / "a.npz")


# --- Names ------------------------------------------------------------------------------------


def test_what_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "mnist", "fashion_mnist", "pets":
        (tmp_path / name).mkdir()
    paths = ["./x", "../x", "~/x", "/x", "x.npz", "x.npy", "pets", "some/where", "./mnist"]
    names = ["mnist", "stacked_mnist", "fashion_mnist", "emnist/letters", "cifar10", "xqzw"]
    assert [name for name in paths if not datasets.is_path(name)] == []
    assert [name for name in names if datasets.is_path(name)] == []
    assert data.canonical("pets") == str(tmp_path / "pets")
    assert data.short_name(data.canonical("pets")) == "pets"
    assert data.canonical("emnist/letters") == "emnist/letters"
    assert data.file_name("emnist/letters") == "emnist-letters"
    assert data.file_name("/a/pets") != data.file_name("/b/pets")


def test_classes_by_name_or_number():
    names = ("Trouser", "coat", "3")
    assert class_names.parse("Coat, trouser,0", names, 3) == [1, 0, 0]
    assert class_names.parse("3", names, 3) == [2]
    assert class_names.parse("3", (), 10) == [3]
    with pytest.raises(UserError, match="expected classes of Trouser, coat, 3; received 'caot'"):
        class_names.parse("caot", names, 3)
    with pytest.raises(UserError, match=r"expected 0\.\.2; received 4"):
        class_names.parse("4", names, 3)


# --- Batches ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["aligned", "shifted", "read-only", "strided"])
def test_batches_of_any_array(kind):
    """Where TensorFlow can share the memory of an array, and where it cannot."""
    images = some(20, 4, 4, 3)
    if kind == "shifted":
        images = np.frombuffer(bytearray(1 + images.size), np.uint8)[1:].reshape(20, 4, 4, 3)
        images[:] = some(20, 4, 4, 3)
    elif kind == "strided":
        images = some(20, 4, 8, 3)[:, :, ::2]
    images.flags.writeable = kind != "read-only"
    split = data.Split(images, np.arange(20, dtype=np.int32))
    ((pixels, labels),) = order.batches(split, 20, seed=0).take(1)
    assert (pixels.dtype, labels.dtype) == ("float32", "int32")
    np.testing.assert_allclose(pixels, to_float(images[labels]), atol=1e-6)


def test_own_pictures_are_held_out_without_a_copy(tmp_path, load):
    pictures = load(fill(tmp_path / "pictures", *range(60), side=8))
    training, held_out = order.hold_out(pictures.train, 5)
    assert np.shares_memory(training.images, pictures.train.images)
    np.testing.assert_array_equal(training.images, pictures.train.images[5:])
    np.testing.assert_array_equal(held_out.images, pictures.train.images[:5])
