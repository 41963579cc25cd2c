"""What augmentation does for a generator that learns from few digits.

    python -m benchmarks.few_images                              # an hour; goes on where it stopped
    python -m benchmarks.few_images --variants none --seeds 1    # one run for each number of images
    python -m benchmarks.few_images --report                     # the table of the results

`dcgan` learns from the first --nums images of MNIST for --updates, with and without --augment
(Zhao et al. 2020, arXiv:2006.10738). 10,000 samples of the last update are compared with MNIST's
test images, and with the digits it learnt from: authenticity is the share that copies none.

Each training is a run in --runs, continued if it is there already. Each appends a line to
results/few_images.jsonl.
"""

from pathlib import Path

import numpy as np

from benchmarks import records, variants
from tfgan_mnist import cli, data, generate, runs

VARIANTS = {"none": {}, "translation": {"augment": "translation"}}
SCORES = {
    "fid": "FID",
    "precision": "precision",
    "recall": "recall",
    "authenticity": "authenticity",
    "nearest_training_image": "nearest",
}


def digits(num: int, folder: Path) -> Path:
    """Writes about `num` digits to train on, and some more that `data` holds out."""
    path = folder / f"digits-{num}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(path, images=data.load("mnist").train.images[: num * 8 // 7])
    return path


def measure(run: Path, variant: str, num: int) -> None:
    """Scores a finished run's samples, and appends a line."""
    config, _ = runs.read(run)
    source = generate.from_run(run)
    from tfgan_mnist.evaluation import choice, protocol

    mnist, few = data.load("mnist"), data.load(config.dataset)
    plan = generate.independent(source, protocol.NUM, None, 0)
    found = protocol.evaluate(
        choice.find(mnist),
        mnist._replace(train=few.train, name=f"{num} digits"),
        generate.draw(source, plan),
        None,
        source=source.name,
        seed=0,
    )
    row = {
        **{"variant": variant, "seed": config.seed, "digits": num, "epochs": config.epochs},
        "configuration": records.configuration(config),
        **{key: round(found.results["scores"][key], 4) for key in SCORES},
        "real": {key: round(found.results["floor"][key], 4) for key in SCORES},
    }
    records.append("few_images", row)


def main(arguments) -> None:
    """Measures what the flags name, and prints the table."""
    for seed in [] if arguments.report else arguments.seeds:
        for num in arguments.nums:
            path = str(digits(num, arguments.runs))
            for variant in arguments.variants:
                values = {"model": "dcgan", "dataset": path, "seed": seed}
                values |= {"epochs_per_evaluation": 0}
                values |= {"epochs": arguments.updates * 32 // num} | VARIANTS[variant]
                run = arguments.runs / f"{num}-{variant}-{seed}"
                measure(variants.trained(run, values), variant, num)
    print(variants.report("few_images", ("variant", "digits", "epochs"), SCORES))


def parser() -> cli.Parser:
    """Returns the flags."""
    parser = cli.Parser("few_images", __doc__)
    variants.add_flags(parser, VARIANTS, "runs/few_images")
    parser.add_argument("--nums", nargs="+", type=int, default=[1000, 5000], help="of digits")
    parser.add_argument("--updates", type=int, default=6000, help="of each network in a run")
    return parser


if __name__ == "__main__":
    cli.run(main, parser())
