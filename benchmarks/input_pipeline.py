"""What the input pipeline costs a training step: the default DCGAN's on MNIST, by batch size.

    python -m benchmarks.input_pipeline

"alone" is the time of a batch that is taken from `order.batches` while nothing else runs. "cost" is
what training pays: a step fed by `order.batches` less the step after or before it, which is on one
batch in memory. A fed step waits for its batch and pays for the next one, which is made while it
computes. Medians, and the quartiles of the cost: when these lie far apart, the machine was too busy
to tell. The bar is a cost under 3 % of the step.
"""

import statistics
import time

from tfgan_mnist import cli
from tfgan_mnist.config import resolve

BATCH_SIZES = (32, 64, 128)
PAIRS_OF_STEPS = 100
BATCHES_ALONE = 2000
BAR_PERCENT = 3.0


def milliseconds(function) -> float:
    """How long a call of `function` takes."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


def measure(digits, batch_size: int) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds of batches alone, of steps on a batch in memory, and of the input of steps."""
    import tensorflow as tf

    from tfgan_mnist.data import order
    from tfgan_mnist.training import build, runtime

    full_pass = order.steps_per_epoch(digits.train, batch_size)
    model = build.build(
        resolve({"model": "dcgan", "batch_size": batch_size, "steps_per_epoch": full_pass}),
        digits.train.images.shape[1:],
        digits.num_classes,
        jit_compile=runtime.use_xla(),
    )
    batches = iter(order.batches(digits.train, batch_size, seed=0))
    in_memory = next(batches)

    # As `fit` does it: the step takes its batch inside the graph.
    train_step = tf.function(model.train_step, jit_compile=model.jit_compile)

    @tf.function
    def fed_step():
        return train_step(next(batches))

    @tf.function
    def unfed_step():
        return train_step(in_memory)

    # The losses are read, as a GPU would still be computing when the call returns.
    def fed():
        float(fed_step()["d_loss"])

    def unfed():
        float(unfed_step()["d_loss"])

    for _ in range(3):  # Traces and warms up.
        fed(), unfed()
    alone = [milliseconds(lambda: next(batches)) for _ in range(BATCHES_ALONE)]
    steps, costs = [], []
    for pair in range(PAIRS_OF_STEPS):
        # Each goes first in half of the pairs.
        order = (fed, unfed) if pair % 2 else (unfed, fed)
        took = {step: milliseconds(step) for step in order}
        steps.append(took[unfed])
        costs.append(took[fed] - took[unfed])
    return alone, steps, costs


def main() -> None:
    """Prints a row for every batch size."""
    cli.start_tensorflow()
    from tfgan_mnist import data
    from tfgan_mnist.training import runtime

    runtime.configure(seed=0, precision="auto")
    digits = data.load("mnist")
    print(f"MNIST, DCGAN, {runtime.describe()}; the bar is {BAR_PERCENT} %")
    print("batch size | alone, ms | step, ms | cost, ms (quartiles)     | cost, % of the step")
    for batch_size in BATCH_SIZES:
        alone, steps, costs = measure(digits, batch_size)
        low, cost, high = statistics.quantiles(costs)
        step = statistics.median(steps)
        print(
            f"{batch_size:10} | {statistics.median(alone):9.2f} | {step:8.1f} | "
            f"{cost:8.2f} ({low:.2f} to {high:.2f}) | {cost / step:.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
