"""FID after time budgets: our three models and four public examples.

    python -m benchmarks.time_to_quality            # hours; continues where it was stopped
    python -m benchmarks.time_to_quality --report   # tables and plot of the existing results

Each training has its own process, alone on the machine, and is scored after 1, 2, 5 and 10 minutes
of its own training time (see `timed`): 10,000 samples against the 10,000 test images. A recipe of
ours that ends earlier keeps its last weights. All models of a seed run before the next seed, so
that slow changes of the machine affect all of them.

Each line of results/time_to_quality.jsonl is one model ("contestant"), seed and time budget
("mark"). Rows of other recipes than today's are ignored; each machine has tables of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import baselines, records
from benchmarks.baselines import BASELINES, OURS
from tfgan_mnist import cli, config

LOG = records.RESULTS / "time_to_quality.jsonl"
PLOT = records.RESULTS / "time_to_quality.png"
NUM = 10_000  # samples
BUDGETS = (60, 120, 300, 600)  # seconds of training
SEEDS = (0, 1, 2)
REAL_SCORES = ("fid", "precision", "recall")
OTHER_SCORES = ("precision", "recall", "label_accuracy", "gan_train_accuracy", "smallest_class")


def train(name: str, seed: int, budgets: Iterable[int], folder: Path) -> None:
    """Trains a model and writes samples to `<budget>.npz` after each time budget."""
    training = baselines.load(name)(*baselines.digits(), seed=seed)
    seconds = 0.0
    for budget in budgets:
        seen, seconds = training.train(budget - seconds)
        images, labels = training.sample(NUM, seed)
        conditions = {} if labels is None else {"labels": labels}
        np.savez(folder / f"{budget}.npz", images=images, seconds=seconds, seen=seen, **conditions)
        print(f"{name}, seed {seed}: {seconds:.0f} s, {seen:,} images", flush=True)
    training.close()


def score_samples(classifier, images, labels, real) -> dict[str, float]:
    """Returns the scores of samples uint8 (N, H, W, C), labels (N,) or None."""
    from tfgan_mnist.evaluation import metrics, protocol

    features, logits = classifier.features_and_logits(images)
    scores = protocol.quick_scores(features, logits, real)
    histogram = np.bincount(logits.argmax(axis=1), minlength=logits.shape[1])
    scores["smallest_class"] = histogram.min() / len(images)
    if labels is not None:
        scores["label_accuracy"] = metrics.label_accuracy(logits, labels)
    return scores


def score(name: str, seed: int, budgets: Sequence[int], folder: Path, digits) -> list[dict]:
    """Returns a row for each time budget whose samples are in `folder`."""
    from tfgan_mnist.evaluation import choice, protocol
    from tfgan_mnist.evaluation.classifier_training import gan_train_accuracy

    classifier = choice.find(digits)
    real = protocol.reference(classifier, digits, NUM)
    rows = []
    for budget in budgets:
        with np.load(folder / f"{budget}.npz") as stored:
            arrays = dict(stored)
        labels = arrays.get("labels")
        scores = score_samples(classifier, arrays["images"], labels, real)
        if labels is not None and budget == max(budgets):
            scores["gan_train_accuracy"] = gan_train_accuracy(
                arrays["images"], labels, *digits.test, digits.num_classes
            )
        rows.append(
            {
                "contestant": name,
                "seed": seed,
                "mark": budget,
                "recipe": recipe(name),
                "seconds": round(float(arrays["seconds"]), 1),
                "images": int(arrays["seen"]),
                **{key: round(float(value), 4) for key, value in scores.items()},
                "floor": {key: round(real.baseline[key], 4) for key in REAL_SCORES},
            }
        )
    return rows


def recipe(name: str) -> dict:
    """Returns today's configuration of one of our models, and {} for a baseline."""
    return records.configuration(config.resolve({"model": name})) if name in OURS else {}


def is_current(row: dict) -> bool:
    """Returns whether a row is of a baseline or of today's recipe.

    A field that the row lacks was added later and had its default; one that was removed is ignored.
    """
    if row["contestant"] not in OURS:
        return True
    defaults = records.configuration(config.Config())
    known = {key: value for key, value in row.get("recipe", {}).items() if key in defaults}
    return defaults | known == recipe(row["contestant"])


def read() -> dict[str, list[dict]]:
    """Returns the current rows of each machine; of repeated measurements the last."""
    latest: dict[str, dict[tuple, dict]] = {}
    for row in map(json.loads, LOG.read_text().splitlines() if LOG.exists() else []):
        if is_current(row):
            of_machine = latest.setdefault(name_of(row["machine"]), {})
            of_machine[row["contestant"], row["seed"], row["mark"]] = row
    return {machine: list(rows.values()) for machine, rows in latest.items()}


def name_of(machine: dict) -> str:
    """Returns what determines a machine's speed; the processor's name alone may be generic."""
    bfloat16 = "with" if machine["bfloat16"] else "without"
    return f"{machine['processor']}, {bfloat16} bfloat16, {machine['cores']} cores"


def measure(names: Iterable[str], seeds: Iterable[int], budgets: Sequence[int]) -> list[str]:
    """Trains and scores what is missing, records each result, and returns what failed."""
    from tfgan_mnist import data

    digits = data.load("mnist")
    rows = read().get(name_of(records.machine()), [])
    done = {(row["contestant"], row["seed"], row["mark"]) for row in rows}
    failed = []
    for name, seed in ((name, seed) for seed in seeds for name in names):
        if all((name, seed, budget) in done for budget in budgets):
            continue
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "benchmarks.time_to_quality", "--train", name]
            command += ["--seeds", str(seed), "--budgets", *map(str, budgets), "--folder", folder]
            if subprocess.run(command, check=False).returncode:
                failed.append(f"{name}, seed {seed}")
                continue
            rows = score(name, seed, budgets, Path(folder), digits)
        for row in rows:
            records.append(LOG.stem, row)
        print(f"{name}, seed {seed}: FID " + ", ".join(f"{row['fid']:.2f}" for row in rows))
    return failed


# The report


def report(rows: list[dict]) -> None:
    """Prints means with standard errors, and medians."""
    print("Real images:", ", ".join(f"{key} {rows[-1]['floor'][key]:.3g}" for key in REAL_SCORES))
    print(f"\nMeans ± standard errors over seeds:\n\n{scores_table(rows, mean)}")
    print(f"\nMedians over seeds:\n\n{scores_table(rows, lambda of: number(np.median(of)))}")


def scores_table(rows: list[dict], over_seeds: Callable[[list[float]], str]) -> str:
    """Returns a table of the FIDs after each budget and of the other scores after the last."""
    names, budgets = names_and_budgets(rows)
    cells = []
    for name in names:
        own = [row for row in rows if row["contestant"] == name]
        last = [row for row in own if row["mark"] == budgets[-1]]
        values = [[row["fid"] for row in own if row["mark"] == budget] for budget in budgets]
        values += [[row[key] for row in last if key in row] for key in OTHER_SCORES]
        seeds = len({row["seed"] for row in own})
        cells.append((name, *(over_seeds(each) if each else "" for each in values), seeds))
    heads = ("model", *(f"FID at {budget:g} s" for budget in budgets), *OTHER_SCORES, "seeds")
    return records.table(cells, heads)


def names_and_budgets(rows: list[dict]) -> tuple[list[str], list[int]]:
    """Returns the models in the order of their first row, and the sorted time budgets."""
    names = dict.fromkeys(row["contestant"] for row in rows)
    return list(names), sorted({row["mark"] for row in rows})


def number(value: float) -> str:
    """Returns three decimals below 1, else two, and none for an integer."""
    return f"{value:g}" if value == int(value) else f"{value:.{3 if abs(value) < 1 else 2}f}"


def mean(values: list[float]) -> str:
    """Returns mean and standard error with the same number of decimals: "4.34 ± 0.36"."""
    shown = number(np.mean(values))
    digits = len(shown.partition(".")[2])
    error = f" ± {np.std(values, ddof=1) / len(values) ** 0.5:.{digits}f}" if values[1:] else ""
    return shown + error


def medians(rows: list[dict], name: str, budgets: list[int]) -> list[tuple[float, float]]:
    """Returns a model's seconds and FID after each of its budgets, as medians over seeds."""
    own = [[r for r in rows if (r["contestant"], r["mark"]) == (name, mark)] for mark in budgets]
    return [
        (float(np.median([r["seconds"] for r in of])), float(np.median([r["fid"] for r in of])))
        for of in own
        if of
    ]


def draw(rows: list[dict]) -> None:
    """Draws FID over seconds on logarithmic axes: medians as lines, seeds as dots."""
    from matplotlib.figure import Figure

    names, budgets = names_and_budgets(rows)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name in names:
        own = [row for row in rows if row["contestant"] == name]
        style = "-" if name in OURS else "--"
        (line,) = axes.plot(*zip(*medians(rows, name, budgets)), style, label=name)
        dots = [r["seconds"] for r in own], [r["fid"] for r in own]
        axes.plot(*dots, ".", color=line.get_color())
    axes.axhline(rows[-1]["floor"]["fid"], color="gray", linestyle=":", label="training images")
    axes.set(xscale="log", yscale="log", xlabel="seconds of training", ylabel="FID")
    axes.set_xticks(budgets, [f"{budget:g}" for budget in budgets], minor=False)
    axes.minorticks_off()
    figure.legend(fontsize="small", loc="outside right upper")
    figure.savefig(PLOT, dpi=120)
    print(f"\nPlot: {PLOT}")


def main() -> None:
    """Measures what is missing and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = (*BASELINES, *OURS)
    parser.add_argument("--models", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--budgets", nargs="+", type=int, default=BUDGETS, help="seconds")
    parser.add_argument("--report", action="store_true", help="only print the existing results")
    parser.add_argument("--train", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.train:
        train(flags.train, flags.seeds[0], flags.budgets, flags.folder)
        return
    failed: list[str] = []
    if not flags.report:
        cli.start_tensorflow()
        models = flags.models or [*baselines.installed(), *OURS]
        failed = measure(models, flags.seeds, flags.budgets)
    tables = read()
    for machine, rows in tables.items():
        print(f"\n{machine}:\n")
        report(rows)
    if tables:
        draw(max(tables.values(), key=lambda rows: max(row["date"] for row in rows)))
    else:
        print("Nothing has been measured yet.")
    if failed:
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
