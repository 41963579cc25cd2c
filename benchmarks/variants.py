"""Runs of several variants of a recipe and several seeds, and the table of their results."""

import json
from pathlib import Path

from benchmarks import records
from benchmarks.time_to_quality import mean
from tfgan_mnist import cli, runs, train
from tfgan_mnist.config import resolve


def trained(run: Path, values: dict) -> Path:
    """Trains a configuration in the folder `run`, as far as that has not been done."""
    config = resolve(values | {"export_root": str(run.parent / "exports")})
    train.train(config, run, runs.read(run) if run.exists() else None)
    return run


def report(name: str, groups: tuple[str, ...], scores: dict[str, str]) -> str:
    """Returns a table of means ± standard errors over the seeds in results/<name>.jsonl.

    Of repeated runs the last counts. At the end a line for all rows of the same real images.

    Args:
      groups: keys of a row, first its name; rows that are equal in them share a line.
      scores: keys of a row, and of its "real", and their heads.
    """
    lines = (records.RESULTS / f"{name}.jsonl").read_text().splitlines()
    rows = {(*(row[key] for key in groups), row["seed"]): row for row in map(json.loads, lines)}
    cells = []
    for group in dict.fromkeys(key[:-1] for key in rows):
        own = [row for key, row in rows.items() if key[:-1] == group]
        cells.append((*group, *(mean([row[key] for row in own]) for key in scores), len(own)))
    for real in {json.dumps(row["real"]): row["real"] for row in rows.values()}.values():
        own = [row for row in rows.values() if row["real"] == real]
        shared = [{row[key] for row in own} for key in groups[1:]]
        about = (value.pop() if len(value) == 1 else "" for value in shared)
        cells.append(("real", *about, *(real.get(key, "") for key in scores), ""))
    return records.table(cells, (*groups, *scores.values(), "seeds"))


def add_flags(parser: cli.Parser, variants: dict, runs_root: str) -> None:
    """Adds the flags that say what to run."""
    parser.add_argument("--variants", nargs="+", choices=variants, default=list(variants))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path(runs_root), metavar="FOLDER")
    parser.add_argument("--report", action="store_true", help="only print the existing results")
