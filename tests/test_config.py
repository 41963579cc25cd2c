"""How a configuration is resolved, and what it refuses."""

import dataclasses
from pathlib import Path

import pytest

from tfgan_mnist import config, flags, train
from tfgan_mnist.config import FIELDS, RECIPES, Config, resolve
from tfgan_mnist.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"


def parse(*words: str) -> dict:
    return flags.explicit(train.parser().parse_args(list(words)))


@pytest.fixture
def toml(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "some.toml"
        path.write_text(text)
        return str(path)

    return write


def test_later_sources_win(toml, monkeypatch):
    monkeypatch.setitem(RECIPES, "gan", {"epochs": 11, "batch_size": 12, "seed": 13})
    path = toml('model = "gan"\nbatch_size = 22\nseed = 23\n')
    config_ = resolve(parse("--seed=33"), path)
    default = Config()
    assert config_.model == "gan"
    assert config_.latent_dim == default.latent_dim  # the dataclass's
    assert config_.epochs == 11  # the recipe's
    assert config_.batch_size == 22  # the file's
    assert config_.seed == 33  # the flag's


def test_a_loss_brings_what_it_needs_and_can_be_overruled(toml):
    config_ = resolve({"loss": "wasserstein"})
    assert config_.gradient_penalty == 10
    assert not config_.d_batch_norm and not config_.hidden_dense
    assert resolve({"gradient_penalty": 1.0}, toml('loss = "wasserstein"')).gradient_penalty == 1


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_valid(path):
    config_ = resolve({}, str(path))
    assert resolve({"model": config_.model}) != config_


@pytest.mark.parametrize("name", ["paper-gan", "paper-dcgan", "paper-cdcgan", "dcgan64"])
def test_papers_configurations_do_not_follow_the_recipes(name, monkeypatch):
    for recipe in RECIPES.values():
        monkeypatch.setitem(recipe, "beta_1", 0.25)
        monkeypatch.setitem(recipe, "g_learning_rate", 0.1)
    config_ = resolve({}, str(CONFIGS / f"{name}.toml"))
    assert (config_.beta_1, config_.g_learning_rate) == (0.5, 2e-4)


def test_a_file_for_another_model_is_refused(toml):
    with pytest.raises(UserError, match="some.toml is for gan; received --model=cdcgan"):
        resolve(parse("--model=cdcgan"), toml('model = "gan"'))
    assert resolve(parse("--model=gan"), toml('model = "gan"')).model == "gan"


def test_the_description_is_short_and_says_what_differs_from_the_recipe():
    first, second = resolve(parse("--model=gan", "--seed=3")).describe().splitlines()
    assert (first.split(":")[0], second) == ("gan on mnist", "Changed from the recipe: nothing")
    assert "seed 3" in first
    changed = resolve(parse("--model=cdcgan", "--g_width=8", "--run_root=x")).describe()
    assert changed.splitlines()[1] == "Changed from the recipe: g_width = 8"


@pytest.mark.parametrize("model", RECIPES)
def test_recipes_are_valid_and_say_only_what_differs(model):
    resolve({"model": model})
    for key, value in RECIPES[model].items():
        assert value != FIELDS[key].default, f"{key} is the default already"
        assert not FIELDS[key].metadata["only"] or model in FIELDS[key].metadata["only"]


def test_every_field_has_a_flag_and_keeps_its_type():
    given = {
        "model": "--model=cdcgan",
        "g_hidden_widths": "--g_hidden_widths=1,2,3",
        "r1": "--r1=1",
        "tensorboard": "--tensorboard",
        "d_batch_norm": "--no-d_batch_norm",
    }
    values = parse(*given.values())
    assert values == {
        "model": "cdcgan",
        "g_hidden_widths": (1, 2, 3),
        "r1": 1.0,
        "tensorboard": True,
        "d_batch_norm": False,
    }
    known = {flag.lstrip("-") for flag in train.parser()._option_string_actions}
    assert set(FIELDS) <= known


def test_what_is_shown_can_be_read_back(toml):
    config_ = resolve({"model": "gan", "g_hidden_widths": (5, 6), "data_dir": 'a "b" \\c'})
    assert resolve({}, toml(str(config_))) == config_


def test_a_run_of_before_a_key_was_added_or_retired_stays_what_it_was():
    values = dataclasses.asdict(resolve({"model": "dcgan"})) | {"on_nonfinite": "skip"}
    del values["hidden_dense"]  # all networks were without, whatever the recipe is today
    assert not config.from_saved(values).hidden_dense


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "vae"}, "model: expected one of gan, dcgan, cdcgan; received 'vae'"),
        ({"epochs": 0}, "epochs: expected a finite value >= 1; received 0"),
        ({"epochs": True}, "epochs: expected int; received True"),
        ({"image_size": 7}, "image_size: expected a finite value >= 8; received 7"),
        ({"g_learning_rate": float("nan")}, "g_learning_rate: expected a finite value >= 0"),
        ({"g_learning_rate": float("inf")}, "g_learning_rate: expected a finite value >= 0"),
        ({"ema": 1.0}, "ema: expected < 1; received 1.0"),
        ({"channels": 2}, "channels: expected one of 0, 1, 3; received 2"),
        ({"grid": "100x2"}, "grid: expected rows and columns like 16x16; received '100x2'"),
        ({"model": "cdcgan", "packing": 2}, "packing: applies to gan and dcgan; the model is cdc"),
        ({"model": "gan", "g_hidden_widths": ()}, "g_hidden_widths: expected integers like"),
        ({"model": "gan", "g_hidden_widths": (0,)}, "g_hidden_widths: expected a finite value >="),
        ({"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing: expected a loss of minimax"),
        ({"r1": 1.0}, "r1: expected a discriminator without batch norm"),
        ({"d_batch_norm": False}, "hidden_dense: expected a discriminator with batch norm"),
        (
            {"model": "cdcgan", "class_head": True, "conditioning": "planes"},
            "class_head: expected conditioning=projection",
        ),
    ],
)
def test_wrong_values_are_refused_by_name(values, message):
    with pytest.raises(UserError, match=message):
        resolve(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epocs = 3", "unknown key 'epocs'"),
        ("epochs = 3.0", "epochs: expected int; received 3.0"),
        ("[gan]\nepochs = 3", "unknown key 'gan'"),
        ("epochs = ", "is not valid TOML"),
    ],
)
def test_wrong_files_are_refused(toml, text, message):
    with pytest.raises(UserError, match=message):
        resolve({}, toml(text))


def test_files_of_any_editor_are_read_or_refused(tmp_path):
    path = tmp_path / "some.toml"
    with pytest.raises(UserError, match="cannot read .*some.toml: No such file"):
        resolve({}, str(path))
    path.write_bytes("\ufeffepochs = 3\r\nseed = 4\r\n".encode())  # by Windows
    assert resolve({}, str(path)) == resolve({"epochs": 3, "seed": 4})
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="some.toml: expected text in UTF-8"):
        resolve({}, str(path))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--epoch=3", "unrecognized arguments: --epoch=3; did you mean --epochs?"),
        ("--epochs=many", "argument --epochs: invalid int value: 'many'"),
        ("--model=vae", "argument --model: invalid choice: 'vae'"),
        ("--g_hidden_widths=1;2", "argument --g_hidden_widths: invalid"),
    ],
)
def test_a_wrong_flag_is_answered_by_one_line(flag, message, capsys):
    with pytest.raises(SystemExit) as stop:
        train.parser().parse_args([flag])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_help_shows_every_default():
    help_text = " ".join(train.parser().format_help().split())
    for name, field in FIELDS.items():
        default = field.default
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
        assert f"(default: {shown or repr(shown)}" in help_text, name
