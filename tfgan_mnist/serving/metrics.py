"""Counts and times of requests, in Prometheus' text format under TensorFlow Serving's names."""

import bisect
import collections
import threading

# In microseconds: 10 * 1.8^i, as servables/tensorflow/util.cc has them.
LATENCY_LIMITS = tuple(10 * 1.8**i for i in range(33))
PREFIX = ":tensorflow:serving:"

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """What happened since the start. Several threads may record at a time."""

    def __init__(self):
        self._lock = threading.Lock()
        self._counts: dict[Labels, int] = collections.Counter()
        # name -> labels -> (how many in each bucket, sum)
        self._latencies: dict[str, dict[Labels, tuple[list[int], list[float]]]] = {}

    def request(self, model: str, api: str, entrypoint: str, code: str, seconds: float) -> None:
        """A request for a model was answered.

        Args:
          model: its name.
          api: "Predict" and so on.
          entrypoint: "REST" or "GRPC".
          code: the canonical code of the answer, "OK" if it is none of the errors'.
          seconds: from the request's arrival to its answer.
        """
        with self._lock:
            self._counts[("model_name", model), ("status", code)] += 1
            labels = (("model_name", model), ("API", api), ("entrypoint", entrypoint))
            self._add("request_latency", labels, seconds)

    def run(self, model: str, api: str, seconds: float) -> None:
        """A request waited for its batch and ran."""
        with self._lock:
            labels = (("model_name", model), ("API", api), ("runtime", "TF1"))
            self._add("runtime_latency", labels, seconds)

    def _add(self, name: str, labels: Labels, seconds: float) -> None:
        histograms = self._latencies.setdefault(name, {})
        if labels not in histograms:
            histograms[labels] = ([0] * (len(LATENCY_LIMITS) + 1), [0.0])
        buckets, total = histograms[labels]
        buckets[bisect.bisect_left(LATENCY_LIMITS, seconds * 1e6)] += 1
        total[0] += seconds * 1e6

    def page(self) -> str:
        """All of it, as Prometheus reads it."""
        with self._lock:
            lines = [f"# TYPE {PREFIX}request_count counter"]
            lines += [
                f"{PREFIX}request_count{{{_written(labels)}}} {count}"
                for labels, count in self._counts.items()
            ]
            for name, histograms in self._latencies.items():
                lines.append(f"# TYPE {PREFIX}{name} histogram")
                for labels, (buckets, (total,)) in histograms.items():
                    lines += _histogram(f"{PREFIX}{name}", _written(labels), buckets, total)
            return "\n".join(lines) + "\n"


def _histogram(name: str, labels: str, buckets: list[int], total: float) -> list[str]:
    lines, count = [], 0
    for limit, size in zip([*LATENCY_LIMITS, float("inf")], buckets):
        count += size
        written = "+Inf" if limit == float("inf") else f"{limit:g}"
        lines.append(f'{name}_bucket{{{labels},le="{written}"}} {count}')
    return [*lines, f"{name}_sum{{{labels}}} {total!r}", f"{name}_count{{{labels}}} {count}"]


def _written(labels: Labels) -> str:
    escaped = {ord("\\"): "\\\\", ord('"'): '\\"', ord("\n"): "\\n"}
    return ",".join(f'{name}="{value.translate(escaped)}"' for name, value in labels)
