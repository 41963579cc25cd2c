"""The order in which images are trained on, a function of (seed, step) alone."""

import math

import numpy as np
import tensorflow as tf

from tfgan_mnist.data.datasets import Split
from tfgan_mnist.data.pixels import to_float
from tfgan_mnist.errors import UserError

ALIGNMENT = 64  # bytes


def hold_out(split: Split, num: int) -> tuple[Split, Split]:
    """A split without `num` images, and these `num`, always the same ones, as if at random."""
    if not num or isinstance(split.images, np.memmap):
        # One's own pictures lie in a random order already, and may be too many for a copy.
        return Split(split.images[num:], split.labels[num:]), Split(*(p[:num] for p in split))
    held_out = np.zeros(len(split.images), bool)
    held_out[np.random.default_rng(0).permutation(len(held_out))[:num]] = True
    return (
        Split(_aligned(split.images, ~held_out), split.labels[~held_out]),
        Split(split.images[held_out], split.labels[held_out]),
    )


def _aligned(images: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """A copy of the chosen images, uint8, where TensorFlow can share it: at a multiple of 64."""
    shape = (int(chosen.sum()), *images.shape[1:])
    memory = np.empty(math.prod(shape) + ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    copy = memory[first : first + math.prod(shape)].reshape(shape)
    # "clip", as the default mode makes another copy first.
    return np.take(images, np.flatnonzero(chosen), axis=0, out=copy, mode="clip")


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


def _shared(images: np.ndarray) -> tf.Tensor:
    """A tensor that shares the array's memory: `tf.constant` takes twice as much beside it."""
    flags = images.flags
    if images.ctypes.data % ALIGNMENT or not (flags.c_contiguous and flags.writeable):
        images = _aligned(images, np.ones(len(images), bool))
    return tf.experimental.dlpack.from_dlpack(images.__dlpack__())


def in_tensors(split: Split) -> Split:
    """The split as tensors, which `batches` takes as well: arrays are prepared at every call."""
    # On the CPU, where the pipeline runs.
    with tf.device("CPU"):
        return Split(_shared(split.images), tf.constant(split.labels))


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

    Every batch is divided among the replicas: each gets the same number of consecutive images of
    each of the batch's `parts`. Over all replicas a part holds what it holds on one device.

    Args:
      split: the images and labels.
      batch_size: images of a batch, over all replicas.
      seed: of the order.
      first_step: number of the first batch.
      parts: the number of equal parts into which the training step divides a batch.
      own: the replicas whose shares to yield, in turn.
      replicas: the number of all replicas; `parts * replicas` divides `batch_size`.

    Raises:
      UserError: `batch_size` is not between 1 and the number of images.
    """
    steps = steps_per_epoch(split, batch_size)
    first_epoch, skipped = divmod(first_step, steps)
    # NumPy arrays would be copied into the pipeline's graph.
    images, labels = split if tf.is_tensor(split.images) else in_tensors(split)

    def indices(epoch):
        # Not `index_shuffle`, whose permutations are visibly regular. The seed's complement keeps
        # this stream apart from the latents', whose seeds are >= 0.
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
    # They would copy the images into a new graph: 301 MB for stacked MNIST.
    options.experimental_optimization.apply_default_optimizations = False
    # All workers build this pipeline and take their own part of it; the default looks for files.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options)
