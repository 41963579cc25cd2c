"""One trial of a recipe: trains it, judges it after every epoch, and keeps what was found.

    python -m benchmarks.search --model=dcgan --epochs=2 --latent_dim=32 --why="fewer latents"

Takes a flag for every field of the configuration; what differs from the model's recipe is the
setting, and the whole configuration is told beside it. Each evaluation appends a line to
results/search.jsonl. Samples are judged against the 5,000 held-out training images, as training
itself does it: the test images have no part in the choice of a recipe.

A trial is told by its step's cost on a machine with nothing else to do: "seconds" is the number of
steps times the 20th percentile of the time of a step, so that trials can be compared that ran
beside other work, of which "wall" tells.

Rows without a configuration name in their setting what the recipe has changed since. "code" in a
setting tells what no flag does; rows without "wall" come from a script of such changes, which also
judged within epochs; those without "seconds" judge the checkpoint of a finished run. A field that a
configuration lacks was added since and had its default.
"""

import dataclasses
import time
from pathlib import Path

import numpy as np

from benchmarks import records
from tfgan_mnist import cli, config

TOLD = ("fid", "precision", "recall", "density", "coverage", "classes_covered", "label_accuracy")


def trial(settings: config.Config, why: str) -> None:
    """Trains as configured and appends a line after each epoch."""
    cli.start_tensorflow()
    import keras

    from benchmarks.contestants.ours import fit
    from tfgan_mnist import data
    from tfgan_mnist.data import order
    from tfgan_mnist.evaluation import classifier
    from tfgan_mnist.training import build, evaluation_callback, runtime

    runtime.configure(settings.seed, settings.precision)
    digits = data.load(
        settings.dataset,
        settings.data_dir or None,
        settings.manual_dir or None,
        settings.image_size,
        settings.channels or None,
    )
    training, held_out = order.hold_out(
        digits.train, evaluation_callback.num_held_out(len(digits.train.images))
    )
    judge = classifier.load(settings.dataset, digits.train.images.shape[1:], settings.data_dir)
    configuration = records.configuration(settings)
    full_pass = order.steps_per_epoch(training, settings.images_per_step)
    settings = dataclasses.replace(settings, steps_per_epoch=settings.steps_per_epoch or full_pass)
    model = build.build(settings, digits.train.images.shape[1:], digits.num_classes)
    evaluation = evaluation_callback.Evaluation(
        Path("."), judge, held_out, every=1, last_epoch=settings.epochs
    )
    evaluation.set_model(model)
    steps: list[float] = []

    class Times(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.begun = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            steps.append(time.perf_counter() - self.begun)

        def on_epoch_end(self, epoch, logs=None):
            found = evaluation.evaluate()
            line = {
                "model": settings.model,
                "setting": setting(configuration),
                "configuration": configuration,
                "why": why,
                "seed": settings.seed,
                "epoch": epoch + 1,
                "steps": len(steps),
                "seconds": round(len(steps) * float(np.quantile(steps, 0.2)), 1),
                "wall": round(sum(steps), 1),
                **{key: round(found[key], 4) for key in TOLD if key in found},
                **{key: round(float(value), 3) for key, value in (logs or {}).items()},
            }
            print(line, flush=True)
            records.append("search", line)

    fit(model, training, settings, Times())


def setting(configuration: dict) -> dict:
    """What differs from the model's recipe and is not told otherwise."""
    recipe = records.configuration(config.resolve({"model": configuration["model"]}))
    told = ("seed", "steps_per_epoch")
    return {k: v for k, v in configuration.items() if k not in told and recipe[k] != v}


def main(arguments) -> None:
    """Turns flags into a trial."""
    trial(config.resolve(config.explicit_flags(arguments), arguments.config), arguments.why)


def parser() -> cli.Parser:
    """Those of the configuration, and why it is tried."""
    parser = cli.Parser("search", __doc__)
    parser.add_argument("--config", metavar="FILE", help="TOML file with some of the values below")
    parser.add_argument("--why", default="", help="what the trial is to show")
    config.add_flags(parser)
    return parser


if __name__ == "__main__":
    cli.run(main, parser())
