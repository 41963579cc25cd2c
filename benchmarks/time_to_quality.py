"""Digits per minute: every contestant trains ten minutes and is judged on the way.

    python -m benchmarks.time_to_quality            # hours; goes on where it was stopped
    python -m benchmarks.time_to_quality --report   # the tables and the plot of what there is

A contestant is one of ours or a public example, re-implemented from its published set-up, with
settings that only slow it down corrected (contestants/). Each has a process of its own, alone on
the machine, and is scored at 1, 2, 5 and 10 minutes of its own training time, tracing included, the
protocol not. A recipe of ours that ends before a mark stays as it is. The seeds come one after the
other, and within a seed the contestants, so that what the machine does over the hours meets all.

Scores: 10,000 samples against the 10,000 test images, as `evaluate` makes them. Each mark is a line
of results/time_to_quality.jsonl; of ours it tells the recipe, and those of other recipes than
today's are left out of all that is told. On another machine the contest begins anew, and has a
table of its own.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import contestants, records
from benchmarks.contestants import CONTESTANTS, OURS
from tfgan_mnist import cli, config

LOG = records.RESULTS / "time_to_quality.jsonl"
PLOT = records.RESULTS / "time_to_quality.png"
NUM = 10_000  # samples at each mark
MARKS = (60, 120, 300, 600)  # seconds of training
SEEDS = (0, 1, 2)
THRESHOLDS = (100, 50, 20, 10, 5, 2, 1)  # of FID, for the ratios of times
DIGITS = "digits.npz"  # the training images, for processes without TensorFlow


def train(name: str, seed: int, marks: Iterable[int], folder: Path) -> None:
    """Trains a contestant on `folder`'s digits and writes `<mark>.npz` at each mark: samples."""
    with np.load(folder / DIGITS) as digits:
        contestant = contestants.load(name)(**digits, seed=seed, published=False)
    seconds = 0.0
    for mark in marks:
        seen, seconds = contestant.train(mark - seconds)
        images, labels = contestant.sample(NUM, seed)
        # Unconditional ones have no labels; a file cannot hold None.
        kept = {} if labels is None else {"labels": labels}
        np.savez(folder / f"{mark}.npz", images=images, seconds=seconds, seen=seen, **kept)
        print(f"{name}, seed {seed}: {seconds:.0f} s, {seen:,} images", flush=True)
    contestant.close()


def score(name: str, seed: int, marks: tuple[int, ...], folder: Path, digits) -> list[dict]:
    """What the samples in `folder` are worth, a row for each mark."""
    from tfgan_mnist.evaluation import classifier, classifier_training, metrics, protocol

    judge = classifier.load("mnist", digits.train.images.shape[1:])
    real = protocol.reference(judge, digits, NUM)
    rows = []
    for mark in marks:
        with np.load(folder / f"{mark}.npz") as kept:
            arrays = dict(kept)
        features, logits = judge.features_and_logits(arrays["images"])
        found = protocol.quick_scores(features, logits, real)
        histogram = metrics.class_histogram(logits.argmax(1), digits.num_classes)
        found["smallest_class"] = float(histogram.min() / histogram.sum())
        if "labels" in arrays:
            found["label_accuracy"] = metrics.label_accuracy(logits, arrays["labels"])
            if mark == max(marks):
                found["gan_train_accuracy"] = classifier_training.gan_train_accuracy(
                    arrays["images"], arrays["labels"], *digits.test, digits.num_classes
                )
        rows.append(
            {
                "contestant": name,
                "seed": seed,
                "mark": mark,
                "recipe": recipe(name),
                "seconds": round(float(arrays["seconds"]), 1),
                "images": int(arrays["seen"]),
                **{key: round(float(value), 4) for key, value in found.items()},
                "floor": {
                    key: round(real.baseline[key], 4) for key in ("fid", "precision", "recall")
                },
            }
        )
    return rows


def recipe(name: str) -> dict:
    """The configuration of one of ours as it is today; empty for peers, which stay as they are."""
    return records.configuration(config.resolve({"model": name})) if name in OURS else {}


def read() -> list[dict]:
    """The rows there are of peers and of today's recipes, the last of each kind.

    A field that a row's recipe lacks was added since and had what is its default.
    """
    lines = LOG.read_text().splitlines() if LOG.exists() else []
    rows = [json.loads(line) for line in lines]
    defaults = records.configuration(config.Config())
    return list(
        {
            (place(row["machine"]), row["contestant"], row["seed"], row["mark"]): row
            for row in rows
            if row["contestant"] not in OURS
            or defaults | row.get("recipe", {}) == recipe(row["contestant"])
        }.values()
    )


def by_machine(rows: list[dict]) -> dict[str, list[dict]]:
    """The rows of each machine; seconds of one are not those of another."""
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(place(row["machine"]), []).append(row)
    return found


def place(machine: dict) -> str:
    """What of `records.machine` makes the pace; the processor's name alone may be a generic one."""
    bfloat16 = "with" if machine["bfloat16"] else "without"
    return f"{machine['processor']}, {bfloat16} bfloat16, {machine['cores']} cores"


def contest(names: Iterable[str], seeds: Iterable[int], marks: tuple[int, ...]) -> list[str]:
    """Trains and scores what is missing, each result kept as it comes; tells what failed."""
    from tfgan_mnist import data

    digits = data.load("mnist")
    here = by_machine(read()).get(place(records.machine()), [])
    done = {(row["contestant"], row["seed"], row["mark"]) for row in here}
    failed = []
    for seed in seeds:
        for name in names:
            if all((name, seed, mark) in done for mark in marks):
                continue
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                np.savez(folder / DIGITS, **digits.train._asdict())
                # A process of its own: frameworks keep threads and memory.
                command = [sys.executable, "-m", "benchmarks.time_to_quality", "--train", name]
                command += ["--seeds", str(seed), "--marks", *map(str, marks), "--folder", folder]
                if subprocess.run(command, check=False).returncode:
                    failed.append(f"{name}, seed {seed}")  # said why; the others go on
                    continue
                rows = score(name, seed, marks, folder, digits)
            for row in rows:
                records.append(LOG.stem, row)
            print(f"{name}, seed {seed}: FID " + ", ".join(f"{row['fid']:.2f}" for row in rows))
    return failed


# The report


class Reached(NamedTuple):
    """When a contestant reached a FID: `sign` tells a time from a bound on one."""

    seconds: float
    sign: str  # "", "≤ " when it was there at the first mark, "> " when not at the last

    def __str__(self) -> str:
        return f"{self.sign}{self.seconds:.0f}"


def report(rows: list[dict]) -> None:
    """Prints means with standard errors, medians, and the times to some FIDs with their ratios."""
    floor = rows[-1]["floor"]
    names, marks = entries(rows)
    print(f"Floor: FID {floor['fid']:.3f}, P {floor['precision']:.2f}, R {floor['recall']:.2f}")
    print(f"\nMeans ± standard errors over seeds:\n\n{scores(rows, told)}")
    print(f"\nMedians over seeds:\n\n{scores(rows, lambda values: number(np.median(values)))}")

    ours = [name for name in names if name in OURS]
    peers = [name for name in names if name not in OURS]
    print("\nSeconds to a FID (medians over seeds, interpolated on logarithms):\n")
    heads = ("FID", *names, *(f"first peer / {name}" for name in ours if peers))
    cells = []
    for threshold in THRESHOLDS:
        times = {name: time_to(rows, name, marks, threshold) for name in names}
        first = min((times[name] for name in peers), key=sooner, default=None)
        ratios = [ratio(first, times[name]) for name in ours] if first else []
        cells.append((threshold, *times.values(), *ratios))
    print(records.table(cells, heads))


def scores(rows: list[dict], over_seeds: Callable[[list[float]], str]) -> str:
    """A table with a line for each contestant: FID at each mark, the other scores at the last."""
    names, marks = entries(rows)
    others = {
        "precision": "precision",
        "recall": "recall",
        "label accuracy": "label_accuracy",
        "GAN-train": "gan_train_accuracy",
        "classes": "classes_covered",
        "smallest class": "smallest_class",
    }
    cells = []
    for name in names:
        own = [row for row in rows if row["contestant"] == name]
        last = [row for row in own if row["mark"] == marks[-1]]
        values = [[row["fid"] for row in own if row["mark"] == mark] for mark in marks]
        values += [[row[key] for row in last if key in row] for key in others.values()]
        seeds = len({row["seed"] for row in own})
        cells.append((name, *(over_seeds(each) if each else "" for each in values), seeds))
    heads = ("contestant", *(f"FID at {mark:g} s" for mark in marks), *others, "seeds")
    return records.table(cells, heads)


def entries(rows: list[dict]) -> tuple[list[str], list[int]]:
    """The contestants in the order of their first row, and the marks in that of time."""
    names = dict.fromkeys(row["contestant"] for row in rows)
    return list(names), sorted({row["mark"] for row in rows})


def number(value: float) -> str:
    """Three digits below 1, else two after the point: "0.612", "4.34", "10"."""
    return f"{value:g}" if value == int(value) else f"{value:.{3 if abs(value) < 1 else 2}f}"


def told(values: list[float]) -> str:
    """Mean and standard error, both to as many digits: "4.34 ± 0.36"."""
    mean = number(np.mean(values))
    if len(values) == 1:
        return mean
    digits = len(mean.partition(".")[2])
    return f"{mean} ± {np.std(values, ddof=1) / len(values) ** 0.5:.{digits}f}"


def medians(rows: list[dict], name: str, marks: list[int]) -> list[tuple[float, float]]:
    """Of a contestant at each mark that it has: the time and the FID, medians over seeds.

    A step that lasts, as one that is traced anew, can end after the mark; a recipe, before it.
    """
    own = [[r for r in rows if (r["contestant"], r["mark"]) == (name, mark)] for mark in marks]
    return [
        (
            float(np.median([r["seconds"] for r in of_mark])),
            float(np.median([r["fid"] for r in of_mark])),
        )
        for of_mark in own
        if of_mark
    ]


def time_to(rows: list[dict], name: str, marks: list[int], threshold: float) -> Reached:
    """When the median FID fell to `threshold`."""
    before = None
    for seconds, value in medians(rows, name, marks):
        if value <= threshold:
            if before is None:
                return Reached(seconds, "≤ ")
            x = np.log([before[1], value])
            share = (np.log(threshold) - x[0]) / (x[1] - x[0])
            return Reached(float(before[0] * (seconds / before[0]) ** share), "")
        before = seconds, value
    # A recipe of ours that has ended stays as it is.
    lasted = max(row["mark"] for row in rows if row["contestant"] == name)
    return Reached(max(before[0], lasted), "> ")


def sooner(reached: Reached) -> tuple[bool, float]:
    """A key to sort by."""
    return reached.sign == "> ", reached.seconds


def ratio(peer: Reached, ours: Reached) -> str:
    """How many times as long the peer took; empty where the bounds leave that open."""
    times = peer.seconds / ours.seconds
    at_least, at_most = math.floor(10 * times) / 10, math.ceil(10 * times) / 10
    match peer.sign, ours.sign:
        case "", "":
            return f"{times:.1f}"
        case "> ", "" | "≤ ":
            return f"> {at_least:.1f}"
        case "", "≤ ":
            return f"≥ {at_least:.1f}"
        case "≤ " | "", ("" | "> "):
            return f"≤ {at_most:.1f}"
    return ""


def draw(rows: list[dict]) -> None:
    """FID over seconds on logarithmic axes, a line for each contestant, seeds as dots."""
    from matplotlib.figure import Figure

    names, marks = entries(rows)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name in names:
        own = [row for row in rows if row["contestant"] == name]
        style = "-" if name in OURS else "--"
        (line,) = axes.plot(*zip(*medians(rows, name, marks)), style, label=name)
        dots = [r["seconds"] for r in own], [r["fid"] for r in own]
        axes.plot(*dots, ".", color=line.get_color())
    axes.axhline(rows[-1]["floor"]["fid"], color="gray", linestyle=":", label="training images")
    axes.set(
        xscale="log", yscale="log", xlabel="seconds of training", ylabel="FID, 10k against test"
    )
    axes.set_xticks(marks, [f"{mark:g}" for mark in marks], minor=False)
    axes.minorticks_off()
    figure.legend(fontsize="small", loc="outside right upper")
    figure.savefig(PLOT, dpi=120)
    print(f"\nPlot: {PLOT}")


def main() -> None:
    """Runs the contest, one contestant of it, or the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--marks", nargs="+", type=int, default=MARKS, help="seconds")
    parser.add_argument("--report", action="store_true", help="only tell what there is")
    parser.add_argument("--train", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.train:
        train(flags.train, flags.seeds[0], flags.marks, flags.folder)
        return
    failed: list[str] = []
    if not flags.report:
        names = flags.contestants or contestants.installed(CONTESTANTS)
        cli.start_tensorflow()
        failed = contest(names, flags.seeds, tuple(flags.marks))
    tables = by_machine(read())
    if not tables:
        print("Nothing was measured yet.")
    for machine, rows in tables.items():
        print(f"\n{machine}:\n")
        report(rows)
    if tables:  # of the machine that was measured last
        draw(max(tables.values(), key=lambda rows: max(row["date"] for row in rows)))
    if failed:
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
