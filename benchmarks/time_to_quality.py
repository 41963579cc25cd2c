"""Digits per minute: every contestant trains ten minutes and is judged on the way.

    python -m benchmarks.time_to_quality            # hours; goes on where it was stopped
    python -m benchmarks.time_to_quality --report   # the tables and the plot of what there is

A contestant is one of ours or a public example, re-implemented from its published set-up with its
users' flags mended (contestants/). Each has a process of its own, alone on the machine, and is
scored at 1, 2, 5 and 10 minutes of its own training time, building and tracing included, the
scoring not. A recipe of ours that ends before a mark stays as it is. The seeds come one after the
other, and within a seed the contestants, so that what the machine does over the hours meets all.

Scores: 10,000 samples against the 10,000 test images, as `evaluate` makes them. Each mark is a line
of results/time_to_quality.jsonl; of ours it tells the recipe, and those of other recipes than
today's are left out of all that is told. On another machine the contest begins anew, and has a
table of its own.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

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
    from tfgan_mnist import classifier, metrics, scoring

    judge = classifier.load("mnist", digits.train.images.shape[1:])
    real = scoring.reference(judge, digits, NUM)
    rows = []
    for mark in marks:
        with np.load(folder / f"{mark}.npz") as kept:
            arrays = dict(kept)
        features, logits = judge.features_and_logits(arrays["images"])
        found = scoring.quick_scores(features, logits, real)
        histogram = metrics.class_histogram(logits.argmax(1), digits.num_classes)
        found["smallest_class"] = float(histogram.min() / histogram.sum())
        if "labels" in arrays:
            found["label_accuracy"] = metrics.label_accuracy(logits, arrays["labels"])
            if mark == max(marks):
                found["gan_train_accuracy"], _ = scoring.gan_train(
                    judge, digits, arrays["images"], arrays["labels"]
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
                "floor": {key: round(real.floor[key], 4) for key in ("fid", "precision", "recall")},
            }
        )
    return rows


def recipe(name: str) -> dict:
    """The configuration of one of ours as it is today; empty for peers, which stay as they are."""
    return records.configuration(config.resolve({"model": name})) if name in OURS else {}


def read() -> list[dict]:
    """The rows there are of peers and of today's recipes.

    A field that a row's recipe lacks was added since and had what is its default.
    """
    lines = LOG.read_text().splitlines() if LOG.exists() else []
    rows = [json.loads(line) for line in lines]
    defaults = records.configuration(config.Config())
    return [
        row
        for row in rows
        if row["contestant"] not in OURS
        or defaults | row.get("recipe", {}) == recipe(row["contestant"])
    ]


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


def contest(names: Iterable[str], seeds: Iterable[int], marks: tuple[int, ...]) -> None:
    """Trains and scores what is missing, each result kept as it comes."""
    from tfgan_mnist import data

    digits = data.load("mnist")
    here = by_machine(read()).get(place(records.machine()), [])
    done = {(row["contestant"], row["seed"], row["mark"]) for row in here}
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
                subprocess.run(command, check=True)
                rows = score(name, seed, marks, folder, digits)
            for row in rows:
                if (name, seed, row["mark"]) not in done:
                    records.append(LOG.stem, row)
            print(f"{name}, seed {seed}: FID " + ", ".join(f"{row['fid']:.2f}" for row in rows))


# The report


def report(rows: list[dict]) -> None:
    """Prints a table of means with standard errors, and the ratios of times."""
    floor = rows[-1]["floor"]
    names, marks = entries(rows)
    print(f"Floor: FID {floor['fid']:.3f}, P {floor['precision']:.2f}, R {floor['recall']:.2f}\n")
    heads = [f"FID at {mark:g} s" for mark in marks]
    heads += ["precision", "recall", "label accuracy", "GAN-train", "smallest class", "seeds"]
    print("| contestant | " + " | ".join(heads) + " |\n|---" + "|---" * len(heads) + "|")
    for name in names:
        own = [row for row in rows if row["contestant"] == name]
        last = [row for row in own if row["mark"] == marks[-1]]
        cells = [told([r["fid"] for r in own if r["mark"] == mark]) for mark in marks]
        scores = ("precision", "recall", "label_accuracy", "gan_train_accuracy")
        cells += [told([r[key] for r in last if key in r]) for key in scores]
        cells.append(f"{100 * min(r['smallest_class'] for r in last):.1f} %" if last else "")
        print(f"| {name} | " + " | ".join(cells) + f" | {len(last)} |")

    print("\nSeconds to a FID (medians over seeds, interpolated on logarithms):\n")
    print("| FID | " + " | ".join(names) + " | best peer / best of ours |")
    print("|---" * (len(names) + 2) + "|")
    lasted = {name: max(r["mark"] for r in rows if r["contestant"] == name) for name in names}
    for threshold in THRESHOLDS:
        times = {name: time_to(rows, name, marks, threshold) for name in names}
        ours = [t for name, t in times.items() if t and name in OURS]
        peers = [t for name, t in times.items() if t and name not in OURS]
        ratio = f"{min(peers) / min(ours):.1f}" if ours and peers else ""
        cells = [f"{t:.0f}" if t else f"> {lasted[name]:g}" for name, t in times.items()]
        print(f"| {threshold} | " + " | ".join(cells) + f" | {ratio} |")


def entries(rows: list[dict]) -> tuple[list[str], list[int]]:
    """The contestants in the order of their first row, and the marks in that of time."""
    names = dict.fromkeys(row["contestant"] for row in rows)
    return list(names), sorted({row["mark"] for row in rows})


def told(values: list[float]) -> str:
    """Mean and standard error: "4.34 ± 0.36"."""
    if not values:
        return ""
    mean, digits = float(np.mean(values)), 3 if abs(np.mean(values)) < 1 else 2
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.{digits}f}"


def medians(rows: list[dict], name: str, marks: list[int]) -> list[float]:
    """The median FID of a contestant at each mark; NaN where it has none."""
    own = [[r["fid"] for r in rows if (r["contestant"], r["mark"]) == (name, m)] for m in marks]
    return [float(np.median(values)) if values else np.nan for values in own]


def time_to(rows: list[dict], name: str, marks: list[int], threshold: float) -> float | None:
    """Seconds until the median FID is `threshold`; None if it never was.

    What was there at the first mark already counts as reached at that mark.
    """
    found = medians(rows, name, marks)
    for i, (mark, value) in enumerate(zip(marks, found)):
        if value <= threshold:
            if i == 0:
                return mark
            x = np.log([found[i - 1], value])
            share = (np.log(threshold) - x[0]) / (x[1] - x[0])
            return float(marks[i - 1] * (mark / marks[i - 1]) ** share)
    return None


def draw(rows: list[dict]) -> None:
    """FID over seconds on logarithmic axes, a line for each contestant, seeds as dots."""
    from matplotlib.figure import Figure

    names, marks = entries(rows)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name in names:
        own = [row for row in rows if row["contestant"] == name]
        style = "-" if name in OURS else "--"
        (line,) = axes.plot(marks, medians(rows, name, marks), style, label=name)
        dots = [r["mark"] for r in own], [r["fid"] for r in own]
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
    if not flags.report:
        names = flags.contestants or list(CONTESTANTS)
        if not flags.contestants and importlib.util.find_spec("torch") is None:
            print("PyTorch is not installed: pytorch_dcgan does not take part")
            names.remove("pytorch_dcgan")
        cli.start_tensorflow()
        contest(names, flags.seeds, tuple(flags.marks))
    tables = by_machine(read())
    if not tables:
        print("Nothing was measured yet.")
        return
    for machine, rows in tables.items():
        print(f"\n{machine}:\n")
        report(rows)
    # Of the machine that was measured last.
    draw(max(tables.values(), key=lambda rows: rows[-1]["date"]))


if __name__ == "__main__":
    main()
