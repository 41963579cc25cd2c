"""Counts and latencies of requests in Prometheus' text format, under TensorFlow Serving's names."""

import bisect
import collections
import contextlib
import threading
import time
from collections.abc import Iterator

from tfgan_mnist.exports.request_errors import RequestError

METRICS_PATH = "/monitoring/prometheus/metrics"

# Microseconds, as in TensorFlow Serving's servables/tensorflow/util.cc.
LATENCY_LIMITS = tuple(10 * 1.8**i for i in range(33))
PREFIX = ":tensorflow:serving:"
ESCAPES = {ord("\\"): "\\\\", ord('"'): '\\"', ord("\n"): "\\n"}


class Metrics:
    """Metrics since the start. Several threads may record at a time."""

    def __init__(self):
        self._lock = threading.Lock()
        self._counts: dict[str, int] = collections.Counter()
        # metric name -> labels -> number of requests in each bucket, and their sum
        self._latencies: dict[str, dict[str, tuple[list[int], list[float]]]] = {}

    @contextlib.contextmanager
    def recorded(self, model: str, entrypoint: str, api: str = "Predict") -> Iterator[None]:
        """Records the request that the `with` block answers, by its RequestError or none.

        `model` is one of ours or "": unknown names are arbitrary, and would fill the memory.
        `entrypoint` is "REST" or "GRPC".
        """
        arrival, code = time.monotonic(), "INTERNAL"
        try:
            yield
            code = "OK"
        except RequestError as error:
            code = error.code
            raise
        finally:
            labels = _labels(model_name=model, API=api, entrypoint=entrypoint)
            with self._lock:
                self._counts[_labels(model_name=model, status=code)] += 1
                self._add("request_latency", labels, time.monotonic() - arrival)

    def run(self, model: str, seconds: float) -> None:
        """Records the time that a request waited for its batch and ran."""
        with self._lock:
            labels = _labels(model_name=model, API="Predict", runtime="TF1")
            self._add("runtime_latency", labels, seconds)

    def _add(self, name: str, labels: str, seconds: float) -> None:
        empty = ([0] * (len(LATENCY_LIMITS) + 1), [0.0])
        buckets, total = self._latencies.setdefault(name, {}).setdefault(labels, empty)
        buckets[bisect.bisect_left(LATENCY_LIMITS, seconds * 1e6)] += 1
        total[0] += seconds * 1e6

    def page(self) -> str:
        """All metrics, as Prometheus reads them."""
        with self._lock:
            lines = [f"# TYPE {PREFIX}request_count counter"]
            for labels, count in self._counts.items():
                lines.append(f"{PREFIX}request_count{{{labels}}} {count}")
            for name, histograms in self._latencies.items():
                lines.append(f"# TYPE {PREFIX}{name} histogram")
                for labels, (buckets, (total,)) in histograms.items():
                    lines += _histogram(f"{PREFIX}{name}", labels, buckets, total)
            return "\n".join(lines) + "\n"


def _histogram(name: str, labels: str, buckets: list[int], total: float) -> list[str]:
    lines, count = [], 0
    for limit, size in zip([*(f"{limit:g}" for limit in LATENCY_LIMITS), "+Inf"], buckets):
        count += size
        lines.append(f'{name}_bucket{{{labels},le="{limit}"}} {count}')
    return [*lines, f"{name}_sum{{{labels}}} {total!r}", f"{name}_count{{{labels}}} {count}"]


def _labels(**values: str) -> str:
    return ",".join(f'{name}="{value.translate(ESCAPES)}"' for name, value in values.items())
