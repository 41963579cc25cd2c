"""Modes of stacked MNIST that a generator covers: the table of PacGAN.

    python -m benchmarks.modes                                 # hours; continues where it stopped
    python -m benchmarks.modes --variants packing --seeds 1    # one run
    python -m benchmarks.modes --report                        # the table of the results

Lin et al. 2018, "PacGAN", arXiv:1712.04086, section 4.1: MNIST's classifier reads the three digits
of each of 25,600 samples. "modes" is how many of the 1,000 numbers it finds, "KL" the divergence of
their distribution from that of the training images, in nats. As many draws from that distribution
itself have a KL of 0.020 in the mean.

Each training is a run in --runs, continued if it is there already. --count takes other finished
runs. Each appends a line to results/modes.jsonl; "seconds" are those of its steps.
"""

from pathlib import Path

import numpy as np

from benchmarks import records, variants
from tfgan_mnist import cli, generate, runs
from tfgan_mnist.config import resolve

NUM = 25_600  # samples
RECIPE = {"model": "dcgan", "dataset": "stacked_mnist"}
# R3GAN, Huang et al. 2024, arXiv:2501.05441. Penalties exclude batch norm.
R3GAN = {"loss": "relativistic", "r1": 1.0, "r2": 1.0, "d_batch_norm": False, "hidden_dense": False}
# What each variant changes in the recipe.
VARIANTS: dict[str, dict] = {"dcgan": {}, "relativistic": R3GAN, "packing": {"packing": 2}}
SCORES = {"modes": "modes", "kl": "KL", "seconds": "seconds"}


def measure(run: Path, variant: str) -> None:
    """Counts the modes of a finished run's samples, and appends a line."""
    config, _ = runs.read(run)
    source = generate.from_run(run)
    from tfgan_mnist import data
    from tfgan_mnist.evaluation import choice, metrics

    images = data.load(config.dataset, config.data_dir or None)
    digits = choice.find(images, config.data_dir)
    in_training = np.bincount(images.train.labels, minlength=images.num_classes)

    def count(pixels: np.ndarray) -> dict[str, float]:
        numbers = digits.features_and_logits(pixels)[1].argmax(axis=1)
        found = np.bincount(numbers, minlength=images.num_classes)
        divergence = metrics.histogram_divergence(found, in_training)
        return {"modes": metrics.classes_covered(found), "kl": round(divergence, 4)}

    row = {
        **{"variant": variant, "seed": config.seed, "epochs": config.epochs},
        "configuration": records.configuration(config),
        "seconds": round(runs.read_history(run)[0][-1]["seconds"], 1),
        **count(generate.draw(source, generate.independent(source, NUM, None, 0))),
        "real": count(images.test.images[:NUM]),
    }
    records.append("modes", row)


def main(arguments) -> None:
    """Measures what the flags name, and prints the table."""
    for run in arguments.count:
        measure(run, run.name)
    own = {"epochs": arguments.epochs, "data_dir": arguments.data_dir}
    for seed in [] if arguments.count or arguments.report else arguments.seeds:
        for variant in arguments.variants:
            values = RECIPE | own | {"seed": seed} | VARIANTS[variant]
            run = arguments.runs / f"{variant}-{arguments.epochs}-{seed}"
            measure(variants.trained(run, values), variant)
    print(variants.report("modes", ("variant", "epochs"), SCORES))


def parser() -> cli.Parser:
    """Returns the flags."""
    parser = cli.Parser("modes", __doc__)
    variants.add_flags(parser, VARIANTS, "runs/modes")
    epochs = resolve(RECIPE).epochs
    parser.add_argument("--epochs", type=int, default=epochs, help="of each run")
    parser.add_argument("--data_dir", default="", help="where prepared data sets are")
    parser.add_argument("--count", nargs="+", type=Path, default=[], help="finished runs")
    return parser


if __name__ == "__main__":
    cli.run(main, parser())
