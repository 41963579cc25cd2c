"""Kills the train command again and again, and looks at what is left and at what comes of it.

python -m tests.faults.kills --kills=100 --seed=0 --output=kills.md

A run that nobody disturbs is the reference. Then runs are begun and killed by SIGKILL at moments
drawn from the seed, and started again by the same command, until they end by themselves. After
each kill everything that is there has to be whole; at the end it has to be what the reference has:
the same files, weights, tables and pictures, and nothing else.
"""

import argparse
import collections
import csv
import dataclasses
import itertools
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
from typing import NamedTuple

import numpy as np

from tests.faults import small_mnist

EPOCHS, STEPS = 4, 20
MODEL = ["--model=gan", "--g_hidden_widths=8", "--d_hidden_widths=8", "--latent_dim=4"]
# Everything that has a state: dropout's seeds, the generator's average, both optimizers.
RECIPE = [*MODEL, "--d_dropout=0.3", "--ema=0.9", "--batch_size=8"]
LIFE_SECONDS = 1800  # a command that takes longer hangs

# Moments of a run in their order, each from an event to the next one's.
START, BUILDING, STEP, EVALUATION, CHECKPOINT, REPORT, EXPORT, END = (
    "start-up",
    "data read, model being built or restored",
    "training step",
    "evaluation",
    "write of a checkpoint",
    "report on the test images",
    "write of an export",
    "end of the command",
)
NEXT = {
    START: BUILDING,
    BUILDING: STEP,
    STEP: EVALUATION,
    EVALUATION: CHECKPOINT,
    REPORT: EXPORT,
    EXPORT: END,
}
CHANGE = "between two changes of files"  # the n-th of the command, whatever that is
MAX_MISSES = 3  # of one moment, which a command passed by or never came to


class Kind(NamedTuple):
    """Runs of a recipe, and in which moments each of them is killed."""

    name: str
    flags: tuple[str, ...]
    early: tuple[str, ...]  # during training, in an order that is drawn
    late: tuple[str, ...]  # then after it, likewise


JUDGED = Kind(
    "judged",
    ("--epochs_per_evaluation=1",),
    (START, BUILDING, STEP, EVALUATION, EVALUATION, EVALUATION, CHECKPOINT, CHANGE),
    (REPORT, EXPORT),
)
# Half the time: neither evaluations nor the generator's report.
PLAIN = Kind(
    "plain",
    ("--epochs_per_evaluation=0",),
    (START, BUILDING, STEP, STEP, STEP, CHECKPOINT, CHECKPOINT, CHANGE, CHANGE),
    (EXPORT, EXPORT, END, CHANGE),
)


class Broken(Exception):
    """Something is not as it has to be after a kill or at the end."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Folders of a run: all that it writes is under `root`, but for temporary files in `tmp`."""

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
        self.place, self.last_step = place, epochs * steps
        for folder in (place.root, place.tmp):
            folder.mkdir(parents=True, exist_ok=True)
        program = ["tfgan_mnist.train"]
        if action:
            program = ["tests.faults.audited", action, str(place.root)]
        self.grids = self._grids()
        self.process = subprocess.Popen(
            [sys.executable, "-m", *program, *place.flags(epochs, steps)],
            env=os.environ | {"PYTHONUNBUFFERED": "1", "TMPDIR": str(place.tmp)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.began = time.monotonic()
        self.said = ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said += line

    def _grids(self) -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in self.place.run.glob("samples/epoch_*")}

    def reached(self, moment: str) -> bool:
        run, exports = self.place.run, self.place.exports
        if moment == START:
            return True
        if moment == BUILDING:
            return "Run folder: " in self.said or "Resuming: " in self.said
        if moment == STEP:
            return "\nEpoch " in self.said
        if moment == EVALUATION:  # which comes after an epoch's grid
            now = self._grids()
            return any(now[name] != self.grids.get(name) for name in now if "000" not in name)
        if moment == CHECKPOINT:
            return any(run.glob("checkpoints/.*.partial.step_*"))
        if moment == REPORT:
            return (run / "checkpoints" / f"step_{self.last_step:08d}").exists()
        if moment == EXPORT:
            return any(exports.glob(".*.partial.*"))
        return any(path.name.isdigit() for path in exports.glob("*"))

    def wait_for(self, moment: str) -> bool:
        """Waits until a moment has begun; False: the command ended without."""
        while not self.reached(moment):
            if self.process.poll() is not None:
                return False
            if time.monotonic() > self.began + LIFE_SECONDS:
                self.process.kill()
                raise Broken(f"the command hangs before: {moment}\n{self.said}")
            time.sleep(0.002)
        return True

    def kill(self) -> None:
        self.process.kill()

    def end(self) -> int:
        """Waits for the end, and returns the exit status."""
        try:
            status = self.process.wait(timeout=LIFE_SECONDS)
        except subprocess.TimeoutExpired as error:
            self.process.kill()
            raise Broken(f"the command hangs\n{self.said}") from error
        self.reader.join()
        return status


# --- What is left --------------------------------------------------------------------------------


def tensors(prefix: Path) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint, whose checksums TensorFlow compares."""
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = reader.get_variable_to_shape_map()
        values = {name: reader.get_tensor(name) for name in shapes}
    except (ValueError, IndexError, tf.errors.OpError) as error:
        raise Broken(f"{prefix} is half there: {error}") from error
    return {name: np.asarray(value) for name, value in values.items() if "GRAPH" not in name}


def visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if not path.name.startswith("."))


def expect_whole(place: Place) -> None:
    """Raises Broken when anything that has its name is not all there."""
    from PIL import Image
    from tensorflow.core.protobuf import saved_model_pb2

    for path in visible(place.run / "checkpoints"):
        tensors(path / "state")
    for path in visible(place.exports):
        tensors(path / "variables" / "variables")
        expected = ("model_card.json", "saved_model.pb", "assets.extra/tf_serving_warmup_requests")
        if missing := [name for name in expected if not (path / name).exists()]:
            raise Broken(f"{path} is half there: without {', '.join(missing)}")
        saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    try:
        for path in place.root.rglob("*.json"):
            if not hidden(path, place.root):
                json.loads(path.read_text())
        for path in [*visible(place.run), *visible(place.run / "samples")]:
            if path.suffix in (".png", ".gif"):
                Image.open(path).verify()
            elif path.suffix == ".csv":
                table(path)
    except (ValueError, OSError, KeyError) as error:
        raise Broken(f"{path} is half there: {error}") from error


def hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def leftovers(*folders: Path) -> list[Path]:
    """Temporary siblings."""
    return [path for folder in folders for path in folder.rglob(".*.partial.*")]


def table(path: Path) -> list[dict[str, float]]:
    """Rows of a CSV file, without what a clock said."""
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    if any(None in row or None in row.values() for row in rows):
        raise ValueError("a row is half there")
    return [{k: float(v) for k, v in row.items() if "second" not in k} for row in rows]


def without_seconds(value):
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if k != "seconds"}
    return value


def expect_same(place: Place, reference: Place) -> None:
    """Raises Broken when a finished run is not the one that nobody disturbed."""
    one, two = (files_of(each) for each in (place, reference))
    if one != two:
        raise Broken(f"more files: {sorted(one - two)}; missing: {sorted(two - one)}")
    for path in visible(reference.run / "checkpoints"):
        same_tensors(place.run / "checkpoints" / path.name / "state", path / "state")
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


def files_of(place: Place) -> set[str]:
    """What a run has left behind, wherever it may write."""
    return {str(path.relative_to(place.root)) for path in place.root.rglob("*")}


def same_tensors(prefix: Path, other: Path) -> None:
    one, two = tensors(prefix), tensors(other)
    differing = [key for key in two if key not in one or one[key].tobytes() != two[key].tobytes()]
    if differing or one.keys() != two.keys():
        raise Broken(f"{prefix} has other weights than {other}: {', '.join(differing)}")


# --- The kills -----------------------------------------------------------------------------------


@dataclasses.dataclass
class Found:
    """What came of the kills."""

    kills: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    leaving: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    runs: int = 0
    broken: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        counts = [(moment, self.kills[moment], self.leaving[moment]) for moment in self.kills]
        rows = [
            ("killed in", "kills", "a temporary file or folder lay there"),
            ("---", "---", "---"),
            *sorted(counts),
            ("all", self.kills.total(), self.leaving.total()),
        ]
        lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
        return "\n".join([*lines, f"{self.runs} runs; broken: {len(self.broken)}", *self.broken])


def plan(kind: Kind, most: int, chance: random.Random) -> list[str | None]:
    """Moments of a run's kills in their order, and None: now it is to end by itself."""
    early, late = (chance.sample(some, len(some)) for some in (kind.early, kind.late))
    return [*[*early, *late][:most], None]


class Kills:
    """Runs that are killed, under a folder `work`, beside the one that is not.

    Args:
      prepared: a data_dir with MNIST in it.
      kind: which recipe.
      chance: of the moments.
      found: where what is found is added.
    """

    def __init__(self, work: Path, prepared: Path, kind: Kind, chance: random.Random, found: Found):
        self.work, self.kind = work, kind
        self.chance = chance
        self.found = found
        small_mnist.write(work / "data", prepared)
        self.reference = self.place("reference")
        self.lasts, self.changes = self.measure()
        self.data_files = set((work / "data").rglob("*"))

    def place(self, name: str) -> Place:
        root = self.work / f"{self.kind.name}-{name}"
        return Place(root, self.work / "data", root / "tmp", self.kind.flags)

    def measure(self) -> tuple[dict[str, float], int]:
        """Makes the reference: how many seconds each moment lasts, and how many files change."""
        life, at = Life(self.reference, EPOCHS, STEPS, action="count"), {}
        for moment in (START, BUILDING, STEP, EVALUATION, REPORT, EXPORT, END):
            if not life.wait_for(moment):
                break
            at[moment] = time.monotonic() - life.began
        if life.end() != 0 or END not in at:
            raise Broken(life.said)
        at["over"] = time.monotonic() - life.began
        order = list(at)
        lasts = {one: at[after] - at[one] for one, after in itertools.pairwise(order)}
        lasts[EVALUATION] /= EPOCHS  # up to the report there is one in every epoch
        lasts[CHECKPOINT] = 0.03
        changes = self.reference.root / "changes"
        number = int(changes.read_text())
        changes.unlink()
        return lasts, number

    def start(self, place: Place, moment: str | None) -> Life:
        """One start of the command, ended; killed in `moment` if it came to that."""
        draw = self.chance.random()
        if moment == CHANGE:
            # Commands that go on with a run make fewer changes than the reference.
            life = Life(place, EPOCHS, STEPS, f"kill:{1 + int(draw * self.changes / 4)}")
        else:
            life = Life(place, EPOCHS, STEPS)
            if moment is not None and life.wait_for(moment):
                self.sleep(life, moment, draw * self.lasts[moment])
                life.kill()
        life.end()
        return life

    def sleep(self, life: Life, moment: str, seconds: float) -> None:
        """Sleeps, but not longer than a moment lasts: the machine may have less to do by now."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if life.reached(NEXT[moment]) if moment in NEXT else life.process.poll() is not None:
                return
            time.sleep(0.002)

    def run(self, moments: list[str | None]) -> None:
        """Begins runs and kills them in `moments`, until these are used up."""
        left, misses = collections.deque(moments), 0
        while left:
            self.found.runs += 1
            place = self.place(f"{self.found.runs:03d}")
            moment, broken = left[0], len(self.found.broken)
            status = -signal.SIGKILL
            while left and status == -signal.SIGKILL:
                moment = left.popleft()
                life = self.start(place, moment)
                status = life.process.returncode
                if status == -signal.SIGKILL and moment:
                    self.look(place, moment)
            if status != 0:
                self.found.broken.append(f"{place.root.name}: status {status}\n{life.said}")
            misses = misses + 1 if moment else 0
            if moment and misses < MAX_MISSES:
                left.appendleft(moment)
            if len(self.found.broken) == broken:
                self.look_at_the_end(place)
            print(
                f"run {self.found.runs} ended, {self.found.kills.total()} kills so far, "
                f"broken: {self.found.broken[broken:]}",
                flush=True,
            )

    def look(self, place: Place, moment: str) -> None:
        """After a kill."""
        left = leftovers(place.run, place.exports, place.data)  # `tmp` has AutoGraph's every time
        self.found.kills[moment] += 1
        self.found.leaving[moment] += bool(left)
        print(f"{place.root.name}: killed in: {moment}", *(path.name for path in left), flush=True)
        try:
            expect_whole(place)
        except Broken as broken:
            self.found.broken.append(f"{place.root.name}, killed in {moment}: {broken}")

    def look_at_the_end(self, place: Place) -> None:
        """After the end of a run: the same as the reference, which makes its folder superfluous."""
        try:
            expect_whole(place)
            expect_same(place, self.reference)
            more = set(place.data.rglob("*")) ^ self.data_files
            if more:
                raise Broken(f"other files beside the data: {sorted(map(str, more))}")
            shutil.rmtree(place.root)
        except Broken as broken:
            self.found.broken.append(f"{place.root.name}, ended: {broken}")


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
    # In turn, so that either has its share whenever this is stopped.
    killers = [Kills(work / kind.name, prepared, kind, chance, found) for kind in (JUDGED, PLAIN)]
    while found.kills.total() < arguments.kills and not found.broken:
        for killer in killers:
            left = arguments.kills - found.kills.total()
            killer.run(plan(killer.kind, left, chance))
            if arguments.output:
                arguments.output.write_text(f"{found}\n")
    print(found)
    if not found.broken:
        shutil.rmtree(work)
    return bool(found.broken)


if __name__ == "__main__":
    sys.exit(main())
