"""A run is a folder: `runs/0003-dcgan/`.

config.json      the resolved configuration, what the data set is, versions; written first
log.csv          a row per epoch
samples/         epoch_000.png (before training), epoch_001.png, ...
samples.gif      the same over time
curves.png       losses and accuracies over epochs
checkpoints/     what `--resume` continues from
metrics.json     the discriminator on the test images; under "samples", what `evaluate` found
report.png       the pictures of `evaluate`
exported         the path of the export, written when all is done
"""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tfgan_mnist import config as configuration
from tfgan_mnist import files
from tfgan_mnist.config import Config
from tfgan_mnist.errors import UserError

CONFIG = "config.json"
LOG = "log.csv"
SAMPLES = "samples"
GIF = "samples.gif"
CURVES = "curves.png"
METRICS = "metrics.json"
EXPORTED = "exported"


class DataFacts(NamedTuple):
    """What a run needs to know of its data when the data are not there."""

    image_shape: tuple[int, int, int]
    num_classes: int
    num_images: int  # training images


def create(
    root: str | Path, config: Config, facts: DataFacts, path: str | Path | None = None
) -> Path:
    """Makes the folder `path`, or else the next number under `root`, with a config.json in it."""
    if path:
        return _begin(Path(path), config, facts)
    root = Path(root)
    number = 1 + max(_numbers(root), default=0)
    while True:
        path = root / f"{number:04d}-{config.model}"
        try:
            return _begin(path, config, facts)
        except OSError:
            # Another command may just have taken the number; any other trouble is a trouble.
            if not path.exists():
                raise
            number += 1


def _begin(path: Path, config: Config, facts: DataFacts) -> Path:
    with files.publish(path) as partial:
        partial.mkdir()
        (partial / CONFIG).write_text(_describe(config, facts))
    return path


def rewrite(path: Path, config: Config, facts: DataFacts) -> None:
    """Replaces the configuration of a run that goes on under another one."""
    with files.publish(path / CONFIG) as partial:
        partial.write_text(_describe(config, facts))


def read(path: str | Path) -> tuple[Config, DataFacts]:
    """The configuration and data facts of the run in folder `path`.

    Raises:
      UserError: not a run folder, or its config.json is damaged or of another version.
    """
    file = Path(path) / CONFIG
    try:
        description = json.loads(file.read_text())
        facts = DataFacts(**description["data"])
        height, width, channels = facts.image_shape
        facts = facts._replace(image_shape=(height, width, channels))
        config = configuration.from_saved(description["config"])
    except OSError as error:
        raise UserError(
            f"{path}: expected a run folder with a {CONFIG}; received: {error.strerror}"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: expected a saved configuration; received: {error!r}") from error
    return config, facts


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the run's folder: a second command that trains into it is refused.

    The lock is the operating system's and goes with the process, however it dies.
    """
    with open(path / ".lock", "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{path}: another train command is writing into this run") from error
        yield


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
