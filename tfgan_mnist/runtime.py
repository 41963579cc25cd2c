"""What must be settled before the first variable: seed, determinism, precision, XLA."""

import os

import keras
import tensorflow as tf


def configure(seed: int, precision: str) -> None:
    """Seeds Python, NumPy and TensorFlow, makes operations deterministic, sets the precision.

    Args:
      precision: "auto" or the name of a Keras dtype policy.
    """
    keras.utils.set_random_seed(seed)
    # The same seed gives the same weights, bit for bit. It is free on a CPU: a DCGAN step takes
    # 70.4 ms with it and 70.9 ms without (2 cores, minimum of 60).
    # On a GPU it may cost 7 %: 2.07 against 1.93 ms, one run of each (H100, XLA, mixed_float16,
    # batch 64).
    tf.config.experimental.enable_op_determinism()
    keras.config.set_dtype_policy(resolve_precision(precision))
    for gpu in tf.config.list_physical_devices("GPU"):
        # Leave to others what this run does not need. Only possible before the GPU's first use.
        tf.config.experimental.set_memory_growth(gpu, True)


def resolve_precision(precision: str) -> str:
    """The dtype policy that "auto" stands for on this machine; other names as they are.

    mixed_float16 where every GPU has tensor cores (compute capability 7.0), else float32. bfloat16
    on a CPU is left to `--precision=mixed_bfloat16`: it is up to 1.4 times as fast as float32 on
    one with AVX512_BF16 or AMX (`python -m benchmarks.precisions`), and slower everywhere else.
    Three seeds of each recipe show no loss of quality there (docs/speed.md); the recipes' figures
    are of float32.
    """
    if precision != "auto":
        return precision
    gpus = tf.config.list_physical_devices("GPU")
    capabilities = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in gpus
    ]
    if gpus and min(capabilities) >= (7, 0):
        return "mixed_float16"
    return "float32"


def use_xla() -> bool:
    """On a GPU: without it, it waits for the next operation most of the time.

    A DCGAN step takes an H100 1.6 ms with it and 10.6 without (batch 32, mixed_float16).
    On a CPU a DCGAN's step takes as long with it or a third longer, and that of the MLPs four times
    as long: 80 ms against 19 (2 cores, TensorFlow 2.21, `python -m benchmarks.precisions`).
    """
    return bool(tf.config.list_physical_devices("GPU"))


def describe() -> str:
    """The devices and the precision, for people: "2 CPU cores, float32"."""
    gpus = tf.config.list_physical_devices("GPU")
    devices = f"{len(gpus)} GPU" if gpus else f"{len(os.sched_getaffinity(0))} CPU cores"
    return f"{devices}, {keras.config.dtype_policy().name}"
