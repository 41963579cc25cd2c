"""An evaluation as a table for the screen and as a page of pictures."""

import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfgan_mnist import files
from tfgan_mnist.data import pixels
from tfgan_mnist.evaluation import metrics

MAX_CLASSES_SHOWN = 20  # side by side on the screen
WIDTH = 80  # characters

# Key in metrics.json, name in the table, and which values are good.
TABLE = (
    ("fid", "Frechet distance (FID)", "lower"),
    ("fid_infinity", "FID of infinitely many samples", "lower"),
    ("kid", "kernel distance (KID)", "lower"),
    ("classifier_score", "classifier score", "higher"),
    ("precision", "precision", "higher"),
    ("recall", "recall", "higher"),
    ("density", "density", "like real"),
    ("coverage", "coverage", "higher"),
    ("classes_covered", "classes covered", "higher"),
    ("histogram_divergence", "class histogram, KL from real", "lower"),
    ("label_accuracy", "label accuracy (GAN-test)", "higher"),
    ("gan_train_accuracy", "GAN-train accuracy", "higher"),
    ("nearest_training_image", "nearest training image, median", "like real"),
    ("authenticity", "no near copies (AuthPct)", "like real"),
    ("data_copying", "data copying (C_T)", "like real"),
)
CENTRED = ("fid_infinity", "kid", "data_copying")  # near 0 for real images, so without a ratio
REAL = "Real: the same metric on real images."
BELOW_REAL = (
    "An FID below that of real images does not mean that samples are better than real ones. With "
    "few images, sampling error dominates both values."
)


class Evaluation(NamedTuple):
    """The results of an evaluation, and what its pictures show."""

    results: dict[str, Any]  # "samples" in metrics.json
    pixels: np.ndarray  # uint8 (N, H, W, C), the samples
    logits: np.ndarray  # float32 (N, K); K = 0: features without classes
    features: np.ndarray  # float32 (N, d)
    real_features: np.ndarray  # float32 (M, d)
    pairs: np.ndarray  # uint8 (2, n, H, W, C): samples, and the nearest training image of each
    distances: np.ndarray  # float32 (n,), between them
    real_distances: np.ndarray  # float32 (m,), of test images to their nearest training image


def describe(results: dict[str, Any]) -> str:
    """The table for the screen."""
    heading = (
        f"{results['source']}: {results['generated']:,} samples, {results['real']:,} "
        f"{results['split']} images of {results['dataset']}, seed {results['seed']}, "
        f"{results['seconds']} s; {results['pixel_range']}; features {results['features']}; "
        f"nearest training images of {results['nearest_of']:,} samples, L2 over pixels in [0, 1]. "
        f"{REAL}"
    )
    lines = [
        *textwrap.wrap(heading, WIDTH),
        "",
        *_table(results),
    ]
    if results["scores"]["fid"] < results["floor"]["fid"]:
        lines += ["", *textwrap.wrap(BELOW_REAL, WIDTH)]
    if "second" in results:
        lines += ["", f"by {results['second']['features']}, which no recipe was chosen by:"]
        lines += _table(results["second"])
    histograms = {"samples": results["class_histogram"], "real": results["real_class_histogram"]}
    if 0 < len(histograms["real"]) <= MAX_CLASSES_SHOWN:
        names = class_names(results)
        width = min(max(7, *(len(name) + 2 for name in names)), 14)
        names = [name if len(name) < width else f"{name[: width - 3]}.." for name in names]
        lines += ["", "class     " + "".join(f"{name:>{width}}" for name in names)]
        for name, counts in histograms.items():
            shares = "".join(f"{count / sum(counts):{width}.1%}" for count in counts)
            lines.append(f"{name:10}{shares}")
    return "\n".join(lines) + "\n"


def _table(results: dict[str, Any]) -> list[str]:
    """Lines of the scores of one set of features, with their ratios to those of real images."""
    lines = [f"{'metric':32}{'samples':>11}{'real':>11}{'ratio':>9}  better"]
    for key, name, better in TABLE:
        if key in results["scores"]:
            values = value, real = (results["scores"][key], results["floor"][key])
            cells = "".join(f"{'inf' if each is None else f'{each:.4g}':>11}" for each in values)
            by_chance = key in CENTRED
            ratio = f"{value / real:.3g}" if value is not None and real and not by_chance else ""
            lines.append(f"{name:32}{cells}{ratio:>9}  {better}")
    low, high = results["fid_interval"]
    lines.append(f"95 % interval of the FID, over samples: {low:.4g} to {high:.4g}")
    return lines


def class_names(results: dict[str, Any]) -> list[str]:
    """The names of the classes, where results have none their numbers."""
    return results.get("class_names") or [str(k) for k in range(len(results["class_histogram"]))]


def draw(path: Path, found: Evaluation) -> None:
    """Draws samples, their neighbours, classes, features and confidence as a PNG."""
    from matplotlib.figure import Figure  # here, as it takes half a second

    figure = Figure(figsize=(22, 11), layout="constrained")
    panels = figure.subplots(2, 4)
    (grid, neighbours, classes, spread), (worst, best, scatter, table) = panels
    heading, text, *_ = describe(found.results).split("\n\n")
    figure.suptitle(heading)
    table.set_axis_off()
    table.text(0, 1, text, family="monospace", fontsize=8, va="top", transform=table.transAxes)

    # Rows of ten samples, each with a row of training images below.
    shape = found.pixels.shape[1:]
    pairs = found.pairs[:, :50].reshape(2, 5, 10, *shape).swapaxes(0, 1).reshape(100, *shape)
    _draw_grid(grid, found.pixels[:100], "samples")
    _draw_grid(neighbours, pairs, "samples, nearest training image below")
    _draw_classes(found, classes, worst, best)

    longest = max(found.distances.max(), found.real_distances.max())
    for name, some in (("real test images", found.real_distances), ("samples", found.distances)):
        spread.hist(some, 40, range=(0, longest), density=True, alpha=0.5, label=name)
    spread.set_title("distance to the nearest training image (0: a copy)")
    spread.legend()

    mean, covariance = metrics.statistics(found.real_features)
    plane = np.linalg.eigh(covariance)[1][:, -2:]  # (d, 2)
    for name, some in (("real", found.real_features), ("samples", found.features)):
        points = (some[:2000] - mean) @ plane
        scatter.scatter(*points.T, s=3, alpha=0.5, label=name)
    scatter.set_title("features, in the two principal components of the real ones")
    scatter.legend(markerscale=4)
    with files.write_atomically(path) as partial:
        figure.savefig(partial, dpi=100)


def _draw_grid(panel, tiles: np.ndarray, title: str) -> None:
    panel.imshow(pixels.grid(tiles, 10).squeeze(), cmap="gray", vmin=0, vmax=255)
    panel.set_title(title)
    panel.set_axis_off()


def _draw_classes(found: Evaluation, classes, worst, best) -> None:
    """Draws the classes, and the samples that look least and most like any; if there are any."""
    if not found.logits.shape[1]:
        for panel in (classes, worst, best):
            panel.set_axis_off()
        return
    # The difference of the two highest logits: the highest probabilities of good digits round to 1.
    second, first = np.partition(found.logits, -2, axis=1)[:, -2:].T
    tiles = found.pixels[np.argsort(first - second)]
    _draw_grid(worst, tiles[:100], "the 100 of which the classifier is least certain")
    _draw_grid(best, tiles[-100:], "the 100 of which the classifier is most certain")
    for name, key in (("real", "real_class_histogram"), ("samples", "class_histogram")):
        share = np.array(found.results[key]) / sum(found.results[key])
        classes.stairs(share, np.arange(len(share) + 1) - 0.5, label=name, fill=name == "real")
    classes.set(title="classes predicted by the classifier", xlabel="class", ylabel="fraction")
    classes.legend(loc="lower right")
    if found.results.get("class_names") and len(share) <= MAX_CLASSES_SHOWN:
        classes.set_xticks(range(len(share)), class_names(found.results), rotation=30, ha="right")
