"""Results of benchmarks: one line of JSON for each, with the machine it was measured on."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

from tfgan_mnist.config import Config

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("tensorflow", "keras", "numpy", "torch")
# Variables that change TensorFlow's speed; others may hold private values.
VARIABLES = ("OMP_NUM_THREADS", "TF_ENABLE_ONEDNN_OPTS", "TF_NUM_INTEROP_THREADS")
VARIABLES += ("TF_NUM_INTRAOP_THREADS", "TF_XLA_FLAGS", "XLA_FLAGS")


def machine() -> dict[str, Any]:
    """Returns the processor, the usable cores, the memory and the installed versions."""
    processor, flags = platform.processor(), ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
        elif line.startswith("flags"):
            flags = line
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "processor": processor,
        "bfloat16": "avx512_bf16" in flags or "amx_bf16" in flags,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load": os.getloadavg()[0],
        "versions": versions,
        "settings": {key: os.environ[key] for key in VARIABLES if key in os.environ},
    }


def configuration(config: Config) -> dict[str, Any]:
    """Returns a configuration as it is read back from JSON, without the folders it names."""
    return json.loads(json.dumps(config.without_places()))


def append(name: str, figures: dict[str, Any]) -> None:
    """Adds a line to results/<name>.jsonl."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with open(RESULTS / f"{name}.jsonl", "a") as stream:
        stream.write(json.dumps({"date": now, "machine": machine()} | figures) + "\n")


def table(rows: list[tuple], heads: tuple[str, ...]) -> str:
    """Returns rows as a Markdown table; the first column is aligned left, the others right."""
    cells = [heads, *(tuple(map(str, row)) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]

    def line(row) -> str:
        aligned = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]
        return f"| {' | '.join(aligned)} |"

    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([line(heads), rule, *map(line, cells[1:])])
