"""The workers of a cluster: their addresses, and the wait until all of them have started."""

import contextlib
import json
import os
import re
import socket
import socketserver
import threading
import time
from typing import NamedTuple

from tfgan_mnist.errors import UserError, WorkerLost

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker")  # see distribution.start
WAIT_SECONDS = 300.0  # a machine's cold start takes minutes, most of them for its container image
ANSWER = b"tfgan-mnist\n"
CONNECT_SECONDS = 2
POLL_SECONDS = 0.2


class Cluster(NamedTuple):
    """The workers' addresses ("host:port"), the chief's first, and the index of this worker."""

    addresses: list[str]
    worker_index: int


def find() -> Cluster | None:
    """The cluster that `TF_CONFIG` or SLURM describes, None without either.

    Raises:
      UserError: the description is invalid, or has tasks other than chief and worker.
    """
    if described := os.environ.get("TF_CONFIG"):
        return _tf_config_cluster(described)
    try:
        if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
            return _slurm_cluster()
    except (RuntimeError, ValueError, LookupError) as error:
        raise UserError(f"SLURM: expected the environment of an srun step: {error}") from error
    return None


def _tf_config_cluster(described: str) -> Cluster | None:
    try:
        config = json.loads(described)
        if not config.get("cluster"):
            return None
        jobs, task = config["cluster"], config["task"]
        chiefs = jobs.get("chief", [])
        addresses = [*chiefs, *jobs.get("worker", [])]
        index = {"chief": 0, "worker": len(chiefs)}[task["type"]] + int(task["index"])
        if set(jobs) - {"chief", "worker"} or not 0 <= index < len(addresses):
            raise ValueError("expected chief and worker tasks only, and this one among them")
        if not all(0 < int(address.rpartition(":")[2]) < 2**16 for address in addresses):
            raise ValueError("expected ports from 1 to 65535")
        return Cluster(addresses, index)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            'TF_CONFIG: expected {"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
            f'"worker", "index": 0}}}}; received {described[:1000]} ({error!r})'
        ) from error


def _slurm_cluster() -> Cluster:
    """The tasks of this SLURM step, in the order of their ranks."""
    import tensorflow as tf

    # Jobs on one machine need different ports, so these depend on the job's number.
    first_port = 20_000 + int(os.environ.get("SLURM_JOB_ID", 0)) % 1_000 * 10
    # SLURM assigns GPUs itself (`--gpus-per-task`); the resolver fails where there are none.
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        port_base=first_port, gpus_per_node=1_000, gpus_per_task=1, auto_set_gpu=False
    )
    addresses = resolver.cluster_spec().job_tasks("worker")

    def by_number(address: str) -> list[tuple[str, int]]:
        """Sorts node2 before node10, as SLURM ranks them and the resolver does not."""
        return [(word, int(digits or 0)) for word, digits in re.findall(r"(\D*)(\d*)", address)]

    return Cluster(sorted(addresses, key=by_number), resolver.task_id)


def wait_for_all(cluster: Cluster, wait_seconds: float) -> None:
    """Returns when this worker and each other one have connected to each other.

    TensorFlow's own wait takes an hour, and does not name who is missing. It also connects to a
    process of an earlier start that has not ended yet, which does not send `ANSWER`. Afterwards the
    port is free for TensorFlow's server.

    Raises:
      WorkerLost: some workers did not start in time.
      UserError: this worker cannot listen on its port.
    """
    answered: set[int] = set()  # by this worker
    reached: set[int] = set()  # others that answered

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True

    class Answer(socketserver.StreamRequestHandler):
        timeout = CONNECT_SECONDS

        def handle(self):
            with contextlib.suppress(OSError, ValueError):
                index = int(self.rfile.readline(16))
                self.wfile.write(ANSWER)
                answered.add(index)

    def connect(address: str) -> bool:
        host, _, port = address.rpartition(":")
        with (
            contextlib.suppress(OSError),
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS) as connection,
        ):
            connection.sendall(b"%d\n" % cluster.worker_index)
            return connection.recv(len(ANSWER)) == ANSWER
        return False

    port = cluster.addresses[cluster.worker_index].rpartition(":")[2]
    try:
        server = Server(("", int(port)), Answer)
    except (OSError, ValueError) as error:
        raise UserError(
            f"worker {cluster.worker_index}: expected to listen on port {port} of this machine, "
            f"as the cluster's description says; received: {error}"
        ) from error
    threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,), daemon=True).start()
    others = set(range(len(cluster.addresses))) - {cluster.worker_index}
    deadline = time.monotonic() + wait_seconds
    try:
        while missing := sorted(others - (reached & answered)):
            if time.monotonic() > deadline:
                names = ", ".join(f"{index} ({cluster.addresses[index]})" for index in missing)
                raise WorkerLost(
                    f"worker {cluster.worker_index} waited {wait_seconds:g} s for worker {names}. "
                    "Start all workers, with the same list of addresses; let their ports be open "
                    "to each other; or wait longer with --wait_seconds."
                )
            reached |= {other for other in others - reached if connect(cluster.addresses[other])}
            time.sleep(POLL_SECONDS)
    finally:
        server.shutdown()
        server.server_close()
