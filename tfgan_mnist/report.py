"""How an evaluation is shown: a table for the screen and a page of pictures."""

from pathlib import Path
from typing import Any

import numpy as np

from tfgan_mnist import files, images, metrics

MOST_CLASSES_SHOWN = 20  # side by side on the screen

# Key in metrics.json, name in the table, and what is good.
TABLE = (
    ("fid", "Frechet distance (FID)", "lower"),
    ("kid", "kernel distance (KID)", "lower"),
    ("classifier_score", "classifier score", "higher"),
    ("precision", "precision", "higher"),
    ("recall", "recall", "higher"),
    ("density", "density", "like floor"),
    ("coverage", "coverage", "higher"),
    ("classes_covered", "classes covered", "higher"),
    ("histogram_divergence", "class histogram, KL from real", "lower"),
    ("label_accuracy", "label accuracy", "higher"),
    ("nearest_training_image", "nearest training image, median", "like floor"),
)


def describe(told: dict[str, Any]) -> str:
    """The table, for the screen."""
    lines = [
        f"{told['source']}: {told['generated']:,} samples against {told['real']:,} {told['split']} "
        f"images of {told['dataset']}, seed {told['seed']}, {told['seconds']} s",
        f"{told['pixel_range']}; classifier {told['classifier']}; nearest training images of "
        f"{told['nearest_of']:,} samples, L2 over pixels in [0, 1]",
        "",
        f"{'metric':32}{'samples':>12}{'floor':>12}  better",
    ]
    for key, name, better in TABLE:
        if key in told["scores"]:
            figures = (told["scores"][key], told["floor"][key])
            cells = (f"{'inf' if value is None else f'{value:.4g}':>12}" for value in figures)
            lines.append(f"{name:32}{''.join(cells)}  {better}")
    histograms = {"samples": told["class_histogram"], "real": told["real_class_histogram"]}
    if len(histograms["real"]) <= MOST_CLASSES_SHOWN:
        lines += ["", "class     " + "".join(f"{k:7}" for k in range(len(histograms["real"])))]
        for name, counts in histograms.items():
            shares = "".join(f"{count / sum(counts):7.1%}" for count in counts)
            lines.append(f"{name:10}{shares}")
    return "\n".join(lines) + "\n"


def draw(path: Path, told: dict, pixels, pairs, real_features, features) -> None:
    """Draws samples, their neighbours, classes and features as a PNG.

    Args:
      path: the file.
      told: what `evaluate` returns.
      pixels: uint8 (N, H, W, C), the samples.
      pairs: uint8 (2, n, H, W, C), some samples and their nearest training images.
      real_features: float32 (M, d).
      features: float32 (N, d).
    """
    # Imported here: it takes half a second. `Figure` needs no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 10), layout="constrained")
    (grid, classes), (neighbours, scatter) = figure.subplots(2, 2)
    title, *_ = describe(told).splitlines()
    fid, floor = told["scores"]["fid"], told["floor"]["fid"]
    figure.suptitle(f"{title}\nFID {fid:.3g} (floor {floor:.3g}), {told['classifier']}")

    # Rows of samples, each with a row of training images below.
    rows = pairs[:, :50].reshape(2, 5, 10, *pixels.shape[1:]).swapaxes(0, 1)
    for axes, tiles, title in (
        (grid, pixels[:100], "samples"),
        (neighbours, rows.reshape(100, *pixels.shape[1:]), "samples, nearest training image below"),
    ):
        axes.imshow(images.grid(tiles, 10).squeeze(), cmap="gray", vmin=0, vmax=255)
        axes.set_title(title)
        axes.set_axis_off()

    for name, key in (("real", "real_class_histogram"), ("samples", "class_histogram")):
        share = np.array(told[key]) / sum(told[key])
        classes.stairs(share, np.arange(len(share) + 1) - 0.5, label=name, fill=name == "real")
    classes.set(title="classes, as the classifier sees them", xlabel="class", ylabel="share")
    classes.legend(loc="lower right")

    # The plane in which the real images vary most.
    moments = metrics.statistics(real_features)
    plane = np.linalg.eigh(moments.covariance)[1][:, -2:]  # (d, 2)
    for name, some in (("real", real_features), ("samples", features)):
        points = (some[:2000] - moments.mean) @ plane
        scatter.scatter(*points.T, s=3, alpha=0.5, label=name)
    scatter.set_title("features, in the real images' two principal components")
    scatter.legend(markerscale=4)
    with files.publish(path) as partial:
        figure.savefig(partial, dpi=100)
