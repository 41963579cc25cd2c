"""Kills the train command again and again, and checks what is left and what comes of the run.

python -m tests.faults.kills --kills=100 --seed=0

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
import time
from pathlib import Path

import numpy as np

EPOCHS, STEPS = 4, 20
MODEL = ["--model=gan", "--g_hidden_widths=8", "--d_hidden_widths=8", "--latent_dim=4"]
# Everything that has a state: dropout's seeds, the generator's average, both optimizers.
RECIPE = [*MODEL, "--d_dropout=0.3", "--ema=0.9", "--batch_size=8"]
EVALUATED = "--epochs_per_evaluation=1"
PLAIN = "--epochs_per_evaluation=0"  # takes half the time
NUM_IMAGES = 1200  # enough for evaluations, by random features
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
    images: Path  # an .npz file
    extra: str = PLAIN  # a flag over the recipe's

    @property
    def tmp(self) -> Path:
        return self.root.with_name(f"{self.root.name}-tmp")

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def exports(self) -> Path:
        return self.root / "exports" / "gan"

    def start(self, action: str = "") -> subprocess.Popen:
        """The command in a process of its own; `action` is one of `audited`."""
        for folder in (self.root, self.tmp):
            folder.mkdir(parents=True, exist_ok=True)
        sizes = [f"--epochs={EPOCHS}", f"--steps_per_epoch={STEPS}", self.extra]
        data = [f"--dataset={self.images}", f"--data_dir={self.root / 'data'}"]
        places = [f"--run={self.run}", f"--export_root={self.exports.parent}"]
        flags = [*RECIPE, *sizes, *data, *places]
        program = (
            ["tests.faults.audited", action, str(self.root)] if action else ["tfgan_mnist.train"]
        )
        with open(self.tmp / "output", "w") as output:
            return subprocess.Popen(
                [sys.executable, "-m", *program, *flags],
                env=os.environ | {"TMPDIR": str(self.tmp)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def output(self) -> str:
        """What the last command printed."""
        return (self.tmp / "output").read_text()


def write_noise(folder: Path) -> Path:
    """Writes images to train on."""
    noise = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 8, 8, 1), np.uint8)
    np.savez(folder / "noise.npz", images=noise)
    return folder / "noise.npz"


# --- Checks ---------------------------------------------------------------------------------------


def tensors(prefix: Path) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint, whose checksums TensorFlow compares."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(prefix))
    values = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    return {name: np.asarray(value) for name, value in values.items() if "GRAPH" not in name}


def visible(folder: Path, pattern: str = "*") -> list[Path]:
    """Paths without a hidden part."""
    paths = sorted(folder.glob(pattern))
    return [p for p in paths if not any(n.startswith(".") for n in p.relative_to(folder).parts)]


def leftovers(folder: Path) -> list[Path]:
    """Temporary files and folders that a killed command has left."""
    return list(folder.rglob(".*.partial.*"))


def expect_whole(place: Place) -> None:
    """Raises an error when anything with a final name is incomplete."""
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
    for path in visible(place.root, "**/*.json"):
        json.loads(path.read_text())
    for path in [*visible(place.run), *visible(place.run / "samples")]:
        if path.suffix in (".png", ".gif"):
            Image.open(path).verify()
        elif path.suffix == ".csv":
            table(path)


def table(path: Path) -> list[dict[str, float]]:
    """Rows of a CSV file, without measured times."""
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    if any(None in row or None in row.values() for row in rows):
        raise Broken(f"{path} is incomplete")
    return [{k: float(v) for k, v in row.items() if "second" not in k} for row in rows]


def without_seconds(value):
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if k != "seconds"}
    return value


def files_of(place: Place) -> set[str]:
    """All files of the run, and the visible ones of its exports."""
    paths = [*place.run.rglob("*"), *visible(place.exports, "**/*")]
    return {str(path.relative_to(place.root)) for path in paths}


def content(path: Path):
    """What two equal runs have in common in a file; None where that is nothing."""
    if path.name.startswith("step_"):
        return {name: value.tobytes() for name, value in tensors(path / "state").items()}
    if path.suffix == ".csv":
        return table(path)
    if path.name == "metrics.json":
        return without_seconds(json.loads(path.read_text()))
    if path.parent.name == "samples" or path.suffix == ".gif":
        return path.read_bytes()
    return None


def expect_same(place: Place, reference: Place) -> None:
    """Raises Broken when a finished run does not equal the reference."""
    one, two = (files_of(each) for each in (place, reference))
    if one != two:
        raise Broken(f"more files: {sorted(one - two)}; missing: {sorted(two - one)}")
    for path in reference.run.rglob("*"):
        other = place.run / path.relative_to(reference.run)
        if content(path) != content(other):
            raise Broken(f"{other} differs from {path}")
    # Keras stores an export's variables in the order of their places in memory.
    exported = [tensors(each.exports / "1/variables/variables") for each in (place, reference)]
    one, two = (sorted(value.tobytes() for value in each.values()) for each in exported)
    if one != two:
        raise Broken(f"{place.exports} has other weights than {reference.exports}")


# --- The kills ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Found:
    """The results of the kills."""

    kills: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    runs: int = 0
    broken: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        kills = [f"{self.kills[moment]} kills {moment}" for moment in MOMENTS]
        return "\n".join([*kills, f"{self.runs} runs; broken: {len(self.broken)}", *self.broken])


class Kills:
    """Runs of one recipe under a folder `work`, which are killed and compared with the reference.

    Args:
      work: a folder of their own.
      extra: a flag over `RECIPE`.
      chance: draws the moments.
      found: the results are added to it.
    """

    def __init__(self, work: Path, extra: str, chance: random.Random, found: Found):
        self.work, self.extra, self.chance, self.found = work, extra, chance, found
        work.mkdir(exist_ok=True)
        self.images = write_noise(work)
        self.reference = Place(work / "reference", self.images, extra)
        began = time.monotonic()
        if self.reference.start("count").wait(LIFE_SECONDS) != 0:
            raise Broken(self.reference.output())
        self.seconds = time.monotonic() - began
        self.changes = int((self.reference.root / "changes").read_text())

    def kill(self, place: Place, moment: str) -> int:
        """Starts the command, kills it in `moment` unless it ended before; its exit status."""
        draw = self.chance.random()
        if moment == CHANGE:
            # Commands that go on with a run make fewer changes than the reference.
            return place.start(f"kill:{1 + int(draw * self.changes / 2)}").wait(LIFE_SECONDS)
        process = place.start()
        time.sleep(draw * self.seconds)
        if moment == WRITE:
            known = set(leftovers(place.root))
            while process.poll() is None and not set(leftovers(place.root)) - known:
                time.sleep(0.002)
            time.sleep(self.chance.random() * WRITE_SECONDS)
        process.kill()
        return process.wait()

    def run(self, moments: list[str]) -> None:
        """Begins a run, kills it in these moments unless it ends before, and lets it end."""
        self.found.runs += 1
        place = Place(self.work / f"{self.found.runs:03d}", self.images, self.extra)
        name, broken = place.root.name, len(self.found.broken)
        for moment in moments:
            if (status := self.kill(place, moment)) != -signal.SIGKILL:
                break
            self.found.kills[moment] += 1
            left = [path.name for path in leftovers(place.root)]
            print(f"{name}: killed {moment}", *left, flush=True)
            self.check(f"{name}, killed {moment}", lambda: expect_whole(place))
        else:
            status = place.start().wait(LIFE_SECONDS)
        if status != 0:
            self.found.broken.append(f"{name}: {status}\n{place.output()}")
        self.check(f"{name}, ended", lambda: expect_same(place, self.reference))
        if len(self.found.broken) == broken:
            shutil.rmtree(place.root)
        print(f"{name} ended; broken: {self.found.broken[broken:]}", flush=True)

    def check(self, name: str, check) -> None:
        """Calls a check, and keeps what it raises."""
        try:
            check()
        except Exception as error:  # half a file raises errors of many types
            self.found.broken.append(f"{name}: {error!r}")


def main() -> int:
    """Turns flags into kills; 1 when anything was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    work = Path(tempfile.mkdtemp(prefix="kills-"))
    found, chance = Found(), random.Random(arguments.seed)
    killers = [
        Kills(work / "evaluated", EVALUATED, chance, found),
        Kills(work / "plain", PLAIN, chance, found),
    ]
    while (left := arguments.kills - found.kills.total()) > 0 and not found.broken:
        killer = killers[found.runs % len(killers)]
        killer.run([chance.choice(MOMENTS) for _ in range(min(left, 10))])
    print(found)
    if not found.broken:
        shutil.rmtree(work)
    return bool(found.broken)


if __name__ == "__main__":
    sys.exit(main())
