"""Where training runs: one device, all GPUs of this machine, or the workers of a cluster.

A cluster is what `TF_CONFIG` or SLURM's environment describes. Its worker 0, the chief, is the only
one that writes, and the only one that reads checkpoints: `copy_from_chief` gives its state to the
others, which therefore need no file system in common with it.
"""

import contextlib
import functools
import hashlib
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfgan_mnist import cli, cluster
from tfgan_mnist.cluster import Cluster, Lines
from tfgan_mnist.errors import UserError, WorkerLost

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


class DistributionContext(NamedTuple):
    """A strategy and this process's place in it."""

    strategy: tf.distribute.Strategy
    workers: int = 1
    worker: int = 0
    lines: Lines | None = None  # to the other workers

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


def start(kind: str, wait_seconds: float) -> DistributionContext:
    """The strategy called `kind`; in a cluster it waits until all workers are there.

    To be called before TensorFlow's first operation.

    Args:
      kind: one of `cluster.STRATEGIES`. "auto": the cluster that the environment describes if it
        has several workers, else all GPUs of this machine if it has several, else one device.
      wait_seconds: how long workers may take to come.

    Raises:
      UserError: no cluster for "multi_worker", or a description of one that cannot be read.
    """
    gpus = tf.config.list_physical_devices("GPU")
    described = cluster.find() if kind in ("auto", "multi_worker") else None
    if described and len(described.addresses) > 1:
        return _join(described, wait_seconds)
    if kind == "multi_worker":
        received = described.addresses if described else "neither"
        raise UserError(
            "strategy=multi_worker: expected two workers or more in TF_CONFIG, or more than one "
            f"SLURM task started by srun; received {received}"
        )
    if kind == "mirrored" or (kind == "auto" and len(gpus) > 1):
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return DistributionContext(
            tf.distribute.MirroredStrategy([device.name for device in devices])
        )
    return DistributionContext(tf.distribute.get_strategy())


def _join(described: Cluster, wait_seconds: float) -> DistributionContext:
    """Connects with the other workers."""
    lines = cluster.meet(described, wait_seconds)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": described.addresses}),
        task_type="worker",
        task_id=described.worker,
        rpc_layer="grpc",
    )
    # While TensorFlow connects no Python runs, not even a signal's handler: should a worker be lost
    # just now, the system's own alarm ends this process, with a status that says "start me again".
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, wait_seconds)
    with _peers(lines):
        strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
        placement = DistributionContext(strategy, len(described.addresses), described.worker, lines)
        summed(placement, np.zeros(1))
    signal.setitimer(signal.ITIMER_REAL, 0)
    # TensorFlow's coordination has taken it for its own ends, and does nothing.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return placement


@contextlib.contextmanager
def together(placement: DistributionContext) -> Iterator[None]:
    """What the workers do together: the block is left when all have reached its end.

    When one is lost the others cannot go on: they end with `WorkerLost`'s status, and the whole job
    has to be started again. When one ends for a reason of its own, by an exception in this block,
    the others end with its exit status and name the reason. Workers other than the chief leave
    signals to it: it saves and stops.
    """
    if placement.lines is None:
        yield
        return
    with _peers(placement.lines):
        with contextlib.nullcontext() if placement.is_chief else _signals_ignored():
            yield
        summed(placement, np.zeros(1))


@contextlib.contextmanager
def _peers(lines: Lines) -> Iterator[None]:
    """Tells the other workers why this one ends in this block, or ends when another has ended.

    Then at once: threads of TensorFlow's wait for ever for the one that is gone.
    """
    try:
        yield
    except Exception as error:
        if not _tells_of_a_loss(error):
            is_users = isinstance(error, (UserError, OSError))
            status = cli.EXIT_USER_ERROR if is_users else getattr(error, "exit_status", 1)
            lines.say(status, str(error) or repr(error))
            raise
        if words := lines.hear():
            status = words.exit_status
            ending = f"worker {lines.worker} ends with worker {words.worker}: {words.message}"
        else:
            status = WorkerLost.exit_status
            lost = set(re.findall(r"/task:(\d+)", str(error))) - {str(lines.worker)}
            ending = (
                f"worker {lines.worker} lost worker {' or '.join(sorted(lost)) or '(unknown)'} and "
                "cannot go on. Start all workers again: with --run and the same command as before, "
                f"training goes on from its last checkpoint. ({type(error).__name__})"
            )
        print(ending, file=sys.stderr, flush=True)  # noqa: T201
        sys.stdout.flush()
        os._exit(status)


def _tells_of_a_loss(error: Exception) -> bool:
    """Whether another worker's end is the cause of an error."""
    return isinstance(error, tf.errors.OpError) and bool(
        isinstance(error, PEER_ERRORS) or PEER_MESSAGE.search(error.message or "")
    )


@contextlib.contextmanager
def _signals_ignored() -> Iterator[None]:
    """SIGTERM and SIGINT do nothing in this block."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    former = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, former):
            signal.signal(number, handler)


@contextlib.contextmanager
def without_trace() -> Iterator[str]:
    """For a worker that is to write nothing: a folder that goes again, and prints that are lost."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        yield scratch


def summed(placement: DistributionContext, numbers: np.ndarray) -> np.ndarray:
    """The sum of an int64 array over the workers, the same on each; all of them have to call it."""
    return _summing(placement)(tf.constant(numbers, tf.int64)).numpy()


@functools.cache
def _summing(placement: DistributionContext) -> Callable:
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


def chief_says(placement: DistributionContext, value: bool) -> bool:
    """The chief's `value`, on every worker."""
    if placement.workers == 1:
        return value
    return bool(summed(placement, np.array([value and placement.is_chief]))[0])


def copy_from_chief(placement: DistributionContext, state: Mapping[str, Sequence]) -> None:
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


def expect_same_state(placement: DistributionContext, state: Mapping[str, Sequence]) -> None:
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


def expect_same(placement: DistributionContext, what: str, value: str) -> None:
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


def expect_divisible(placement: DistributionContext, batch_size: int) -> None:
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
    placement: DistributionContext, batches: Callable[..., tf.data.Dataset]
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
