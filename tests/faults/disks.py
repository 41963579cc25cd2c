"""Trains on a disk that is full at every kind of write in turn, and on folders that are read-only.

python -m tests.faults.disks --output=disks.md

Each time the command has to end with one message and exit status 2, and to leave nothing that is
half there. Then there is room again, and the same command goes on; the run that comes of it is
compared with one that always had room. The disk is a tmpfs in a mount namespace of this command's
own, which `unshare` of util-linux makes where the kernel lets users have namespaces.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.faults import kills, small_mnist
from tests.faults.kills import EPOCHS, JUDGED, STEPS, Broken, Life, Place

# What is written, in the order in which a run comes to it, and how its temporary name is known.
WRITES = {
    "config.json": r"config\.json",
    "grid of samples": r"\.partial\.epoch_",
    "log.csv": r"\.partial\.log\.csv",
    "evaluations.csv": r"\.partial\.evaluations\.csv",
    "checkpoint": r"\.partial\.step_",
    "metrics.json": r"\.partial\.metrics\.json",
    "report.png": r"\.partial\.report\.png",
    "samples.gif": r"\.partial\.samples\.gif",
    "curves.png": r"\.partial\.curves\.png",
    "export": r"\.partial\.\d+$",
    "exported": r"\.partial\.exported",
}


def mount(folder: Path, *options: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", *options, str(folder)], check=True)


def expect_refusal(life: Life, message: str) -> str:
    """The one line in which the command says why it ends, with exit status 2."""
    status = life.end()
    errors = [line for line in life.said.splitlines() if line.startswith("error: ")]
    if status != 2 or len(errors) != 1 or message not in errors[0] or "Traceback" in life.said:
        raise Broken(f"expected exit status 2 and {message!r}; received {status} and\n{life.said}")
    if left := kills.leftovers(life.place.root, life.place.data):
        raise Broken(f"left behind: {left}")
    kills.expect_whole(life.place)
    return errors[0]


def expect_end(life: Life, reference: Place | None = None) -> None:
    if life.end() != 0:
        raise Broken(life.said)
    kills.expect_whole(life.place)
    if reference:
        kills.expect_same(life.place, reference)


def try_all(work: Path, prepared: Path) -> list[tuple[str, str]]:
    """What was done to the disk, and what the command said to it.

    Raises:
      Broken: the command did otherwise than it has to.
    """
    data, tmp = work / "data", work / "tmp"
    small_mnist.write(data, prepared)
    reference = Place(work / "reference", data, tmp, JUDGED.flags)
    expect_end(Life(reference, EPOCHS, STEPS))

    said = []
    place = Place(work / "full", data, tmp, JUDGED.flags)
    mount(place.root, "-t", "tmpfs", "-o", "size=16m", "tmpfs")
    for name, pattern in WRITES.items():
        life = Life(place, EPOCHS, STEPS, f"fill:{pattern}")
        said.append((f"full at: {name}", expect_refusal(life, "No space left on device")))
        print(*said[-1], flush=True)
        (place.root / "filler").unlink()
    expect_end(Life(place, EPOCHS, STEPS), reference)

    place = Place(work / "read-only", data, tmp, JUDGED.flags)
    mount(place.root, "-t", "tmpfs", "-o", "size=16m", "tmpfs")
    message = "Read-only file system"
    mount(place.root, "-o", "remount,ro")
    said.append(("read-only: new run", expect_refusal(Life(place, EPOCHS, STEPS), message)))
    mount(place.root, "-o", "remount,rw")
    mount(place.exports.parent, "-t", "tmpfs", "-o", "ro", "tmpfs")
    said.append(("read-only: exports", expect_refusal(Life(place, EPOCHS, STEPS), message)))
    mount(place.root, "-o", "remount,ro")
    said.append(("read-only: run to resume", expect_refusal(Life(place, EPOCHS, STEPS), message)))
    mount(place.root, "-o", "remount,rw")
    mount(place.exports.parent, "-o", "remount,rw")
    # Data that can be read but not written beside; what would be kept there is made anew.
    sealed = Place(place.root, work / "sealed", tmp, JUDGED.flags)
    shutil.copytree(data / "mnist", sealed.data / "mnist")
    mount(sealed.data, "--bind", str(sealed.data))
    mount(sealed.data, "-o", "remount,bind,ro")
    expect_end(Life(sealed, EPOCHS, STEPS), reference)
    said.append(("read-only: data, prepared", "trained, nothing said"))
    return said


def main() -> int:
    """Turns flags into full disks; 1 when anything was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.disks", description=__doc__)
    parser.add_argument("--data_dir", default="", help="where MNIST is, or is to be prepared")
    parser.add_argument("--output", type=Path, help="file for the table")
    parser.add_argument("--inside", action="store_true", help="the namespace is there already")
    arguments = parser.parse_args()
    if not arguments.inside:
        command = [sys.executable, "-m", "tests.faults.disks", "--inside", *sys.argv[1:]]
        os.execvp("unshare", ["unshare", "--map-root-user", "--mount", *command])

    work = Path(tempfile.mkdtemp(prefix="disks-"))
    try:
        rows = try_all(work, kills.prepared_mnist(arguments.data_dir))
    except Broken as broken:
        print(f"broken: {broken}")
        return 1
    lines = ["| disk | what the command said |", "| --- | --- |"]
    lines += [f"| {name} | {words.replace(str(work), '')} |" for name, words in rows]
    print(*lines, sep="\n")
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n")
    for folder in ("sealed", "read-only/exports", "read-only", "full"):
        subprocess.run(["umount", str(work / folder)], check=True)
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
