"""How an evaluation is shown: a table for the screen and a page of pictures."""

from pathlib import Path
from typing import Any

import numpy as np

from tfgan_mnist import files, images, metrics

MAX_CLASSES_SHOWN = 20  # side by side on the screen

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
    ("label_accuracy", "label accuracy (GAN-test)", "higher"),
    ("gan_train_accuracy", "GAN-train accuracy", "higher"),
    ("nearest_training_image", "nearest training image, median", "like floor"),
    ("small_batch_frechet", "FID of 32 logits (TF-GAN)", "lower"),
    ("small_batch_score", "score of 32 logits (TF-GAN)", "higher"),
)


def describe(results: dict[str, Any]) -> str:
    """The table, for the screen."""
    lines = [
        f"{results['source']}: {results['generated']:,} samples against {results['real']:,} "
        f"{results['split']} images of {results['dataset']}, seed {results['seed']}, {results['seconds']} s",
        f"{results['pixel_range']}; classifier {results['classifier']}; nearest training images of "
        f"{results['nearest_of']:,} samples, L2 over pixels in [0, 1]",
        "",
        f"{'metric':32}{'samples':>12}{'floor':>12}  better",
    ]
    for key, name, better in TABLE:
        if key in results["scores"]:
            figures = (results["scores"][key], results["floor"][key])
            cells = (f"{'inf' if value is None else f'{value:.4g}':>12}" for value in figures)
            lines.append(f"{name:32}{''.join(cells)}  {better}")
    histograms = {"samples": results["class_histogram"], "real": results["real_class_histogram"]}
    if len(histograms["real"]) <= MAX_CLASSES_SHOWN:
        lines += ["", "class     " + "".join(f"{k:7}" for k in range(len(histograms["real"])))]
        for name, counts in histograms.items():
            shares = "".join(f"{count / sum(counts):7.1%}" for count in counts)
            lines.append(f"{name:10}{shares}")
    return "\n".join(lines) + "\n"


def draw(
    path: Path,
    results: dict[str, Any],
    pixels: np.ndarray,
    logits: np.ndarray,
    features: np.ndarray,
    real_features: np.ndarray,
    pairs: np.ndarray,
    distances: np.ndarray,
    real_distances: np.ndarray,
) -> None:
    """Draws samples, their neighbours, classes, features and confidence as a PNG.

    Args:
      path: the file.
      results: what stands in metrics.json.
      pixels: uint8 (N, H, W, C), the samples.
      logits: float32 (N, K).
      features: float32 (N, d).
      real_features: float32 (M, d).
      pairs: uint8 (2, n, H, W, C), some samples and their nearest training images.
      distances: float32 (n,), between them.
      real_distances: float32 (m,), of test images to their nearest training images.
    """
    # Imported here: it takes half a second. `Figure` needs no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(22, 11), layout="constrained")
    panels = figure.subplots(2, 4)
    (grid, neighbours, classes, spread), (worst, best, scatter, table) = panels
    title, protocol, _, *figures = describe(results).splitlines()
    figure.suptitle(f"{title}\n{protocol}")
    table.set_axis_off()
    text = "\n".join(figures[: figures.index("")] if "" in figures else figures)
    table.text(0, 1, text, family="monospace", fontsize=8, va="top", transform=table.transAxes)

    # Rows of samples, each with a row of training images below.
    rows = pairs[:, :50].reshape(2, 5, 10, *pixels.shape[1:]).swapaxes(0, 1)
    sure = np.argsort(_confidence(logits))
    for axes, tiles, title in (
        (grid, pixels[:100], "samples"),
        (neighbours, rows.reshape(100, *pixels.shape[1:]), "samples, nearest training image below"),
        (worst, pixels[sure[:100]], "the 100 that the classifier is least sure of"),
        (best, pixels[sure[-100:]], "the 100 that the classifier is surest of"),
    ):
        axes.imshow(images.grid(tiles, 10).squeeze(), cmap="gray", vmin=0, vmax=255)
        axes.set_title(title)
        axes.set_axis_off()

    for name, key in (("real", "real_class_histogram"), ("samples", "class_histogram")):
        share = np.array(results[key]) / sum(results[key])
        classes.stairs(share, np.arange(len(share) + 1) - 0.5, label=name, fill=name == "real")
    classes.set(title="classes, as the classifier sees them", xlabel="class", ylabel="share")
    classes.legend(loc="lower right")

    longest = max(distances.max(), real_distances.max())
    for name, some in (("real test images", real_distances), ("samples", distances)):
        spread.hist(some, 40, range=(0, longest), density=True, alpha=0.5, label=name)
    spread.set_title("distance to the nearest training image (0: a copy)")
    spread.legend()

    # The plane in which the real images vary most.
    moments = metrics.statistics(real_features)
    plane = np.linalg.eigh(moments.covariance)[1][:, -2:]  # (d, 2)
    for name, some in (("real", real_features), ("samples", features)):
        points = (some[:2000] - moments.mean) @ plane
        scatter.scatter(*points.T, s=3, alpha=0.5, label=name)
    scatter.set_title("features, in the real images' two principal components")
    scatter.legend(markerscale=4)
    with files.write_atomically(path) as partial:
        figure.savefig(partial, dpi=100)


def _confidence(logits: np.ndarray) -> np.ndarray:
    """(N, K) logits -> (N,): by how much the first class leads the second.

    The order of the largest probabilities, but for ties: those of good digits round to 1.
    """
    second, first = np.partition(logits, -2, axis=1)[:, -2:].T
    return first - second
