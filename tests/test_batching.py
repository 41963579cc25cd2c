"""Batches of concurrent requests."""

import threading
from concurrent.futures import Future

import numpy as np
import pytest

from tfgan_mnist.exports.request_errors import RequestError
from tfgan_mnist.serving import batching


class Calls:
    """A model that doubles, whose calls wait until they may go on, and refuses negative rows."""

    def __init__(self):
        self.sizes, self.goes_on, self.started = [], threading.Event(), threading.Event()

    def __call__(self, inputs):
        self.started.set()
        assert self.goes_on.wait(20)
        self.sizes.append(len(inputs["x"]))
        if (inputs["x"] < 0).any():
            raise RequestError("INVALID_ARGUMENT", "negative")
        return {"y": 2 * inputs["x"]}


@pytest.fixture
def calls(monkeypatch):
    monkeypatch.setattr(batching, "THREADS", 1)
    return Calls()


def gather(calls, *requests, batches=True):
    """Futures of requests that were all submitted while the first of them ran."""
    batcher = batching.Batcher(calls, batches)
    found = []
    for values in requests:
        try:
            found.append(batcher.submit({"x": np.array(values, np.float32)}))
        except RequestError as error:
            found.append(Future())
            found[-1].set_exception(error)
        assert calls.started.wait(20)
    calls.goes_on.set()
    batcher.close()  # answers what waits
    return found


def test_requests_that_wait_run_together(calls, monkeypatch):
    monkeypatch.setattr(batching, "MAX_ROWS", 4)
    futures = gather(calls, [1], [2], [3, 4], [5, 6], [7], [[8]], [])
    answers = [future.result()["y"].tolist() for future in futures]
    assert answers == [[2], [4], [6, 8], [10, 12], [14], [[16]], []]
    # The first alone; then as many rows as fit, of whom they are; of one shape only.
    assert calls.sizes == [1, 4, 2, 1, 0]


def test_a_bad_request_fails_alone(calls):
    futures = gather(calls, [0], [1], [-1, 2], [3])
    assert [future.exception() is None for future in futures] == [True, True, False, True]
    assert futures[3].result()["y"] == [6]


def test_the_queue_is_bounded(calls, monkeypatch):
    monkeypatch.setattr(batching, "MAX_ROWS", 2)
    monkeypatch.setattr(batching, "MAX_WAITING_ROWS", 4)
    futures = gather(calls, [0], [1, 1], [2, 2], [3], [1, 2, 3])
    errors = [future.exception() for future in futures]
    assert errors[:3] == [None] * 3
    assert (errors[3].code, "queue" in errors[3].message) == ("UNAVAILABLE", True)
    assert "Task size 3 is larger than" in errors[4].message


def test_without_batches_every_request_runs_alone(calls):
    gather(calls, [1], [2], [3], batches=False)
    assert calls.sizes == [1, 1, 1]


def test_what_was_cancelled_does_not_run(calls):
    batcher = batching.Batcher(calls)
    batcher.submit({"x": np.float32([1])})
    calls.started.wait(20)
    assert batcher.submit({"x": np.float32([2])}).cancel()
    calls.goes_on.set()
    batcher.close()
    assert calls.sizes == [1]
