"""What a measurement was made on, in words."""

import os
from pathlib import Path


def describe() -> str:
    """Processor and cores: "2 cores of Intel(R) Xeon(R) Processor @ 2.50GHz"."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} cores of {models[0] if models else 'unknown'}"
