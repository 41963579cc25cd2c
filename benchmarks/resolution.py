"""Which changes of real images a set of features notices: the test that features have to pass.

    python -m benchmarks.resolution
    python -m benchmarks.resolution --dataset=PATH --num=1000

Real training images, altered more and more, are compared with the test images. Their FID must grow
with every level. It notices a level if that level and all higher ones lie more than three standard
deviations above the FIDs of other draws of real images. Minutes.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from tfgan_mnist import cli
from tfgan_mnist.data import ImageData
from tfgan_mnist.evaluation import metrics

NUM, DRAWS = 2000, 8
# Levels of each change of images uint8.
CHANGES: dict[str, tuple[float, ...]] = {
    "noise, standard deviation of 255": (1, 2, 4, 8, 16, 32),
    "blur, standard deviation in pixels": (0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5),
    "brighter, of 255": (1, 2, 4, 8, 16, 32),
    "redder and less blue, of 255": (1, 2, 4, 8, 16, 32),
    "less contrast, share": (0.01, 0.02, 0.05, 0.1, 0.2, 0.4),
    "missing modes, share of the images": (0.02, 0.05, 0.1, 0.2, 0.4),
}


class Noticed(NamedTuple):
    """What features make of one change."""

    change: str
    level: float | None  # the smallest that they notice; None: none of them
    grows: bool  # with every level
    ratios: list[float]  # FID of each level, relative to that of real images


def alter(images: np.ndarray, change: str, level: float, random) -> np.ndarray:
    """Images uint8 (N, H, W, C) under one of CHANGES but the last."""
    x = images.astype(np.float32)
    kind = change.split(",")[0]
    if kind == "noise":
        x += level * random.standard_normal(x.shape, np.float32)
    elif kind == "blur":
        x = ndimage.gaussian_filter(x, (0, level, level, 0))
    elif kind == "brighter":
        x += level
    elif kind == "redder and less blue":
        x += np.array([level, 0, -level], np.float32)
    else:
        x = 127.5 + (1 - level) * (x - 127.5)
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def measure(
    extractor, data_set: ImageData, num: int = NUM, changes: Sequence[str] = tuple(CHANGES)
) -> list[Noticed]:
    """What features notice with `num` images; a mode is a class, without labels a brightness."""
    train, real = data_set.train, data_set.test.images[:num]
    num = min(num, len(real))
    random = np.random.default_rng(0)
    modes = train.labels if data_set.num_classes else train.images.mean(axis=(1, 2, 3))
    by_mode = np.argsort(modes, kind="stable")

    def statistics(images):
        return metrics.statistics(extractor.features_and_logits(images)[0])

    of_real = statistics(real)

    def fid(images) -> float:
        return metrics.frechet_distance(of_real, statistics(images))

    draws = [train.images[random.permutation(len(modes))[:num]] for _ in range(DRAWS)]
    usual = np.array([fid(draw) for draw in draws])
    threshold = usual.mean() + 3 * usual.std(ddof=1)
    noticed = []
    for change in changes:
        if change.startswith("redder") and real.shape[-1] != 3:
            continue
        fids = []
        for level in CHANGES[change]:
            if change.startswith("missing"):
                rest = by_mode[round(level * len(modes)) :]
                fids.append(fid(train.images[random.permutation(rest)[:num]]))
            else:
                fids.append(fid(alter(draws[0], change, level, random)))
        above = [min(fids[i:]) > threshold for i in range(len(fids))]
        level = CHANGES[change][above.index(True)] if any(above) else None
        # What is below the threshold is no sign of growth, nor of the contrary.
        seen = [max(value, threshold) for value in fids]
        grows = all(a < b or b == threshold for a, b in itertools.pairwise(seen))
        noticed.append(Noticed(change, level, grows, [value / usual.mean() for value in fids]))
    return noticed


def main(flags) -> None:
    """Prints a table for each set of features."""
    cli.start_tensorflow()
    from tfgan_mnist import data
    from tfgan_mnist.evaluation import choice
    from tfgan_mnist.evaluation.random_features import RandomFeatures

    data_set = data.load(flags.dataset, flags.data_dir or None, flags.manual_dir or None)
    found = choice.find(data_set, flags.data_dir), RandomFeatures(data_set)
    for name, extractor in {each.version: each for each in found}.items():
        print(f"\n{name}, {min(flags.num, len(data_set.test.images)):,} images of {data_set.name}")
        print("| change | noticed from | grows | FID relative to real images' at each level |")
        print("|---|---|---|---|")
        for change, level, grows, ratios in measure(extractor, data_set, flags.num):
            listed = ", ".join(f"{ratio:.3g}" for ratio in ratios)
            print(f"| {change} | {level or 'none'} | {'yes' if grows else 'no'} | {listed} |")


if __name__ == "__main__":
    parser = cli.Parser("resolution", __doc__)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--manual_dir", default="")
    parser.add_argument("--num", type=int, default=NUM, help="images (default: %(default)s)")
    cli.run(main, parser)
