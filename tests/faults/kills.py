"""Kills the train command again and again, and checks what is left and what comes of the run.

python -m tests.faults.kills --kills=100 --seed=0 --output=kills.md

A run without kills is the reference. Others are begun, killed by SIGKILL at moments drawn from the
seed and started again by the same command, until they end. After each kill every file with a final
name has to be complete. At the end the run has to equal the reference: the same files, weights,
tables and pictures. Hidden names of temporary files may be left outside of the run's folder.
"""

import argparse
import collections
import csv
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from tests.faults import small_mnist

EPOCHS, STEPS = 4, 20
MODEL = ["--model=gan", "--g_hidden_widths=8", "--d_hidden_widths=8", "--latent_dim=4"]
# Everything that has a state: dropout's seeds, the generator's average, both optimizers.
RECIPE = [*MODEL, "--d_dropout=0.3", "--ema=0.9", "--batch_size=8"]
EVALUATED = ("--epochs_per_evaluation=1",)
PLAIN = ("--epochs_per_evaluation=0",)  # takes half the time
LIFE_SECONDS = 1800  # a command that takes longer hangs
WRITE_SECONDS = 0.03

# When a command is killed.
TIME = "at any time"
CHANGE = "between two changes of files"
WRITE = "during the write of a file or folder"
MOMENTS = (TIME, CHANGE, WRITE)


class Broken(Exception):
    """Something is not as it has to be after a kill or at the end."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Folders of a run. All that it writes is under `root`; temporary files are in `tmp`."""

    root: Path
    data: Path
    tmp: Path
    extra: tuple[str, ...] = ()  # flags over the recipe's

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def exports(self) -> Path:
        return self.root / "exports" / "gan"

    def flags(self, epochs: int, steps: int) -> list[str]:
        sizes = [f"--epochs={epochs}", f"--steps_per_epoch={steps}"]
        places = [f"--data_dir={self.data}", f"--run={self.run}"]
        return [*RECIPE, *sizes, *places, f"--export_root={self.exports.parent}", *self.extra]


class Life:
    """One start of the command, to its end or its kill."""

    def __init__(self, place: Place, epochs: int, steps: int, action: str = ""):
        self.place = place
        for folder in (place.root, place.tmp):
            folder.mkdir(parents=True, exist_ok=True)
        program = ["tfgan_mnist.train"]
        if action:
            program = ["tests.faults.audited", action, str(place.root)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", *program, *place.flags(epochs, steps)],
            env=os.environ | {"PYTHONUNBUFFERED": "1", "TMPDIR": str(place.tmp)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.output += line

    def wait_for(self, condition, seconds: float = LIFE_SECONDS) -> None:
        """Waits until `condition()` is true, the command has ended or the time is over."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline and not condition():
            time.sleep(0.002)

    def end(self) -> int:
        """Waits for the end, and returns the exit status."""
        try:
            status = self.process.wait(timeout=LIFE_SECONDS)
        except subprocess.TimeoutExpired as error:
            self.process.kill()
            raise Broken(f"the command hangs\n{self.output}") from error
        self.reader.join()
        return status


# --- Checks ---------------------------------------------------------------------------------------


def tensors(prefix: Path) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint, whose checksums TensorFlow compares."""
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = reader.get_variable_to_shape_map()
        values = {name: reader.get_tensor(name) for name in shapes}
    except (ValueError, IndexError, tf.errors.OpError) as error:
        raise Broken(f"{prefix} is incomplete: {error}") from error
    return {name: np.asarray(value) for name, value in values.items() if "GRAPH" not in name}


def visible(folder: Path, pattern: str = "*") -> list[Path]:
    """Paths without a hidden part."""
    paths = sorted(folder.glob(pattern))
    return [p for p in paths if not any(n.startswith(".") for n in p.relative_to(folder).parts)]


def leftovers(folder: Path) -> list[Path]:
    """Temporary files and folders that a killed command has left."""
    return list(folder.rglob(".*.partial.*"))


def expect_whole(place: Place) -> None:
    """Raises Broken when anything with a final name is incomplete."""
    from PIL import Image
    from tensorflow.core.protobuf import saved_model_pb2

    for path in visible(place.run / "checkpoints"):
        tensors(path / "state")
    for path in visible(place.exports):
        tensors(path / "variables" / "variables")
        expected = ("model_card.json", "saved_model.pb", "assets.extra/tf_serving_warmup_requests")
        if missing := [name for name in expected if not (path / name).exists()]:
            raise Broken(f"{path} is incomplete: without {', '.join(missing)}")
        saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    try:
        for path in visible(place.root, "**/*.json"):
            json.loads(path.read_text())
        for path in [*visible(place.run), *visible(place.run / "samples")]:
            if path.suffix in (".png", ".gif"):
                Image.open(path).verify()
            elif path.suffix == ".csv":
                table(path)
    except (ValueError, OSError, KeyError) as error:
        raise Broken(f"{path} is incomplete: {error}") from error


def table(path: Path) -> list[dict[str, float]]:
    """Rows of a CSV file, without measured times."""
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    if any(None in row or None in row.values() for row in rows):
        raise ValueError("a row is incomplete")
    return [{k: float(v) for k, v in row.items() if "second" not in k} for row in rows]


def without_seconds(value):
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if k != "seconds"}
    return value


def files_of(place: Place) -> set[str]:
    """All files of the run, and the visible ones of its exports."""
    paths = [*place.run.rglob("*"), *visible(place.exports, "**/*")]
    return {str(path.relative_to(place.root)) for path in paths}


def expect_same(place: Place, reference: Place) -> None:
    """Raises Broken when a finished run does not equal the reference."""
    one, two = (files_of(each) for each in (place, reference))
    if one != two:
        raise Broken(f"more files: {sorted(one - two)}; missing: {sorted(two - one)}")
    for path in visible(reference.run / "checkpoints"):
        one, two = tensors(place.run / "checkpoints" / path.name / "state"), tensors(path / "state")
        differing = [k for k in one.keys() | two if k not in one or k not in two]
        differing += [k for k in one.keys() & two if one[k].tobytes() != two[k].tobytes()]
        if differing:
            raise Broken(f"{path} has other weights than {place.run}: {', '.join(differing)}")
    # Keras stores an export's variables in the order of their places in memory.
    exported = [tensors(each.exports / "1/variables/variables") for each in (place, reference)]
    one, two = (sorted(value.tobytes() for value in each.values()) for each in exported)
    if one != two:
        raise Broken(f"{place.exports} has other weights than {reference.exports}")
    for path in reference.run.rglob("*"):
        other = place.run / path.relative_to(reference.run)
        if path.suffix == ".csv":
            same = [table(path), table(other)]
        elif path.name == "metrics.json":
            same = [without_seconds(json.loads(each.read_text())) for each in (path, other)]
        elif path.parent.name == "samples" or path.suffix == ".gif":
            same = [each.read_bytes() for each in (path, other)]
        else:
            continue
        if same[0] != same[1]:
            raise Broken(f"{other} differs from {path}")


# --- The kills ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Found:
    """The results of the kills."""

    kills: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    leaving: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    runs: int = 0
    broken: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        rows = [
            ("killed", "kills", "temporary files were left"),
            ("---", "---", "---"),
            *[(moment, self.kills[moment], self.leaving[moment]) for moment in MOMENTS],
            ("all", self.kills.total(), self.leaving.total()),
        ]
        lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
        return "\n".join([*lines, f"{self.runs} runs; broken: {len(self.broken)}", *self.broken])


class Kills:
    """Runs of one recipe under a folder `work`, which are killed and compared with the reference.

    Args:
      work: a folder of their own.
      prepared: a data_dir with MNIST in it; None: each run prepares it in a folder of its own,
        except the reference, so that runs with and without prepared data are compared.
      recipe: flags over `RECIPE`.
      chance: draws the moments.
      found: the results are added to it.
    """

    def __init__(
        self, work: Path, prepared: Path | None, recipe, chance: random.Random, found: Found
    ):
        self.work, self.recipe, self.chance, self.found = work, recipe, chance, found
        self.preparing = prepared is None
        if prepared:
            small_mnist.write(work / "data", prepared)
        else:
            prepared_mnist(str(work / "data"))
        self.reference = self.place("reference", preparing=False)
        began = time.monotonic()
        life = Life(self.reference, EPOCHS, STEPS, action="count")
        if life.end() != 0:
            raise Broken(life.output)
        self.seconds = time.monotonic() - began
        self.changes = int((self.reference.root / "changes").read_text())

    def place(self, name: str, preparing: bool) -> Place:
        root = self.work / name
        data = root / "data" if preparing else self.work / "data"
        return Place(root, data, root / "tmp", self.recipe)

    def start(self, place: Place, moment: str | None) -> Life:
        """One start of the command, ended; killed in `moment`, unless it ended before."""
        draw = self.chance.random()
        if moment == CHANGE:
            # Commands that go on with a run make fewer changes than the reference.
            action = f"kill:{1 + int(draw * self.changes / 2)}"
            life = Life(place, EPOCHS, STEPS, action)
        else:
            life = Life(place, EPOCHS, STEPS)
            if moment == TIME:
                life.wait_for(lambda: False, draw * self.seconds)
            elif moment == WRITE:
                life.wait_for(lambda: False, draw * self.seconds)
                known = set(leftovers(place.root))
                life.wait_for(lambda: set(leftovers(place.root)) - known)
                life.wait_for(lambda: False, self.chance.random() * WRITE_SECONDS)
            if moment:
                life.process.kill()
        life.end()
        return life

    def run(self, moments: list[str | None]) -> None:
        """Begins a run and kills it in these moments, or until it ends before one of them."""
        self.found.runs += 1
        place = self.place(f"{self.found.runs:03d}", self.preparing)
        broken = len(self.found.broken)
        for moment in [*moments, None]:
            life = self.start(place, moment)
            if life.process.returncode != -signal.SIGKILL or moment is None:
                break
            left = leftovers(place.root)
            self.found.kills[moment] += 1
            self.found.leaving[moment] += bool(left)
            print(f"{place.root.name}: killed {moment}", *(path.name for path in left), flush=True)
            self.check(f"{place.root.name}, killed {moment}", lambda: expect_whole(place))
        if life.process.returncode != 0:
            self.found.broken.append(f"{place.root.name}: {life.process.returncode}\n{life.output}")
        self.check(f"{place.root.name}, ended", lambda: expect_same(place, self.reference))
        if len(self.found.broken) == broken:
            shutil.rmtree(place.root)
        print(f"{place.root.name} ended; broken: {self.found.broken[broken:]}", flush=True)

    def check(self, name: str, check) -> None:
        """Calls a check, and keeps what it raises."""
        try:
            check()
        except Broken as broken:
            self.found.broken.append(f"{name}: {broken}")


def prepared_mnist(data_dir: str) -> Path:
    """A data_dir in which MNIST is prepared."""
    from tfgan_mnist import data, files

    prepared = files.data_folder(data_dir)
    if not (prepared / small_mnist.FOLDER).exists():
        data.load("mnist", prepared)
    return prepared


def main() -> int:
    """Turns flags into kills; 1 when anything was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data_dir", default="", help="where MNIST is, or is to be prepared")
    parser.add_argument("--output", type=Path, help="file for the table")
    arguments = parser.parse_args()

    work = Path(tempfile.mkdtemp(prefix="kills-"))
    prepared = prepared_mnist(arguments.data_dir)
    found, chance = Found(), random.Random(arguments.seed)
    killers = [
        Kills(work / "evaluated", prepared, EVALUATED, chance, found),
        Kills(work / "plain", prepared, PLAIN, chance, found),
        Kills(work / "unprepared", None, PLAIN, chance, found),
    ]
    while (left := arguments.kills - found.kills.total()) > 0 and not found.broken:
        killer = killers[found.runs % len(killers)]
        killer.run([chance.choice(MOMENTS) for _ in range(min(left, 10))])
        if arguments.output:
            arguments.output.write_text(f"{found}\n")
    print(found)
    if not found.broken:
        shutil.rmtree(work)
    return bool(found.broken)


if __name__ == "__main__":
    sys.exit(main())
