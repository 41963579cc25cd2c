"""The training curves of a run, as a picture."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfgan_mnist import files
from tfgan_mnist.runs import Row

MAX_CLASSES_DRAWN = 30


def draw(
    log: list[Row],
    evaluations: list[Row],
    path: Path,
    class_names: Sequence[str] = (),
    features: str = "",
) -> None:
    """Draws the rows of log.csv and evaluations.csv over epochs, as a PNG.

    Losses, accuracies of the discriminator and gradient norms. With evaluations also FID, the bound
    on the Jensen-Shannon divergence, precision, recall, label accuracy and the class histogram.
    `features` names what the scores read.
    """
    if not log:
        return
    from matplotlib.figure import Figure  # here, as it takes half a second

    def plot(panel, rows: list[Row], keys, title: str) -> None:
        for key in keys:
            if any(key in row for row in rows):
                panel.plot(*_points(rows, key), marker=".", label=key)
        panel.set_title(title)
        panel.grid(alpha=0.3)
        panel.legend()

    figure = Figure(figsize=(12, 9 if evaluations else 6), layout="constrained")
    panels = figure.subplots(3 if evaluations else 2, 2, sharex=True)
    accuracies = [key for key in log[-1] if key.endswith("accuracy")]
    plot(panels[0, 0], log, ["d_loss", "g_loss"], "losses")
    plot(panels[0, 1], log, accuracies, "accuracy of D, fraction of images")
    panels[0, 1].set_ylim(0, 1.02)
    plot(panels[1, 0], log, ["d_gradient_norm", "g_gradient_norm"], "gradient norms")
    if evaluations:
        plot(panels[1, 1], evaluations, ["fid"], "FID (held-out images); JSD bound")
        figure.suptitle(f"scores by the features {features}" if features else "")
        panels[1, 1].set_yscale("log")
        right = panels[1, 1].twinx()
        label = "JSD bound, nats (right)"
        right.plot(*_points(evaluations, "jsd_bound"), "--", color="gray", label=label)
        right.set_ylim(0, math.log(2))
        right.legend(loc="lower left")
        fractions = ["precision", "recall", "label_accuracy"]
        plot(panels[2, 0], evaluations, fractions, "samples, held-out images")
        panels[2, 0].set_ylim(0, 1.02)
        classes = [key for key in evaluations[-1] if key.startswith("class_")]
        if not classes:
            panels[2, 1].set_axis_off()
        elif len(classes) <= MAX_CLASSES_DRAWN:
            _draw_classes(panels[2, 1], evaluations, classes, class_names)
        else:
            plot(panels[2, 1], evaluations, ["classes_covered"], "classes covered")
    else:
        panels[1, 1].set_axis_off()
    for panel in panels[-1]:
        panel.set_xlabel("epoch")
    with files.write_atomically(path) as partial:
        figure.savefig(partial, dpi=100)


def _points(rows: list[Row], key: str) -> tuple[list[float], list[float]]:
    """Epochs, and the values of a column; NaN where there is none."""
    return [row["epoch"] for row in rows], [row.get(key, math.nan) for row in rows]


def _draw_classes(
    panel, evaluations: list[Row], keys: list[str], class_names: Sequence[str]
) -> None:
    """Draws the fractions of the classes, stacked."""
    from matplotlib import colormaps

    counts = np.array([_points(evaluations, key)[1] for key in keys])  # (K, evaluations)
    colours = colormaps["turbo"](np.linspace(0, 1, len(keys)))
    epochs = [row["epoch"] for row in evaluations]
    names = list(class_names) or [key[len("class_") :] for key in keys]
    panel.stackplot(epochs, counts / counts.sum(axis=0), labels=names, colors=colours)
    panel.set_ylim(0, 1)
    panel.set_title("classes of the samples, predicted by the classifier")
    panel.legend(reversed(panel.collections), reversed(names), loc="center left", fontsize="small")
