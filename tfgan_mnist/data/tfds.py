"""Data sets of TensorFlow Datasets (TFDS).

MNIST needs no network: its four archives are in the package (assets/mnist), and TFDS verifies their
SHA-256 sums when it prepares them, once per `data_dir`.
"""

import contextlib
import dataclasses
import difflib
import gzip
import hashlib
import io
import os
import re
import sys
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tensorflow as tf
from PIL import ImageColor

from tfgan_mnist import files
from tfgan_mnist.data import sources
from tfgan_mnist.data.datasets import STACKED_MNIST, ImageData, Split
from tfgan_mnist.data.squares import Look
from tfgan_mnist.errors import UserError

IMAGE_SIZE = 28  # unless another is asked for
PACKAGED_MNIST = Path(__file__).parents[1] / "assets" / "mnist"
NETWORK_TIMEOUT_SECONDS = 10
# SHA-256 of what archives hold, for archives that somebody compressed anew.
CONTENTS = {
    "fashion_mnist": {
        "t10k-images": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        "train-images": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    },
}


def is_known(name: str) -> bool:
    """Whether TFDS has a data set of this name, without its configuration and version."""
    import tensorflow_datasets as tfds

    return _family(name) in tfds.list_builders(with_community_datasets=False)


def _family(name: str) -> str:
    """emnist of emnist/letters:3.1.0."""
    return re.split("[/:]", name)[0]


def load(
    name: str, data_dir: str | os.PathLike | None, manual_dir: str | os.PathLike | None, look: Look
) -> ImageData:
    """A data set of TFDS in memory; see `datasets.load`."""
    root = files.data_folder(data_dir)
    builder = _open(name, root)
    _expect_images_and_labels(name, builder)
    if not builder.data_path.exists():
        _prepare(name, root, _archives(name, builder, manual_dir))
        builder = _open(name, root)
    splits = builder.info.splits
    if "train" not in splits:
        raise UserError(
            f"{name}: expected a split train; it has {', '.join(splits) or 'none'}. If it should "
            f"have one, its files in {builder.data_dir} are damaged: move them away and run again"
        )
    height, width, _ = builder.info.features["image"].shape
    if height is None or height != width:
        sys.stderr.write(f"{name}: of oblong images the central square is used\n")
    train = _read(name, builder, "train", look)
    test_split = next((split for split in ("test", "validation") if split in splits), "held-out")
    if test_split in splits:
        test = _read(name, builder, test_split, look)
    else:
        digests = np.array([sources.digest_of(image) for image in train.images], np.uint64)
        rows, held_out = sources.split(digests, None)
        train, test = (Split(train.images[r], train.labels[r]) for r in (rows, held_out))
    label = builder.info.features["label"]
    return ImageData(name, train, test, label.num_classes, tuple(label.names), test_split)


def _open(name: str, root: Path) -> Any:
    """The TFDS builder of a data set, prepared in `root` or not."""
    import tensorflow_datasets as tfds

    if re.match(r"[\w-]+:[a-zA-Z]", name):  # but not mnist:3.0.1, which is a version
        raise UserError(
            f"{name}: expected a data set of TensorFlow Datasets itself, such as emnist/balanced. "
            "Community data sets contain code, which would be downloaded and run."
        )
    family = _family(name)
    try:
        return tfds.builder(name, data_dir=root)
    except tfds.core.DatasetNotFoundError as error:
        known = [STACKED_MNIST, *tfds.list_builders(with_community_datasets=False)]
        close = " or ".join(difflib.get_close_matches(family, known))
        advice = f"tensorflow.org/datasets lists them. Own pictures: by a path, such as ./{family}"
        if close:
            advice = f"Did you mean {close}?"
        raise UserError(f"{name}: no such data set. {advice}") from error
    except Exception as error:  # of no common type
        advice = f"If the name is right, its files in {root / family} are damaged."
        if "BuilderConfig" in str(error):
            advice = f"Known: {', '.join(tfds.builder_cls(family).builder_configs)}"
        raise UserError(f"{name}: TFDS cannot open this data set: {error}\n{advice}") from error


def _expect_images_and_labels(name: str, builder: Any) -> None:
    import tensorflow_datasets as tfds

    features = builder.info.features
    try:
        image, label = features["image"], features["label"]
    except (KeyError, TypeError):
        image = label = None
    if (
        not isinstance(image, tfds.features.Image)
        or image.np_dtype != np.uint8
        or not isinstance(label, tfds.features.ClassLabel)
    ):
        raise UserError(
            f"{name}: expected a data set for image classification, with an `image` of bytes and "
            f"a class `label`; its features are {features}"
        )


def _prepare(name: str, root: Path, archives: Path | None) -> None:
    """Prepares a data set, which appears in `root` complete or not at all.

    Args:
      archives: the folder to take archives from; missing ones are downloaded.
    """
    import tensorflow_datasets as tfds

    folder = root / _family(name)
    # TFDS writes here first. Archives are unpacked here as well: in its usual place the MNIST of an
    # earlier run would pass for the equally named files of Fashion-MNIST.
    with files.alone(folder), files.temporary(folder / "prepared") as partial:
        builder = _open(name, partial)
        prepared = root / builder.data_path.relative_to(partial)
        if prepared.exists():  # another command made it meanwhile
            return
        sys.stderr.write(f"Preparing {name} in {root}\n")
        # On a terminal TFDS's progress bars; in a file they would pile up.
        tfds.display_progress_bar(sys.stderr.isatty())
        config = tfds.download.DownloadConfig(manual_dir=archives, try_download_gcs=False)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # its announcements of unknown sizes
                builder.download_and_prepare(download_config=config)
            prepared.parent.mkdir(parents=True, exist_ok=True)
            os.rename(builder.data_path, prepared)
        except Exception as error:  # of no common type: no network, full disk, missing package
            raise UserError(f"{name}: cannot be prepared in {root}: {error}") from error


def _archives(name: str, builder: Any, manual_dir: str | os.PathLike | None) -> Path | None:
    """The folder that TFDS is to take archives from, or None to download them.

    Raises:
      UserError: archives are missing or damaged, or there is no network to download them.
    """
    folder = Path(manual_dir).expanduser() if manual_dir else None
    if folder is None and builder.name == "mnist":
        folder = PACKAGED_MNIST
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        return folder  # TFDS itself says what it expects.
    # Checked before TFDS does: when one is damaged, its threads go on unpacking the others.
    advice = "Reinstall tfgan-mnist." if folder == PACKAGED_MNIST else "Put the original there."
    missing = {}
    for url, info in (builder.url_infos or {}).items():
        file = folder / info.filename if folder and info.filename else None
        if file is None or not file.is_file():
            missing[info.filename or url] = url
            continue
        received, size = _sha256(file), file.stat().st_size
        if received != info.checksum and not _has_content(builder.name, file):
            raise UserError(
                f"{name}: {file} is damaged or of another data set: expected {info.size:,} bytes "
                f"with SHA-256 {info.checksum}; received {size:,} bytes. {advice}"
            )
        # TFDS compares the file's sum with this one.
        builder.url_infos[url] = dataclasses.replace(info, checksum=received, size=size)
    # With several configurations there may be archives for each, and not all are needed.
    if folder and missing and (len(builder.url_infos) == 1 or not builder.BUILDER_CONFIGS):
        raise UserError(f"{name}: expected in {folder}: {', '.join(missing)}. {advice}")
    servers = {urlsplit(url).netloc: url for url in missing.values() if url.startswith("http")}
    if servers and not any(map(_reachable, servers.values())):
        raise UserError(
            f"{name}: has to be downloaded, and {', '.join(servers)} cannot be reached. Connect to "
            f"the network, or put {', '.join(missing)} into a folder and give it as manual_dir."
        )
    return folder


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _has_content(name: str, file: Path) -> bool:
    """Whether an archive holds what the original holds, though its bytes are others."""
    expected = CONTENTS.get(name, {}).get(file.name.partition("-idx")[0])
    try:
        with gzip.open(file) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == expected
    except (OSError, EOFError, zlib.error):
        return False


def _reachable(url: str) -> bool:
    """Whether the server of `url` answers at all. TFDS would find out after 200 s of retries."""
    try:
        urllib.request.urlopen(url, timeout=NETWORK_TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _read(name: str, builder: Any, split: str, look: Look) -> Split:
    """A split whose images have the size and the channels that are asked for."""
    import tensorflow_datasets as tfds

    height, width, own_channels = builder.info.features["image"].shape
    size, channels = look.size or IMAGE_SIZE, look.channels or min(own_channels, 3)

    def standardise(example):
        image = example["image"]
        if builder.name == "emnist":
            # NIST's files hold the transposed letters, and TFDS passes them on as they are.
            image = tf.transpose(image, [1, 0, 2])
        if own_channels == 4:
            image = _lay_on(image, ImageColor.getrgb(look.background)[:3])
        if channels < own_channels and channels == 1:
            image = tf.image.rgb_to_grayscale(image)
        elif channels > own_channels:
            image = tf.image.grayscale_to_rgb(image)
        if height is None or height != width:
            side = tf.reduce_min(tf.shape(image)[:2])
            image = tf.image.resize_with_crop_or_pad(image, side, side)
        if (height, width) != (size, size):
            image = tf.image.resize(image, [size, size], antialias=True)
            image = tf.saturate_cast(tf.round(image), tf.uint8)
        return image, tf.cast(example["label"], tf.int32)

    num_images = builder.info.splits[split].num_examples
    images = np.empty((num_images, size, size, channels), np.uint8)
    labels = np.empty(num_images, np.int32)
    first = 0
    config = tfds.ReadConfig(try_autocache=False)
    try:
        dataset = builder.as_dataset(split=split, read_config=config)
        dataset = dataset.map(standardise, num_parallel_calls=tf.data.AUTOTUNE).batch(1000)
        for some_images, some_labels in dataset.as_numpy_iterator():
            last = first + len(some_labels)
            images[first:last], labels[first:last] = some_images, some_labels
            first = last
    except tf.errors.OpError as error:  # every record has a checksum, and TFDS counts them
        raise UserError(
            f"{name}: damaged files in {builder.data_dir}: {error.message}\n"
            "Move this folder away and run again: the data set is then prepared anew, if its "
            "archives can be had. If it exists only there, restore it from a copy."
        ) from error
    num_classes = builder.info.features["label"].num_classes
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"{name}: expected labels from 0 to {num_classes - 1} in split {split}; "
            f"it has {labels.min()} to {labels.max()}"
        )
    return Split(images, labels)


def _lay_on(image, color: tuple[int, ...]):
    """uint8 (H, W, 4) with alpha -> (H, W, 3) on a colour."""
    alpha = tf.cast(image[..., 3:], tf.float32) / 255.0
    laid = alpha * tf.cast(image[..., :3], tf.float32) + (1.0 - alpha) * tf.constant(
        color, tf.float32
    )
    return tf.cast(tf.round(laid), tf.uint8)
