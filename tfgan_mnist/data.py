"""Labelled images: a TensorFlow data set, in memory as uint8, and the order it is trained on.

MNIST needs no network: its four archives are in the package (assets/mnist), and TensorFlow Datasets
(TFDS) verifies their SHA-256 sums when it prepares them, once per `data_dir`.
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
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import tensorflow as tf

from tfgan_mnist import files
from tfgan_mnist.errors import UserError
from tfgan_mnist.images import to_float

PACKAGED_MNIST = Path(__file__).parent / "assets" / "mnist"
STACKED_MNIST = "stacked_mnist"
# The numbers of Lin et al. 2018 ("PacGAN"). With 128,000 stacks each of the 1,000 labels has about
# 128 of them; 301 MB.
STACKS = {"train": 128_000, "test": 26_000}
NETWORK_TIMEOUT_SECONDS = 10
# "huggingface:name" or "kubric:name", but not "mnist:3.0.1", which is a version.
COMMUNITY = re.compile(r"[\w-]+:[a-zA-Z]")


class Split(NamedTuple):
    """The images of a split and their labels, in a fixed order."""

    images: np.ndarray  # uint8 (N, H, W, C) in [0, 255]
    labels: np.ndarray  # int32 (N,) in [0, num_classes)


class ImageData(NamedTuple):
    """A data set in memory."""

    name: str
    train: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...]  # by label
    test_split: str = "test"  # some data sets have a validation split instead

    @property
    def fingerprint(self) -> str:
        """The same for the same images and labels in the same order; 0.2 s for MNIST."""
        digest = hashlib.sha256()
        for array in (*self.train, *self.test):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]


def load(
    name: str = "mnist",
    data_dir: str | os.PathLike | None = None,
    manual_dir: str | os.PathLike | None = None,
    image_size: int = 28,
    channels: int | None = None,
) -> ImageData:
    """A data set of labelled images, prepared on disk at its first use.

    Args:
      name: a TFDS image classification data set like "fashion_mnist" or "emnist/letters", or
        "stacked_mnist": three MNIST digits in three channels, 1,000 classes (Metz et al. 2017).
      data_dir: where prepared data sets are. Default: TFDS's, $TFDS_DATA_DIR or
        ~/tensorflow_datasets.
      manual_dir: folder with the data set's archives, read when it has to be prepared. Default: for
        MNIST the packaged ones, for others what TFDS downloads.
      image_size: height and width in pixels. Images of this size keep their bytes; others are
        resized, whatever their aspect ratio.
      channels: 1 for gray (the luma of colours), 3 for colour (gray repeated); None for the data
        set's own.

    Raises:
      UserError: no such data set, or one without images and labels; archives that are missing,
        damaged or out of reach; a `data_dir` that cannot be written or holds damaged files; a
        package that TensorFlow Datasets lacks.
    """
    if name == STACKED_MNIST:
        if channels not in (None, 3):
            raise UserError(f"{name}: has 3 channels; received channels={channels}")
        return _stacked(load("mnist", data_dir, manual_dir, image_size, channels=1))

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


def hold_out(split: Split, num: int) -> tuple[Split, Split]:
    """A split without `num` images, and these `num`: always the same ones, chosen at random.

    Args:
      num: at most as many as there are.
    """
    held_out = np.zeros(len(split.images), bool)
    held_out[np.random.default_rng(0).permutation(len(held_out))[:num]] = True
    return (
        Split(split.images[~held_out], split.labels[~held_out]),
        Split(split.images[held_out], split.labels[held_out]),
    )


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Full batches in an epoch.

    Raises:
      UserError: not even one.
    """
    if not 1 <= batch_size <= len(split.images):
        raise UserError(
            f"batch size: expected 1 to {len(split.images):,}, the number of images; "
            f"received {batch_size:,}"
        )
    return len(split.images) // batch_size


def batches(
    split: Split,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    parts: int = 1,
    own: range = range(1),
    replicas: int = 1,
) -> tf.data.Dataset:
    """Endless batches: images float32 (B, H, W, C) in [-1, 1], labels int32 (B,).

    Batch `step` is a function of (seed, step) alone, so that training resumes at `first_step` with
    the batches it would have seen. Every epoch is a permutation of its own; what does not fill a
    batch at its end is dropped.

    Among replicas every batch is shared out without overlap or loss: each gets the same number of
    consecutive images, from every one of the batch's `parts`. What a part holds over all replicas
    is what it holds where there is only one.

    Args:
      split: the images and labels.
      batch_size: images of a batch, over all replicas.
      seed: of the order.
      first_step: number of the first batch.
      parts: into how many equal parts the training step divides what it gets.
      own: replicas whose shares to yield, in turn.
      replicas: how many there are in all; together with `parts` a divisor of `batch_size`.

    Raises:
      UserError: `batch_size` is not between 1 and the number of images.
    """
    steps = steps_per_epoch(split, batch_size)
    first_epoch, skipped = divmod(first_step, steps)
    # Tensors that the pipeline refers to; NumPy arrays would be copied into its graph. On the CPU,
    # where pipelines run.
    with tf.device("CPU"):
        images, labels = tf.constant(split.images), tf.constant(split.labels)

    def indices(epoch):
        # 2 ms for 60,000 images. `index_shuffle` needs no list, but its permutations are visibly
        # regular: neighbours correlate by 0.09, 50 standard deviations from chance.
        # The seed's complement keeps this stream apart from the latents', whose seeds are >= 0.
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(split.images)), seed=tf.stack([tf.constant(~seed, tf.int64), epoch])
        )
        order = tf.reshape(order[: steps * batch_size], [steps, parts, replicas, -1])
        order = tf.transpose(order[:, :, own.start : own.stop], [0, 2, 1, 3])
        share = parts * (batch_size // parts // replicas)
        return tf.data.Dataset.from_tensor_slices(tf.reshape(order, [steps * len(own), share]))

    def batch(chosen):
        return to_float(tf.gather(images, chosen)), tf.gather(labels, chosen)

    dataset = tf.data.Dataset.counter(first_epoch).flat_map(indices).skip(skipped * len(own))
    dataset = dataset.map(batch).prefetch(tf.data.AUTOTUNE)
    options = tf.data.Options()
    # They rewrite the pipeline's graph and thereby copy the images: 301 MB for stacked MNIST.
    options.experimental_optimization.apply_default_optimizations = False
    # Under tf.distribute all workers build this pipeline, and each is to take its own part of every
    # batch. The default would first look for files to share out.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options)


def _open(name: str, root: Path) -> Any:
    """The TFDS builder of a data set, prepared in `root` or not."""
    import tensorflow_datasets as tfds

    if COMMUNITY.match(name):
        raise UserError(
            f"{name}: expected a data set of TensorFlow Datasets itself, such as emnist/balanced. "
            "Those of others come with code of theirs, which would be downloaded and run."
        )
    if not hasattr(tfds, "builder"):  # A failed import of TFDS ends in its log, not in an error.
        raise UserError(
            "TensorFlow Datasets does not work: expected all packages that it needs; the log above "
            "tells which it could not import. Install that one with pip."
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
        elif (root / family).exists():
            advice = f"If the name is right, files are damaged: delete {root / family}"
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
    """Has TFDS prepare a data set, which appears in `root` complete or not at all.

    Args:
      archives: the folder to take archives from; what is not there is downloaded.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.extractor import ExtractError

    # All that TFDS writes goes here first. Archives are unpacked here as well: in its usual place
    # the MNIST of an earlier run would pass for the equally named files of Fashion-MNIST.
    try:
        with contextlib.ExitStack() as stack:
            partial = stack.enter_context(files.temporary(root / name.replace("/", "-")))
            partial.mkdir()
            cleanup = stack.pop_all()
    except OSError as error:
        raise UserError(
            f"data_dir: expected a folder that can be written; received {root}: {error.strerror}"
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
        return folder  # Archives that TFDS may not download: it says itself what it expects.
    # Looked through before TFDS does: when one is damaged, its threads go on unpacking the others.
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
        # MNIST takes 4 s: 20 us an example to decode the PNG, the rest for TFDS to unpack it.
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


def _stacked(mnist: ImageData) -> ImageData:
    """Three random digits as the channels of an image; the label reads them: 100 r + 10 g + b."""

    def stack(digits: Split, num: int) -> Split:
        chosen = np.random.default_rng(0).integers(len(digits.labels), size=(num, 3))
        images = np.empty((num, *digits.images.shape[1:3], 3), np.uint8)
        for channel in range(3):
            images[..., channel] = digits.images[chosen[:, channel], ..., 0]
        return Split(images, digits.labels[chosen] @ np.array([100, 10, 1], np.int32))

    return ImageData(
        STACKED_MNIST,
        stack(mnist.train, STACKS["train"]),
        stack(mnist.test, STACKS["test"]),
        num_classes=1000,
        class_names=tuple(f"{label:03d}" for label in range(1000)),
    )
