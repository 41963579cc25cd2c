"""Counts and latencies of requests in Prometheus' text format, under TensorFlow Serving's names."""

import collections
import contextlib
import functools
import math
import threading
import time
from collections.abc import Iterator

from tfgan_mnist.exports.request_errors import RequestError

METRICS_PATH = "/monitoring/prometheus/metrics"
# Microseconds, as in TensorFlow Serving's servables/tensorflow/util.cc.
LATENCY_LIMITS = (*(10 * 1.8**i for i in range(33)), math.inf)
PREFIX = ":tensorflow:serving:"
TYPES = {"request_count": "counter", "request_latency": "histogram", "runtime_latency": "histogram"}


class Metrics:
    """Metrics since the start. Several threads may record at a time."""

    def __init__(self):
        self._lock = threading.Lock()
        # Metric -> sample, as it is written -> value.
        self._samples: dict[str, dict] = {name: collections.Counter() for name in TYPES}

    @contextlib.contextmanager
    def recorded(self, model: str, entrypoint: str, api: str = "Predict") -> Iterator[None]:
        """Records the request to "REST" or "GRPC" that the `with` block answers or refuses.

        `model` is one of ours or "": unknown names are arbitrary, and would fill the memory.
        """
        arrival, code = time.monotonic(), "INTERNAL"
        try:
            yield
            code = "OK"
        except RequestError as error:
            code = error.code
            raise
        finally:
            sample = f"request_count{{{_labels(model_name=model, status=code)}}}"
            with self._lock:
                self._samples["request_count"][sample] += 1
            labels = _labels(model_name=model, API=api, entrypoint=entrypoint)
            self._latency("request_latency", labels, time.monotonic() - arrival)

    def run(self, model: str, seconds: float) -> None:
        """Records the time that a request waited for its batch and ran."""
        labels = _labels(model_name=model, API="Predict", runtime="TF1")
        self._latency("runtime_latency", labels, seconds)

    def _latency(self, name: str, labels: str, seconds: float) -> None:
        with self._lock:
            samples = self._samples[name]
            for sample, limit in zip(_buckets(name, labels), LATENCY_LIMITS):
                samples[sample] += seconds * 1e6 <= limit
            samples[f"{name}_sum{{{labels}}}"] += seconds * 1e6
            samples[f"{name}_count{{{labels}}}"] += 1

    def page(self) -> str:
        """All metrics, as Prometheus reads them."""
        lines = []
        with self._lock:
            for name, samples in self._samples.items():
                lines.append(f"# TYPE {PREFIX}{name} {TYPES[name]}")
                lines += [f"{PREFIX}{sample} {value}" for sample, value in samples.items()]
        return "\n".join(lines) + "\n"


@functools.cache
def _buckets(name: str, labels: str) -> list[str]:
    limits = [f"{limit:g}".replace("inf", "+Inf") for limit in LATENCY_LIMITS]
    return [f'{name}_bucket{{{labels},le="{limit}"}}' for limit in limits]


def _labels(**values: str) -> str:
    return ",".join(f'{name}="{value}"' for name, value in values.items())
