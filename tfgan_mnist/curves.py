"""A run over time, as a picture."""

import math
from pathlib import Path

import numpy as np

from tfgan_mnist import files
from tfgan_mnist.runs import Row

MAX_CLASSES_DRAWN = 30


def draw(log: list[Row], evaluations: list[Row], path: Path) -> None:
    """Draws log.csv and evaluations.csv over epochs, as a PNG.

    Losses, D's accuracies, gradient norms; where there were evaluations FID, precision, recall,
    label accuracy, the bound on the Jensen-Shannon divergence and the class histogram.
    """
    if not log:  # somebody removed it
        return
    # Imported here: it takes half a second and is wanted once. `Figure` needs no display.
    from matplotlib.figure import Figure

    rows = 3 if evaluations else 2
    figure = Figure(figsize=(12, 3 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, sharex=True)
    if not evaluations:
        panels[1, 1].set_axis_off()

    def plot(panel, rows: list[Row], keys: tuple[str, ...], title: str) -> None:
        for key in keys:
            if any(key in row for row in rows):
                values = [row.get(key, math.nan) for row in rows]
                panel.plot([row["epoch"] for row in rows], values, marker=".", label=key)
        panel.set_title(title)
        panel.grid(alpha=0.3)
        panel.legend()

    accuracies = tuple(key for key in log[-1] if key.endswith("accuracy"))
    plot(panels[0, 0], log, ("d_loss", "g_loss"), "losses")
    plot(panels[0, 1], log, accuracies, "D is right, share of images")
    plot(panels[1, 0], log, ("d_gradient_norm", "g_gradient_norm"), "gradient norms")
    panels[0, 1].set_ylim(0, 1.02)
    if evaluations:
        fid = panels[1, 1]
        plot(fid, evaluations, ("fid",), "FID against held-out images; JSD bound")
        fid.set_yscale("log")
        bound = fid.twinx()
        bound.plot(
            [row["epoch"] for row in evaluations],
            [row.get("jsd_bound", math.nan) for row in evaluations],
            color="gray",
            linestyle="--",
            label="JSD bound, nats (right)",
        )
        bound.set_ylim(0, math.log(2))
        bound.legend(loc="lower left")
        shares = ("precision", "recall", "label_accuracy")
        plot(panels[2, 0], evaluations, shares, "samples, held-out images")
        panels[2, 0].set_ylim(0, 1.02)
        _draw_classes(panels[2, 1], evaluations)
    for panel in panels[-1]:
        panel.set_xlabel("epoch")
    with files.write_atomically(path) as partial:
        figure.savefig(partial, dpi=100)


def _draw_classes(panel, evaluations: list[Row]) -> None:
    """The classes' shares, stacked: a band for each."""
    keys = [key for key in evaluations[-1] if key.startswith("class_")]
    counts = np.array([[row[key] for key in keys] for row in evaluations], float)  # (E, K)
    if len(keys) > MAX_CLASSES_DRAWN:
        panel.plot([row["epoch"] for row in evaluations], (counts > 0).sum(axis=1), marker=".")
        panel.set_title("classes covered")
        return
    from matplotlib import colormaps

    shares = (counts / counts.sum(axis=1, keepdims=True)).T
    names = [key.removeprefix("class_") for key in keys]
    colours = colormaps["tab10" if len(keys) <= 10 else "turbo"](np.linspace(0, 1, len(keys)))
    panel.stackplot([row["epoch"] for row in evaluations], shares, labels=names, colors=colours)
    panel.set_ylim(0, 1)
    panel.set_title("classes, as the classifier sees the samples")
    panel.legend(reversed(panel.collections), reversed(names), loc="center left", fontsize="small")
