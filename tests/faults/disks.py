"""Trains on a disk that is full at every kind of write in turn, and on folders that are read-only.

python -m tests.faults.disks --output=disks.md

Each time the command has to end with one message and exit status 2, and to leave nothing incomplete
and no temporary file. Then there is room again, and the same command goes on; the run has to equal
one that always had room. The disk is a tmpfs in a mount namespace of this command's own, made by
`unshare` of util-linux where the kernel lets users have namespaces.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.faults import kills, small_mnist
from tests.faults.kills import EPOCHS, EVALUATED, STEPS, Broken, Life, Place

# What a run writes, in this order, and a pattern of its temporary name.
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
    """The one line with the reason why the command ends, with exit status 2."""
    status = life.end()
    errors = [line for line in life.output.splitlines() if line.startswith("error: ")]
    if status != 2 or len(errors) != 1 or message not in errors[0] or "Traceback" in life.output:
        raise Broken(
            f"expected exit status 2 and {message!r}; received {status} and\n{life.output}"
        )
    if left := [*kills.leftovers(life.place.root), *kills.leftovers(life.place.data)]:
        raise Broken(f"left behind: {left}")
    kills.expect_whole(life.place)
    return errors[0]


def expect_end(life: Life, reference: Place | None = None) -> None:
    if life.end() != 0:
        raise Broken(life.output)
    kills.expect_whole(life.place)
    if reference:
        kills.expect_same(life.place, reference)


def try_all(work: Path, prepared: Path) -> list[tuple[str, str]]:
    """Pairs of a state of the disk and the command's message; raises Broken on other behaviour."""
    data, tmp = work / "data", work / "tmp"
    small_mnist.write(data, prepared)
    reference = Place(work / "reference", data, tmp, EVALUATED)
    expect_end(Life(reference, EPOCHS, STEPS))

    messages = []
    place = Place(work / "full", data, tmp, EVALUATED)
    mount(place.root, "-t", "tmpfs", "-o", "size=16m", "tmpfs")
    for name, pattern in WRITES.items():
        life = Life(place, EPOCHS, STEPS, f"fill:{pattern}")
        messages.append((f"full at: {name}", expect_refusal(life, "No space left on device")))
        print(*messages[-1], flush=True)
        (place.root / "filler").unlink()
    expect_end(Life(place, EPOCHS, STEPS), reference)

    place = Place(work / "read-only", data, tmp, EVALUATED)
    mount(place.root, "-t", "tmpfs", "-o", "size=16m", "tmpfs")
    message = "Read-only file system"
    mount(place.root, "-o", "remount,ro")
    messages.append(("read-only: new run", expect_refusal(Life(place, EPOCHS, STEPS), message)))
    mount(place.root, "-o", "remount,rw")
    mount(place.exports.parent, "-t", "tmpfs", "-o", "ro", "tmpfs")
    messages.append(("read-only: exports", expect_refusal(Life(place, EPOCHS, STEPS), message)))
    mount(place.root, "-o", "remount,ro")
    messages.append(
        ("read-only: run to resume", expect_refusal(Life(place, EPOCHS, STEPS), message))
    )
    mount(place.root, "-o", "remount,rw")
    mount(place.exports.parent, "-o", "remount,rw")
    # Prepared data in a read-only folder; the scores of real images cannot be kept there.
    sealed = Place(place.root, work / "sealed", tmp, EVALUATED)
    shutil.copytree(data / "mnist", sealed.data / "mnist")
    mount(sealed.data, "--bind", str(sealed.data))
    mount(sealed.data, "-o", "remount,bind,ro")
    expect_end(Life(sealed, EPOCHS, STEPS), reference)
    messages.append(("read-only: data, prepared", "trained, no message"))
    return messages


def main() -> int:
    """Turns flags into full disks; 1 when a check failed."""
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
    lines = ["| disk | message |", "| --- | --- |"]
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
