"""What tests share: a quiet TensorFlow on the CPU, and MNIST prepared once per checkout."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

# Read when TensorFlow and Matplotlib are imported, here and in the commands that tests start.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
# Figures and tolerances are a CPU's, and two processes of tests would fight for a GPU's memory.
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("TFGAN_MNIST_TEST_GPU", "-1")

# Each of the parallel processes keeps to its own cores: threads that share them wait for each
# other, which takes several times the time.
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    worker, count = (os.environ[f"PYTEST_XDIST_{key}"] for key in ("WORKER", "WORKER_COUNT"))
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[int(worker[2:]) :: int(count)])

import pytest


@pytest.fixture(scope="session")
def data_dir(request):
    """Where TFDS keeps what it prepared: in pytest's cache, so that only the first run prepares."""
    return request.config.cache.mkdir("tensorflow_datasets")


@pytest.fixture(scope="session")
def mnist(data_dir):
    """The real MNIST, an `ImageData`."""
    from tfgan_mnist import data

    return data.load("mnist", data_dir=data_dir)


@pytest.fixture
def run_python():
    """Runs a program in a process of its own, for what must be configured before TensorFlow starts.

    The process's output is shown when it fails.
    """

    def run(program: str) -> str:
        command = [sys.executable, "-c", textwrap.dedent(program)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    """The exports that ship, version 1 of each model: alone, whatever else was exported there."""
    folder = tmp_path_factory.mktemp("exports")
    for version in (Path(__file__).parents[1] / "saved_models").glob("*/1"):
        shutil.copytree(version, folder / version.parent.name / "1")
        shutil.copy(version.with_name("1.onnx"), folder / version.parent.name)
    return folder
