"""Where training runs: one device, all GPUs of this machine, or the workers of a cluster.

A cluster is what `TF_CONFIG` or SLURM's environment describes. Its worker 0, the chief, is the only
one that writes, and the only one that reads checkpoints: `copy_from_chief` gives its state to the
others, which therefore need no file system in common with it.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import keras
import numpy as np
import tensorflow as tf

from tfgan_mnist.errors import Stopped, UserError, WorkerLost

GREETING = b"tfgan-mnist\n"
CONNECT_SECONDS = 2
POLL_SECONDS = 0.2

# What TensorFlow raises from a collective operation when the process at its other end is gone, and
# what the messages of other errors hold that have the same cause.
PEER_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)
PEER_MESSAGE = re.compile(
    "(?i)collective ops is aborted|coordination ?service|incarnation|heartbeat"
)


class Cluster(NamedTuple):
    """The addresses ("host:port") of the workers, the chief's first, and which of them this is."""

    addresses: list[str]
    worker: int


class Placement(NamedTuple):
    """A strategy and this process's place in it."""

    strategy: tf.distribute.Strategy
    workers: int = 1
    worker: int = 0

    @property
    def is_chief(self) -> bool:
        return self.worker == 0

    @property
    def replicas(self) -> int:
        """Devices, over all workers."""
        return self.strategy.num_replicas_in_sync

    def __str__(self) -> str:
        """What to add to a machine's description: "", or ", 16 replicas, 2 workers"."""
        workers = f", {self.workers} workers" if self.workers > 1 else ""
        return f", {self.replicas} replicas{workers}" if self.replicas > 1 else ""


def start(kind: str, wait_seconds: float) -> Placement:
    """The strategy called `kind`; in a cluster it waits until all workers are there.

    To be called before TensorFlow's first operation.

    Args:
      kind: "one_device", "mirrored", "multi_worker" or "auto": the cluster that the environment
        describes if it has several workers, else all GPUs of this machine if it has several, else
        one device.
      wait_seconds: how long workers may take to come.

    Raises:
      UserError: no cluster for "multi_worker", or a description of one that cannot be read.
    """
    gpus = tf.config.list_physical_devices("GPU")
    cluster = find_cluster() if kind in ("auto", "multi_worker") else None
    if cluster and len(cluster.addresses) > 1:
        return _join(cluster, wait_seconds)
    if kind == "multi_worker":
        raise UserError(
            "strategy=multi_worker: expected two workers or more in TF_CONFIG, or more than one "
            f"SLURM task started by srun; received {cluster.addresses if cluster else 'neither'}"
        )
    if kind == "mirrored" or (kind == "auto" and len(gpus) > 1):
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return Placement(tf.distribute.MirroredStrategy([device.name for device in devices]))
    return Placement(tf.distribute.get_strategy())


def find_cluster() -> Cluster | None:
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
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(
                'TF_CONFIG: expected {"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
                f'"worker", "index": 0}}}}; received {described} ({error!r})'
            ) from error
        return Cluster(addresses, worker)
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return _slurm_cluster()
    return None


def _slurm_cluster() -> Cluster:
    """The tasks of this SLURM step, in the order of their ranks."""
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


def _join(cluster: Cluster, wait_seconds: float) -> Placement:
    """Connects with the other workers."""
    _meet(cluster, wait_seconds)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": cluster.addresses}),
        task_type="worker",
        task_id=cluster.worker,
        rpc_layer="grpc",
    )
    # While TensorFlow connects no Python runs, not even a signal's handler: should a worker be lost
    # just now, the system's own alarm ends this process, with a status that says "start me again".
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, wait_seconds)
    with _peers(cluster.worker):
        strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
        placement = Placement(strategy, len(cluster.addresses), cluster.worker)
        summed(placement, np.zeros(1))
    signal.setitimer(signal.ITIMER_REAL, 0)
    # TensorFlow's coordination has taken it for its own ends, and does nothing.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return placement


def _meet(cluster: Cluster, wait_seconds: float) -> None:
    """Waits until this worker has greeted all others, and all others have greeted it.

    TensorFlow's own wait takes an hour, cannot be interrupted, and does not say for whom it is. It
    would also take a process of an earlier start, which has not yet noticed its end, for a partner;
    such a one does not know the greeting.

    Raises:
      WorkerLost: some have not come in time.
      UserError: this machine does not let the worker listen on its port.
    """
    others = set(range(len(cluster.addresses))) - {cluster.worker}
    greeted: set[int] = set()
    greeters: set[int] = set()
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
            with contextlib.suppress(OSError, ValueError), connection:
                connection.settimeout(CONNECT_SECONDS)
                greeter = int(connection.recv(16))
                connection.sendall(GREETING)
                greeters.add(greeter)

    answering = threading.Thread(target=answer, daemon=True)
    answering.start()
    deadline = time.monotonic() + wait_seconds
    try:
        while True:
            greeted |= {n for n in others - greeted if _greet(cluster, n)}
            missing = sorted(others - (greeted & greeters))
            if not missing:
                return
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


def _greet(cluster: Cluster, other: int) -> bool:
    """Whether worker `other` answers as one that is about to join."""
    host, _, port = cluster.addresses[other].rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS) as connection:
            connection.sendall(str(cluster.worker).encode())
            return connection.recv(len(GREETING)) == GREETING
    except (OSError, ValueError, OverflowError):
        return False


def _exit(error: WorkerLost) -> NoReturn:
    """Leaves at once: threads of TensorFlow's wait for ever for the one that is gone."""
    print(error, file=sys.stderr, flush=True)  # noqa: T201
    sys.stdout.flush()
    os._exit(error.exit_status)


@contextlib.contextmanager
def together(placement: Placement) -> Iterator[None]:
    """What the workers do together: the block is left when all have reached its end.

    When one is lost, the others cannot go on: the process ends with `WorkerLost`'s status, and the
    whole job has to be started again. Workers other than the chief leave signals to it: it saves
    and stops, and the others then follow.
    """
    if placement.workers == 1:
        yield
        return
    received: list[int] = []
    with _peers(placement.worker, received):
        if placement.is_chief:
            yield
        else:
            with _signals_to(received.append):
                yield
        summed(placement, np.zeros(1))


@contextlib.contextmanager
def _peers(worker: int, received: Sequence[int] = ()) -> Iterator[None]:
    """Ends the process with a message when another worker is lost in this block."""
    try:
        yield
    except tf.errors.OpError as error:
        message = error.message or ""
        if not isinstance(error, PEER_ERRORS) and not PEER_MESSAGE.search(message):
            raise
        if received:
            stopped = Stopped(received[0], f"worker {worker} stopped with the chief")
            print(stopped, file=sys.stderr, flush=True)  # noqa: T201
            os._exit(stopped.exit_status)
        lost = sorted(set(re.findall(r"/task:(\d+)", message)) - {str(worker)})
        _exit(
            WorkerLost(
                f"worker {worker} lost worker {' or '.join(lost) or '(unknown)'} and cannot go on. "
                "Start all workers again: with --run and the same command as before, training goes "
                f"on from its last checkpoint. ({type(error).__name__})"
            )
        )


@contextlib.contextmanager
def _signals_to(receive: Callable[[int], Any]) -> Iterator[None]:
    """SIGTERM and SIGINT call `receive` and do nothing else."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    former = [signal.signal(each, lambda number, frame: receive(number)) for each in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, former):
            signal.signal(number, handler)


def summed(placement: Placement, numbers: np.ndarray) -> np.ndarray:
    """The sum of an int64 array over the workers, the same on each; all of them have to call it."""
    return _summing(placement)(tf.constant(numbers, tf.int64)).numpy()


@functools.cache
def _summing(placement: Placement) -> Callable:
    strategy = placement.strategy
    own_replicas = placement.replicas // placement.workers

    @tf.function(reduce_retracing=True)
    def total(numbers):
        def in_replica(numbers):
            context = tf.distribute.get_replica_context()
            # A worker's first replica speaks for it.
            speaks = context.replica_id_in_sync_group % own_replicas == 0
            spoken = tf.where(speaks, numbers, tf.zeros_like(numbers))
            return context.all_reduce(tf.distribute.ReduceOp.SUM, spoken)

        results = strategy.run(in_replica, args=(numbers,))
        return strategy.experimental_local_results(results)[0]

    return total


def chief_says(placement: Placement, value: bool) -> bool:
    """The chief's `value`, on every worker."""
    if placement.workers == 1:
        return value
    return bool(summed(placement, np.array([value and placement.is_chief]))[0])


def copy_from_chief(placement: Placement, state: Mapping[str, Sequence]) -> None:
    """Gives the chief's values of variables, by owner, to those of all workers."""
    if placement.workers == 1:
        return
    variables = [variable for owned in state.values() for variable in owned]
    values = [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables]
    # As one message of whole words, in which a sum with zeros changes no bit of any type.
    message = b"".join(value.tobytes() for value in values)
    words = np.frombuffer(message + bytes(-len(message) % 8), np.int64)
    received = summed(placement, words if placement.is_chief else np.zeros_like(words)).tobytes()
    first = 0
    for variable, value in zip(variables, values):
        its_own = received[first : first + value.nbytes]
        variable.assign(np.frombuffer(its_own, value.dtype).reshape(value.shape))
        first += value.nbytes


def expect_same_state(placement: Placement, state: Mapping[str, Sequence]) -> None:
    """Checks that all workers hold the same bits in these variables.

    Raises:
      RuntimeError: they do not; a bug, or a machine that computes wrongly.
    """
    values = (keras.ops.convert_to_numpy(each) for owned in state.values() for each in owned)
    digest = hashlib.sha256(b"".join(value.tobytes() for value in values)).hexdigest()
    try:
        expect_same(placement, "weights", digest)
    except UserError as error:
        raise RuntimeError(str(error)) from error


def expect_same(placement: Placement, what: str, value: str) -> None:
    """Raises UserError on all workers when `value` is not the chief's on each of them.

    Args:
      what: names `value` in the message.
    """
    if placement.workers == 1:
        return
    digest = int.from_bytes(hashlib.sha256(value.encode()).digest()[:7])
    digests = np.zeros(placement.workers, np.int64)
    digests[placement.worker] = digest
    digests = summed(placement, digests)
    others = [str(worker) for worker, each in enumerate(digests) if each != digests[0]]
    if others:
        raise UserError(
            f"{what}: expected the same on all workers; worker {', '.join(others)} has others than "
            f"the chief. This is worker {placement.worker} with\n{value}"
        )


def expect_divisible(placement: Placement, batch_size: int) -> None:
    """Raises UserError when a batch cannot be divided equally among the replicas.

    Unequal parts would have their images weighted unequally in the mean over the batch.
    """
    replicas = placement.replicas
    if batch_size % replicas:
        below = batch_size // replicas * replicas
        choice = f"{below} or {below + replicas}" if below else str(replicas)
        raise UserError(
            f"batch_size: expected a multiple of the {replicas} replicas that share a batch; "
            f"received {batch_size}. Choose {choice}, or fewer devices."
        )


def share(
    placement: Placement, batches: Callable[..., tf.data.Dataset]
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """What `fit` is to be given: this worker's share of every batch.

    Args:
      batches: takes `own`, this worker's replicas, and `replicas`, how many there are in all, and
        makes the batches of `own` in turn.
    """
    if placement.replicas == 1:
        return batches()
    own = placement.replicas // placement.workers
    first = placement.worker * own
    return placement.strategy.distribute_datasets_from_function(
        lambda context: batches(own=range(first, first + own), replicas=placement.replicas)
    )
