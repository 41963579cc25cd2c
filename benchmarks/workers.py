"""Processes that take turns on the machine, so that all are measured in the same minutes.

A worker is `python -m benchmarks.<command> --worker=NAME`. It sets itself up, says what it is, and
then works whenever it is told for how many seconds, while the others sleep. Both sides speak lines
of JSON; what libraries print goes to stderr.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any, NoReturn


class Turns:
    """A worker's side: `tick` is called after every step, and sleeps when a turn is over."""

    def __init__(self):
        self.channel = os.fdopen(os.dup(1), "w", buffering=1)
        sys.stdout.flush()
        os.dup2(2, 1)
        self.notes: dict[str, list[float]] = {}
        self.images, self.seconds, self.until = 0, 0.0, 0.0
        self.resumed = time.perf_counter()

    def begin(self, facts: dict[str, Any]) -> None:
        """Says what the worker is, and waits for its first turn."""
        self._say(facts)
        self._wait()

    def tick(self, images: int) -> None:
        """Counts a step."""
        self.images += images
        seconds = self.seconds + time.perf_counter() - self.resumed
        if seconds >= self.until:
            self._say({"images": self.images, "seconds": seconds, "notes": self.notes})
            self._wait()

    def stop_clock(self) -> None:
        """What follows is no step, up to `start_clock`."""
        now = time.perf_counter()
        self.seconds += now - self.resumed
        self.resumed = now

    def start_clock(self) -> float:
        """Steps follow again; how many seconds the clock stood."""
        now = time.perf_counter()
        stood, self.resumed = now - self.resumed, now
        return stood

    def note(self, key: str, value: float) -> None:
        """Adds a figure to what is told at the end of the turn."""
        self.notes.setdefault(key, []).append(value)

    def end(self) -> NoReturn:
        """Ends the process at once: the loop that is interrupted has nothing to save."""
        os._exit(0)

    def _say(self, what: dict) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kB on Linux
        self.channel.write(json.dumps(what | {"peak_mb": peak}) + "\n")

    def _wait(self) -> None:
        line = sys.stdin.readline()
        if not line:
            self.end()
        self.images, self.seconds, self.notes = 0, 0.0, {}
        self.until = float(line)
        self.resumed = time.perf_counter()


class Worker:
    """The other side: starts a worker and gives it turns.

    Args:
      command: module under `benchmarks`.
      name: of the worker.
      *flags: further flags, as they are.
      **options: further flags, by name.
    """

    def __init__(self, command: str, name: str, *flags: str, **options: str):
        self.name = name
        # A pipe that nobody reads would fill up.
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        flags = (*flags, *(f"--{key}={value}" for key, value in options.items()))
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{command}", f"--worker={name}", *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self.facts = self._hear()

    def turn(self, seconds: float) -> dict[str, Any]:
        """Lets it work; what it reports: images, seconds, notes, and its peak memory in MB."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return self._hear()

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def _hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.errors.seek(0)
            raise RuntimeError(f"{self.name} ended with {status}:\n{self.errors.read()}")
        return json.loads(line)
