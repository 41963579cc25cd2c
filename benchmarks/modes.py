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

import json
from pathlib import Path

import numpy as np

from benchmarks import records
from benchmarks.time_to_quality import mean
from tfgan_mnist import cli, generate, runs, train
from tfgan_mnist.config import FIELDS, resolve

NUM = 25_600  # samples
RECIPE = {"model": "dcgan", "dataset": "stacked_mnist"}
# R3GAN, Huang et al. 2024, arXiv:2501.05441. Penalties exclude batch norm.
R3GAN = {"loss": "relativistic", "r1": 1.0, "r2": 1.0, "d_batch_norm": False, "hidden_dense": False}
# What each variant changes in the recipe.
VARIANTS: dict[str, dict] = {"dcgan": {}, "relativistic": R3GAN, "packing": {"packing": 2}}


def trained(variant: str, seed: int, arguments) -> Path:
    """Trains a variant, as far as that has not been done, and returns its run."""
    own = {"seed": seed, "epochs": arguments.epochs, "data_dir": arguments.data_dir}
    exports = str(arguments.runs / "exports")
    config = resolve(RECIPE | own | {"export_root": exports} | VARIANTS[variant])
    run = arguments.runs / f"{variant}-{config.epochs}-{seed}"
    train.train(config, run, runs.read(run) if run.exists() else None)
    return run


def measure(run: Path, variant: str) -> None:
    """Counts the modes of a finished run's samples, and appends a line."""
    config, _ = runs.read(run)
    source = generate.from_run(run)
    from tfgan_mnist import data
    from tfgan_mnist.evaluation import classifier, metrics

    images = data.load(config.dataset, config.data_dir or None)
    digits = classifier.load(config.dataset, images.image_shape, config.data_dir)
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


def report() -> str:
    """Returns a table of means ± standard errors over seeds; of repeated runs the last counts."""
    lines = (records.RESULTS / "modes.jsonl").read_text().splitlines()
    rows = {(row["variant"], row["epochs"], row["seed"]): row for row in map(json.loads, lines)}
    cells = []
    for variant, epochs in dict.fromkeys(key[:2] for key in rows):
        own = [row for key, row in rows.items() if key[:2] == (variant, epochs)]
        values = (mean([row[key] for row in own]) for key in ("modes", "kl", "seconds"))
        cells.append((variant, epochs, *values, len(own)))
    real = next(reversed(rows.values()))["real"]
    cells.append(("test images", "", real["modes"], real["kl"], "", ""))
    return records.table(cells, ("variant", "epochs", "modes", "KL", "seconds", "seeds"))


def main(arguments) -> None:
    """Measures what the flags name, and prints the table."""
    for run in arguments.count:
        measure(run, run.name)
    for seed in [] if arguments.count or arguments.report else arguments.seeds:
        for variant in arguments.variants:
            measure(trained(variant, seed, arguments), variant)
    print(report())


def parser() -> cli.Parser:
    """Returns the flags."""
    parser = cli.Parser("modes", __doc__)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=FIELDS["epochs"].default, help="of each run")
    parser.add_argument("--runs", type=Path, default=Path("runs/modes"), metavar="FOLDER")
    parser.add_argument("--data_dir", default="", help="where prepared data sets are")
    parser.add_argument("--count", nargs="+", type=Path, default=[], help="finished runs")
    parser.add_argument("--report", action="store_true", help="only print the existing results")
    return parser


if __name__ == "__main__":
    cli.run(main, parser())
