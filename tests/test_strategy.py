"""Training on several replicas, workers and restarts: all of it is to be the training of one."""

import contextlib
import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import yaml

from tfgan_mnist import train
from tfgan_mnist.config import resolve
from tfgan_mnist.errors import UserError, WorkerLost
from tfgan_mnist.training import cluster, distribution
from tfgan_mnist.training.cluster import Cluster
from tfgan_mnist.training.distribution import DistributionContext

ROOT = Path(__file__).parents[1]
# Everything that could differ between one process and several: batch norm, dropout, a class head,
# the generator's average, two updates of D on parts of the batch.
MODEL = [
    "--model=cdcgan",
    "--g_width=2",
    "--d_width=2",
    "--class_head",
    "--d_dropout=0.3",
    "--ema=0.9",
]

on_cpu = pytest.mark.skipif(
    os.environ["CUDA_VISIBLE_DEVICES"] != "-1", reason="workers cannot share one GPU"
)


@pytest.fixture
def flags(tmp_path, data_dir, mnist):
    """Flags of a tiny run in `tmp_path/<name>`; depends on `mnist`, so that it is prepared."""

    def make(name, **options) -> list[str]:
        values = {
            "data_dir": data_dir,
            "epochs": 2,
            "steps_per_epoch": 4,
            "epochs_per_evaluation": 0,
            "batch_size": 8,
            "latent_dim": 4,
            "discriminator_steps": 2,
            "run": tmp_path / name,
            "export_root": tmp_path / "saved_models" / name,
        } | options
        return MODEL + [f"--{key}={value}" for key, value in values.items()]

    return make


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


def run_in_one_process(flags: list[str], monkeypatch, mnist) -> None:
    from tfgan_mnist import data

    monkeypatch.setattr(data, "load", lambda *arguments: mnist)
    train.main(train.parser().parse_args(flags))


def state(run: Path) -> dict[str, np.ndarray]:
    """Every tensor of the newest checkpoint of a run, but for the means, which its log has."""
    newest = max((run / "checkpoints").glob("step_*"))
    reader = tf.train.load_checkpoint(str(newest / "state"))
    left_out = re.compile("_CHECKPOINTABLE_OBJECT_GRAPH|metrics/")
    names = [name for name in reader.get_variable_to_shape_map() if not left_out.match(name)]
    return {"newest": np.array(newest.name)} | {name: reader.get_tensor(name) for name in names}


def assert_same_run(run: Path, other: Path, **tolerance) -> None:
    one, two = state(run), state(other)
    assert one.keys() == two.keys()
    assert one.pop("newest") == two.pop("newest")
    for name, value in one.items():
        np.testing.assert_allclose(value, two[name], err_msg=name, **tolerance)
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
def test_workers_train_as_one_process(number, flags, tmp_path, monkeypatch, mnist):
    workers = addresses(number)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [start_worker(workers, i, flags("many"), **pipes) for i in range(number)]
    run_in_one_process(flags("one"), monkeypatch, mnist)  # meanwhile
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * number, outputs
    (output, _), *others = outputs
    assert f"{number} replicas, {number} workers" in output
    assert [each for each, _ in others] == [""] * (number - 1)
    # Adam's first steps divide a gradient by its own size: rounding shows where it is tiny.
    assert_same_run(tmp_path / "many", tmp_path / "one", rtol=1e-3, atol=2e-5)
    # Only the chief writes.
    assert [path.name for path in (tmp_path / "saved_models" / "many" / "cdcgan").iterdir()] == [
        "1"
    ]
    assert len(list((tmp_path / "many" / "samples").iterdir())) == 3


@on_cpu
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_is_started_again_and_ends_with_the_same_weights(victim, flags, tmp_path):
    """Each worker has a supervisor of its own that starts it again, as in Kubernetes."""
    long = {"steps_per_epoch": 40, "epochs": 3}

    def supervised(name: str, kill: bool) -> list[list[int]]:
        workers, statuses = addresses(2), [[], []]
        processes: dict[int, subprocess.Popen] = {}

        def supervise(number: int) -> None:
            while not statuses[number] or statuses[number][-1] not in range(128):
                processes[number] = start_worker(workers, number, flags(name, **long))
                statuses[number].append(processes[number].wait(timeout=300))

        supervisors = [threading.Thread(target=supervise, args=(number,)) for number in range(2)]
        for each in supervisors:
            each.start()
        if kill:
            first = tmp_path / name / "checkpoints" / "step_00000040"
            while not first.exists():
                time.sleep(0.01)
            processes[victim].send_signal(signal.SIGKILL)
        for each in supervisors:
            each.join()
        return statuses

    assert supervised("whole", kill=False) == [[0], [0]]
    statuses = supervised("killed", kill=True)
    assert statuses[victim][0] == -signal.SIGKILL
    assert statuses[1 - victim][0] == WorkerLost.exit_status
    assert [each[-1] for each in statuses] == [0, 0]
    assert_same_run(tmp_path / "killed", tmp_path / "whole", rtol=0)


def test_replicas_train_as_one_and_overflow_together(run_python, tmp_path):
    """Two logical CPUs in one process: `mirrored`, its roll-back, and float16's loss scales.

    Not on a GPU: there would be one replica, and NCCL refuses two on one GPU.
    """
    run_python(
        f"        run = {str(tmp_path)!r}"
        + """
        import os, pathlib
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        import functools, keras, numpy as np, tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        from tfgan_mnist import data, runs
        from tfgan_mnist.training import checkpoints, distribution
        from tfgan_mnist.data import order
        from tfgan_mnist.config import resolve
        from tfgan_mnist.training.build import build
        rng = np.random.default_rng(0)
        split = data.Split(rng.integers(0, 255, (64, 8, 8, 1)).astype("uint8"),
                           np.arange(64, dtype="int32") % 10)
        config = resolve({"model": "cdcgan", "g_width": 2, "d_width": 2,
            "d_dropout": 0.3, "ema": 0.5,
            "latent_dim": 4, "steps_per_epoch": 4, "epochs": 2, "discriminator_steps": 2})

        def trained(kind):
            placement = distribution.start(kind, 0)
            with placement.strategy.scope():
                keras.utils.set_random_seed(0)
                model = build(config, (8, 8, 1), 10)
            share = distribution.share(placement, functools.partial(
                order.batches, split, 16, seed=0, parts=2), steps=12)
            model.fit(share, epochs=2, steps_per_epoch=4, shuffle=False, verbose=0)
            return model, placement, share

        (one, *_), (two, mirrored, share) = trained("one_device"), trained("mirrored")
        assert mirrored.num_replicas == 2
        for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)

        # Back to the best evaluation's weights, and on with the count of steps.
        run = pathlib.Path(run)
        (run / "checkpoints").mkdir()
        checkpoints.save(run, two)
        best = [np.array(each) for each in two.generator.variables]
        runs.write_rows(run / runs.EVALUATIONS, [dict(epoch=2, step=8, fid=1.0)])
        two.fit(share, epochs=1, steps_per_epoch=4, shuffle=False, verbose=0)
        checkpoints.roll_back(run, two)
        assert two.steps_done == 12
        for old, variable in zip(best, two.generator.variables, strict=True):
            for copy in mirrored.strategy.experimental_local_results(variable.value):
                np.testing.assert_array_equal(old, copy)

        # Replica 1 alone overflows, by images that are far from [-1, 1].
        keras.config.set_dtype_policy("mixed_float16")
        with mirrored.strategy.scope():
            half = build(config, (8, 8, 1), 10)
        before = [np.array(v) for v in half.discriminator.trainable_variables]
        copies = mirrored.strategy.experimental_local_results

        def step(context):
            images = np.full((4, 8, 8, 1), 1e30 * context.replica_id_in_sync_group, "float32")
            return images, np.zeros(4, "int32")

        def scales(optimizer):
            return [float(copy) for copy in copies(optimizer.dynamic_scale.value)]

        batch = [mirrored.strategy.experimental_distribute_values_from_function(
            functools.partial(lambda part, context: tf.constant(step(context)[part]), part))
            for part in (0, 1)]
        full = scales(half.d_optimizer)[0]
        tf.function(lambda: mirrored.strategy.run(half.train_step, args=(tuple(batch),)))()
        assert scales(half.d_optimizer) == [full / 4] * 2, scales(half.d_optimizer)  # two updates
        assert len(set(scales(half.g_optimizer))) == 1
        for old, variable in zip(before, half.discriminator.trainable_variables):
            for copy in copies(variable.value):
                np.testing.assert_array_equal(old, copy)
    """
    )


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
        "[]",
        '{"cluster": {"worker": ["a:1", "b:2"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}',
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


# --- What they share -----------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_share_every_part_of_every_batch(replicas):
    from tfgan_mnist import data
    from tfgan_mnist.data import order

    images = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)
    split = data.Split(images, np.arange(50, dtype=np.int32))
    options = {"batch_size": 16, "seed": 1, "first_step": 2, "parts": 2}
    whole = [labels.numpy() for _, labels in order.batches(split, **options).take(5)]
    for first in range(0, replicas, 2):  # workers of two replicas each
        own = range(first, first + 2)
        shares = order.batches(split, **options, own=own, replicas=replicas)
        for number, (_, labels) in enumerate(shares.take(10)):
            step, replica = divmod(number, 2)
            parts = whole[step].reshape(2, replicas, -1)[:, first + replica]
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
