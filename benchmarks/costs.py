"""What the default train command costs beside its steps: start-up, memory, evaluation, export.

    python -m benchmarks.costs

Each figure comes from processes of its own, the median of some:

- `--help`, from the shell's point of view;
- importing TensorFlow; MNIST ready in memory, in a folder where it has to be prepared first (cold)
  and where it has been (warm; the files are in the system's cache by then);
- the train command: from its start to the end of the first step, its peak memory, and what each of
  its callbacks takes at the end of an epoch and of training, evaluation and export among them.

Five minutes on 2 cores that have nothing else to do. A line of results/costs.jsonl holds all
figures.
"""

import argparse
import collections
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any
from unittest import mock

from benchmarks import records

EPOCHS, STEPS = 2, 30
Figures = dict[str, float]


def data_ready(data_dir: str) -> Figures:
    """Seconds to import TensorFlow and to have MNIST in memory."""
    from tfgan_mnist import cli

    start = time.perf_counter()
    cli.start_tensorflow()
    from tfgan_mnist import data

    imported = time.perf_counter()
    data.load("mnist", data_dir=data_dir)
    return {"import": imported - start, "data": time.perf_counter() - imported}


def train_command(model: str, started: float) -> Figures:
    """Runs the train command for some steps.

    Args:
      model: whose recipe.
      started: when the process was, on the system's clock.

    Returns:
      Seconds to the end of the first step, under "at an epoch's end: ..." and "at the end: ..."
      those of the callbacks, and peak memory in MB before the end and at last.
    """
    import keras

    from tfgan_mnist import cli, config

    cli.start_tensorflow()
    from tfgan_mnist import models
    from tfgan_mnist.train import train

    figures: Figures = {}
    times = collections.defaultdict(list)

    class FirstStep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            figures.setdefault("first step", time.time() - started)

        def on_train_end(self, logs=None):
            figures["peak MB after training"] = peak_mb()

    def timed(callback, hook: str, when: str) -> None:
        original = getattr(callback, hook)

        def run(*arguments, **options):
            start = time.perf_counter()
            original(*arguments, **options)
            name = f"at {when}: {type(callback).__name__}"
            times[name].append(time.perf_counter() - start)

        setattr(callback, hook, run)

    def fit(network, *arguments, callbacks, **options):
        for callback in callbacks:
            timed(callback, "on_epoch_end", "an epoch's end")
            timed(callback, "on_train_end", "the end")
        callbacks = [FirstStep(), *callbacks]
        return keras.Model.fit(network, *arguments, callbacks=callbacks, **options)

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(models.GAN, "fit", fit):
        places = {"run_root": f"{folder}/runs", "export_root": f"{folder}/exports"}
        length = {"epochs": EPOCHS, "steps_per_epoch": STEPS, "epochs_per_evaluation": 1}
        train(config.resolve({"model": model} | places | length))
    figures["in all"] = time.time() - started
    figures["peak MB in all"] = peak_mb()
    # The first time functions are traced; an epoch of a real run is like the last one.
    return figures | {name: of[-1] for name, of in times.items() if of[-1] > 0.01}


def peak_mb() -> float:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kB on Linux


def child(job: str, *arguments: str) -> Figures:
    """What a process of its own finds out."""
    command = [sys.executable, "-m", "benchmarks.costs", f"--job={job}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{job} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def help_seconds() -> Figures:
    """Of `train --help`."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "tfgan_mnist.train", "--help"]
    subprocess.run(command, check=True, capture_output=True)
    return {"train --help": time.perf_counter() - start}


def measure(models: list[str], repeats: int) -> dict[str, Figures]:
    """All figures, medians: of start-up, and of each model's train command."""
    found: dict[str, list[Figures]] = collections.defaultdict(list)
    for number in range(repeats):
        print(f"repeat {number + 1} of {repeats}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            cold, warm = (child("data", f"--data_dir={folder}") for _ in range(2))
        startup = {"importing TensorFlow": warm["import"]}
        startup |= {"data, cold": cold["data"], "data, warm": warm["data"]}
        found["start-up"].append(help_seconds() | startup)
        for model in models:
            found[model].append(child("train", f"--model={model}", f"--started={time.time()}"))
    return {
        name: {key: statistics.median(each[key] for each in of if key in each) for key in of[0]}
        for name, of in found.items()
    }


def main() -> None:
    """Prints the figures and keeps them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="gan,dcgan,cdcgan")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dry", action="store_true", help="keep no record")
    for hidden in ("job", "data_dir", "model"):
        parser.add_argument(f"--{hidden}", help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        # What libraries and the command print must not stand after the figures.
        stdout = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        figures: dict[str, Any] = (
            data_ready(arguments.data_dir)
            if arguments.job == "data"
            else train_command(arguments.model, arguments.started)
        )
        print(json.dumps(figures), file=stdout, flush=True)
        return
    found = measure(arguments.models.split(","), arguments.repeats)
    for name, figures in found.items():
        rows = [
            (key, f"{value:.0f}" if "MB" in key else f"{value:.2f}")
            for key, value in figures.items()
        ]
        print(records.table(rows, (name, "s or MB")), end="\n\n")
    if not arguments.dry:
        print(f"Kept in {records.append('costs', {'repeats': arguments.repeats} | found)}")


if __name__ == "__main__":
    main()
