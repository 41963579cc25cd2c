"""One change of a recipe: trains it and compares samples with held-out images after each epoch.

    python -m benchmarks.search --model=dcgan --epochs=2 --latent_dim=32 --why="fewer latents"

Takes a flag for each field of the configuration. Each evaluation appends a line to
results/search.jsonl: "setting" is what differs from the model's recipe, "configuration" the whole.
Samples are compared with the 5,000 held-out training images, as during training: the test images
have no part in the choice of a recipe.

"seconds" is the number of steps times the 20th percentile of a step's time, so that trials can be
compared that shared the machine with other work; "wall" is the measured sum.

Older rows without a configuration list in their setting what the recipe has changed since; "code"
is a change of the code; rows without "seconds" evaluate a checkpoint of a finished run.
"""

import time

import numpy as np

from benchmarks import records
from tfgan_mnist import cli, config, flags
from tfgan_mnist.config import Config

HELD_OUT = 5000  # images at most
SCORES = ("fid", "precision", "recall", "density", "coverage", "classes_covered", "label_accuracy")


def run(trial: Config, why: str) -> None:
    """Trains as configured and appends a line after each epoch."""
    cli.start_tensorflow()
    import keras

    from benchmarks import ours
    from benchmarks.time_to_quality import score_samples
    from tfgan_mnist import data
    from tfgan_mnist.data import order
    from tfgan_mnist.evaluation import choice, protocol
    from tfgan_mnist.training import runtime

    runtime.configure(trial.seed, trial.precision)
    folders = trial.data_dir or None, trial.manual_dir or None
    data_set = data.load(trial.dataset, *folders, trial.image_size, trial.channels or None)
    num = min(HELD_OUT, len(data_set.train.images) // 12)
    training, held_out = order.hold_out(data_set.train, num)
    features = choice.find(data_set, trial.data_dir)
    real = protocol.compute_reference(features, held_out.images)
    configuration = records.configuration(trial)
    trial = ours.with_steps(trial, training)
    xla = runtime.use_xla()
    model = ours.build(trial, data_set.image_shape, data_set.num_classes, jit_compile=xla)
    steps: list[float] = []

    class Evaluate(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.begun = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            steps.append(time.perf_counter() - self.begun)

        def on_epoch_end(self, epoch, logs=None):
            scores = score_samples(features, *ours.sample(model, num, seed=1), real)
            row = {
                "model": trial.model,
                "setting": setting(configuration),
                "configuration": configuration,
                "why": why,
                "seed": trial.seed,
                "epoch": epoch + 1,
                "steps": len(steps),
                "seconds": round(len(steps) * float(np.quantile(steps, 0.2)), 1),
                "wall": round(sum(steps), 1),
                **{key: round(scores[key], 4) for key in SCORES if key in scores},
                **{key: round(float(value), 3) for key, value in (logs or {}).items()},
            }
            print(row, flush=True)
            records.append("search", row)

    ours.fit(model, training, trial, Evaluate())


def setting(configuration: dict) -> dict:
    """Returns what differs from the model's recipe, but for seed and steps, which a row has."""
    recipe = records.configuration(config.resolve({"model": configuration["model"]}))
    listed = ("seed", "steps_per_epoch")
    return {k: v for k, v in configuration.items() if k not in listed and recipe[k] != v}


def main(arguments) -> None:
    """Runs the trial that the flags describe."""
    run(config.resolve(flags.explicit(arguments), arguments.config), arguments.why)


if __name__ == "__main__":
    parser = cli.Parser("search", __doc__)
    parser.add_argument("--config", metavar="FILE", help="TOML file with some of the values below")
    parser.add_argument("--why", default="", help="what the trial is to show")
    flags.add(parser)
    cli.run(main, parser)
