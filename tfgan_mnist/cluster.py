"""The workers of a cluster: who they are, how they meet, and their last words to each other."""

import contextlib
import json
import os
import re
import select
import socket
import threading
import time
from typing import NamedTuple

from tfgan_mnist.errors import UserError, WorkerLost

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker")  # distribution.py has them
WAIT_SECONDS = 300.0  # a machine's cold start takes minutes, most of them for its container image
GREETING = b"tfgan-mnist\n"
CONNECT_SECONDS = 2
POLL_SECONDS = 0.2


class Cluster(NamedTuple):
    """The addresses ("host:port") of the workers, the chief's first, and which of them this is."""

    addresses: list[str]
    worker: int


def find() -> Cluster | None:
    """The cluster that `TF_CONFIG` or SLURM describes, if any.

    Raises:
      UserError: it cannot be read, or holds tasks that are neither chief nor worker.
    """
    described = os.environ.get("TF_CONFIG")
    if described:
        try:
            config = json.loads(described)
            if not config.get("cluster"):
                return None
            jobs, task = config["cluster"], config["task"]
            chiefs, kind, index = jobs.get("chief", []), task["type"], int(task["index"])
            addresses = [*chiefs, *jobs.get("worker", [])]
            worker = {"chief": 0, "worker": len(chiefs)}[kind] + index
            if set(jobs) - {"chief", "worker"} or index < 0 or not addresses[worker].count(":"):
                raise ValueError("tasks are to be chief and worker")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                'TF_CONFIG: expected {"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
                f'"worker", "index": 0}}}}; received {described[:1000]} ({error!r})'
            ) from error
        return Cluster(addresses, worker)
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return _slurm_cluster()
    return None


def _slurm_cluster() -> Cluster:
    """The tasks of this SLURM step, in the order of their ranks."""
    import tensorflow as tf

    # Jobs that share a machine must not share ports, so they depend on the job's number.
    first_port = 20_000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 1_000 * 10
    try:
        # GPUs are SLURM's own business (`--gpus-per-task`). The resolver could only hand them out
        # after TensorFlow has already looked for them, and fails where there are none.
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=first_port, gpus_per_node=1_000, gpus_per_task=1, auto_set_gpu=False
        )
        spec = resolver.cluster_spec()
    except (RuntimeError, ValueError, LookupError) as error:
        raise UserError(f"SLURM: expected the environment of an srun step: {error}") from error
    # By number, as SLURM ranks them: the resolver puts node10 before node2.
    addresses = sorted(spec.job_tasks("worker"), key=_natural)
    return Cluster(addresses, resolver.task_id)


def _natural(text: str) -> list[tuple[str, int]]:
    """A key that sorts numbers in a text by their value."""
    return [(word, int(number or 0)) for word, number in re.findall(r"(\D*)(\d*)", text)]


class LastWords(NamedTuple):
    """Why a worker ended, and with which exit status."""

    worker: int
    exit_status: int
    message: str


class Lines:
    """A connection to and from each other worker, open as long as both live, and silent until one
    of them ends for a reason of its own.

    TensorFlow tells the others only that one is gone. What is lost is to be started again; a worker
    that was stopped, or has found something for the user to mend, is not.
    """

    def __init__(self, worker: int) -> None:
        self.worker = worker
        self.to: dict[int, socket.socket] = {}
        self.by: dict[int, socket.socket] = {}

    def say(self, exit_status: int, message: str) -> None:
        """Tells the others why this worker ends."""
        words = json.dumps(LastWords(self.worker, exit_status, message)).encode()
        for each in self.to.values():
            with contextlib.suppress(OSError):  # it is gone already
                each.sendall(words)
                each.shutdown(socket.SHUT_WR)

    def hear(self) -> LastWords | None:
        """What a worker that is gone has said; None when all that are gone went without a word."""
        ended, _, _ = select.select([*self.by.values()], [], [], CONNECT_SECONDS)
        for each in ended:
            with contextlib.suppress(OSError, ValueError, TypeError), each.makefile("rb") as words:
                return LastWords(*json.loads(words.read()))
        return None


def meet(cluster: Cluster, wait_seconds: float) -> Lines:
    """Waits until this worker has greeted all others, and all others have greeted it.

    The connections of the greetings stay open.

    TensorFlow's own wait takes an hour, cannot be interrupted, and does not say for whom it is. It
    would also take a process of an earlier start, which has not yet noticed its end, for a partner;
    such a one does not know the greeting.

    Raises:
      WorkerLost: some have not come in time.
      UserError: this machine does not let the worker listen on its port.
    """
    others = set(range(len(cluster.addresses))) - {cluster.worker}
    lines = Lines(cluster.worker)
    _, _, port = cluster.addresses[cluster.worker].rpartition(":")
    try:
        # Open until TensorFlow opens it in turn.
        listening = socket.create_server(("", int(port)), backlog=len(cluster.addresses))
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"worker {cluster.worker}: expected to listen on port {port} of this machine, as the "
            f"cluster's description says; received: {error}"
        ) from error

    def answer() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:  # shut down
                return
            with contextlib.suppress(OSError, ValueError):
                connection.settimeout(CONNECT_SECONDS)
                greeter = int(connection.recv(16))
                connection.sendall(GREETING)
                lines.to[greeter] = connection

    answering = threading.Thread(target=answer, daemon=True)
    answering.start()
    deadline = time.monotonic() + wait_seconds
    try:
        while True:
            for other in others - lines.by.keys():
                if connection := _greet(cluster, other):
                    lines.by[other] = connection
            missing = sorted(others - (lines.by.keys() & lines.to.keys()))
            if not missing:
                return lines
            if time.monotonic() > deadline:
                names = ", ".join(f"{n} ({cluster.addresses[n]})" for n in missing)
                raise WorkerLost(
                    f"worker {cluster.worker} has waited {wait_seconds:g} s for worker {names}. "
                    "Start all workers, with the same list of addresses; let their ports be open "
                    "to each other; or wait longer with --wait_seconds."
                )
            time.sleep(POLL_SECONDS)
    finally:
        listening.shutdown(socket.SHUT_RDWR)  # wakes the thread, whose wait would keep the port
        answering.join()
        listening.close()


def _greet(cluster: Cluster, other: int) -> socket.socket | None:
    """A connection with worker `other`, if it answers as one that is about to join."""
    host, _, port = cluster.addresses[other].rpartition(":")
    with contextlib.suppress(OSError, ValueError, OverflowError):
        connection = socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS)
        connection.sendall(str(cluster.worker).encode())
        if connection.recv(len(GREETING)) == GREETING:
            return connection
        connection.close()
    return None
