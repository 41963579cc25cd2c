"""Trains on a disk that is full at every kind of write in turn, and on folders that are read-only.

python -m tests.faults.disks

Each time the command has to end with one message and exit status 2, and to leave nothing incomplete
and no temporary file. Then there is room again, and the same command goes on; the run has to equal
one that always had room. The disk is a tmpfs in a mount namespace of this command's own, made by
`unshare` of util-linux where the kernel lets users have namespaces.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.faults import kills
from tests.faults.kills import EVALUATED, LIFE_SECONDS, Broken, Place

# What a run writes, in this order, and a pattern of its temporary name.
WRITES = {
    "decoded pictures": r"\.partial\..*train",
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


def expect_refusal(place: Place, message: str, action: str = "") -> str:
    """The one line with the reason why the command ends, with exit status 2."""
    status, output = place.start(action).wait(LIFE_SECONDS), place.output()
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    if status != 2 or len(errors) != 1 or message not in errors[0] or "Traceback" in output:
        raise Broken(f"expected exit status 2 and {message!r}; received {status} and\n{output}")
    if left := kills.leftovers(place.root):
        raise Broken(f"left behind: {left}")
    kills.expect_whole(place)
    return errors[0]


def expect_end(place: Place, reference: Place | None = None) -> None:
    """Raises Broken when the command fails, or its run does not equal the reference."""
    if place.start().wait(LIFE_SECONDS) != 0:
        raise Broken(place.output())
    kills.expect_whole(place)
    if reference:
        kills.expect_same(place, reference)


def try_all(work: Path) -> list[tuple[str, str]]:
    """Pairs of a state of the disk and the command's message; raises Broken on other behaviour."""
    images = kills.write_noise(work)
    reference = Place(work / "reference", images, EVALUATED)
    expect_end(reference)

    messages = []
    place = Place(work / "full", images, EVALUATED)
    mount(place.root, "-t", "tmpfs", "-o", "size=16m", "tmpfs")
    for name, pattern in WRITES.items():
        message = expect_refusal(place, "No space left on device", f"fill:{pattern}")
        messages.append((f"full at: {name}", message))
        print(*messages[-1], flush=True)
        (place.root / "filler").unlink()
    expect_end(place, reference)

    place = Place(work / "read-only", images, EVALUATED)
    mount(place.root, "-t", "tmpfs", "-o", "size=16m", "tmpfs")
    message = "Read-only file system"
    mount(place.root, "-o", "remount,ro")
    messages.append(("read-only: new run", expect_refusal(place, message)))
    mount(place.root, "-o", "remount,rw")
    mount(place.exports.parent, "-t", "tmpfs", "-o", "ro", "tmpfs")
    messages.append(("read-only: exports", expect_refusal(place, message)))
    mount(place.root, "-o", "remount,ro")
    messages.append(("read-only: run to resume", expect_refusal(place, message)))
    mount(place.root, "-o", "remount,rw")
    mount(place.exports.parent, "-o", "remount,rw")
    expect_end(place, reference)
    return messages


def main() -> int:
    """Fills disks; 1 when a check failed."""
    if sys.argv[1:] != ["inside"]:  # the namespace
        command = [sys.executable, "-m", "tests.faults.disks", "inside"]
        os.execvp("unshare", ["unshare", "--map-root-user", "--mount", *command])
    work = Path(tempfile.mkdtemp(prefix="disks-"))
    try:
        rows = try_all(work)
    except Broken as broken:
        print(f"broken: {broken}")
        return 1
    print("| disk | message |", "| --- | --- |", sep="\n")
    print(*(f"| {name} | {words.replace(str(work), '')} |" for name, words in rows), sep="\n")
    for folder in ("read-only/exports", "read-only", "full"):
        subprocess.run(["umount", str(work / folder)], check=True)
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
