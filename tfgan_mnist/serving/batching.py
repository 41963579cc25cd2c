"""Concurrent requests run together: one batch costs little more than one request.

TensorFlow's own (`tf.nondifferentiable_batch_function`) would be a quarter of these lines, but with
it one wrong label failed up to six of 15 neighbours. It was not faster: 8 threads with 64 rows each
received 2,256 images/s, and 3,087 from this one (`sample` of cdcgan in one process on 2 cores of an
AMD EPYC with AVX-512, with other work beside it, 2026-11-30).
"""

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
    kind: object  # tasks of equal kinds can share a batch
    future: Future
    submitted: float  # time.monotonic()


class Batcher:
    """Runs requests of one signature; those that wait at the same time run together.

    Args:
      run: (inputs, names of outputs) -> outputs. Several threads call it at a time.
      bounds: of batches and of the queue; None: every request runs alone.
      name: of the threads.
    """

    def __init__(self, run: Run, bounds: Bounds | None, name: str):
        self._run = run
        self._batches = bounds is not None
        self._bounds = bounds or Bounds()
        self._waiting: collections.deque[_Task] = collections.deque()
        self._closing = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True)
            for i in range(self._bounds.num_batch_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, inputs: Tensors, outputs: tuple[str, ...]) -> Future:
        """A future of the outputs by name. A request cancelled before its turn never runs.

        Raises:
          RequestError: too many rows, or too many requests wait.
        """
        limit = self._bounds.max_batch_size
        rows = _rows(inputs)
        if rows is not None and rows > limit:
            raise invalid(f"Task size {rows} is larger than maximum input batch size {limit}")
        kind: object = object()  # equal to no other
        if self._batches and rows:
            kind = (outputs, tuple((name, inputs[name].shape[1:]) for name in sorted(inputs)))
        task = _Task(inputs, outputs, max(rows or 0, 1), kind, Future(), time.monotonic())
        with self._changed:
            if self._closing:
                raise RequestError("UNAVAILABLE", "The model is being unloaded")
            if self._rows_waiting() + task.rows > limit * self._bounds.max_enqueued_batches:
                message = "The batch scheduling queue to which this task was submitted is full"
                raise RequestError("UNAVAILABLE", message)
            self._waiting.append(task)
            self._changed.notify()
        return task.future

    def close(self) -> None:
        """Returns when all submitted requests have run."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _rows_waiting(self) -> int:
        return sum(task.rows for task in self._waiting)

    def _work(self) -> None:
        while batch := self._next_batch():
            tasks = [task for task in batch if task.future.set_running_or_notify_cancel()]
            if tasks:
                self._execute(tasks)

    def _next_batch(self) -> list[_Task]:
        """The first waiting task and those that fit beside it; empty after `close`."""
        limit = self._bounds.max_batch_size
        with self._changed:
            while not self._closing:
                seconds = None  # until something is submitted
                if self._waiting:
                    start = self._waiting[0].submitted + self._bounds.batch_timeout_micros / 1e6
                    seconds = start - time.monotonic()
                    if seconds <= 0 or self._rows_waiting() >= limit:
                        break
                self._changed.wait(seconds)
            batch: list[_Task] = []
            rows, left = 0, collections.deque[_Task]()
            for task in self._waiting:
                if not batch or (task.kind == batch[0].kind and rows + task.rows <= limit):
                    batch.append(task)
                    rows += task.rows
                else:
                    left.append(task)
            self._waiting = left
            if left:
                self._changed.notify()
            return batch

    def _execute(self, tasks: list[_Task]) -> None:
        """Runs a batch; if it fails, each of its requests alone, as only one may be wrong."""
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
        size = next((size for size in sizes if size >= total), total)
        # The padding repeats the first row, which has the right type.
        inputs = {}
        for name in first.inputs:
            arrays = [task.inputs[name] for task in tasks]
            inputs[name] = np.concatenate(arrays + [arrays[0][:1]] * (size - total))
        outputs = self._run(inputs, first.outputs)
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != size:
                message = f"Batched output tensor {name} does not equal the sum of the batch sizes"
                raise RequestError("FAILED_PRECONDITION", message)
        answers, start = [], 0
        for task in tasks:
            end = start + task.rows
            answers.append({name: array[start:end] for name, array in outputs.items()})
            start = end
        return answers


def _rows(inputs: Tensors) -> int | None:
    """The size of dimension 0, or None where inputs do not share one."""
    sizes = {array.shape[0] if array.ndim else None for array in inputs.values()}
    return sizes.pop() if len(sizes) == 1 else None
