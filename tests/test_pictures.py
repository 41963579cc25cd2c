import io
import os

import numpy as np
import pytest
from PIL import Image

from tfgan_mnist.data import pictures, pixels
from tfgan_mnist.errors import UserError


def some_images(count, height=6, width=5, channels=1, seed=0):
    shape = (count, height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# Numbers


def test_every_byte_survives_the_way_to_float_and_back():
    every_byte = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    floats = pixels.to_float(every_byte)
    assert floats.dtype == np.float32
    assert floats.min() == -1.0
    assert floats.max() == 1.0
    np.testing.assert_array_equal(pixels.to_uint8(floats), every_byte)
    rounded = np.array([0, 0, 128, 255, 255], np.uint8)
    np.testing.assert_array_equal(pixels.to_uint8([-1.1, -1.0, 0.0, 1.0, 7.0]), rounded)


# Grids


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_goes_row_by_row(channels):
    images = some_images(5, channels=channels)
    picture = pixels.grid(images, columns=3, padding=2)
    assert picture.shape == (2 + 2 * 8, 2 + 3 * 7, channels)
    expected = np.zeros_like(picture)
    for index, image in enumerate(images):
        top, left = 2 + 8 * (index // 3), 2 + 7 * (index % 3)
        expected[top : top + 6, left : left + 5] = image
    np.testing.assert_array_equal(picture, expected)


@pytest.mark.parametrize(
    ("count", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (9, 3, 3), (10, 3, 4), (64, 8, 8)]
)
def test_grid_is_nearly_square_by_default(count, rows, columns):
    picture = pixels.grid(some_images(count, 4, 4), padding=0)
    assert picture.shape == (4 * rows, 4 * columns, 1)


def test_grid_refuses_what_is_not_images():
    with pytest.raises(ValueError, match=r"shape \(N, H, W, C\).*\(2, 4, 4\)"):
        pixels.grid(np.zeros((2, 4, 4), np.uint8))


def test_enlarged_pixels_are_squares():
    image = some_images(1)[0]
    large = pixels.enlarge(image, 3)
    assert large.shape == (18, 15, 1)
    for row in range(3):
        for column in range(3):
            np.testing.assert_array_equal(large[row::3, column::3], image)
    np.testing.assert_array_equal(pixels.enlarge(image[None], 3)[0], large)


# Pictures


@pytest.mark.parametrize("channels", [1, 3])
def test_png_keeps_every_pixel(tmp_path, channels):
    image = some_images(1, channels=channels)[0]
    pictures.write_png(tmp_path / "samples" / "a.png", image)
    np.testing.assert_array_equal(pictures.read(tmp_path / "samples" / "a.png"), image[None])
    with Image.open(io.BytesIO(pictures.png_bytes(image))) as picture:
        assert picture.format == "PNG"
        assert picture.mode == {1: "L", 3: "RGB"}[channels]


@pytest.mark.parametrize(("channels", "tolerance"), [(1, 4.5), (3, 90)])
def test_gif_shows_the_frames_and_rests_on_the_last(tmp_path, channels, tolerance):
    frames = list(some_images(4, 16, 16, channels))
    path = tmp_path / "samples.gif"
    pictures.write_gif(path, frames, milliseconds=100, last_milliseconds=1500)
    assert os.listdir(tmp_path) == ["samples.gif"]
    with Image.open(path) as animation:
        assert animation.n_frames == 4
        assert animation.info["loop"] == 0  # for ever
        durations = []
        for index, frame in enumerate(frames):
            animation.seek(index)
            durations.append(animation.info["duration"])
            shown = np.asarray(animation.convert("RGB"), np.float32)
            assert np.abs(shown - frame).max() <= tolerance
    assert durations == [100, 100, 100, 1500]


# Reading anybody's images


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    images = some_images(11)
    for index, image in enumerate(images):
        pictures.write_png(tmp_path / f"{index:03d}.png", image)
    (tmp_path / ".DS_Store").write_text("not a picture, and hidden")
    np.testing.assert_array_equal(pictures.read(tmp_path), images)


def test_arrays_are_read_with_and_without_a_channel_axis(tmp_path):
    images = some_images(3)
    np.savez_compressed(tmp_path / "a.npz", images=images, labels=np.arange(3))
    np.save(tmp_path / "b.npy", images[..., 0])
    for name in "a.npz", "b.npy":
        np.testing.assert_array_equal(pictures.read(tmp_path / name), images)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_pictures_of_common_modes_are_read(tmp_path, mode):
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    Image.new("RGB", (5, 6), "white").convert(mode).save(path)
    channels = 1 if mode in ("1", "L", "LA") else 3
    np.testing.assert_array_equal(pictures.read(path), np.full((1, 6, 5, channels), 255, np.uint8))


def not_there(folder):
    return folder / "missing"


def empty_folder(folder):
    return folder


def text_among_pictures(folder):
    pictures.write_png(folder / "a.png", some_images(1)[0])
    (folder / "notes.txt").write_text("no picture")
    return folder


def truncated_png(folder):
    (folder / "a.png").write_bytes(pictures.png_bytes(some_images(1, 40, 40)[0])[:-300])
    return folder / "a.png"


def mixed(**other):
    def write(folder):
        pictures.write_png(folder / "a.png", some_images(1)[0])
        pictures.write_png(folder / "b.png", some_images(1, **other)[0])
        return folder

    return write


def sixteen_bits(folder):
    Image.fromarray(np.zeros((5, 6), np.uint16)).save(folder / "a.png")
    return folder


def transparent(folder):
    Image.new("RGBA", (5, 6), (0, 0, 0, 0)).save(folder / "a.png")
    return folder


def npz(images):
    def write(folder):
        np.savez(folder / "a.npz", images=images)
        return folder / "a.npz"

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (not_there, "expected an .npz file, a picture or a folder.*missing"),
        (empty_folder, "received: none"),
        (text_among_pictures, "notes.txt cannot be read.*nothing but pictures"),
        (truncated_png, "a.png cannot be read"),
        (mixed(height=7), r"one size.*a.png is \(6, 5, 1\), b.png is \(7, 5, 1\)"),
        (mixed(channels=3), r"a.png is \(6, 5, 1\), b.png is \(6, 5, 3\)"),
        (sixteen_bits, "8 bits.*I;16"),
        (transparent, "transparent.*flatten"),
        (npz(np.zeros((2, 4, 4, 1), np.float32)), "uint8.*float32.*from .0, 1. by"),
        (npz(np.zeros((2, 4, 4, 2), np.uint8)), r"1 or 3 channels.*\(2, 4, 4, 2\)"),
    ],
)
def test_what_is_not_images_is_refused_with_what_to_do(tmp_path, write, message):
    with pytest.raises(UserError, match=message):
        pictures.read(write(tmp_path))
