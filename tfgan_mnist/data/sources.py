"""What folders of pictures and arrays of images have in common, and work on many at a time."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from tfgan_mnist.data.squares import Look

TEST_SHARE = 1 / 8  # of pictures without a test split of their own; MNIST's is 1 / 7
AT_A_TIME = 500  # pictures; progress is shown after each of these


class Source(NamedTuple):
    """Images of a folder or an array, before they are decoded."""

    decode: Callable[[int, Look], np.ndarray]  # index -> uint8 (S, S, C)
    shapes: Sequence[tuple[int, int]]  # (width, height) of each
    gray: bool  # all of them are stored as gray
    labels: np.ndarray  # int32 (N,) in [0, len(class_names)), or zeros
    class_names: tuple[str, ...]  # by label; empty: without labels
    digests: np.ndarray  # uint64 (N,), of the file's name, or of an array's content
    in_test: np.ndarray | None = None  # bool (N,); None: no test split of its own
    others: Sequence[str] = ()  # files that are no pictures
    broken: Sequence[str] = ()  # pictures that cannot be read, left out of all above


def digest_of(content) -> int:
    """64 bits of a hash of bytes, as random as numbers drawn."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def split(digests: np.ndarray, in_test: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training images and of the test images, each as if in random order.

    An image is held out when its digest is below `TEST_SHARE` of all values. It thus stays on its
    side when others are added. Of two or more images each side has at least one.
    """
    order = np.argsort(digests, kind="stable")
    if in_test is not None:
        return order[~in_test[order]], order[in_test[order]]
    num = int((digests < int(TEST_SHARE * 2**64)).sum())
    num = max(1, min(num, len(digests) - 1))
    return order[num:], order[:num]


def in_parallel(function: Callable, items: Sequence, doing: str) -> Iterator[tuple[Any, Any]]:
    """Yields (item, function(item)) in order, and shows progress on a terminal."""
    terminal = sys.stderr.isatty()
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without Python's lock
        for first in range(0, len(items), AT_A_TIME):  # results wait in memory
            some = items[first : first + AT_A_TIME]
            yield from zip(some, pool.map(function, some))
            if terminal:
                done = first + len(some)
                end = "\n" if done == len(items) else ""
                sys.stderr.write(f"\r{doing} {done:,} of {len(items):,} pictures{end}")
