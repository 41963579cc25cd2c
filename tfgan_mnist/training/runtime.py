"""What has to be set before the first variable: seed, determinism, precision, XLA."""

import os

import keras
import tensorflow as tf


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
        tf.config.experimental.set_memory_growth(gpu, True)


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


def use_xla() -> bool:
    """Whether XLA makes the step faster: on a GPU, but not on a CPU (docs/speed.md)."""
    return bool(tf.config.list_physical_devices("GPU"))


def describe() -> str:
    """The devices and the precision: "2 CPU cores, float32"."""
    gpus = tf.config.list_physical_devices("GPU")
    devices = f"{len(gpus)} GPU" if gpus else f"{len(os.sched_getaffinity(0))} CPU cores"
    return f"{devices}, {keras.config.dtype_policy().name}"
