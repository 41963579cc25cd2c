"""The serve command, its configuration and documents, and what clients may do to it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from google.protobuf import text_format
from serving import (
    DEPLOY,
    ROOT,
    ask,
    port_of,
    start,
)
from tensorflow_serving.config import model_server_config_pb2

from benchmarks.malformed import post, read_answer
from tfgan_mnist import cli, serve
from tfgan_mnist.errors import UserError
from tfgan_mnist.serving import batching, settings, versions
from tfgan_mnist.serving.metrics import METRICS_PATH
from tfgan_mnist.serving.settings import ServerConfig


def test_models_of_a_base_path(tmp_path, exports):
    def names(**given):
        return [model.name for model in settings.models_of(ServerConfig(**given))]

    assert names(model_base_path=str(exports)) == ["cdcgan", "dcgan", "gan"]
    assert names(model_base_path=str(exports / "gan")) == ["gan"]
    assert names(model_base_path=str(exports / "gan"), model_name="other") == ["other"]
    assert names(model_base_path=str(tmp_path)) == [tmp_path.name]  # versions may come yet


def test_wrong_settings(tmp_path, exports):
    entry = f"name: 'a' base_path: '{tmp_path}'"
    for content, message in [
        ("nonsense", "expected a ModelServerConfig in text format: 1:"),
        ("", "with a model"),
        ("config { base_path: '/' }", "a name of its own"),
        (f"config {{ {entry} }} config {{ {entry} }}", "a name of its own"),
        ("config { name: 'a' base_path: '/no/where' }", "/no/where"),
        (f"config {{ {entry} model_platform: 'x' }}", "tensorflow"),
    ]:
        if "config" in content:
            content = f"model_config_list {{ {content} }}"
        (tmp_path / "config").write_text(content)
        with pytest.raises(UserError, match=re.escape(message)):
            settings.models_of(ServerConfig(model_config_file=str(tmp_path / "config")))
    with pytest.raises(UserError, match="expected a single model"):
        settings.models_of(ServerConfig(model_base_path=str(exports), model_name="a"))


def test_configuration_files(exports):
    deployed = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((DEPLOY / "models.config").read_text(), deployed)
    paths = {entry.name: entry.base_path for entry in deployed.model_config_list.config}
    assert paths == {path.name: f"/models/{path.name}" for path in exports.iterdir()}
    assert (
        f"max_batch_size {{ value: {batching.MAX_ROWS} }}"
        in (DEPLOY / "batching.config").read_text()
    )
    assert f'path: "{METRICS_PATH}"' in (DEPLOY / "monitoring.config").read_text()
    compose = (DEPLOY / "compose.yaml").read_text()
    for name in ("models.config", "batching.config", "monitoring.config"):
        assert f"./{name}:/config/{name}:ro" in compose and f"=/config/{name}" in compose
    assert "../../saved_models:/models:ro" in compose


def test_the_command(tmp_path, exports):
    """Serves without Keras and without our models, and ends with its requests answered."""
    program = """
        import sys
        sys.modules["keras"] = None  # TensorFlow itself would import it; now nothing can
        import runpy, atexit
        ours = ("models.gan", "data.tfds", "evaluation", "training", "train")
        atexit.register(lambda: print("loaded:", [
            name for name in ours if f"tfgan_mnist.{name}" in sys.modules]))
        runpy.run_module("tfgan_mnist.serve", run_name="__main__")
    """
    script = tmp_path / "program.py"
    script.write_text(re.sub("(?m)^ {8}", "", program))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = [f"--model_base_path={exports}", f"--rest_api_port={port}", "--port=0"]
    with subprocess.Popen(
        [sys.executable, str(script), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            lines = "".join(process.stdout.readline() for _ in range(4))
            url = f"http://127.0.0.1:{port}"
            fids = {"cdcgan": 0.562, "dcgan": 1.17, "gan": 4.82}  # of the cards
            assert lines == f"page: {url}/\n" + "".join(
                f"model: {name}, version 1 (FID {fid} on mnist by mnist-28x1-v1), "
                f"{url}/v1/models/{name}\n"
                for name, fid in fids.items()
            )
            for address in re.findall(r"http\S+", lines):
                with urllib.request.urlopen(address) as answer:
                    assert answer.status == 200

            # Signalled in the middle of a request, it answers it.
            with socket.create_connection(("127.0.0.1", port), 20) as connection:
                body = b'{"signature_name": "png", "instances": [1]}'
                head = post("gan", b"", "Expect: 100-continue", length=len(body))
                connection.sendall(head)
                assert connection.recv(100).startswith(b"HTTP/1.1 100")  # it waits for the body
                process.send_signal(signal.SIGTERM)
                time.sleep(0.3)
                connection.sendall(body)
                assert read_answer(connection).startswith(b"HTTP/1.1 200")
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert out.endswith("Stopped; pending requests were completed\nloaded: []\n")
    assert "Traceback" not in err


def test_a_taken_port_is_found_before_models_load(exports, monkeypatch):
    monkeypatch.setattr(versions.Models, "start", lambda *_: pytest.fail("models load"))
    base_path = str(exports)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="^--rest_api_port: cannot listen .* in use"):
            serve.start(ServerConfig(model_base_path=base_path, rest_api_port=port, port=0))
        with pytest.raises(OSError, match="^--port: cannot listen on 127.0.0.1"):
            serve.start(ServerConfig(model_base_path=base_path, rest_api_port=0, port=port))


def test_an_address_of_all_networks_is_printed_as_one_to_open(tmp_path):
    with start(model_base_path=str(tmp_path), host="0.0.0.0") as server:
        assert server.rest_url == f"http://127.0.0.1:{port_of(server)}"
        assert ask(server, "GET", "/")[0] == 200


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model_base_path=/no/where", "--model_base_path: expected a folder; there is no"),
        ("", "expected --model_base_path=saved_models or --model_config_file=FILE"),
        ("--model_base_path=x --model_config_file=y", "and not both"),
        ("--model_base_path=x --port=0 --rest_api_port=0", "received 0 for both"),
        ("--model_base_path=x --rest_api_port=65536", "<= 65535; received 65536"),
        ("--model_base_path=x --file_system_poll_wait_seconds=nan", "expected a value >= 0.01"),
        ("--model_base_path=x --enable_batching=maybe", "expected true or false"),
    ],
)
def test_wrong_flags(monkeypatch, capsys, flags, message):
    monkeypatch.setattr(sys, "argv", ["serve", *flags.split()])
    with pytest.raises(SystemExit) as stop:
        cli.run(serve.main, serve.parser())
    assert stop.value.code == cli.EXIT_USER_ERROR
    assert message in capsys.readouterr().err


def test_without_the_extra(monkeypatch, exports):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for module in ("http", "server"):
        monkeypatch.delitem(sys.modules, f"tfgan_mnist.serving.{module}")
    with pytest.raises(UserError, match=r"needs uvicorn.* pip install 'tfgan-mnist\[serve\]'"):
        serve.start(ServerConfig(model_base_path=str(exports)))


def test_flags():
    flags = ["--model_base_path=x", "--enable_batching=false", "--rest_api_enable_cors_support"]
    parsed = ServerConfig(**vars(serve.parser().parse_args(flags)))
    assert (parsed.enable_batching, parsed.rest_api_enable_cors_support) == (False, True)
    assert (parsed.host, parsed.rest_api_port, parsed.port) == ("127.0.0.1", 8501, 8500)
