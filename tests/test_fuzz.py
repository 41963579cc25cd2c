"""Anything at all as a configuration, flags or files of a run: it is taken, or refused in words.

The examples are always the same; `-m slow` tries many more.
"""

import contextlib
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfgan_mnist import (
    comparison,
    config,
    data,
    evaluate,
    export,
    files,
    generate,
    runs,
    serve,
    train,
    train_classifier,
)
from tfgan_mnist.config import FIELDS, Config
from tfgan_mnist.errors import UserError
from tfgan_mnist.serving import settings as serving_settings

EXAMPLES = [40, pytest.param(2000, marks=pytest.mark.slow)]
# What a refusal says: what was expected, or what is wrong with what.
TELLS = re.compile("expected|unknown key|applies to|needs|is not valid TOML|add --|cannot read")


def fuzz(number, strategy, check):
    """Calls `check` with so many examples."""
    options = {"deadline": None, "database": None, "derandomize": True}
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    settings(max_examples=number, suppress_health_check=slow, **options)(given(strategy)(check))()


@contextlib.contextmanager
def taken_or_refused():
    """What it surrounds may raise `UserError`, with words that help."""
    told = "expected"
    try:
        yield
    except UserError as error:
        told = str(error)
    assert TELLS.search(told), told
    assert len(told) < 10_000


NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from([0, 1, 2**31 - 1, 2**31, -(2**63), 2**63, 10**400]),
    st.floats(),
    st.sampled_from([1e-320, 3.4e38, 1e39, 1e308]),
)
TEXTS = st.text() | st.sampled_from(
    ["", "\0", "x" * 100_000, "\ud800", "gan", "mnist", "nan", "../"]
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS, lambda some: st.lists(some, max_size=4) | st.dictionaries(st.text(), some, max_size=4)
)
# Python refuses to write these out in base 10, and JSON has no other.
HUGE = st.just(20_000).map(lambda bits: 1 << bits)
ANYTHING = VALUES | HUGE | st.lists(HUGE)


def deep(levels=50_000):
    """Too deep for whoever goes down by recursion."""
    return "[" * levels + "]" * levels


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


def settings_like(extra=ANYTHING):
    """Some fields, most with values that they may have, and a key or two of no field."""
    known = {name: st.one_of([likely(field)] * 6 + [extra]) for name, field in FIELDS.items()}
    return st.builds(
        lambda some, others: others | some,
        st.fixed_dictionaries({}, optional=known),
        st.dictionaries(st.text(), extra, max_size=1) | st.just({}),
    )


def as_toml(value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {as_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if isinstance(value, int):  # in base 16, as Python refuses to write long ones in base 10
        return hex(value) if value >= 2**63 else str(value) if value.bit_length() < 999 else "-1"
    return json.dumps(value) if isinstance(value, str) else str(value).replace("None", "''")


# The configuration


def check_config(made: Config) -> None:
    """A valid one can be written, shown and read back."""
    assert config.from_saved(json.loads(json.dumps(dataclasses.asdict(made)))) == made
    assert str(made)


@pytest.mark.parametrize("number", EXAMPLES)
def test_values(number):
    def check(values):
        with taken_or_refused():
            check_config(config.resolve({key: values[key] for key in FIELDS.keys() & values}))
        with taken_or_refused():
            check_config(config.from_saved(values))

    fuzz(number, settings_like(), check)


@pytest.mark.parametrize("number", EXAMPLES)
def test_toml(number, tmp_path):
    path = tmp_path / "some.toml"

    def check(content):
        path.write_bytes(content)
        with taken_or_refused():
            check_config(config.resolve({}, str(path)))

    def lines(values):
        text = "\n".join(f"{json.dumps(key)} = {as_toml(value)}" for key, value in values.items())
        return text.encode(errors="surrogatepass")

    dotted = st.sampled_from(
        ["seed" + ".a" * 5000 + " = 1", f"seed = {deep()}", "seed = 0x" + "f" * 9999]
    )
    texts = (dotted | st.text()).map(lambda text: text.encode(errors="surrogatepass"))
    fuzz(number, settings_like().map(lines) | texts | st.binary(), check)


def test_a_file_of_any_length(tmp_path):
    path = tmp_path / "long.toml"
    path.write_text("seed = 1\n#" + "x" * config.MAX_TOML_BYTES)
    with pytest.raises(UserError, match="long.toml: expected at most 16,384 bytes"):
        config.resolve({}, str(path))
    with open(path, "wb") as stream:
        stream.truncate(10 << 30)  # takes no room, and would take 10 GB of memory
    with pytest.raises(UserError, match="expected at most"):
        files.read_json(path)


# Files of a run and of an export

FACTS = {"image_shape": [8, 8, 1], "num_classes": 10, "num_images": 64}
CARD = {
    "image_shape": [8, 8, 1],
    "latent_dim": 4,
    "num_classes": 10,
    "signatures": {"serving_default": "latents -> images"},
    "config": {"dataset": "mnist"},
}
SAMPLES = dict.fromkeys([*comparison.PROTOCOL, "pixel_range"], "x") | {
    "real": 1,
    "generated": 1,
    "source": "run x",
    "scores": {"fid": 1.0},
    "floor": {"fid": None},
}


def mangled(whole):
    """JSON documents: `whole` with something else in a place, anything, or no JSON at all."""
    places = [(), *[(key,) for key in whole]]
    places += [(k, j) for k, part in whole.items() if isinstance(part, dict) for j in part]
    places += [
        (k, j) for k, part in whole.items() if isinstance(part, list) for j in range(len(part))
    ]

    def put(place, value):
        document = json.loads(json.dumps(whole))
        holder = {"": document}
        *way, last = ("", *place)
        at = holder
        for key in way:
            at = at[key]
        at[last] = value
        return json.dumps(holder[""])

    documents = st.builds(put, st.sampled_from(places), VALUES)
    wrong = st.sampled_from([deep(), '{"x": ' + "9" * 5000 + "}", "NaN", "{", "\xff"])
    return documents | wrong | st.text()


def write(path, text):
    path.write_bytes(text.encode(errors="surrogatepass"))


@pytest.mark.parametrize("number", EXAMPLES)
def test_run_config(number, tmp_path):
    as_saved = {"config": dataclasses.asdict(Config()), "data": FACTS}

    def check(text):
        write(tmp_path / runs.CONFIG, text)
        with taken_or_refused():
            made, facts = runs.read(tmp_path)
            check_config(made)
            assert all(type(size) is int for size in facts.image_shape)

    fuzz(number, mangled(as_saved), check)


@pytest.mark.parametrize("number", EXAMPLES)
def test_metrics_and_cards(number, tmp_path):
    def check_metrics(text):
        write(tmp_path / runs.METRICS, text)
        with taken_or_refused():
            told = runs.read_metrics(tmp_path).get("samples")
            if comparison.is_complete(told):
                one = comparison.EvaluatedRun("x", Config(), told, [], [])
                with contextlib.suppress(KeyError):  # `known_or_judged` asks for more
                    comparison.describe({"x": [one]})

    def check_card(text):
        write(tmp_path / export.CARD, text)
        with taken_or_refused():
            card = export.read_card(tmp_path)
            assert card["num_classes"] is None or 0 < card["num_classes"] <= 2**20

    fuzz(number, mangled({"samples": SAMPLES}), check_metrics)
    fuzz(number, mangled(CARD), check_card)


@pytest.mark.parametrize("number", EXAMPLES)
def test_tables(number, tmp_path):
    cells = st.sampled_from(["", "1", "2.5", "nan", "inf", "-1", "1e99", "x", '"', "\0", "1\n"])
    rows = st.lists(st.lists(cells, max_size=6).map(",".join), max_size=6).map("\n".join)
    heads = st.sampled_from(
        ["epoch,seconds,fid", "epoch,step,fid", "epoch,epoch,step,fid", "", "x"]
    )

    def check(text):
        for name in (runs.LOG, runs.EVALUATIONS):
            write(tmp_path / name, text)
            with taken_or_refused():
                runs.read_rows(tmp_path / name)
        with taken_or_refused():
            best = runs.best_step(tmp_path)
            assert best is None or best >= 0
            runs.drop_rows_after(tmp_path, 1)

    fuzz(number, st.builds("{}\n{}".format, heads, rows) | st.text(), check)


# Flags


def flags_of(parser, *others):
    """Command lines: flags of a command and a few of no command, each with any value, or none."""
    names = [*parser._option_string_actions, "--undefok", "--nothing", "-", "--", *others]
    names = [name for name in names if not name.startswith(("--help", "-h"))]
    # The system has no null characters in a command line; what is no text becomes half a pair.
    values = (
        NUMBERS.map(str) | TEXTS | st.sampled_from(["1,2", "7,", "x.png", "x/", "\udcff", "true"])
    ).map(lambda text: text.replace("\0", "").replace("\ud800", "\udcff"))
    one = (
        st.builds("{}={}".format, st.sampled_from(names), values) | st.sampled_from(names) | values
    )
    return st.lists(one, max_size=4)


class Reached(Exception):
    """The flags were taken, and the work would begin."""


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
    source = generate.Source("x", 4, True, 10, lambda latents, _: np.zeros((len(latents), 2, 2, 1)))
    monkeypatch.setattr(generate, "from_run", lambda run: source)
    monkeypatch.setattr(generate, "MAX_IMAGES", 300)
    needed = {
        generate: ["--run=x"],
        evaluate: ["--images=nothing"],
        export: ["--run=x"],
        serve: ["--model_base_path=."],
    }.get(command, [])

    def check(given):
        out, err, told = io.StringIO(), io.StringIO(), (2, "error: ")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                arguments = command.parser().parse_args(given)
                with taken_or_refused():
                    command.main(arguments)
            except SystemExit as stop:
                told = stop.code, err.getvalue()[:7]
            except (Reached, OSError):  # as of a name that is too long: `cli.run` prints it
                pass
        assert told == (2, "error: "), err.getvalue()

    lines = flags_of(command.parser()).map(lambda given: given + needed)
    fuzz(number, lines, check)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "/",
        "..",
        "../x",
        "a b",
        "mnist:",
        "mnist:9.9.9",
        "mnist/x",
        "mnist/x=1",
        "\0",
        "x" * 999,
    ],
)
def test_names_of_data_sets(name, tmp_path):
    with pytest.raises(UserError):
        data.load(name, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["huggingface:mnist", "kubric:movi_a", "some-one:data/x:1.0.0"])
def test_data_sets_that_bring_code_are_refused(name, tmp_path):
    with pytest.raises(UserError, match="code of theirs, which would be downloaded and run"):
        data.load(name, tmp_path)
