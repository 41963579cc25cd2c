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
import ssl
import sys
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tensorflow as tf

from tfgan_mnist import files
from tfgan_mnist.data import sources, squares
from tfgan_mnist.data.datasets import STACKED_MNIST, ImageData, Split
from tfgan_mnist.errors import UserError

PACKAGED_MNIST = Path(__file__).parents[1] / "assets" / "mnist"
NETWORK_TIMEOUT_SECONDS = 10
# "huggingface:name" or "kubric:name", but not "mnist:3.0.1", which is a version.
COMMUNITY = re.compile(r"[\w-]+:[a-zA-Z]")
HELD_OUT = "held-out"  # the split of images that are not trained on where TFDS has no such split
# SHA-256 of what archives hold, for archives that somebody compressed anew.
CONTENTS = {
    "fashion_mnist": {
        "t10k-images": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        "train-images": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    },
}


def is_known(family: str) -> bool:
    """Whether TFDS has a data set of this name, which may have several configurations."""
    import tensorflow_datasets as tfds

    list_builders = getattr(tfds, "list_builders", None)  # a failed import of TFDS is only logged
    return list_builders is not None and family in list_builders(with_community_datasets=False)


def load(
    name: str,
    data_dir: str | os.PathLike | None,
    manual_dir: str | os.PathLike | None,
    image_size: int,
    channels: int | None,
    background: str = "white",
) -> ImageData:
    """A data set of TFDS in memory; see `datasets.load`."""
    color = squares.parse_color(background)
    root = files.data_folder(data_dir)
    builder = _open(name, root)
    _expect_images_and_labels(name, builder)
    if not builder.data_path.exists():
        _prepare(name, root, _archives(name, builder, manual_dir))
        builder = _open(name, root)
    splits = builder.info.splits
    if not splits:
        raise _damaged(name, builder, "no dataset_info.json")
    if "train" not in splits:
        raise UserError(f"{name}: expected a split train; it has {', '.join(splits)}")
    train = _read(name, builder, "train", image_size, channels, color)
    found = [split for split in ("test", "validation") if split in splits]
    height, width, _ = builder.info.features["image"].shape
    if height is None or height != width:
        sys.stderr.write(f"{name}: of oblong images the central square is used\n")
    if found:
        test = _read(name, builder, found[0], image_size, channels, color)
    else:
        digests = np.array([sources.digest_of(image) for image in train.images], np.uint64)
        rows, held_out = sources.split(digests, None)
        train, test = (Split(train.images[r], train.labels[r]) for r in (rows, held_out))
    label = builder.info.features["label"]
    test_split = found[0] if found else HELD_OUT
    return ImageData(name, train, test, label.num_classes, tuple(label.names), test_split)


def _open(name: str, root: Path) -> Any:
    """The TFDS builder of a data set, prepared in `root` or not."""
    import tensorflow_datasets as tfds

    if COMMUNITY.match(name):
        raise UserError(
            f"{name}: expected a data set of TensorFlow Datasets itself, such as emnist/balanced. "
            "Community data sets contain code, which would be downloaded and run."
        )
    if not hasattr(tfds, "builder"):  # a failed import of TFDS is only logged
        raise UserError(
            "TensorFlow Datasets does not work: it lacks a package, which the log above names. "
            "Install that package with pip."
        )
    family = re.split("[/:]", name)[0]
    try:
        return tfds.builder(name, data_dir=root)
    except tfds.core.DatasetNotFoundError as error:
        known = [STACKED_MNIST, *tfds.list_builders(with_community_datasets=False)]
        close = " or ".join(difflib.get_close_matches(family, known))
        advice = f"Did you mean {close}?" if close else "tensorflow.org/datasets lists them."
        if not close:
            advice += f" Own pictures are given by a path, such as ./{family}"
        raise UserError(f"{name}: no such data set. {advice}") from error
    except Exception as error:
        # Of no common type: malformed name, unknown configuration, damaged dataset_info.json.
        advice = ""
        if "BuilderConfig" in str(error):
            advice = f"Known: {', '.join(tfds.builder_cls(family).builder_configs)}"
        elif re.fullmatch(r"\w+", family) and (root / family).is_dir():
            advice = f"If the name is right, its prepared files in {root / family} are damaged."
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
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.extractor import ExtractError

    # TFDS writes here first. Archives are unpacked here as well: in its usual place the MNIST of an
    # earlier run would pass for the equally named files of Fashion-MNIST.
    try:
        with contextlib.ExitStack() as stack:
            partial = stack.enter_context(files.temporary(root / name.replace("/", "-")))
            partial.mkdir()
            cleanup = stack.pop_all()
    except OSError as error:
        raise files.not_writable(root, error) from error
    sys.stderr.write(f"Preparing {name} in {root}\n")
    # On a terminal TFDS's progress bars; in a file they would pile up.
    tfds.display_progress_bar(sys.stderr.isatty())
    try:
        with cleanup:
            builder = _open(name, partial)
            with contextlib.redirect_stdout(io.StringIO()):  # Its announcements of unknown sizes.
                builder.download_and_prepare(
                    download_config=tfds.download.DownloadConfig(
                        manual_dir=archives, try_download_gcs=False
                    )
                )
            prepared = root / builder.data_path.relative_to(partial)
            prepared.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(builder.data_path, prepared)
            except OSError:
                # Another process was faster; its files are as good.
                if not prepared.exists():
                    raise
    except (
        OSError,  # Also what `requests` raises.
        ImportError,  # A package that this data set needs.
        AssertionError,  # Archives that TFDS may not download, with instructions.
        tfds.download.DownloadError,
        NonMatchingChecksumError,
        ExtractError,
        tf.errors.OpError,
    ) as error:
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
        elif (received := _sha256(file)) != info.checksum:
            if _has_content(builder.name, file):  # TFDS compares the file's sum with this one
                size = file.stat().st_size
                known = dataclasses.replace(info, checksum=received, size=size)
                builder.url_infos[url] = known
                continue
            raise UserError(
                f"{name}: {file} is damaged or of another data set: expected {info.size:,} bytes "
                f"with SHA-256 {info.checksum}; received {file.stat().st_size:,} bytes. {advice}"
            )
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
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)
    except OSError:
        return False
    return True


def _read(
    name: str,
    builder: Any,
    split: str,
    image_size: int,
    channels: int | None,
    background: tuple[int, int, int],
) -> Split:
    import tensorflow_datasets as tfds

    height, width, own_channels = builder.info.features["image"].shape
    channels = channels or min(own_channels, 3)

    def standardise(example):
        image = example["image"]
        if builder.name == "emnist":
            # NIST's files hold the transposed letters, and TFDS passes them on as they are.
            image = tf.transpose(image, [1, 0, 2])
        if own_channels == 4:
            image = _lay_on(image, background)
        if channels < own_channels and channels == 1:
            image = tf.image.rgb_to_grayscale(image)
        elif channels > own_channels:
            image = tf.image.grayscale_to_rgb(image)
        if height is None or height != width:
            side = tf.reduce_min(tf.shape(image)[:2])
            top, left = (tf.shape(image)[0] - side) // 2, (tf.shape(image)[1] - side) // 2
            image = image[top : top + side, left : left + side]
        if (height, width) != (image_size, image_size):
            image = tf.image.resize(image, [image_size, image_size], antialias=True)
            image = tf.saturate_cast(tf.round(image), tf.uint8)
        return image, tf.cast(example["label"], tf.int32)

    try:
        dataset = builder.as_dataset(
            split=split, read_config=tfds.ReadConfig(try_autocache=False)
        ).map(standardise, num_parallel_calls=tf.data.AUTOTUNE)
        num_images = builder.info.splits[split].num_examples
        images = np.empty((num_images, image_size, image_size, channels), np.uint8)
        labels = np.empty(num_images, np.int32)
        first = 0
        for some_images, some_labels in dataset.batch(1000).as_numpy_iterator():
            last = first + len(some_labels)
            images[first:last], labels[first:last] = some_images, some_labels
            first = last
    except tf.errors.OpError as error:
        # Every record has a checksum, and TFDS counts them.
        raise _damaged(name, builder, error.message) from error
    num_classes = builder.info.features["label"].num_classes
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"{name}: expected labels from 0 to {num_classes - 1} in split {split}; "
            f"it has {labels.min()} to {labels.max()}"
        )
    return Split(images, labels)


def _lay_on(image, background: tuple[int, int, int]):
    """uint8 (H, W, 4) with alpha -> (H, W, 3) on a colour."""
    alpha = tf.cast(image[..., 3:], tf.float32) / 255.0
    laid = alpha * tf.cast(image[..., :3], tf.float32) + (1.0 - alpha) * tf.constant(
        background, tf.float32
    )
    return tf.cast(tf.round(laid), tf.uint8)


def _damaged(name: str, builder: Any, reason: str) -> UserError:
    return UserError(
        f"{name}: damaged files in {builder.data_dir}: {reason}\n"
        "Move this folder away and run again: the data set is then prepared anew, if its archives "
        "can be had. If it exists only there, restore it from a copy."
    )
