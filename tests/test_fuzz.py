"""Any configuration and any flags are either accepted, or refused with an error that helps.

The examples are always the same; `-m slow` tries many more.
"""

import contextlib
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from absl import flags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfgan_mnist import config, evaluate, export, generate, serve, train, train_classifier
from tfgan_mnist.config import FIELDS
from tfgan_mnist.errors import UserError
from tfgan_mnist.serving import settings as serving_settings

EXAMPLES = [25, pytest.param(2000, marks=pytest.mark.slow)]
# What an error says: what was expected, or what is wrong.
HELPS = re.compile("expected|unknown key|applies to|is not valid TOML|cannot read")


def fuzz(number, strategy, check):
    """Calls `check` with that many examples."""
    options = {"deadline": None, "database": None, "derandomize": True}
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    settings(max_examples=number, suppress_health_check=slow, **options)(given(strategy)(check))()


@contextlib.contextmanager
def accepted_or_refused():
    """The block may raise `UserError`, with a message that helps."""
    message = "expected"
    try:
        yield
    except UserError as error:
        message = str(error)
    assert HELPS.search(message), message
    assert len(message) < 10_000


NUMBERS = st.integers(-(2**63), 2**63) | st.sampled_from([0, 1, 2**31]) | st.floats()
TEXTS = st.text() | st.sampled_from(["", "x" * 1000, "gan", "mnist", "nan", "../"])
SCALARS = st.booleans() | NUMBERS | TEXTS
ANYTHING = SCALARS | st.lists(SCALARS, max_size=4) | st.dictionaries(st.text(), SCALARS, max_size=4)


def likely(field):
    """Values of the field's own type, and its choices."""
    kinds = {
        int: st.integers(0, 64),
        float: st.floats(0, 1),
        bool: st.booleans(),
        str: TEXTS,
        tuple[int, ...]: st.lists(st.integers(1, 64), min_size=1, max_size=3),
    }
    choices = field.metadata["choices"]
    return st.sampled_from(choices) if choices else kinds[config.TYPES[field.name]]


def values_like_fields():
    """Some fields, most with values that they may have, and sometimes a key of no field."""
    known = {name: st.one_of([likely(field)] * 6 + [ANYTHING]) for name, field in FIELDS.items()}
    return st.builds(
        lambda some, others: others | some,
        st.fixed_dictionaries({}, optional=known),
        st.dictionaries(st.text(), ANYTHING, max_size=1) | st.just({}),
    )


def as_toml(value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {as_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return json.dumps(value) if isinstance(value, str) else str(value)


@pytest.mark.parametrize("number", EXAMPLES)
def test_values(number, tmp_path):
    """As flags, as a saved configuration, and in a TOML file."""
    path = tmp_path / "some.toml"

    def check(values):
        lines = [f"{json.dumps(key)} = {as_toml(value)}\n" for key, value in values.items()]
        path.write_text("".join(lines))
        as_flags = {key: values[key] for key in FIELDS.keys() & values}
        for read in (
            lambda: config.resolve(as_flags),
            lambda: config.from_saved(values),
            lambda: config.resolve({}, str(path)),
        ):
            with accepted_or_refused():
                made = read()
                # A valid one can be written, shown and read back.
                saved = json.loads(json.dumps(dataclasses.asdict(made)))
                assert config.from_saved(saved) == made
                assert str(made)

    fuzz(number, values_like_fields(), check)


def flags_of(parser):
    """Command lines: flags of a command and a few of no command, each with any value, or none."""
    names = [*parser._option_string_actions, "--nothing", "-", "--"]
    # absl's own, such as --only_check_args, would stay set in this process.
    absl = {f"--{name}" for name in [*flags.FLAGS, *(f"no{name}" for name in flags.FLAGS)]}
    names = [name for name in names if not name.startswith(("--help", "-h")) and name not in absl]
    # The system has no null characters in a command line.
    texts = NUMBERS.map(str) | TEXTS | st.sampled_from(["1,2", "7,", "x.png", "x/", "true"])
    values = texts.map(lambda text: text.replace("\0", ""))
    one = (
        st.builds("{}={}".format, st.sampled_from(names), values) | st.sampled_from(names) | values
    )
    return st.lists(one, max_size=4)


class Reached(Exception):
    """The flags were accepted, and the work would begin."""


def never(*arguments, **options):
    raise Reached


@pytest.mark.parametrize("number", EXAMPLES)
@pytest.mark.parametrize("command", [train, generate, evaluate, export, serve, train_classifier])
def test_flags(command, number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "train", never)
    monkeypatch.setattr("tfgan_mnist.cli.start_tensorflow", never)
    monkeypatch.setattr(serve, "start", lambda made: serving_settings.models_of(made) and never())
    monkeypatch.setattr(serve.signal, "signal", lambda *_: None)
    source = generate.Source("x", 4, 10, lambda latents, _: np.zeros((len(latents), 2, 2, 1)))
    monkeypatch.setattr(generate, "from_run", lambda run: source)
    monkeypatch.setattr(generate, "MAX_IMAGES", 300)
    needed = {
        generate: ["--run=x"],
        evaluate: ["--images=nothing"],
        export: ["--run=x"],
        serve: ["--model_base_path=."],
    }.get(command, [])

    def check(given):
        error, ended = io.StringIO(), (2, "error: ")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
            try:
                arguments = command.parser().parse_args(given)
                with accepted_or_refused():
                    command.main(arguments)
            except SystemExit as stop:
                ended = stop.code, error.getvalue()[:7]
            except (Reached, OSError):  # a name that is too long, say, which `cli.run` prints
                pass
        assert ended == (2, "error: "), error.getvalue()

    fuzz(number, flags_of(command.parser()).map(lambda given: given + needed), check)
