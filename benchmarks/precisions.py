"""Milliseconds of a training step by precision, with and without XLA: for a GPU or a new CPU.

    python -m benchmarks.precisions --models dcgan cdcgan gan

Each combination has its own process, as in `step`, one after the other. "keras" (in the file
"plain") has Keras's own layers in place of ours. Half a minute for each combination on a GPU,
mostly compiling. Appends to results/precisions.jsonl.
"""

import argparse
import itertools

from benchmarks import records, step

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
ROUNDS = 6


def main() -> None:
    """Times the combinations and prints them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=["dcgan"], metavar="NAME")
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--layers", nargs="+", default=("ours", "keras"), choices=("ours", "keras"))
    parser.add_argument("--xla", nargs="+", default=("yes", "no"), choices=("yes", "no"))
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.0, help=f"of each of {ROUNDS} turns")
    flags = parser.parse_args()
    rows = []
    combinations = itertools.product(flags.models, flags.precisions, flags.xla, flags.layers)
    for name, precision, xla, layers in combinations:
        case = {"precision": precision, "batch_size": flags.batch_size, "xla": xla == "yes"}
        keras = step.OUR_LAYERS[name] if layers == "keras" else ()
        found = step.compare(name, {precision: case | {"keras": keras}}, ROUNDS, flags.seconds)
        shortest, median, _ = found["milliseconds"][precision]
        figures = {
            "milliseconds": round(median, 3),
            "shortest": round(shortest, 3),
            "images_per_second": round(flags.batch_size * 1e3 / median),
        }
        records.append("precisions", {"name": name, **case, "plain": bool(keras)} | figures)
        rows.append((name, precision, xla, layers, *figures.values()))
    heads = ("model", "precision", "XLA", "layers", "median, ms", "min, ms", "images/s")
    print(records.table(rows, heads))


if __name__ == "__main__":
    main()
