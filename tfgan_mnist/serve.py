"""Serves exports over TensorFlow Serving's REST and gRPC interfaces, and a page that draws digits.

    python -m tfgan_mnist.serve --model_base_path=saved_models

A base path is a folder of versions, as TensorFlow Serving has it, or a folder of models that are
such folders, for which TensorFlow Serving needs a --model_config_file. The REST port is 8501 unless
another is given; TensorFlow Serving has none then.
"""

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote

from tfgan_mnist import cli
from tfgan_mnist.errors import UserError
from tfgan_mnist.exports import card
from tfgan_mnist.serving.settings import ServerConfig, add_flags

if TYPE_CHECKING:
    from tfgan_mnist.serving.server import Server
    from tfgan_mnist.serving.versions import Version


def start(config: ServerConfig, free_ports: bool = False) -> "Server":
    """Starts a server in this process; see `Server`.

    Raises:
      UserError: a wrong choice, or the packages of the extra `serve` are missing.
    """
    try:
        from tfgan_mnist.serving.server import Server
    except ModuleNotFoundError as error:
        message = f"serving needs {error.name}: pip install 'tfgan-mnist[serve]'"
        raise UserError(message) from error
    return Server(config, free_ports)


def main(arguments) -> None:
    config = ServerConfig(**vars(arguments))
    log = logging.getLogger("tfgan_mnist")
    log.addHandler(logging.StreamHandler())  # absl's is for TensorFlow's own
    log.setLevel(logging.INFO)
    log.propagate = False
    stopped = threading.Event()  # before models are loaded, so that an early signal is not lost
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    cli.start_tensorflow()
    with start(config) as server:
        if server.rest_url:
            print(f"page: {server.rest_url}/", flush=True)
        if server.grpc_address:
            print(f"gRPC: {server.grpc_address}", flush=True)
        for model in server.models.values():
            path = f"/v1/models/{quote(model.name)}"
            where = f", {server.rest_url}{path}" if server.rest_url else ""
            served = _describe(model.versions.values())
            print(f"model: {model.name}, {served or 'no version yet'}{where if served else ''}")
        sys.stdout.flush()
        stopped.wait()
    print("Stopped; pending requests were completed", flush=True)


def _describe(versions: Iterable["Version"]) -> str:
    """Versions with their FIDs: "version 1 (FID 0.56 on mnist)"."""
    described = []
    for version in versions:
        if version.error:
            continue
        quality = "no model card"
        with contextlib.suppress(UserError):  # exports of others have none
            quality = card.describe_quality(card.read(version.folder))
        described.append(f"version {version.number} ({quality})")
    return ", ".join(described)


def parser() -> cli.Parser:
    parser = cli.Parser("serve", __doc__.partition("\n")[0])
    add_flags(parser)
    return parser


if __name__ == "__main__":
    cli.run(main, parser())
