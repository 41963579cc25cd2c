"""Data sets of TensorFlow Datasets (TFDS).

MNIST needs no network: its four archives are in the package (assets/mnist), and TFDS verifies their
SHA-256 sums when it prepares them, once per `data_dir`.
"""

import contextlib
import difflib
import hashlib
import io
import os
import re
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tensorflow as tf

from tfgan_mnist import files
from tfgan_mnist.data.datasets import STACKED_MNIST, ImageData, Split
from tfgan_mnist.errors import UserError

PACKAGED_MNIST = Path(__file__).parents[1] / "assets" / "mnist"
NETWORK_TIMEOUT_SECONDS = 10
# "huggingface:name" or "kubric:name", but not "mnist:3.0.1", which is a version.
COMMUNITY = re.compile(r"[\w-]+:[a-zA-Z]")


def load(
    name: str,
    data_dir: str | os.PathLike | None,
    manual_dir: str | os.PathLike | None,
    image_size: int,
    channels: int | None,
) -> ImageData:
    """A data set of TFDS in memory; see `datasets.load`."""
    root = files.data_folder(data_dir)
    builder = _open(name, root)
    _expect_images_and_labels(name, builder)
    if not builder.data_path.exists():
        _prepare(name, root, _archives(name, builder, manual_dir))
        builder = _open(name, root)
    splits = builder.info.splits
    if not splits:
        raise _damaged(name, builder, "no dataset_info.json")
    test = "test" if "test" in splits else "validation"
    if not {"train", test} <= set(splits):
        raise UserError(
            f"{name}: expected splits train and test (or validation); it has {', '.join(splits)}"
        )
    label = builder.info.features["label"]
    return ImageData(
        name,
        _read(name, builder, "train", image_size, channels),
        _read(name, builder, test, image_size, channels),
        label.num_classes,
        tuple(label.names),
        test,
    )


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
        raise UserError(
            f"data_dir: expected a folder that can be written; received {root}: {error.strerror}. "
            f"{files.PLACE}"
        ) from error
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
        elif _sha256(file) != info.checksum:
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


def _read(name: str, builder: Any, split: str, image_size: int, channels: int | None) -> Split:
    import tensorflow_datasets as tfds

    height, width, own_channels = builder.info.features["image"].shape
    channels = channels or own_channels
    convert = {
        (1, 3): tf.image.grayscale_to_rgb,
        (3, 1): tf.image.rgb_to_grayscale,
    }.get((own_channels, channels))
    if channels != own_channels and not convert:
        raise UserError(
            f"{name}: images of {own_channels} channels cannot be turned into ones of {channels}"
        )

    def standardise(example):
        image = example["image"]
        if builder.name == "emnist":
            # NIST's files hold the transposed letters, and TFDS passes them on as they are.
            image = tf.transpose(image, [1, 0, 2])
        if convert:
            image = convert(image)
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


def _damaged(name: str, builder: Any, reason: str) -> UserError:
    return UserError(
        f"{name}: damaged files in {builder.data_dir}: {reason}\n"
        "Delete this folder and run again; the data set is then prepared anew."
    )
