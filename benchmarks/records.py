"""Where figures are kept: a line of JSON for each run of a benchmark, with what it was run on."""

import datetime
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

from tfgan_mnist import config

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("tensorflow", "keras", "numpy", "torch")
# What in the environment changes TensorFlow's pace; other variables may tell whose machine it is.
SETTINGS = (
    "OMP_NUM_THREADS",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_XLA_FLAGS",
    "XLA_FLAGS",
)


def machine() -> dict[str, Any]:
    """Processor, cores that may be used, memory, and versions of what is installed."""
    processor, flags = platform.processor(), ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
        elif line.startswith("flags"):
            flags = line
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": processor,
        "bfloat16": "avx512_bf16" in flags or "amx_bf16" in flags,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load": os.getloadavg()[0],
        "versions": versions,
        "settings": {key: os.environ[key] for key in SETTINGS if key in os.environ},
    }


def configuration(settings: config.Config) -> dict[str, Any]:
    """A configuration as JSON gives it back, without what says where things are."""
    return json.loads(json.dumps(settings.without_places()))


def append(name: str, figures: dict[str, Any]) -> Path:
    """Adds a line to results/<name>.jsonl; the file's path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.jsonl"
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with open(path, "a") as stream:
        stream.write(json.dumps({"date": now, "machine": machine()} | figures) + "\n")
    return path


def table(rows: list[tuple], heads: tuple[str, ...]) -> str:
    """Rows as Markdown: the first column to the left, the others to the right."""
    cells = [heads, *(tuple(map(str, row)) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]

    def line(row) -> str:
        aligned = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]
        return f"| {' | '.join(aligned)} |"

    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([line(heads), rule, *map(line, cells[1:])])
