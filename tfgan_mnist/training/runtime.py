"""What has to be set before the first variable: seed, determinism, precision, XLA."""

import contextlib
import os
from collections.abc import Iterator

import keras
import tensorflow as tf
from tensorflow.python.framework import config

from tfgan_mnist.models import optimizers


def configure(seed: int, precision: str) -> None:
    """Seeds Python, NumPy and TensorFlow, makes operations deterministic, sets the precision.

    Args:
      precision: "auto" or the name of a Keras dtype policy.
    """
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    keras.config.set_dtype_policy(resolve_precision(precision))
    for gpu in tf.config.list_physical_devices("GPU"):
        # Leaves the memory that this process does not need. Possible before the GPU's first use.
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Precision and determinism are as before when the block ends, which a notebook goes on after.

    TensorFlow 2.21 has no public way to ask for determinism, or to end it.
    """
    policy, deterministic = keras.config.dtype_policy(), config.is_op_determinism_enabled()
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        if not deterministic:
            config.disable_op_determinism()


def resolve_precision(precision: str) -> str:
    """The dtype policy that "auto" stands for on this machine; other names as they are.

    mixed_float16 where every GPU has tensor cores (compute capability 7.0), else float32. Some CPUs
    are faster with mixed_bfloat16, see docs/speed.md.
    """
    if precision != "auto":
        return precision
    capabilities = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    if capabilities and min(capabilities) >= (7, 0):
        return "mixed_float16"
    return "float32"


def resolve_xla(xla: str) -> str:
    """What "auto" stands for on this machine, "yes" or "no"; these two as they are.

    XLA draws other latents from the same seed, so the choice is part of a run's configuration.
    """
    return ("yes" if use_xla() else "no") if xla == "auto" else xla


def use_xla() -> bool:
    """Whether XLA makes the step faster: on a GPU, but not on every CPU (docs/speed.md)."""
    return optimizers.on_gpu()


def steps_per_execution(num_replicas: int) -> int:
    """How many training steps one call from Python makes; results do not depend on it.

    On a GPU such a call takes longer than a step, on a CPU little (docs/speed.md). Signals wait for
    the end of a call, which has to come within a second. Keras cannot do it on several workers.
    """
    return 16 if num_replicas == 1 and optimizers.on_gpu() else 1


def describe() -> str:
    """The devices and the precision: "2 CPU cores, float32"."""
    gpus = tf.config.list_physical_devices("GPU")
    # macOS has only the total of cores, not those that this process may use.
    here = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if here else os.cpu_count()
    devices = f"{len(gpus)} GPU" if gpus else f"{cores} CPU cores"
    return f"{devices}, {keras.config.dtype_policy().name}"
