"""Runs the train command, and kills it before a certain change of files.

python -m tests.faults.audited ACTION FOLDER [--flag=value ...]

A change is Python's under FOLDER: a file is opened to be written, renamed or removed, or a folder
is made or removed. ACTION is one of

count           the number of changes goes to FOLDER/changes
kill:17         SIGKILL before the 17th
kill:REGEX      SIGKILL before the first of a path in which REGEX is found
fill:REGEX      likewise, but what is left of FOLDER's file system is filled by FOLDER/filler
"""

import atexit
import contextlib
import os
import re
import runpy
import signal
import sys
from pathlib import Path

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")


def changed(event: str, arguments: tuple) -> str | None:
    """The path that an audited event is about to change, if it is one that changes files."""
    if event == "open":
        path, _, how = arguments
        if isinstance(path, int) or not how & (os.O_WRONLY | os.O_RDWR):
            return None
        return os.fsdecode(path)
    return os.fsdecode(arguments[0]) if event in CHANGES else None


def fill(path: Path) -> None:
    """Fills a file system, but for the rest of blocks in use."""
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


def main() -> None:
    """Runs `python -m tfgan_mnist.train` with the flags after the first two arguments."""
    action, _, when = sys.argv[1].partition(":")
    folder = sys.argv[2]
    count, done = 0, False

    def audit(event: str, arguments: tuple) -> None:
        nonlocal count, done
        path = changed(event, arguments)
        # `shutil.rmtree` opens a folder, and its events name files without their folder.
        if done or path is None or (os.path.isabs(path) and not path.startswith(folder)):
            return
        count += 1
        if action != "count" and (count == int(when) if when.isdigit() else re.search(when, path)):
            done = True
            if action == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            fill(Path(folder, "filler"))

    if action == "count":
        atexit.register(lambda: Path(folder, "changes").write_text(str(count)))
    sys.argv[1:] = sys.argv[3:]
    sys.addaudithook(audit)
    runpy.run_module("tfgan_mnist.train", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
