"""Runs side by side: means over seeds with their standard errors, and quality over time."""

import dataclasses
import statistics
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from tfgan_mnist import files, report, runs
from tfgan_mnist.config import PLACES, Config
from tfgan_mnist.errors import UserError

TABLE = "comparison.md"
PICTURE = "comparison.png"
# What does not make another setting: the seed, and where things are.
NOT_COMPARED = ("seed", *PLACES, "tensorboard")
# How runs must have been judged for their figures to compare.
PROTOCOL = ("dataset", "split", "generated", "real", "classifier")


class Judged(NamedTuple):
    """A run and what was found of it."""

    name: str
    settings: Config
    results: dict[str, Any]  # "samples" of its metrics.json
    log: list[runs.Row]
    evaluations: list[runs.Row]


def is_complete(results: Any) -> TypeGuard[dict[str, Any]]:
    """Whether it is what stands under "samples" in a metrics.json, and not something else."""
    if not isinstance(results, dict) or not {*PROTOCOL, "pixel_range"} <= results.keys():
        return False
    parts = [results.get("scores"), results.get("floor")]
    if not all(type(results[key]) is int for key in ("generated", "real")):
        return False
    return all(
        isinstance(part, dict) and all(type(v) in (int, float, type(None)) for v in part.values())
        for part in parts
    )


def read(run: Path, results: dict[str, Any]) -> Judged:
    """A run's folder, and what stands under "samples" in its metrics.json."""
    settings, _ = runs.read(run)
    return Judged(run.resolve().name, settings, results, *runs.read_history(run))


def group(judged: list[Judged]) -> dict[str, list[Judged]]:
    """Runs of equal settings but for the seed, under a name that tells the groups apart.

    Raises:
      UserError: runs that were not judged alike, or two of one group with the same seed, which
        would make the error look smaller than it is.
    """
    for key in PROTOCOL:
        if len({str(run.results[key]) for run in judged}) > 1:
            received = ", ".join(f"{run.name}: {run.results[key]}" for run in judged)
            raise UserError(f"{key}: expected runs that were judged alike; received {received}")
    settings = [_compared(run.settings) for run in judged]
    differing = [key for key in settings[0] if len({str(each[key]) for each in settings}) > 1]
    groups: dict[str, list[Judged]] = {}
    for run, values in zip(judged, settings):
        # Within a model only: recipes differ in much that the model's name says already.
        same_model = [each for each in settings if each["model"] == values["model"]]
        telling = [key for key in differing if len({str(each[key]) for each in same_model}) > 1]
        name = " ".join([values["model"], *(f"{key}={values[key]}" for key in telling)])
        members = groups.setdefault(name, [])
        same = [each.name for each in members if each.settings.seed == run.settings.seed]
        if same:
            raise UserError(
                f"{name}: expected another seed in every run; received {same[0]} and {run.name}, "
                f"both of seed {run.settings.seed}"
            )
        members.append(run)
    return groups


def describe(groups: dict[str, list[Judged]]) -> str:
    """The table in Markdown: a row for each metric, a column for each group."""
    first = next(iter(groups.values()))[0].results
    floors: dict[str, float | None] = {}  # label accuracy is results of conditional models only
    for run in (run for members in groups.values() for run in members):
        floors |= run.results["floor"]
    head = ["metric", *groups, "floor", "better"]
    seeds = [", ".join(str(run.settings.seed) for run in runs) for runs in groups.values()]
    rows = [["seeds", *seeds, "", ""]]
    for key, name, better in report.TABLE:
        if key in floors:
            cells = [
                _cell([r.results["scores"].get(key) for r in runs]) for runs in groups.values()
            ]
            rows.append([name, *cells, _cell([floors[key]]), better])
    for name, seconds in (("training, s", _training), ("evaluations, s", _evaluating)):
        cells = [_cell([seconds(run) for run in runs]) for runs in groups.values()]
        rows.append([name, *cells, "", "lower"])
    widths = [max(map(len, column)) for column in zip(head, *rows)]

    def line(cells):
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"

    return "\n".join(
        [
            f"{first['generated']:,} samples against {first['real']:,} {first['split']} images of "
            f"{first['dataset']}, {first['pixel_range']}; classifier {first['classifier']}.",
            "Mean ± standard error over seeds.",
            "",
            line(head),
            line(["-" * width for width in widths]),
            *map(line, rows),
            "",
        ]
    )


def write(groups: dict[str, list[Judged]], folder: Path) -> None:
    """Writes `TABLE` and `PICTURE`, FID on held-out images over seconds of training.

    Raises:
      OSError: the folder cannot be written.
    """
    # Imported here: it takes half a second. `Figure` needs no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for colour, (name, members) in enumerate(groups.items()):
        axes.plot([], color=f"C{colour}", label=name)
        for run in members:
            seconds = {row["epoch"]: row["seconds"] for row in run.log}
            points = [(seconds[row["epoch"]], row["fid"]) for row in run.evaluations]
            axes.plot(*np.array(points).reshape(-1, 2).T, color=f"C{colour}", marker=".")
    axes.set(xlabel="seconds of training", ylabel="FID against held-out images", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    with files.write_atomically(folder / PICTURE) as partial:
        figure.savefig(partial, dpi=100)
    with files.write_atomically(folder / TABLE) as partial:
        partial.write_text(describe(groups))


def _compared(settings: Config) -> dict[str, Any]:
    values = dataclasses.asdict(settings)
    return {key: value for key, value in values.items() if key not in NOT_COMPARED}


def _cell(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return ""
    mean = statistics.fmean(known)
    if len(known) == 1:
        return f"{mean:.4g}"
    error = statistics.stdev(known) / len(known) ** 0.5
    if not error:
        return f"{mean:.4g} ± 0"
    # Two digits of the error, and the mean to the same place.
    digits = max(0, 1 - int(f"{error:e}".partition("e")[2]))
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def _training(run: Judged) -> float | None:
    return run.log[-1]["seconds"] if run.log else None


def _evaluating(run: Judged) -> float | None:
    return sum(row["seconds"] for row in run.evaluations) if run.evaluations else None
