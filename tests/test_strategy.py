"""Training on several replicas, workers and restarts: all of it is to be the training of one."""

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import checkpoint_values
import numpy as np
import pytest
import tensorflow as tf
import yaml
from tiny_training import digits

from tfgan_mnist import data, train
from tfgan_mnist.config import resolve
from tfgan_mnist.data import order
from tfgan_mnist.errors import UserError, WorkerLost
from tfgan_mnist.training import cluster, distribution
from tfgan_mnist.training.cluster import Cluster
from tfgan_mnist.training.distribution import DistributionContext

ROOT = Path(__file__).parents[1]
# Everything that could differ between one process and several: batch norm, dropout, a class head,
# the generator's average, two updates of D on parts of the batch.
MODEL = [
    *("--model=cdcgan", "--g_width=2", "--d_width=2", "--latent_dim=4", "--class_head"),
    *("--d_dropout=0.3", "--ema=0.9", "--discriminator_steps=2", "--batch_size=8"),
]

on_cpu = pytest.mark.skipif(
    os.environ["CUDA_VISIBLE_DEVICES"] != "-1", reason="workers cannot share one GPU"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a file of images of our own, which a worker reads in no time."""
    folder = tmp_path_factory.mktemp("strategy")
    images, labels = digits(200).train
    np.savez(folder / "digits.npz", images=images, labels=labels)
    return folder


@pytest.fixture(scope="module")
def flags(folder):
    """Flags of a tiny run in `folder/<name>`."""

    def make(name, epochs=2, steps_per_epoch=4, **more) -> list[str]:
        values = {
            "dataset": folder / "digits.npz",
            "data_dir": folder / "data",
            "epochs": epochs,
            "steps_per_epoch": steps_per_epoch,
            "epochs_per_evaluation": 0,
            "run": folder / name,
            "export_root": folder / "saved_models" / name,
        } | more
        return MODEL + [f"--{key}={value}" for key, value in values.items()]

    return make


@pytest.fixture(scope="module")
def one(folder, flags):
    """The run of one process."""
    train.main(train.parser().parse_args(flags("one")))
    return folder / "one"


def addresses(number: int) -> list[str]:
    """Of ports of this machine that are free now."""
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    found = [f"127.0.0.1:{each.getsockname()[1]}" for each in with_ports]
    for each in with_ports:
        each.close()
    return found


def start_worker(workers: list[str], number: int, flags: list[str], **options) -> subprocess.Popen:
    task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": number}}
    return subprocess.Popen(
        [sys.executable, "-m", "tfgan_mnist.train", *flags],
        env=os.environ | {"TF_CONFIG": json.dumps(task)},
        text=True,
        **options,
    )


def assert_same_run(run: Path, other: Path, rtol=1e-3, atol=2e-5) -> None:
    """The same to rounding, which Adam's first steps show where a gradient is tiny."""
    values, expected = checkpoint_values.values(run), checkpoint_values.values(other)
    assert values.keys() == expected.keys()
    assert values.pop("newest") == expected.pop("newest")
    for name, value in values.items():
        if not name.startswith("metrics/"):  # which the log has
            np.testing.assert_allclose(value, expected[name], rtol, atol, err_msg=name)
    texts = [(each / "log.csv").read_text() for each in (run, other)]
    logs = [list(csv.DictReader(text.splitlines())) for text in texts]
    # Norms are means over replicas of each one's own, which is larger than that of their sum.
    keys = [key for key in logs[0][0] if "second" not in key and "gradient_norm" not in key]
    for row, expected in zip(*logs, strict=True):
        for key in keys:
            assert float(row[key]) == pytest.approx(float(expected[key]), rel=1e-4), key


# --- Real processes ------------------------------------------------------------------------------


@on_cpu
@pytest.mark.parametrize("number", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_workers_train_as_one_process(number, flags, folder, one):
    workers, name = addresses(number), f"workers-{number}"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [start_worker(workers, i, flags(name), **pipes) for i in range(number)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * number, outputs
    (output, _), *others = outputs
    assert f"{number} replicas, {number} workers" in output
    assert [each for each, _ in others] == [""] * (number - 1)
    assert_same_run(folder / name, one)
    # Only the chief writes.
    assert os.listdir(folder / "saved_models" / name / "cdcgan") == ["1"]
    assert len(list((folder / name / "samples").iterdir())) == 3


def test_replicas_train_as_one_process_and_overflow_together(flags, folder, one):
    """Not on a GPU: there would be one replica, and NCCL refuses two on one GPU."""
    program = Path(__file__).with_name("two_replicas.py")
    done = subprocess.run(
        [sys.executable, program, *flags("replicas", strategy="mirrored")],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 replicas" in done.stdout
    assert_same_run(folder / "replicas", one)


@on_cpu
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_is_started_again_and_ends_with_the_same_weights(victim, flags, folder):
    """Each worker has a supervisor of its own that starts it again, as in Kubernetes."""

    def supervised(name: str, kill: bool) -> list[list[int]]:
        workers, statuses = addresses(2), [[], []]
        processes: dict[int, subprocess.Popen] = {}

        def supervise(number: int) -> None:
            while not statuses[number] or statuses[number][-1] not in range(128):
                processes[number] = start_worker(workers, number, flags(name, 3, 40))
                statuses[number].append(processes[number].wait(timeout=300))

        supervisors = [threading.Thread(target=supervise, args=(number,)) for number in range(2)]
        for each in supervisors:
            each.start()
        if kill:
            while not (folder / name / "checkpoints" / "step_00000040").exists():
                time.sleep(0.01)
            processes[victim].send_signal(signal.SIGKILL)
        for each in supervisors:
            each.join()
        return statuses

    assert supervised(f"whole-{victim}", kill=False) == [[0], [0]]
    statuses = supervised(f"killed-{victim}", kill=True)
    assert statuses[victim][0] == -signal.SIGKILL
    assert statuses[1 - victim][0] == WorkerLost.exit_status
    assert [each[-1] for each in statuses] == [0, 0]
    assert_same_run(folder / f"killed-{victim}", folder / f"whole-{victim}", rtol=0, atol=0)


# --- The start-up check --------------------------------------------------------------------------


def wait_for_all(workers: list[str]) -> list[Exception | None]:
    """What the check raises on each worker, in a thread of its own."""
    results: list = [RuntimeError("the check did not end")] * len(workers)

    def check(index: int) -> None:
        try:
            results[index] = cluster.wait_for_all(Cluster(workers, index), 30)
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=check, args=(index,)) for index in range(len(workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_workers_wait_for_each_other_and_leave_their_ports_free():
    workers = addresses(3)
    assert wait_for_all(workers) == [None] * 3
    for worker in workers:
        socket.create_server(("127.0.0.1", port_of(worker))).close()


def test_a_missing_worker_is_named():
    workers = addresses(3)
    # An earlier process at the address of worker 2 accepts connections, and does not answer.
    with (
        socket.create_server(("127.0.0.1", port_of(workers[2]))),
        pytest.raises(WorkerLost, match=r"worker 0 waited 0.5 s for worker 1 \(127.*, 2 \("),
    ):
        cluster.wait_for_all(Cluster(workers, 0), 0.5)
    socket.create_server(("127.0.0.1", port_of(workers[0]))).close()


def test_a_port_that_is_in_use_is_named():
    workers = addresses(2)
    with (
        socket.create_server(("", port_of(workers[0]))),
        pytest.raises(UserError, match="worker 0: expected to listen on port"),
    ):
        cluster.wait_for_all(Cluster(workers, 0), 1)


class Exited(Exception):
    """Raised in place of the end of the process."""


@pytest.mark.parametrize(
    ("error", "exits"),
    [
        (tf.errors.UnavailableError(None, None, "lost /job:worker/replica:0/task:0"), True),
        (tf.errors.InternalError(None, None, "Collective ops is aborted by /task:0"), True),
        (tf.errors.ResourceExhaustedError(None, None, "out of memory"), False),
        (UserError("the loss is NaN"), False),
    ],
)
def test_an_error_of_a_collective_operation_ends_the_process(error, exits, monkeypatch, capsys):
    def exit_with(status):
        raise Exited(status)

    monkeypatch.setattr(os, "_exit", exit_with)
    context = DistributionContext(None, num_workers=2, worker_index=0)
    expected = pytest.raises(Exited, match="138") if exits else pytest.raises(type(error))
    with expected, distribution.together(context):
        raise error
    assert ("cannot go on. Start all workers again" in capsys.readouterr().err) == exits


def test_tf_config_names_the_workers(monkeypatch):
    config = {"cluster": {"chief": ["a:1"], "worker": ["b:2", "c:3"]}}
    for task, worker in ((("chief", 0), 0), (("worker", 1), 2)):
        described = config | {"task": dict(zip(("type", "index"), task))}
        monkeypatch.setenv("TF_CONFIG", json.dumps(described))
        assert cluster.find() == Cluster(["a:1", "b:2", "c:3"], worker)


@pytest.mark.parametrize(
    "described",
    [
        "{",
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"ps": ["a:1"], "worker": ["b:2"]}, "task": {"type": "worker", "index": 0}}',
    ],
)
def test_a_tf_config_that_cannot_be_read_is_refused(described, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", described)
    with pytest.raises(UserError, match="TF_CONFIG: expected"):
        cluster.find()


def test_slurm_names_the_workers_in_the_order_of_its_ranks(monkeypatch):
    step = {
        "SLURM_PROCID": "2",
        "SLURM_JOB_ID": "1003",
        "SLURM_STEP_NUM_TASKS": "3",
        "SLURM_STEP_NODELIST": "n[2,10]",
        "SLURM_STEP_TASKS_PER_NODE": "2,1",
    }
    for key, value in step.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert cluster.find() == Cluster(["n2:20030", "n2:20031", "n10:20030"], 2)


def test_multi_worker_without_a_cluster_is_refused(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match="expected two workers or more in TF_CONFIG"):
        distribution.start("multi_worker", 1)


@pytest.mark.parametrize(
    ("addresses", "index"), [(["a:1", "b"], 0), (["a:99999"], 0), (["a:1", "b:1"], -1)]
)
def test_a_wrong_description_of_workers_is_refused(addresses, index, monkeypatch):
    task = {"type": "worker", "index": index}
    described = {"cluster": {"worker": addresses}, "task": task}
    monkeypatch.setenv("TF_CONFIG", json.dumps(described))
    with pytest.raises(UserError, match="TF_CONFIG: expected"):
        cluster.find()


@pytest.mark.parametrize("number", ["2", "x"])
def test_slurm_without_the_environment_of_a_step_is_refused(number, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", number)
    with pytest.raises(UserError, match="SLURM: expected the environment of an srun step"):
        cluster.find()


@pytest.mark.parametrize("seconds", ["nan", "-1", "1e300"])
def test_a_time_to_wait_is_finite(seconds, capsys):
    with pytest.raises(SystemExit):
        train.parser().parse_args([f"--wait_seconds={seconds}"])
    assert f"expected 0 to 10,000,000; received {seconds}" in capsys.readouterr().err


# --- What they share -----------------------------------------------------------------------------


def test_workers_of_two_replicas_share_every_part_of_every_batch():
    images = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)
    split = data.Split(images, np.arange(50, dtype=np.int32))
    options = {"batch_size": 16, "seed": 1, "first_step": 2, "parts": 2}
    whole = [labels.numpy() for _, labels in order.batches(split, **options).take(5)]
    for own in (range(2), range(2, 4)):
        shares = order.batches(split, **options, own=own, replicas=4)
        for number, (_, labels) in enumerate(shares.take(10)):
            step, replica = divmod(number, 2)
            parts = whole[step].reshape(2, 4, -1)[:, own[replica]]
            np.testing.assert_array_equal(labels, parts.reshape(-1))


@pytest.mark.parametrize(
    ("values", "num_workers", "message"),
    [
        ({"batch_size": 64}, 1, "multiple of the 3 replicas .* 64. Choose 63 or 66"),
        ({"batch_size": 63, "on_collapse": "rollback"}, 3, "on_collapse: expected warn or stop"),
        ({"batch_size": 63, "on_collapse": "rollback"}, 1, None),
    ],
)
def test_a_configuration_that_does_not_fit_the_devices_is_refused(values, num_workers, message):
    class Strategy:
        num_replicas_in_sync = 3

    expected = pytest.raises(UserError, match=message) if message else contextlib.nullcontext()
    with expected:
        distribution.check_config(DistributionContext(Strategy(), num_workers), resolve(values))


# --- Manifests -----------------------------------------------------------------------------------


def expect_train_accepts(command: list[str]) -> None:
    module = command.index("tfgan_mnist.train")
    train.parser().parse_args(command[module + 1 :])


def test_the_tfjob_is_one():
    job = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "tfjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "TFJob")
    worker = job["spec"]["tfReplicaSpecs"]["Worker"]
    assert worker["restartPolicy"] == "ExitCode" and WorkerLost.exit_status >= 128
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "tensorflow"
    assert {each["name"] for each in container["volumeMounts"]} == {
        each["name"] for each in pod["volumes"]
    }
    expect_train_accepts(container["command"])


def test_the_slurm_script_starts_again_until_it_is_done(tmp_path):
    """With an `srun` that fails twice as a lost worker does, and then ends well."""
    script = ROOT / "deploy" / "slurm" / "train.sbatch"
    calls = tmp_path / "calls"
    (tmp_path / "srun").write_text(
        f'#!/bin/bash\necho "$@" >> {calls}\n[ $(wc -l < {calls}) -gt 2 ] || exit 138\n'
    )
    (tmp_path / "srun").chmod(0o755)
    (tmp_path / "sleep").symlink_to("/bin/true")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(
        ["bash", script, "--model=gan"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    commands = calls.read_text().splitlines()
    assert len(commands) == 3 and len(set(commands)) == 1
    assert "--run=runs/slurm-7" in commands[0]
    expect_train_accepts(commands[0].split())
