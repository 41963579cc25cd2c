"""Requests that arrive together run together: one batch costs little more than one request."""

import collections
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np

from tfgan_mnist.exports.request_errors import RequestError, invalid
from tfgan_mnist.serving.settings import Bounds

Tensors = dict[str, np.ndarray]
Run = Callable[[Tensors, tuple[str, ...]], Tensors]


class _Task(NamedTuple):
    inputs: Tensors
    outputs: tuple[str, ...]
    rows: int
    kind: object  # tasks with equal kinds can share a batch
    future: Future
    submitted: float  # time.monotonic()


class Batcher:
    """Runs requests of one signature, those that wait at the same time together.

    Args:
      run: (inputs, names of outputs) -> outputs. It is called by several threads at a time.
      bounds: of batches and of the queue; None: every request runs alone, of as many rows at most.
      name: of the threads.
    """

    def __init__(self, run: Run, bounds: Bounds | None, name: str):
        self._run = run
        self._batches = bounds is not None
        self._bounds = bounds or Bounds()
        self._waiting: collections.deque[_Task] = collections.deque()
        self._rows_waiting = 0
        self._closing = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True)
            for i in range(self._bounds.num_batch_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, inputs: Tensors, outputs: tuple[str, ...]) -> Future:
        """A future of the outputs by name. A request that is cancelled before its turn never runs.

        Raises:
          RequestError: too many rows, or too many requests wait.
        """
        limit = self._bounds.max_batch_size
        rows = _rows(inputs)
        if rows is not None and rows > limit:
            raise invalid(f"Task size {rows} is larger than maximum input batch size {limit}")
        kind: object = object()  # like no other
        if self._batches and rows:
            kind = (outputs, tuple((name, inputs[name].shape[1:]) for name in sorted(inputs)))
        task = _Task(inputs, outputs, max(rows or 0, 1), kind, Future(), time.monotonic())
        with self._changed:
            if self._closing:
                raise RequestError("UNAVAILABLE", "The model is being unloaded")
            if self._rows_waiting + task.rows > limit * self._bounds.max_enqueued_batches:
                raise RequestError(
                    "UNAVAILABLE",
                    "The batch scheduling queue to which this task was submitted is full",
                )
            self._waiting.append(task)
            self._rows_waiting += task.rows
            self._changed.notify()
        return task.future

    def close(self) -> None:
        """Ends when all that was submitted has run."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            tasks = [task for task in batch if task.future.set_running_or_notify_cancel()]
            if tasks:
                self._execute(tasks)

    def _next_batch(self) -> list[_Task]:
        """The first task that waits and those that can join it; empty when there is no more."""
        with self._changed:
            while True:
                while not self._waiting:
                    if self._closing:
                        return []
                    self._changed.wait()
                first = self._waiting[0]
                starts = first.submitted + self._bounds.batch_timeout_micros / 1e6
                seconds = starts - time.monotonic()
                full = self._rows_waiting >= self._bounds.max_batch_size
                if seconds <= 0 or full or self._closing:
                    break
                self._changed.wait(seconds)
            batch: list[_Task] = []
            rows, left = 0, collections.deque[_Task]()
            while self._waiting:
                task = self._waiting.popleft()
                fits = rows + task.rows <= self._bounds.max_batch_size
                if not batch or (task.kind == first.kind and fits):
                    batch.append(task)
                    rows += task.rows
                else:
                    left.append(task)
            self._waiting = left
            self._rows_waiting -= rows
            if left:
                self._changed.notify()
            return batch

    def _execute(self, tasks: list[_Task]) -> None:
        """Runs a batch; when it fails, each request of it alone, as only one may be at fault."""
        try:
            answers = self._run_together(tasks)
        except Exception as error:
            if len(tasks) == 1:
                tasks[0].future.set_exception(error)
                return
            for task in tasks:
                self._execute([task])
            return
        for task, answer in zip(tasks, answers):
            task.future.set_result(answer)

    def _run_together(self, tasks: list[_Task]) -> list[Tensors]:
        first = tasks[0]
        sizes = self._bounds.allowed_batch_sizes
        if len(tasks) == 1 and not (sizes and _rows(first.inputs)):
            return [self._run(first.inputs, first.outputs)]
        total = sum(task.rows for task in tasks)
        padding = next((size for size in sizes if size >= total), total) - total
        # The first row again, as it is known to be of the right kind.
        inputs = {
            name: np.concatenate(
                [task.inputs[name] for task in tasks] + [first.inputs[name][:1]] * padding
            )
            for name in first.inputs
        }
        outputs = self._run(inputs, first.outputs)
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != total + padding:
                raise RequestError(
                    "FAILED_PRECONDITION",
                    f"Batched output tensor {name} does not equal the sum of the batch sizes",
                )
        answers, start = [], 0
        for task in tasks:
            rows = slice(start, start + task.rows)
            answers.append({name: array[rows] for name, array in outputs.items()})
            start += task.rows
        return answers


def _rows(inputs: Tensors) -> int | None:
    """The size of dimension 0, or None where inputs do not share one."""
    sizes = {array.shape[0] if array.ndim else None for array in inputs.values()}
    return sizes.pop() if len(sizes) == 1 else None
