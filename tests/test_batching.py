"""Batches of concurrent requests."""

import base64
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from serving import predict, start

from tfgan_mnist.exports.request_errors import RequestError
from tfgan_mnist.serving import batching


@pytest.fixture(scope="module")
def server(exports):
    with start(model_base_path=str(exports)) as running:
        yield running


class Calls:
    """A model that doubles, whose calls wait until they may go on, and refuses negative rows."""

    def __init__(self):
        self.sizes, self.goes_on, self.started = [], threading.Event(), threading.Event()

    def __call__(self, inputs, outputs):
        self.started.set()
        assert self.goes_on.wait(20)
        self.sizes.append(len(inputs["x"]))
        if (inputs["x"] < 0).any():
            raise RequestError("INVALID_ARGUMENT", "negative")
        return dict.fromkeys(outputs, 2 * inputs["x"])


@pytest.fixture
def calls():
    return Calls()


def gather(calls, *requests, batches=True):
    """Futures of requests that were all submitted while the first of them ran."""
    batcher = batching.Batcher(calls, batches, threads=1)
    found = []
    for values in requests:
        try:
            found.append(batcher.submit({"x": np.array(values, np.float32)}, ("y",)))
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
    batcher = batching.Batcher(calls, threads=1)
    batcher.submit({"x": np.float32([1])}, ("y",))
    calls.started.wait(20)
    assert batcher.submit({"x": np.float32([2])}, ("y",)).cancel()
    calls.goes_on.set()
    batcher.close()
    assert calls.sizes == [1]
    with pytest.raises(RequestError, match="being unloaded"):
        batcher.submit({"x": np.float32([2])}, ("y",))


def test_concurrent_requests_get_their_own_answers(server):
    def work(number):
        bad = number % 5 == 0
        row = {"seed": number, "labels": 99 if bad else number % 10}
        status, answer = predict(server, "cdcgan", {"signature_name": "png", "instances": [row]})
        return status, answer.get("predictions")

    numbers = range(60)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(work, numbers))
    assert [status for status, _ in answers] == [400 if n % 5 == 0 else 200 for n in numbers]
    images = [
        np.asarray(tf.io.decode_png(base64.b64decode(answer[0]["b64"])), int)
        for status, answer in answers
        if status == 200
    ]
    alone = [work(number)[1] for number in numbers if number % 5]
    for image, answer in zip(images, alone):
        expected = np.asarray(tf.io.decode_png(base64.b64decode(answer[0]["b64"])), int)
        assert abs(image - expected).max() <= 1
