"""Training that is interrupted at given times and goes on as if nothing had happened."""

import threading
import time
from collections.abc import Callable


class Interrupted(Exception):
    """Raised inside a loop that is not to go on."""


class Paced:
    """A training loop that runs for some seconds at a time.

    The loop has a thread of its own, which sleeps between two calls of `train`. So one call of
    `fit` is what it is for its users, from the first step to the last: no iterator is made anew, no
    function traced twice, and no order of data begun again.
    """

    def __init__(self):
        self.images_seen = 0
        self.seconds = 0.0
        self._until = 0.0  # of `seconds`
        self._resumed = 0.0  # reading of the clock
        self._thread: threading.Thread | None = None
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._ended = self._closing = False
        self._error: BaseException | None = None

    def run(self, tick: Callable[[int], None]) -> None:
        """Trains. To be overridden; calls `tick` after every step with its number of images."""
        raise NotImplementedError

    def train(self, seconds: float) -> tuple[int, float]:
        """See `Contestant`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        if not self._ended:
            self._until = self.seconds + seconds
            self._go.release()
            self._paused.acquire()
        if self._error is not None:
            raise self._error
        return self.images_seen, self.seconds

    def close(self) -> None:
        """See `Contestant`."""
        self._closing = True
        self._go.release()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            self._wait()
            self.run(self._tick)
            self._stop_clock()
        except Interrupted:
            pass
        except BaseException as error:
            self._error = error
        self._ended = True
        self._paused.release()

    def _tick(self, images: int) -> None:
        self.images_seen += images
        if self.seconds + time.perf_counter() - self._resumed >= self._until:
            self._stop_clock()
            self._paused.release()
            self._wait()

    def _wait(self) -> None:
        self._go.acquire()
        if self._closing:
            raise Interrupted
        self._resumed = time.perf_counter()

    def _stop_clock(self) -> None:
        self.seconds += time.perf_counter() - self._resumed
