"""Concurrent requests run together: one batch costs little more than one request.

TensorFlow's own (`tf.nondifferentiable_batch_function`) would be half of these lines, but with it
one wrong label failed up to six of 15 neighbours. It was not faster: 8 threads with 64 rows each
received 2,256 images/s, and 3,087 from this one (`sample` of cdcgan in one process on 2 cores of an
AMD EPYC with AVX-512, with other work beside it, 2026-11-30).
"""

import collections
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from tfgan_mnist.exports.request_errors import RequestError, invalid

Tensors = dict[str, np.ndarray]

MAX_ROWS = 256  # of a batch; a request with more is refused, without batches too
MAX_WAITING_ROWS = 16 * MAX_ROWS  # when as many wait, requests are refused
THREADS = 2  # batches of one signature that run at a time


class _Task(NamedTuple):
    inputs: Tensors
    rows: int
    kind: object  # tasks of equal kinds can share a batch
    future: Future


class Batcher:
    """Runs requests of one signature; those that wait at the same time run together.

    Args:
      run: inputs -> outputs. Several threads call it at a time.
      batches: if false, every request runs alone.
    """

    def __init__(self, run: Callable, batches: bool = True):
        self._run = run
        self._batches = batches
        self._waiting: collections.deque[_Task] = collections.deque()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(THREADS, "batches")

    def submit(self, inputs: Tensors) -> Future:
        """A future of the outputs by name. A request cancelled before its turn never runs.

        Raises:
          RequestError: too many rows, or too many requests wait.
        """
        sizes = {array.shape[0] if array.ndim else None for array in inputs.values()}
        rows = sizes.pop() if len(sizes) == 1 else None
        if rows and rows > MAX_ROWS:
            raise invalid(f"Task size {rows} is larger than maximum input batch size {MAX_ROWS}")
        kind: object = object()  # equal to no other
        if self._batches and rows:
            kind = [inputs[name].shape[1:] for name in sorted(inputs)]
        task = _Task(inputs, rows or 1, kind, Future())
        with self._lock:
            if sum(each.rows for each in self._waiting) + task.rows > MAX_WAITING_ROWS:
                message = "The batch scheduling queue to which this task was submitted is full"
                raise RequestError("UNAVAILABLE", message)
            self._waiting.append(task)
        self._pool.submit(self._work)
        return task.future

    def close(self) -> None:
        """Returns when all submitted requests have run."""
        self._pool.shutdown()

    def _work(self) -> None:
        """Runs the first waiting task and those that fit beside it, if none has done so."""
        batch: list[_Task] = []
        with self._lock:
            left, rows = collections.deque[_Task](), 0
            for task in self._waiting:
                if not batch or (task.kind == batch[0].kind and rows + task.rows <= MAX_ROWS):
                    batch.append(task)
                    rows += task.rows
                else:
                    left.append(task)
            self._waiting = left
        if batch := [task for task in batch if task.future.set_running_or_notify_cancel()]:
            self._execute(batch)

    def _execute(self, tasks: list[_Task]) -> None:
        """Runs a batch; if it fails, each of its requests alone, as only one may be wrong."""
        try:
            answers = self._run_together(tasks)
        except Exception as error:
            if len(tasks) == 1:
                tasks[0].future.set_exception(error)
            else:
                for task in tasks:
                    self._execute([task])
            return
        for task, answer in zip(tasks, answers):
            task.future.set_result(answer)

    def _run_together(self, tasks: list[_Task]) -> list[Tensors]:
        first = tasks[0]
        if len(tasks) == 1:
            return [self._run(first.inputs)]
        inputs = {name: np.concatenate([t.inputs[name] for t in tasks]) for name in first.inputs}
        outputs = self._run(inputs)
        ends = np.cumsum([task.rows for task in tasks])
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != ends[-1]:
                message = f"Batched output tensor {name} does not equal the sum of the batch sizes"
                raise RequestError("FAILED_PRECONDITION", message)
        parts = {name: np.split(array, ends[:-1]) for name, array in outputs.items()}
        return [dict(zip(parts, rows)) for rows in zip(*parts.values())]
