"""The configuration of a run: one flat dataclass, a recipe for each model, TOML files and flags.

A value is resolved in one visible order, in which later wins: the default below, the model's
recipe, what the chosen loss needs, the TOML file of `--config`, the explicit flag. Unknown keys,
wrong types and values out of range are refused by name. The trials behind the values are in
docs/recipes.md.
"""

import dataclasses
import json
import os
import re
import tomllib
import typing
from typing import Any

from tfgan_mnist import files
from tfgan_mnist.errors import UserError
from tfgan_mnist.models import rules

CONVOLUTIONAL = ("dcgan", "cdcgan")


def option(default, meaning: str, *, choices=None, at_least=None, below=None, only=()):
    """A field with its manual: meaning and unit, its range, and the models it applies to."""
    limits = {"choices": choices, "at_least": at_least, "below": below, "only": only}
    return dataclasses.field(default=default, metadata={"meaning": meaning} | limits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that determines a run. Each line: name, default, meaning with unit, range."""

    # Data
    model: str = option("dcgan", "networks to train", choices=("gan", "dcgan", "cdcgan"))
    dataset: str = option(
        "mnist", "TFDS image classification data set, stacked_mnist, or a path of own pictures"
    )
    data_dir: str = option("", "where prepared data sets are; empty: TFDS's usual place")
    manual_dir: str = option("", "folder with the data set's archives; empty: packaged or download")
    image_size: int = option(0, "side in pixels; 0: 28, own pictures as they are", at_least=8)
    channels: int = option(0, "1 gray, 3 colour, 0 as the data set has it", choices=(0, 1, 3))
    background: str = option("white", "colour under transparent pixels")
    skip_broken: bool = option(False, "go on without own pictures that cannot be decoded")

    # Length
    epochs: int = option(4, "passes over the training images", at_least=1)
    steps_per_epoch: int = option(0, "generator updates per epoch; 0: a full pass", at_least=0)
    batch_size: int = option(32, "images per discriminator update, over all devices", at_least=1)
    seed: int = option(0, "of weights, latents and data order", at_least=0, below=2**31)
    precision: str = option(
        "auto",
        "arithmetic of the networks; auto: mixed_float16 on a GPU that has it, else float32",
        choices=("auto", "float32", "mixed_float16", "mixed_bfloat16"),
    )
    xla: str = option(
        "auto",
        "XLA compiles the training step, for one device; auto: on a GPU",
        choices=("auto", "yes", "no"),
    )

    # Objective
    loss: str = option("non_saturating", "adversarial objective", choices=rules.LOSSES)
    discriminator_steps: int = option(1, "discriminator updates per generator update", at_least=1)
    label_smoothing: float = option(0.0, "lowers D's target for real images", at_least=0, below=1)
    r1: float = option(0.0, "gamma of the gradient penalty at real images", at_least=0)
    r2: float = option(0.0, "gamma of the gradient penalty at generated images", at_least=0)
    gradient_penalty: float = option(0.0, "weight of WGAN-GP's; wasserstein: 10", at_least=0)
    packing: int = option(
        1, "samples that D sees joined along the channels", at_least=1, only=("gan", "dcgan")
    )
    augment: str = option(
        "auto",
        "of D's input: none, or of translation,cutout,color; auto: translation of few images",
    )

    # Optimizers (Adam)
    g_learning_rate: float = option(2e-3, "of the generator", at_least=0)
    d_learning_rate: float = option(5e-4, "of the discriminator", at_least=0)
    beta_1: float = option(0.5, "decay of the gradient's mean", at_least=0, below=1)
    beta_2: float = option(0.99, "decay of the squared gradient's mean", at_least=0, below=1)
    final_learning_rate: float = option(
        rules.FINAL_RATE,
        "share of the learning rates that a cosine decay ends at; 1: constant",
        at_least=0,
    )
    ema: float = option(
        0.998,
        "decay, once warmed up, of the average of G's weights that samples use; 0: none",
        at_least=0,
        below=1,
    )

    # Networks
    latent_dim: int = option(100, "numbers in a latent", at_least=1)
    g_hidden_widths: tuple[int, ...] = option(
        (256, 512, 1024), "hidden layers of the generator", at_least=1, only=("gan",)
    )
    d_hidden_widths: tuple[int, ...] = option(
        (512, 256), "hidden layers of the discriminator", at_least=1, only=("gan",)
    )
    g_width: int = option(
        64, "channels of the generator's finest hidden feature map", at_least=1, only=CONVOLUTIONAL
    )
    d_width: int = option(
        48, "the same of the discriminator's feature map", at_least=1, only=CONVOLUTIONAL
    )
    kernel_size: int = option(
        4, "side of convolutions that halve or double exactly", at_least=2, only=CONVOLUTIONAL
    )
    init_stddev: float = option(
        0.0, "of N(0, s) initial kernels; 0: Glorot uniform", at_least=0, only=CONVOLUTIONAL
    )
    hidden_dense: bool = option(
        False,
        "a dense layer after the latents and one in place of D's last convolution",
        only=CONVOLUTIONAL,
    )
    g_batch_norm: bool = option(True, "batch norm in the generator", only=("gan",))
    d_batch_norm: bool = option(
        True, "batch norm in the discriminator; with hidden_dense, in its dense layer only"
    )
    d_dropout: float = option(0.0, "dropout rate in the discriminator", at_least=0, below=1)
    spectral_norm: bool = option(False, "spectral normalisation of the discriminator")
    sync_batch_norm: bool = option(True, "batch norm over the whole batch, not each device's part")
    temperature: float = option(
        1.0, "factor of latents in samples and exports", at_least=0, only=("cdcgan",)
    )
    embedding_dim: int = option(
        0, "learnt label vectors of this size; 0: one-hot", at_least=0, only=("cdcgan",)
    )
    conditioning: str = option(
        "projection", "how D reads labels", choices=("projection", "planes"), only=("cdcgan",)
    )
    class_head: bool = option(False, "discriminator also classifies (AC-GAN)", only=("cdcgan",))

    # Evaluation and diagnostics
    epochs_per_evaluation: int = option(
        1, "epochs from one evaluation on held-out images to the next; 0: none at all", at_least=0
    )
    on_collapse: str = option(
        "warn",
        "when the diagnostics find a problem: log it, stop, or go back to the best evaluation",
        choices=("warn", "stop", "rollback"),
    )

    # What is written
    run_root: str = option("runs", "folder of the numbered run folders")
    export_root: str = option("saved_models", "folder of <model>/<version>/ exports")
    grid: str = option("10x10", "rows and columns of sample grids; classes may have a row each")
    keep_every: int = option(
        0, "epochs from one .keras file of the model to the next; 0: none", at_least=0
    )
    tensorboard: bool = option(False, "also write TensorBoard logs (needs tensorboard)")

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        for key in PLACES:
            object.__setattr__(self, key, os.path.expanduser(getattr(self, key)))
        if not re.fullmatch(r"[1-9]\d?x[1-9]\d?", self.grid):
            raise UserError(f"grid: expected rows and columns like 16x16; received {self.grid!r}")
        penalties = {key: getattr(self, key) for key in ("r1", "r2", "gradient_penalty")}
        try:
            rules.check_loss(self.loss, self.label_smoothing)
            rules.augmentations("none" if self.augment == "auto" else self.augment)
            rules.check_penalties(self.d_batch_norm, **penalties)
            if self.model in CONVOLUTIONAL:
                rules.check_hidden_dense(self.hidden_dense, self.d_batch_norm)
                rules.check_conditioning(self.conditioning, self.class_head)
        except ValueError as error:
            raise UserError(str(error)) from error

    def describe(self) -> str:
        """The run in two lines: what it trains and how long, and what its recipe does not say."""
        recipe = resolve({"model": self.model})
        values = self.without_places()
        shown = ("model", "dataset", "epochs", "steps_per_epoch", "batch_size", "seed")
        resolved = ("precision", "xla", "image_size", "channels")  # by the machine and the data
        own = [
            f"{key} = {_as_toml(value)}"
            for key, value in values.items()
            if value != getattr(recipe, key)
            and key not in shown + resolved
            and (key, value) != ("augment", "none")  # what "auto" means for most data
        ]
        return (
            f"{self.model} on {values['dataset']}: {self.epochs} epochs of "
            f"{self.steps_per_epoch:,} steps, batches of {self.batch_size}, seed {self.seed}\n"
            f"Changed from the recipe: {', '.join(own) or 'nothing'}"
        )

    def __str__(self) -> str:
        """As TOML, which `--config` reads back: the fields that apply to the model."""
        return "\n".join(
            f"{key} = {_as_toml(getattr(self, key))}"
            for key, field in FIELDS.items()
            if self.model in (field.metadata["only"] or RECIPES)
        )

    def without_places(self) -> dict[str, Any]:
        """All fields but the folders of this machine; of a path of pictures the last part."""
        values = dataclasses.asdict(self)
        if os.path.isabs(self.dataset):
            values["dataset"] = os.path.basename(self.dataset)
        return {key: value for key, value in values.items() if key not in PLACES}

    @property
    def data_source(self) -> tuple:
        """The arguments of `data.load`."""
        places = self.data_dir or None, self.manual_dir or None
        form = self.image_size or None, self.channels or None
        return self.dataset, *places, *form, self.background, self.skip_broken

    @property
    def images_per_step(self) -> int:
        """Images that a generator update takes from the data: a batch per discriminator update."""
        return self.batch_size * self.discriminator_steps


RETIRED = ("on_nonfinite",)  # fields of older runs
# Folders of this machine; the same run may have others.
PLACES = ("data_dir", "manual_dir", "run_root", "export_root")
# No effect on the weights.
WITHOUT_EFFECT = (*PLACES, "grid", "keep_every", "tensorboard")

FIELDS = {field.name: field for field in dataclasses.fields(Config)}
TYPES = typing.get_type_hints(Config)

# What differs from the defaults above.
RECIPES: dict[str, dict[str, Any]] = {
    "gan": {
        # An epoch takes a quarter of the others' time, an evaluation does not.
        "epochs": 28,
        "epochs_per_evaluation": 4,
        "batch_size": 64,
        "g_learning_rate": 1e-3,
        "d_batch_norm": False,
        "d_dropout": 0.3,
    },
    "dcgan": {"g_learning_rate": 3e-3, "beta_1": 0.0, "hidden_dense": True},
    "cdcgan": {"epochs": 6, "batch_size": 64, "temperature": 1.06},
}

# What a loss needs to work at all; comes after the recipe.
NEEDS: dict[str, dict[str, Any]] = {
    # WGAN-GP, section 4
    "wasserstein": {
        "gradient_penalty": rules.GRADIENT_PENALTIES["wasserstein"],
        "d_batch_norm": False,
        "hidden_dense": False,
    },
}


def resolve(
    flags: dict[str, Any] | None = None, toml: str | None = None, base: Config | None = None
) -> Config:
    """The configuration from defaults, the model's recipe, a TOML file and explicit flags.

    Args:
      flags: what was given explicitly, already of the fields' types.
      toml: path of a TOML file with some of the fields.
      base: the configuration of an earlier run; stands in for defaults and recipe.

    Raises:
      UserError: an unknown key, a wrong type, a value out of range, an option of another model.
    """
    from_file = _read_toml(toml) if toml else {}
    explicit = from_file | (flags or {})
    if from_file.get("model", explicit.get("model")) != explicit.get("model"):
        raise UserError(
            f"--config: {toml} is for {from_file['model']}; received --model={explicit['model']}"
        )
    if base is not None:
        values = dataclasses.asdict(base)
    else:
        for key in ("model", "loss"):
            _check(FIELDS[key], explicit.get(key, FIELDS[key].default))
        model = explicit.get("model", FIELDS["model"].default)
        values = RECIPES[model] | NEEDS.get(explicit.get("loss", ""), {})
    config = Config(**(values | explicit))
    for key in explicit:
        only = FIELDS[key].metadata["only"]
        if only and config.model not in only:
            raise UserError(f"{key}: applies to {' and '.join(only)}; the model is {config.model}")
    return config


def from_saved(values: dict[str, Any]) -> Config:
    """The configuration of `dataclasses.asdict`, read back from JSON.

    A key that is missing was added since and takes its default; a retired one is ignored.

    Raises:
      UserError: as `resolve`.
    """
    return Config(**{k: _typed(k, value) for k, value in values.items() if k not in RETIRED})


def _read_toml(path: str) -> dict[str, Any]:
    try:
        values = tomllib.loads(files.read_text(path).removeprefix("\ufeff"))
    except OSError as error:
        raise UserError(f"--config: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--config: {path} is not valid TOML: {error}") from error
    return {key: _typed(key, value, source=path) for key, value in values.items()}


def _typed(key: str, value, source: str = "configuration"):
    """A value read from TOML or JSON as the field's type: ints serve as floats, lists as tuples."""
    if key not in FIELDS:
        raise UserError(f"{source}: unknown key {key!r}; known: {', '.join(FIELDS)}")
    if TYPES[key] is float and type(value) is int:
        return float(value)
    if TYPES[key] == tuple[int, ...] and isinstance(value, list):
        return tuple(value)
    return value


def _check(field: dataclasses.Field, value) -> None:
    """Raises UserError when `value` is not of the field's type or outside its range."""
    name, limits, expected = field.name, field.metadata, TYPES[field.name]
    received = f"received {value!r:.200}"
    if expected == tuple[int, ...]:
        if not isinstance(value, tuple) or not value or {type(item) for item in value} != {int}:
            raise UserError(f"{name}: expected integers like 256,512; {received}")
    elif type(value) is not expected:
        raise UserError(f"{name}: expected {expected.__name__}; {received}")
    if limits["choices"] and value not in limits["choices"]:
        choices = ", ".join(map(str, limits["choices"]))
        raise UserError(f"{name}: expected one of {choices}; {received}")
    low, high = limits["at_least"], limits["below"]
    for item in value if isinstance(value, tuple) else (value,):
        # Written so that NaN fails too. A default may stand for another value.
        if low is not None and not low <= item < float("inf") and item != field.default:
            raise UserError(f"{name}: expected a finite value >= {low}; {received}")
        if high is not None and not item < high:
            raise UserError(f"{name}: expected < {high}; {received}")


def _as_toml(value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    # JSON's strings are TOML's basic strings.
    return json.dumps(value) if isinstance(value, str) else str(value)
