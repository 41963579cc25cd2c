"""Time of a training step. Variants take turns, so that all see the same state of the machine.

    python -m benchmarks.step                           # our default recipes: step alone, and fit
    python -m benchmarks.step --compare=keras_layers    # our layers and optimizer, or Keras's
    python -m benchmarks.step --compare=baselines       # the examples' loops on dcgan's networks
    python -m benchmarks.step --compare=precisions      # float32, float16 and bfloat16
    python -m benchmarks.step --compare=PATH            # another checkout of this repository
    python -m benchmarks.step --profile                 # where the time of a step goes

Each variant has its own process, which trains for some seconds in every round while the others
wait. Ratios are to the first variant of a recipe: above 1 is slower. The first step, which traces
and compiles, does not count. On a machine with other work compare minima, or the time of all cores.

"step" is `train_step` on one batch in memory, "fit" is `fit` with the input pipeline and without
callbacks. The baselines train the networks of the default `dcgan`, built of Keras's own layers, in
its batches; PyTorch is not among them.
"""

import argparse
import collections
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import baselines, records
from benchmarks.baselines import BASELINES, OURS
from benchmarks.timed import TimedTraining

ROOT = Path(__file__).parents[1]
# Classes of ours that replace one of Keras with the same name, in each default recipe.
CONVOLUTIONAL = ("Conv2D", "Conv2DTranspose", "BatchNormalization")
OUR_LAYERS = {"gan": CONVOLUTIONAL[2:], "dcgan": CONVOLUTIONAL, "cdcgan": CONVOLUTIONAL}
# Imports `tfgan_mnist` from the checkout in the first argument, `benchmarks` from this one.
WORKER = (
    "import sys, benchmarks; sys.path.insert(0, sys.argv[1]); from benchmarks import step; "
    "step.work(*sys.argv[2:])"
)
PROFILED_STEPS = 5
# What an operation of the profile belongs to, by its name and type; the first match counts.
PARTS = {
    "products and convolutions": r":.*(MatMul|Conv2D)",
    "batch norm": r"batch_norm",
    "optimizers": r"adam",
    "activations": r"(?i)relu|tanh|activation",
    "gradient norms": r"L2Loss|global_norm",
    "others": r"",
}


def use_keras(names: tuple[str, ...]) -> None:
    """Makes the package use Keras's classes in place of its own of these names, in this process."""
    import keras

    for name in names:
        original = getattr(keras.layers, name, None) or getattr(keras.optimizers, name)
        modules = [module for key, module in sys.modules.items() if key.startswith("tfgan_mnist.")]
        users = [module for module in modules if name in vars(module)]
        if not users:
            raise ValueError(f"expected a class of tfgan_mnist; received {name}")
        for module in users:
            setattr(module, name, original)


def train(model: str, loop: str = "step", keras=(), xla=None, **values: Any) -> TimedTraining:
    """Returns a training of a default recipe, with other values of the configuration.

    Args:
      model: name of the recipe.
      loop: "step", "fit" or a baseline, which trains the recipe's networks.
      keras: names of classes of ours to replace by Keras's.
      xla: compile the step with XLA; by default as the train command does.
      **values: fields of the configuration.
    """
    from tfgan_mnist import cli

    cli.start_tensorflow()
    import tensorflow as tf

    from benchmarks import ours

    use_keras(keras)
    if loop in BASELINES:
        return on_recipe(loop, model)(*baselines.digits(), seed=0)

    class Step(ours.Ours):
        def run(self, tick):
            batch = next(iter(ours.batches(self.split, self.config)))
            step = tf.function(self.model.train_step, jit_compile=self.model.jit_compile)
            while True:
                # A GPU's steps are waited for together, as nobody reads each step's loss.
                steps = 20 if tf.config.list_physical_devices("GPU") else 1
                logs = [step(batch) for _ in range(steps)]
                float(logs[-1]["d_loss"])
                tick(steps * self.config.images_per_step)

    kind = ours.Ours if loop == "fit" else Step
    return kind(model, *baselines.digits(), seed=0, xla=xla, epochs=10**6, **values)


def on_recipe(name: str, model: str) -> type:
    """Returns a baseline that trains the networks of an unconditional recipe, in its batches."""
    import keras

    from benchmarks import ours
    from benchmarks.baselines.keras_io_cgan import ConditionalGan
    from tfgan_mnist.config import resolve

    config = resolve({"model": model, "steps_per_epoch": 1})
    recipe = ours.build(config, (28, 28, 1), 10)

    class Unconditional(ConditionalGan):
        def generate(self, num, one_hot):
            latents = keras.random.normal((num, self.latent_dim), seed=self.seed_generator)
            return self.generator(latents, training=True)

        def with_labels(self, images, one_hot):
            return images

    class OnRecipe(baselines.load(name)):
        batch_size, latent_dim, gan = config.batch_size, config.latent_dim, Unconditional

        def networks(self):
            return recipe.generator, recipe.discriminator

    return OnRecipe


def work(model: str, options: str) -> None:
    """The process of a variant: prints its sizes, then for each line what its steps took.

    Milliseconds of each step, and of a step those of all cores together.
    """
    training = train(model, **json.loads(options))
    training.train(0)
    print(json.dumps([training.batch_size, *training.parameters()]), flush=True)
    for line in sys.stdin:
        done, seen, cpu = len(training.step_seconds), training.images_seen, time.process_time()
        training.train(float(line))
        steps = (training.images_seen - seen) / training.batch_size
        ticks = training.step_seconds[done:]
        milliseconds = [1e3 * seconds * len(ticks) / steps for seconds in ticks]
        print(json.dumps([milliseconds, 1e3 * (time.process_time() - cpu) / steps]), flush=True)


def receive(process: subprocess.Popen) -> list:
    """Returns the next line that the process of a variant prints."""
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args[-1]}: the process ended with {process.wait()}")
    return json.loads(line)


def compare(model: str, variants: dict[str, dict], rounds: int, seconds: float) -> dict[str, Any]:
    """Returns the milliseconds of a step of each variant of a recipe.

    They are [minimum, median, median over turns of the time of all cores].

    Args:
      model: name of the recipe.
      variants: label -> arguments of `train`, and "checkout" for another checkout.
      rounds: turns of each variant.
      seconds: of a turn.

    Raises:
      ValueError: the variants have different networks or batches.
    """
    processes, sizes = {}, {}
    turns = collections.defaultdict(list)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    try:
        for label, options in variants.items():
            print(f"starting {model}, {label}", file=sys.stderr)
            checkout = str(options.get("checkout", ROOT))
            options = json.dumps({key: options[key] for key in options if key != "checkout"})
            command = [sys.executable, "-c", WORKER, checkout, model, options]
            processes[label] = subprocess.Popen(command, cwd=ROOT, **pipes)
            sizes[label] = receive(processes[label])
        if len(set(map(tuple, sizes.values()))) > 1:
            raise ValueError(f"expected the same networks and batches; received {sizes}")
        for number in range(rounds):
            # In turn forwards and backwards: the order must not matter.
            for label in list(processes)[:: -1 if number % 2 else 1]:
                print(seconds, file=processes[label].stdin, flush=True)
                turns[label].append(receive(processes[label]))
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
    milliseconds = {}
    for label, of in turns.items():
        steps = [each for times, _ in of for each in times]
        cpu = statistics.median(cpu for _, cpu in of)
        milliseconds[label] = [min(steps), statistics.median(steps), cpu]
    return {"model": model, "batch_size": sizes[label][0], "milliseconds": milliseconds}


def variants_of(comparison: str, model: str) -> dict[str, dict]:
    """Returns the variants that `compare` is to compare, by their labels."""
    match comparison:
        case "":
            return {"step": {}, "fit": {"loop": "fit"}}
        case "keras_layers":
            names = (*OUR_LAYERS[model], "Adam")
            each = {f"Keras's {name}": {"keras": (name,)} for name in names}
            return {"ours": {}, **each, "all of Keras's": {"keras": names}}
        case "precisions":
            kinds = ("float32", "mixed_float16", "mixed_bfloat16")
            return {each: {"precision": each} for each in kinds}
        case "baselines":
            names = [name for name in BASELINES if name != "pytorch_dcgan"]
            plain = {"keras": OUR_LAYERS[model]}
            ours = {"step": {}, "fit": {"loop": "fit"}}
            return ours | {name: {"loop": name, **plain} for name in names}
    return {"this checkout": {}, comparison: {"checkout": Path(comparison).resolve()}}


def profile(model: str) -> None:
    """Prints the milliseconds of a step's operations by part; they overlap."""
    training = train(model)
    training.train(1)
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=2)
        tf.profiler.experimental.start(folder, options)
        for _ in range(PROFILED_STEPS):
            training.train(0)
        tf.profiler.experimental.stop()
        (path,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    parts: collections.Counter = collections.Counter()
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            name = plane.event_metadata[event.metadata_id].name
            if re.fullmatch(r"[^: ]+:\w+", name):
                part = next(part for part, regex in PARTS.items() if re.search(regex, name))
                parts[part] += event.duration_ps / 1e9 / PROFILED_STEPS
    rows = [(part, f"{milliseconds:.2f}") for part, milliseconds in parts.most_common()]
    print(records.table(rows, (f"{model}, operations", "ms/step")), end="\n\n")


def main() -> None:
    """Measures and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--compare", default="", metavar="WITH", help="see above, or a checkout")
    parser.add_argument("--models", nargs="+", choices=OURS, default=OURS)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--record", action="store_true", help="append to results/step.jsonl")
    flags = parser.parse_args()
    if flags.profile:
        for model in flags.models:
            profile(model)
        return
    rows = []
    for model in ("dcgan",) if flags.compare == "baselines" else flags.models:
        variants = variants_of(flags.compare, model)
        found = compare(model, variants, flags.rounds, flags.seconds)
        first = next(iter(found["milliseconds"].values()))
        for label, times in found["milliseconds"].items():
            ratios = [f"{time / of:.3f}" for time, of in zip(times, first)]
            rate = found["batch_size"] * 1e3 / times[1]
            rows.append((model, label, *(f"{time:.2f}" for time in times), f"{rate:.0f}", *ratios))
        if flags.record:
            records.append("step", {"compare": flags.compare} | found)
    heads = ("min, ms", "median, ms", "cores, ms", "images/s", "ratio: min", "median", "cores")
    print(records.table(rows, ("recipe", "variant", *heads)))


if __name__ == "__main__":
    main()
