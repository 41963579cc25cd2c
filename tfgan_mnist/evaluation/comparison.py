"""A comparison of runs: means over seeds with standard errors, and FID over time."""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from tfgan_mnist import files, runs
from tfgan_mnist.config import PLACES, Config
from tfgan_mnist.errors import UserError
from tfgan_mnist.evaluation import report

TABLE = "comparison.md"
PICTURE = "comparison.png"
# Runs that differ in these only form one group.
NOT_COMPARED = ("seed", *PLACES, "tensorboard")
# These have to be equal for values to be comparable.
PROTOCOL = ("dataset", "split", "generated", "real", "features")
MAX_TESTED = 10  # runs of a group in the permutation test: 184,756 divisions, half a second
SECONDS = (
    ("training_seconds", "training, s", "lower"),
    ("evaluation_seconds", "evaluations, s", "lower"),
)


# Scores by the second set of features, where runs have them.
SECOND = tuple((f"second_{key}", f"{name}, second", better) for key, name, better in report.TABLE)


class EvaluatedRun(NamedTuple):
    """A run with the results of its evaluation."""

    name: str
    config: Config
    results: dict[str, Any]  # "samples" in its metrics.json
    log: list[runs.Row]
    evaluations: list[runs.Row]


Groups = dict[str, list[EvaluatedRun]]  # runs of one configuration but for the seed, by a name


def is_complete(results: dict[str, Any] | None) -> TypeGuard[dict[str, Any]]:
    """Whether the "samples" of a metrics.json, of any version, have all that `describe` shows."""
    return results is not None and {*PROTOCOL, "pixel_range", "scores", "floor"} <= results.keys()


def read(run: Path, results: dict[str, Any]) -> EvaluatedRun:
    """A run folder together with "samples" of its metrics.json."""
    config, _ = runs.read(run)
    second = results.get("second", {})
    results = results | {
        table: results[table]
        | {f"second_{key}": value for key, value in second.get(table, {}).items()}
        for table in ("scores", "floor")
    }
    return EvaluatedRun(run.resolve().name, config, results, *runs.read_history(run))


def group(evaluated: list[EvaluatedRun]) -> Groups:
    """Groups the runs that differ in the seed only.

    Raises UserError for evaluations by different protocols, and for two runs of a group with one
    seed, which would make the standard error too small.
    """
    for key in PROTOCOL:
        if len({str(run.results[key]) for run in evaluated}) > 1:
            received = ", ".join(f"{run.name}: {run.results[key]}" for run in evaluated)
            raise UserError(f"{key}: expected the same in all runs; received {received}")
    configs = [asdict(run.config) | dict.fromkeys(NOT_COMPARED) for run in evaluated]
    groups: Groups = {}
    for run, values in zip(evaluated, configs):
        # Named by the model, and by what differs between the runs of that model.
        alike = [config for config in configs if config["model"] == values["model"]]
        differing = [key for key in values if len({str(config[key]) for config in alike}) > 1]
        name = " ".join([values["model"], *(f"{key}={values[key]}" for key in differing)])
        members = groups.setdefault(name, [])
        for other in members:
            if other.config.seed == run.config.seed:
                raise UserError(
                    f"{name}: expected a different seed in every run; received {other.name} and "
                    f"{run.name}, both with seed {run.config.seed}"
                )
        members.append(run)
    seconds = {run.results["second"]["features"] for run in evaluated if "second" in run.results}
    if len(seconds) > 1:
        raise UserError(f"second features: expected the same; received {', '.join(seconds)}")
    return groups


def describe(groups: Groups) -> str:
    """The table in Markdown: a row for each metric, a column for each group."""
    first = next(iter(groups.values()))[0].results
    values = [[_values(run) for run in members] for members in groups.values()]
    real: dict[str, float | None] = {}  # only conditional models have a label accuracy
    for run in (run for members in groups.values() for run in members):
        real |= run.results["floor"]

    seeds = [", ".join(str(run.config.seed) for run in members) for members in groups.values()]
    rows = [["metric", *groups, "real", "better"], ["seeds", *seeds, "", ""]]
    for key, name, better in (*report.TABLE, *SECOND, *SECONDS):
        cells = [_cell([each.get(key) for each in members]) for members in values]
        if any(cells):
            rows.append([name, *cells, _cell([real.get(key)]), better])
    fids = [[fid for each in members if (fid := each["fid"]) is not None] for members in values]
    if len(fids) > 1 and all(1 < len(members) <= MAX_TESTED for members in fids):
        chances = [f"{permutation_test(fids[0], others):.2g}" for others in fids[1:]]
        rows.append([f"FID, p-value against {next(iter(groups))}", "", *chances, "", ""])
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    second = f", second {first['second']['features']}" if "second" in first else ""
    lines = [
        f"{first['generated']:,} samples, {first['real']:,} {first['split']} images of "
        f"{first['dataset']}, {first['pixel_range']}; features {first['features']}{second}.",
        f"Mean ± standard error over seeds. {report.REAL}",
        "",
    ]
    for cells in rows:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths))
        lines.append(f"| {' | '.join(padded)} |")
    return "\n".join(lines) + "\n"


def permutation_test(a: Sequence[float], b: Sequence[float]) -> float:
    """The p-value of equal means: the share of all divisions of a and b that differ as much.

    Two-sided and exact, without assumptions on the distribution; Fisher 1935, "The Design of
    Experiments", section 21. With three values each it is at least 0.1, with five 0.008.
    """
    together, total = (*a, *b), sum((*a, *b))

    def difference(chosen: Sequence[float]) -> float:
        rest = total - sum(chosen)
        return abs(sum(chosen) / len(chosen) - rest / (len(together) - len(chosen)))

    observed = difference(a) * (1 - 1e-9)  # equal but for rounding
    divisions = math.comb(len(together), len(a))
    larger = (difference(each) >= observed for each in itertools.combinations(together, len(a)))
    return sum(larger) / divisions


def write(groups: Groups, folder: Path) -> None:
    """Writes `TABLE` and `PICTURE`, FID on held-out images over seconds of training."""
    from matplotlib.figure import Figure  # here, as it takes half a second

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for i, (name, members) in enumerate(groups.items()):
        axes.plot([], color=f"C{i}", label=name)
        for run in members:
            seconds = {row["epoch"]: row["seconds"] for row in run.log}
            times = [seconds[row["epoch"]] for row in run.evaluations]
            axes.plot(times, [row["fid"] for row in run.evaluations], color=f"C{i}", marker=".")
    axes.set(xlabel="seconds of training", ylabel="FID against held-out images", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    with files.write_atomically(folder / PICTURE) as partial:
        figure.savefig(partial, dpi=100)
    with files.write_atomically(folder / TABLE) as partial:
        partial.write_text(describe(groups), encoding="utf-8")


def _values(run: EvaluatedRun) -> dict[str, float | None]:
    """The metrics of a run, and the seconds that it took."""
    values = dict(run.results["scores"])
    if run.log:
        values["training_seconds"] = run.log[-1]["seconds"]
    if run.evaluations:
        values["evaluation_seconds"] = sum(row["seconds"] for row in run.evaluations)
    return values


def _cell(values: list[float | None]) -> str:
    """Mean and standard error; empty where a value is missing."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return ""
    mean = statistics.fmean(known)
    if len(known) == 1:
        return f"{mean:.4g}"
    return f"{mean:.4g} ± {statistics.stdev(known) / len(known) ** 0.5:.2g}"
