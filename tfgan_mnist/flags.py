"""A flag for each field of the configuration: its help, its group, and what else it is called."""

import argparse
from typing import Any

from tfgan_mnist.config import FIELDS, RECIPES, TYPES

# Title -> the first field of the group; a group ends where the next one begins.
GROUPS = {
    "data": "model",
    "length": "epochs",
    "objective": "loss",
    "optimizers (Adam)": "g_learning_rate",
    "networks": "latent_dim",
    "evaluation and diagnostics": "epochs_per_evaluation",
    "what is written": "run_root",
}
FIRST = (
    *("model", "dataset", "epochs", "steps_per_epoch", "batch_size", "seed"),
    *("loss", "g_learning_rate", "d_learning_rate"),
)
RATES = "--g_learning_rate and --d_learning_rate"
# Names in other programs -> ours.
ALSO_CALLED = {
    "lr": RATES,
    "learning_rate": RATES,
    "nz": "--latent_dim",
    "z_dim": "--latent_dim",
    "noise_dim": "--latent_dim",
    "ngf": "--g_width",
    "ndf": "--d_width",
    "beta1": "--beta_1",
    "beta2": "--beta_2",
    "bs": "--batch_size",
    "batch": "--batch_size",
    "n_epochs": "--epochs",
    "num_epochs": "--epochs",
    "steps": "--steps_per_epoch",
    "data": "--dataset",
    "dataroot": "--dataset",
    "output": "--run_root",
    "output_dir": "--run_root",
    "save_dir": "--run_root",
    "amp": "--precision=mixed_float16",
    "fp16": "--precision=mixed_float16",
}


def add(parser: argparse.ArgumentParser, first=None) -> None:
    """Adds one flag per field, those of `FIRST` to the group `first` if there is one.

    Only flags given on the command line appear in the result.
    """
    group: Any = parser
    titles = {name: title for title, name in GROUPS.items()}
    for name in FIELDS:
        if name in titles:
            group = parser.add_argument_group(titles[name])
        (first if first and name in FIRST else group).add_argument(f"--{name}", **details(name))


def details(name: str) -> dict[str, Any]:
    """The arguments of `add_argument` for a field."""
    limits, kind = FIELDS[name].metadata, TYPES[name]
    only = f" [{', '.join(limits['only'])}]" if limits["only"] else ""
    help_text = f"{limits['meaning']}{only} (default: {_shown(name)})"
    common: dict[str, Any] = {"default": argparse.SUPPRESS, "help": help_text}
    if kind is bool:
        return common | {"action": argparse.BooleanOptionalAction}
    if kind == tuple[int, ...]:
        return common | {"type": _integers, "metavar": "N,N"}
    metavar = {} if limits["choices"] else {"metavar": kind.__name__.upper()}
    return common | {"type": kind, "choices": limits["choices"]} | metavar


def explicit(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those of the parsed arguments that are fields, i.e. that were given explicitly."""
    return {key: value for key, value in vars(arguments).items() if key in FIELDS}


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(item) for item in text.split(","))


def _shown(name: str) -> str:
    """The default for the help text, with each recipe's value where it differs."""

    def show(value) -> str:
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value) or "''"

    shown = show(FIELDS[name].default)
    for model, recipe in RECIPES.items():
        if name in recipe:
            shown += f"; {model}: {show(recipe[name])}"
    return shown.replace("%", "%%")
