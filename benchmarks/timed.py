"""Training that runs for a given time, pauses, and continues."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np


class Closed(Exception):
    """Raised inside a training loop that must not continue."""


class TimedTraining:
    """A GAN in training, paused and continued by its caller.

    The training loop has a thread of its own, which sleeps between two calls of `train`. So one
    call of `fit` stays one call: no iterator is made again and no function is traced twice.

    Training time is wall time in `train`, from its first call: tracing, compiling and filling the
    input pipeline count. Building the networks, importing the framework and `sample` do not.
    """

    batch_size: int  # real images in an update of the discriminator
    generator: Any
    discriminator: Any

    def __init__(self):
        self.images_seen = 0
        self.seconds = 0.0
        self.step_seconds: list[float] = []  # the first one includes tracing and compiling
        self._until = 0.0  # of `seconds`
        self._last = 0.0  # reading of the clock after the last step
        self._thread: threading.Thread | None = None
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._ended = self._closing = False
        self._error: BaseException | None = None

    def run(self, tick: Callable[[int], None]) -> None:
        """Trains; calls `tick` after each step with its number of real images."""
        raise NotImplementedError

    def sample(self, num: int, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns uint8 (num, 28, 28, 1) and the labels (num,) of a conditional model or None."""
        raise NotImplementedError

    def parameters(self) -> tuple[int, int]:
        """Returns the sizes of generator and discriminator, with batch norm's statistics."""
        return self.generator.count_params(), self.discriminator.count_params()

    def train(self, seconds: float) -> tuple[int, float]:
        """Trains for `seconds`; returns images seen and seconds trained since the first call."""
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
        """Ends the training loop; `train` must not be called again."""
        self._closing = True
        self._go.release()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            self._wait()
            self.run(self._tick)
            self.seconds += time.perf_counter() - self._last
        except Closed:
            pass
        except BaseException as error:
            self._error = error
        self._ended = True
        self._paused.release()

    def _tick(self, images: int) -> None:
        now = time.perf_counter()
        self.step_seconds.append(now - self._last)
        self.seconds += now - self._last
        self._last = now
        self.images_seen += images
        if self.seconds >= self._until:
            self._paused.release()
            self._wait()

    def _wait(self) -> None:
        self._go.acquire()
        if self._closing:
            raise Closed
        self._last = time.perf_counter()
