"""Where training runs: on one device, on all GPUs of this machine, or on the workers of a cluster.

`TF_CONFIG` or SLURM's environment describes a cluster. Only its worker 0, the chief, writes files
and reads checkpoints. It sends its state to the others, which need no common file system.
"""

import contextlib
import hashlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfgan_mnist.config import Config
from tfgan_mnist.errors import UserError, WorkerLost
from tfgan_mnist.training import cluster

# What a collective operation raises when another worker is gone: by type, or by message.
LOST_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)
LOST_MESSAGE = re.compile(
    "(?i)collective ops is aborted|coordination ?service|incarnation|heartbeat"
)


class DistributionContext(NamedTuple):
    """A strategy, and the place of this process in it."""

    strategy: tf.distribute.Strategy
    num_workers: int = 1
    worker_index: int = 0

    @property
    def is_chief(self) -> bool:
        return self.worker_index == 0

    @property
    def num_replicas(self) -> int:
        """Devices of all workers."""
        return self.strategy.num_replicas_in_sync

    @property
    def own_replicas(self) -> range:
        """Which of the replicas are on this worker; all workers have equally many."""
        count = self.num_replicas // self.num_workers
        return range(self.worker_index * count, (self.worker_index + 1) * count)

    def __str__(self) -> str:
        """What to add to a machine's description: "", or ", 16 replicas, 2 workers"."""
        workers = f", {self.num_workers} workers" if self.num_workers > 1 else ""
        return f", {self.num_replicas} replicas{workers}" if self.num_replicas > 1 else ""


def start(kind: str, wait_seconds: float) -> DistributionContext:
    """The strategy called `kind`; in a cluster, once all workers have started.

    To be called before TensorFlow's first operation.

    Args:
      kind: one of `cluster.STRATEGIES`. "auto": the cluster that the environment describes if it
        has several workers, else all GPUs of this machine if it has several, else one device.
      wait_seconds: how long to wait for other workers.

    Raises:
      UserError: "multi_worker" without a cluster, or an invalid description of one.
      WorkerLost: some workers did not start in time.
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
        return DistributionContext(tf.distribute.MirroredStrategy([each.name for each in devices]))
    return DistributionContext(tf.distribute.get_strategy())


def _join(described: cluster.Cluster, wait_seconds: float) -> DistributionContext:
    """Connects TensorFlow with the other workers."""
    cluster.wait_for_all(described, wait_seconds)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": described.addresses}),
        task_type="worker",
        task_id=described.worker_index,
        rpc_layer="grpc",
    )
    # TensorFlow connects without running Python, not even signal handlers. If a worker is lost
    # meanwhile, the system's alarm ends this process, with the status of a signal (142).
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, wait_seconds)
    with _exit_when_a_worker_is_lost(described.worker_index):
        strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
        context = DistributionContext(strategy, len(described.addresses), described.worker_index)
        summed(context, [0])
    signal.setitimer(signal.ITIMER_REAL, 0)
    # TensorFlow's coordination service has replaced the handler by one that does nothing.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return context


@contextlib.contextmanager
def together(context: DistributionContext) -> Iterator[None]:
    """Runs the block on all workers, and leaves it when all have reached its end.

    If a worker is lost in it, the others end with `WorkerLost`'s exit status: all have to be
    started again. Only the chief acts on signals: it saves and stops, and the others end with it.
    """
    if context.num_workers == 1:
        yield
        return
    if not context.is_chief:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _exit_when_a_worker_is_lost(context.worker_index):
        yield
        summed(context, [0])


@contextlib.contextmanager
def _exit_when_a_worker_is_lost(worker_index: int) -> Iterator[None]:
    """Ends the process when a collective operation in the block fails; other errors are raised.

    It ends at once: TensorFlow's threads would wait forever for the worker that is gone.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if not isinstance(error, LOST_ERRORS) and not LOST_MESSAGE.search(error.message or ""):
            raise
        lost = sorted(set(re.findall(r"/task:(\d+)", str(error))) - {str(worker_index)})
        print(
            f"worker {worker_index} lost worker {' or '.join(lost) or '(unknown)'} and cannot go "
            "on. Start all workers again: with --run and the same command as before, training goes "
            f"on from its last checkpoint. ({type(error).__name__})",
            file=sys.stderr,
            flush=True,
        )
        sys.stdout.flush()
        os._exit(WorkerLost.exit_status)


def summed(context: DistributionContext, numbers) -> np.ndarray:
    """The sum of an int64 array over the workers, which all have to call this."""
    numbers = np.asarray(numbers, np.int64)
    if context.num_workers == 1:
        return numbers

    @tf.function
    def total(numbers):
        replica = tf.distribute.get_replica_context()
        # Each worker's numbers count once: on its first replica.
        first = replica.replica_id_in_sync_group % len(context.own_replicas) == 0
        own = tf.where(first, numbers, tf.zeros_like(numbers))
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, own)

    results = context.strategy.run(total, args=(tf.constant(numbers),))
    return context.strategy.experimental_local_results(results)[0].numpy()


def from_chief(context: DistributionContext, numbers) -> np.ndarray:
    """The chief's int64 array, on all workers."""
    return summed(context, numbers if context.is_chief else np.zeros_like(numbers))


def copy_from_chief(context: DistributionContext, state: Mapping[str, Sequence]) -> None:
    """Assigns the chief's values to the variables of all workers, given by owner."""
    if context.num_workers == 1:
        return
    variables = [variable for owned in state.values() for variable in owned]
    values = [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables]
    # One message for all types: a sum with zeros changes no bit of an integer.
    message = b"".join(value.tobytes() for value in values)
    words = np.frombuffer(message + bytes(-len(message) % 8), np.int64)
    received = from_chief(context, words).tobytes()
    offset = 0
    for variable, value in zip(variables, values):
        count, size = value.size, value.nbytes
        variable.assign(np.frombuffer(received, value.dtype, count, offset).reshape(value.shape))
        offset += size


def expect_same(context: DistributionContext, what: str, value: str) -> None:
    """Raises UserError on all workers when `value`, called `what`, differs between them."""
    digests = np.zeros(context.num_workers, np.int64)
    digests[context.worker_index] = int.from_bytes(hashlib.sha256(value.encode()).digest()[:7])
    digests = summed(context, digests)
    others = [str(index) for index, digest in enumerate(digests) if digest != digests[0]]
    if others:
        raise UserError(
            f"{what}: expected the same on all workers; worker {', '.join(others)} has others than "
            f"the chief. This is worker {context.worker_index} with\n{value}"
        )


def check_config(context: DistributionContext, config: Config) -> None:
    """Raises UserError when a configuration does not fit the devices.

    Replicas need equal parts of a batch, or their images would have unequal weights.
    """
    replicas, batch_size = context.num_replicas, config.batch_size
    if batch_size % replicas:
        below = batch_size // replicas * replicas
        choice = f"{below} or {below + replicas}" if below else str(replicas)
        raise UserError(
            f"batch_size: expected a multiple of the {replicas} replicas that share a batch; "
            f"received {batch_size}. Choose {choice}, or fewer devices."
        )
    if context.num_workers > 1 and config.on_collapse == "rollback":
        raise UserError(
            "on_collapse: expected warn or stop where several workers train together; received "
            "rollback, which one process can do, on all its GPUs"
        )


def share(
    context: DistributionContext, batches: Callable[..., tf.data.Dataset], steps: int
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """This worker's share of each of so many batches, for `fit`.

    Args:
      batches: takes `own`, this worker's replicas, and `replicas`, their number on all workers, and
        returns the batches of `own` in turn.
    """
    if context.num_replicas == 1:
        return batches().take(steps)
    own = context.own_replicas
    return context.strategy.distribute_datasets_from_function(
        lambda _: batches(own=own, replicas=context.num_replicas).take(steps * len(own))
    )
