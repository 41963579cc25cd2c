"""The server's configuration, under the names of TensorFlow Serving's flags."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from tfgan_mnist import files
from tfgan_mnist.errors import UserError
from tfgan_mnist.exports.versions import versions

MAX = 2**31  # seconds, milliseconds or bytes; timers accept no more


def option(default, meaning: str, low: float | None = None, high: float = MAX):
    """A field with its meaning and limits."""
    metadata = {"meaning": meaning, "limits": (low, high)}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Everything that determines a server. Each line: name, default, meaning with unit, range."""

    model_base_path: str = option("", "folder of versions, or of models that are such folders")
    model_name: str = option("", "name of the model; empty: that of its folder")
    model_config_file: str = option("", "models, policies and labels; a ModelServerConfig as text")
    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0: all networks")
    allowed_hosts: str = option("", "other names of it, such as a.example,b.example; *: any")
    port: int = option(8500, "of gRPC; 0: off", 0, 65535)
    rest_api_port: int = option(8501, "of REST, metrics and page; 0: off", 0, 65535)
    rest_api_timeout_in_ms: int = option(30_000, "for a request to arrive, and to run", 1)
    rest_api_max_body_bytes: int = option(8 << 20, "of a request, inflated", 1)
    rest_api_enable_cors_support: bool = option(False, "accept requests of other servers' pages")
    file_system_poll_wait_seconds: float = option(1.0, "between checks for new versions", 0.01)
    enable_model_warmup: bool = option(True, "run the warm-up requests of a new version")
    enable_batching: bool = option(True, "run concurrent requests together")

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, (low, high) = getattr(self, field.name), field.metadata["limits"]
            if low is not None and not low <= value <= high:
                raise UserError(
                    f"--{field.name}: expected a value >= {low} and <= {high}; received {value}"
                )
        if bool(self.model_base_path) == bool(self.model_config_file):
            raise UserError(
                "expected --model_base_path=saved_models or --model_config_file=FILE, and not both"
            )

    @property
    def timeout_seconds(self) -> float:
        return self.rest_api_timeout_in_ms / 1000


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A model to serve: its versions under `base_path`, and which of them.

    Exactly the highest `latest` numbers, or those in `specific`, or all when both are empty.
    """

    name: str
    base_path: Path
    latest: int = 1
    specific: tuple[int, ...] = ()
    labels: dict[str, int] = dataclasses.field(default_factory=dict)

    def aspired(self, found: set[int]) -> set[int]:
        """Those of the `found` versions that are to be served."""
        if self.specific:
            return found & set(self.specific)
        return set(sorted(found)[-self.latest :] if self.latest else found)


def address(host: str, port: int) -> str:
    """A host and port as URLs have them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def models_of(config: ServerConfig) -> list[ModelConfig]:
    """The models to serve.

    Raises:
      UserError: a folder or file does not exist, or a file is not valid.
    """
    if config.model_config_file:
        return _from_file(config.model_config_file)
    base_path = Path(config.model_base_path).resolve()
    if not base_path.is_dir():
        raise UserError(f"--model_base_path: expected a folder; there is no {base_path}")
    models = sorted(path for path in base_path.iterdir() if path.is_dir() and versions(path))
    if versions(base_path) or not models:
        return [ModelConfig(config.model_name or base_path.name, base_path)]
    if config.model_name:
        names = ", ".join(path.name for path in models)
        raise UserError(f"--model_name: expected a single model; {base_path} has {names}")
    return [ModelConfig(path.name, path) for path in models]


def _from_file(file: str) -> list[ModelConfig]:
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    server_config = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(files.read_text(file), server_config)
    except (text_format.ParseError, RecursionError) as error:
        raise UserError(f"{file}: expected a ModelServerConfig in text format: {error}") from error
    models: dict[str, ModelConfig] = {}
    for entry in server_config.model_config_list.config:
        name, base_path, policy = entry.name, Path(entry.base_path), entry.model_version_policy
        if not name or name in models or set(name) & set("/:"):
            raise UserError(f"{file}: expected a name of its own per model; received {name!r}")
        where = f"{file}: {name}: expected"
        if entry.model_platform not in ("", "tensorflow"):
            raise UserError(f"{where} model_platform tensorflow; received {entry.model_platform!r}")
        if not base_path.is_dir():
            raise UserError(f"{where} a folder as base_path; there is no {base_path}")
        if policy.HasField("specific") and not policy.specific.versions:
            raise UserError(f"{where} versions in `specific`")
        latest = 0 if policy.HasField("all") else policy.latest.num_versions or 1
        specific, labels = tuple(policy.specific.versions), dict(entry.version_labels)
        models[name] = ModelConfig(name, base_path, latest, specific, labels)
    if not models:
        raise UserError(f"{file}: expected model_config_list {{ config {{ .. }} }} with a model")
    return list(models.values())


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds one flag per field."""
    for field in dataclasses.fields(ServerConfig):
        kind = type(field.default)
        details: dict[str, Any] = {"type": kind, "metavar": kind.__name__.upper()}
        if kind is bool:  # as in absl: --flag, --flag=true, --flag=false
            details = {"type": _boolean, "nargs": "?", "const": True, "metavar": "true|false"}
        meaning = f"{field.metadata['meaning']} (default: {field.default!r})"
        parser.add_argument(f"--{field.name}", default=field.default, help=meaning, **details)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false; received {text!r}")
    return text.lower() == "true"
