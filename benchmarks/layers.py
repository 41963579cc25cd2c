"""Where the time of our default DCGAN's step goes: its products one by one, and a profile of it.

The products are those of the step as it is traced, each timed alone on the machine, and beside it
the bare matrix product that it is, for which the pixels would have to lie ready. The profile is
TensorFlow's own, of whole steps: operations run beside each other, so that their times add up to
more than the step's.
"""

import collections
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import tensorflow as tf

from benchmarks import products
from tfgan_mnist import config
from tfgan_mnist.training import build, runtime

STEPS, PROFILED_STEPS = 20, 5
# What an operation of the profile belongs to, by its name and type; the first that is found.
PARTS = (
    ("products", r":.*(MatMul|Conv2D)"),
    ("batch norm", r"batch_norm"),
    ("optimizers", r"adam"),
    ("activations", r"(?i)relu|tanh|activation"),
    ("biases", r"Bias"),
    ("gradient norms", r"L2Loss|global_norm"),
    ("latents", r"stateless"),
)


def report() -> dict[str, Any]:
    """Of one step: FLOPs, milliseconds, its products with their times, and the profile's parts."""
    settings = config.resolve({"model": "dcgan", "steps_per_epoch": 1000})
    runtime.configure(settings.seed, settings.precision)
    model = build.build(settings, (28, 28, 1), 10, jit_compile=runtime.use_xla())
    num = settings.images_per_step
    images, labels = tf.random.uniform([num, 28, 28, 1], -1, 1), tf.zeros([num], tf.int32)

    @tf.function
    def step():
        return model.train_step((images, labels))

    found = products.found_in(step.get_concrete_function().graph)
    times = []
    for _ in range(STEPS + 3):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    step_ms = statistics.median(times[3:]) * 1e3

    groups = collections.defaultdict(list)
    for name, product in found:
        groups[product].append(role(name))
    rows = []
    for product, roles in groups.items():
        milliseconds = products.seconds(product) * 1e3
        bare = product.as_matrix_product()
        rows.append(
            {
                "kind": product.kind,
                "shapes": str(product),
                "roles": [f"{name} x{n}" for name, n in collections.Counter(roles).items()],
                "times": len(roles),
                "milliseconds": milliseconds,
                "bare_milliseconds": milliseconds
                if bare == product
                else products.seconds(bare) * 1e3,
                "gflop": product.flops / 1e9,
            }
        )
    rows.sort(key=lambda row: -row["times"] * row["milliseconds"])
    return {
        "images": num,
        "step_ms": step_ms,
        "gflop": sum(product.flops for _, product in found) / 1e9,
        "products": rows,
        **profile(step),
    }


def role(name: str) -> str:
    """`G forward`, `D backward`, ... by the name of an operation of the step."""
    network = "G" if "generator" in name else "D" if "discriminator" in name else "-"
    return f"{network} {'backward' if 'gradient_tape' in name else 'forward'}"


def profile(step) -> dict[str, Any]:
    """Milliseconds of a step's operations by part, and those of the slowest ones outside."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=2)
        tf.profiler.experimental.start(folder, options)
        for _ in range(PROFILED_STEPS):
            step()
        tf.profiler.experimental.stop()
        (path,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    operations: collections.Counter = collections.Counter()
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            name = plane.event_metadata[event.metadata_id].name
            if re.fullmatch(r"[^: ]+:\w+", name):
                operations[name] += event.duration_ps / 1e9 / PROFILED_STEPS
    parts: collections.Counter = collections.Counter()
    others: collections.Counter = collections.Counter()
    for name, milliseconds in operations.items():
        part = next((part for part, marks in PARTS if re.search(marks, name)), "others")
        parts[part] += milliseconds
        if part == "others":
            others[name] += milliseconds
    return {"profile": dict(parts.most_common()), "others": dict(others.most_common(10))}
