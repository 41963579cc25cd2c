"""Images per second of a training step: ours and the peers', on the same networks and batch.

    python -m benchmarks.step

Everybody trains our default DCGAN's networks in its batches on MNIST, each by its own loop and in
a process of its own. The peers' are of Keras's own layers, since that ours compute the same
functions faster is part of what is compared; PyTorch's are made from the layers of ours. All must
have as many parameters. They take turns of some seconds, round after round, in changing order;
figures are medians over rounds, spreads are quartiles. The first turn, with tracing and compiling,
does not count.

- "ours: train command" is `python -m tfgan_mnist.train` with all its callbacks; what they do
  between epochs is timed apart and shared out over the default epoch.
- "keras-io, default" is what Keras makes of jit_compile="auto" here; the table says which.
- A FLOP is a multiplication or an addition of the matrix products and convolutions in the step as
  it is traced; nothing else is counted. The machine's ceilings are those of the best of some
  shapes, measured in turns like all else.

Ten minutes on 2 cores, which should have nothing else to do. A line of results/step.jsonl holds all
figures.
"""

import argparse
import json
import math
import statistics
import sys

from benchmarks import contestants, entrants, records
from benchmarks.workers import Turns, Worker

TRAIN, FIT = "ours: train command", "ours: fit"
BARE, FED = "ours: bare step", "ours: step and data"
XLA = "keras-io, XLA"
NEEDED = (TRAIN, FIT, BARE, FED, "keras-io, default", "ceilings")  # for the tables


def work(name: str, ours: dict) -> None:
    """What a worker does."""
    turns = Turns()
    if not name.startswith("PyTorch"):
        from tfgan_mnist import cli

        cli.start_tensorflow()
    if name == "layers":
        from benchmarks import layers

        turns.begin(layers.report())
        return
    entrant = entrants.ENTRANTS[name](ours)
    turns.begin(entrant.facts)
    entrant.run(turns)


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Of at least one value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, method="inclusive")
    return low, middle, high


def measure(names: list[str], rounds: int, seconds: float) -> tuple[dict, dict]:
    """What each entrant said of itself, and what it reported in each round."""
    workers = {}
    try:
        ours: dict = {}
        for name in names:
            print(f"starting {name}", file=sys.stderr)
            workers[name] = Worker("step", name, ours=json.dumps(ours))
            ours = ours or workers[name].facts
            workers[name].turn(seconds)
        facts = {name: worker.facts for name, worker in workers.items()}
        expect_same_networks(facts)
        reports: dict[str, list] = {name: [] for name in names}
        for number in range(rounds):
            first = number % len(names)
            for name in [*names[first:], *names[:first]]:
                reports[name].append(workers[name].turn(seconds))
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
    finally:
        for worker in workers.values():
            worker.close()
    return facts, reports


def expect_same_networks(facts: dict[str, dict]) -> None:
    """Raises ValueError when somebody's networks are others."""
    counts = {name: tuple(of["parameters"]) for name, of in facts.items() if "parameters" in of}
    if len(set(counts.values())) > 1:
        raise ValueError(f"expected the same networks everywhere; their parameters: {counts}")


def evaluate(facts: dict, reports: dict, layers: dict) -> dict:
    """The figures of a run from what the workers reported."""
    batch = facts[BARE]["batch_size"]
    # Milliseconds per step, by round.
    steps = {
        name: [1e3 * batch * report["seconds"] / report["images"] for report in of]
        for name, of in reports.items()
        if name != "ceilings"
    }
    everything = [report["notes"] for of in reports.values() for report in of]
    notes = {
        key: [value for told in everything for value in told.get(key, [])]
        for key in ("epoch_end", "evaluation", "matmul", "convolution")
    }
    # At the end of an epoch, shared out over its steps; NaN when no epoch ended.
    full = facts[TRAIN]["steps_per_epoch"]
    evaluation = 1e3 * statistics.median(notes["evaluation"] or [math.nan]) / full
    epoch_end = 1e3 * statistics.median(notes["epoch_end"] or [math.nan]) / full
    median = {name: quartiles(of)[1] for name, of in steps.items()}
    with_callbacks = median[TRAIN] + epoch_end

    def apart(one: str, other: str) -> float:
        """Median over rounds of how much longer a step of `one` takes."""
        return statistics.median(a - b for a, b in zip(steps[one], steps[other], strict=True))

    ceilings = {key: quartiles(notes[key])[1] for key in ("matmul", "convolution")}
    achieved = layers["gflop"] / median[BARE] * 1e3
    fastest = min((name for name in entrants.MENDED if name in median), key=median.__getitem__)
    return {
        "batch_size": batch,
        "images_per_second": {
            name: [batch * 1e3 / value for value in reversed(quartiles(of))]
            for name, of in steps.items()
        },
        "peak_mb": {name: of[-1]["peak_mb"] for name, of in reports.items()},
        "parameters": facts[BARE]["parameters"],
        "keras_default_is_xla": facts["keras-io, default"]["xla"],
        "with_callbacks": batch * 1e3 / with_callbacks,
        "outside_ms": {
            "data": apart(FED, BARE),
            "Keras's fit": apart(FIT, FED),
            "callbacks at every step": apart(TRAIN, FIT),
            "evaluations": evaluation,
            "other callbacks at an epoch's end": epoch_end - evaluation,
        },
        "outside_share": 1 - median[BARE] / with_callbacks,
        "callbacks_share": with_callbacks / median[BARE] - 1,
        "fastest_peer": fastest,
        "over_fastest_peer": median[fastest] / with_callbacks,
        "over_xla": median[XLA] / with_callbacks if XLA in median else None,
        "flop_per_image": layers["gflop"] * 1e9 / layers["images"],
        "gflops": achieved,
        "ceilings_gflops": ceilings,
        "of_convolution_ceiling": achieved / ceilings["convolution"],
        "of_matmul_ceiling": achieved / ceilings["matmul"],
        "layers": layers,
    }


def show(figures: dict) -> None:
    """Prints the tables."""
    compared = figures["with_callbacks"]
    rows = [
        (
            name,
            f"{middle:.0f}",
            f"{low:.0f} to {high:.0f}",
            f"{figures['batch_size'] / middle * 1e3:.1f}",
            f"{compared / middle:.2f}",
            f"{figures['peak_mb'][name]:.0f}",
        )
        for name, (low, middle, high) in figures["images_per_second"].items()
    ]
    heads = ("loop", "images/s", "quartiles", "ms/step", "ours / it", "peak MB")
    default = "on" if figures["keras_default_is_xla"] else "off"
    ceilings, layers = figures["ceilings_gflops"], figures["layers"]
    print(
        records.table(rows, heads),
        f'\nKeras makes jit_compile="auto" XLA {default} on this machine.',
        f"Ours with all callbacks, those of epochs shared out: {compared:.0f} images/s. Bars:",
        f"  over the fastest peer, {figures['fastest_peer']}: "
        f"{figures['over_fastest_peer']:.2f} (at least 1.2)",
        f"  over keras-io with XLA: {figures['over_xla'] or 0:.2f} (at least 3)",
        f"  fit with callbacks over the bare step: {figures['callbacks_share']:+.1%} (at most 3 %)",
        f"Outside the step: {figures['outside_share']:.1%} of the time; ms at every step:",
        *(f"  {part}: {value:+.2f}" for part, value in figures["outside_ms"].items()),
        f"\n{figures['flop_per_image'] / 1e6:.1f} MFLOP per image in products. "
        f"The bare step does {figures['gflops']:.0f} GFLOP/s,",
        f"  {figures['of_convolution_ceiling']:.0%} of convolutions' "
        f"{ceilings['convolution']:.0f}, "
        f"{figures['of_matmul_ceiling']:.0%} of matrix products' {ceilings['matmul']:.0f}\n",
        sep="\n",
    )
    rows = [
        (
            row["shapes"],
            row["kind"],
            ", ".join(row["roles"]),
            f"{row['milliseconds']:.2f}",
            f"{row['gflop'] / row['milliseconds'] * 1e3:.0f}",
            f"{row['gflop'] / row['milliseconds'] * 1e3 / ceilings['convolution']:.0%}",
            f"{row['bare_milliseconds']:.2f}",
            f"{row['times'] * row['milliseconds']:.2f}",
        )
        for row in layers["products"]
    ]
    heads = (
        "shapes",
        "operation",
        "where",
        "ms alone",
        "GFLOP/s",
        "of ceiling",
        "as matrices",
        "ms/step",
    )
    alone, bare = (
        sum(row["times"] * row[key] for row in layers["products"])
        for key in ("milliseconds", "bare_milliseconds")
    )
    at_ceiling = layers["gflop"] / ceilings["convolution"] * 1e3
    print(
        records.table(rows, heads),
        f"\nA step took {layers['step_ms']:.1f} ms then. Its products, each alone, take "
        f"{alone:.1f} ms; as bare matrix products of the same numbers {bare:.1f}, "
        f"at the convolutions' ceiling {at_ceiling:.1f}.",
        "Profile, ms of operations in a step (they overlap):",
        *(f"  {part}: {value:.2f}" for part, value in layers["profile"].items()),
        "  the longest of the others:",
        *(f"    {name}: {value:.2f}" for name, value in layers["others"].items()),
        sep="\n",
    )


def main() -> None:
    """Runs the workers, prints the tables and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn")
    parser.add_argument("--without", default="", metavar="NAME;NAME", help="entrants to leave out")
    parser.add_argument("--dry", action="store_true", help="keep no record")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--ours", help=argparse.SUPPRESS, default="{}")
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker, json.loads(arguments.ours))
        return
    without = [name.strip() for name in arguments.without.split(";") if name.strip()]
    others = [name for name in entrants.ENTRANTS if name not in NEEDED]
    if not set(without) <= set(others):
        parser.error(f"--without: expected some of {'; '.join(others)}; received {without}")
    names = [name for name in contestants.installed(entrants.ENTRANTS) if name not in without]
    facts, reports = measure(names, arguments.rounds, arguments.seconds)
    print("timing layers", file=sys.stderr)
    layers = Worker("step", "layers")
    layers.close()
    figures = evaluate(facts, reports, layers.facts)
    show(figures)
    if not arguments.dry:
        figures |= {"rounds": arguments.rounds, "seconds": arguments.seconds}
        print(f"\nKept in {records.append('step', figures)}")


if __name__ == "__main__":
    main()
