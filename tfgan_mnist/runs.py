"""A run is a folder: `runs/0003-dcgan/`.

config.json      the resolved configuration, what the data set is, versions; written first
log.csv          a row per epoch: seconds of training, and means of what the step reports
evaluations.csv  a row per evaluation, against held-out training images
samples/         epoch_000.png (before training), epoch_001.png, ...
samples.gif      the same over time
curves.png       log and evaluations as a picture
checkpoints/     the newest, which `--resume` continues from, and that of the best evaluation
models/          with --keep_every: epoch_005.keras, epoch_010.keras, ...
metrics.json     the features of evaluations.csv; on the test images: the discriminator, and under
                 "samples" the generator
report.png       the pictures to "samples"
exported         the path of the export, written last
export/          the export itself, where it would have hidden a better one
"""

import contextlib
import csv
import dataclasses
import importlib.metadata
import io
import json
import math
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tfgan_mnist import config as configuration
from tfgan_mnist import files
from tfgan_mnist.config import Config
from tfgan_mnist.errors import UserError

CONFIG = "config.json"
LOG = "log.csv"
EVALUATIONS = "evaluations.csv"
SAMPLES = "samples"
MODELS = "models"
GIF = "samples.gif"
CURVES = "curves.png"
METRICS = "metrics.json"
REPORT = "report.png"
EXPORTED = "exported"
EXPORT = "export"


class DataFacts(NamedTuple):
    """What a run needs to know of its data when the data are not there."""

    image_shape: tuple[int, int, int]
    num_classes: int  # 0: without labels
    num_images: int  # training images
    fingerprint: str = ""  # of all images and labels
    class_names: tuple[str, ...] = ()  # by label; empty where they are the numbers, or no classes


def create(
    root: str | Path, config: Config, facts: DataFacts, path: str | Path | None = None
) -> Path:
    """Makes the folder `path`, or else the next number under `root`, with a config.json in it.

    Raises:
      UserError: `path` is not empty.
    """
    if path:
        path = Path(path)
        if path.is_file() or (path.exists() and any(path.iterdir())):
            raise UserError(
                f"{path} is not empty and is not a run folder; give a new or an empty folder"
            )
        return _begin(path, config, facts)
    root = Path(root)
    number = 1 + max(_numbers(root), default=0)
    while True:
        path = root / f"{number:04d}-{config.model}"
        try:
            return _begin(path, config, facts)
        except OSError:
            # Another command may have taken the number; any other error is an error.
            if not path.exists():
                raise
            number += 1


def _begin(path: Path, config: Config, facts: DataFacts) -> Path:
    with files.write_atomically(path) as partial:
        partial.mkdir()
        (partial / CONFIG).write_text(_describe(config, facts))
    return path


def rewrite(path: Path, config: Config, facts: DataFacts) -> None:
    """Replaces the configuration of a run that goes on under another one."""
    with files.write_atomically(path / CONFIG) as partial:
        partial.write_text(_describe(config, facts))


def read(path: str | Path) -> tuple[Config, DataFacts]:
    """The configuration and data facts of the run in folder `path`.

    Raises:
      UserError: not a run folder, or its config.json is of another version.
    """
    file = Path(path) / CONFIG
    try:
        description = files.read_json(file)
        config = configuration.from_saved(description["config"])
        data = description["data"]
        lists = {key: tuple(data.get(key, ())) for key in ("image_shape", "class_names")}
        facts = DataFacts(**(data | lists))
    except OSError as error:
        raise UserError(
            f"{path}: expected a run folder with a {CONFIG}; received: {error.strerror}"
        ) from error
    except (LookupError, TypeError) as error:
        raise UserError(f"{file}: expected a saved configuration; received: {error!r}") from error
    return config, facts


Row = dict[str, float]


def read_rows(path: Path) -> list[Row]:
    """The rows of log.csv or evaluations.csv, NaN where a cell is empty; none without a file.

    Raises:
      UserError: it is not such a table.
    """
    if not path.exists():
        return []
    lines = csv.DictReader(io.StringIO(files.read_text(path), newline=""))
    try:
        return [
            {key: float(cell) if cell else math.nan for key, cell in row.items()} for row in lines
        ]
    except (ValueError, TypeError) as error:  # as of a spreadsheet that writes semicolons
        raise UserError(f"{path}: expected a table of numbers; received: {error}") from error


def write_rows(path: Path, rows: list[Row]) -> None:
    """Replaces the file as a whole, so that it never ends in half a row.

    Columns are those of all rows, in the order in which they appear.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    for row in rows:
        cells = {key: "" if math.isnan(value) else f"{value:.7g}" for key, value in row.items()}
        writer.writerow(cells)
    with files.write_atomically(path) as partial:
        partial.write_text(text.getvalue())


def read_history(run: Path) -> tuple[list[Row], list[Row]]:
    """The rows of a run's log.csv, and those of its evaluations.csv."""
    return read_rows(run / LOG), read_rows(run / EVALUATIONS)


def drop_rows_after(run: Path, epoch: int) -> None:
    """Drops the rows of epochs that will be trained again, or were evaluated but not saved."""
    for name in (LOG, EVALUATIONS):
        rows = read_rows(run / name)
        kept = [row for row in rows if row["epoch"] <= epoch]
        if len(kept) < len(rows):
            write_rows(run / name, kept)


def name_of(run: Path, step: int) -> str:
    """The name of a run's weights in reports, without a path: reports go to other machines."""
    return f"run {run.resolve().name}, step {step:,}"


def best_step(run: Path) -> int | None:
    """The generator update with the lowest FID of all evaluations; None without any."""
    rows = [row for row in read_rows(run / EVALUATIONS) if row["fid"] == row["fid"]]
    return int(min(rows, key=lambda row: row["fid"])["step"]) if rows else None


def read_metrics(folder: Path) -> dict[str, Any]:
    """The content of metrics.json in a folder, {} without it.

    Raises:
      UserError: it is not a JSON object.
    """
    file = folder / METRICS
    return files.read_json(file) if file.exists() else {}


def add_metrics(folder: Path, **parts: Any) -> None:
    """Puts parts into a folder's metrics.json; the others stay. Raises as `read_metrics` does.

    JSON has no NaN and no infinity, which the KL is when the real images lack a class: null.
    """
    whole = read_metrics(folder) | parts
    with files.write_atomically(folder / METRICS) as partial:
        partial.write_text(json.dumps(_finite(whole), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    """A JSON value with None for every number that is not finite."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Locks the run's folder: a second command that trains in it is refused."""
    try:
        with files.locked(path, wait=False):
            yield
    except BlockingIOError as error:
        raise UserError(f"{path}: another train command is writing into this run") from error


def _describe(config: Config, facts: DataFacts) -> str:
    description = {
        "config": dataclasses.asdict(config),
        "data": facts._asdict(),
        "versions": _versions(),
    }
    return json.dumps(description, indent=2) + "\n"


def _numbers(root: Path) -> list[int]:
    if not root.is_dir():
        return []
    matches = (re.match(r"(\d+)-", entry.name) for entry in root.iterdir())
    return [int(match[1]) for match in matches if match]


def _versions() -> dict[str, str]:
    packages = ("tfgan-mnist", "tensorflow", "keras", "tensorflow-datasets", "numpy")
    versions = {"python": platform.python_version()}
    for package in packages:
        # The package itself is not installed when it runs from a checkout.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
