"""The serve command, its configuration and documents, and what clients may do to it."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import types
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from serving import (
    BODY,
    DEPLOY,
    ROOT,
    ask,
    eventually,
    port_of,
    predict,
    start,
    start_with_models,
)
from tensorflow_serving.config import model_server_config_pb2

from benchmarks import malformed
from benchmarks.malformed import post, read_answer
from tfgan_mnist import cli, serve
from tfgan_mnist.errors import UserError
from tfgan_mnist.serving import batching, settings, versions
from tfgan_mnist.serving.metrics import METRICS_PATH
from tfgan_mnist.serving.settings import ServerConfig


@pytest.fixture(scope="module")
def server(exports, tmp_path_factory):
    with start_with_models(tmp_path_factory.mktemp("models"), exports) as running:
        yield running


def test_every_malformed_request_is_refused(server):
    """By 4xx or a closed connection, also beside each other; valid ones get their images."""
    seen = malformed.send_all(port_of(server), "cdcgan", 200, seed=0)
    assert [outcome for outcome in seen if "WRONG" in outcome] == []
    assert seen["valid: 200"] > 0 and seen.total() == 200


def test_models_of_a_base_path(tmp_path, exports):
    def names(**given):
        return [model.name for model in settings.models_of(ServerConfig(**given))]

    assert names(model_base_path=str(exports)) == ["cdcgan", "dcgan", "gan"]
    assert names(model_base_path=str(exports / "gan")) == ["gan"]
    assert names(model_base_path=str(exports / "gan"), model_name="other") == ["other"]
    assert names(model_base_path=str(tmp_path)) == [tmp_path.name]  # versions may come yet


def test_wrong_settings(tmp_path, exports):
    def text(content):
        (tmp_path / "config").write_text(content)
        return str(tmp_path / "config")

    def models(content):
        return lambda: settings.models_of(ServerConfig(model_config_file=text(content)))

    def given(**choices):
        return lambda: ServerConfig(**choices)

    entry = f"name: 'a' base_path: '{tmp_path}'"
    for call, message in [
        (ServerConfig, "expected --model_base_path=saved_models or --model_config_file=FILE"),
        (given(model_base_path="x", model_config_file="y"), "and not both"),
        (given(model_base_path="x", port=-1), "--port: expected a value >= 0"),
        (given(model_base_path="x", rest_api_port=65536), "<= 65535; received 65536"),
        (given(model_base_path="x", file_system_poll_wait_seconds=np.nan), "expected"),
        (lambda: settings.models_of(ServerConfig(model_base_path=str(tmp_path / "no"))),
         "expected a folder; there is no"),
        (lambda: settings.models_of(ServerConfig(model_base_path=str(exports), model_name="a")),
         "expected a single model"),
        (models("nonsense"), "expected a ModelServerConfig in text format: 1:"),
        (models(""), "with a model"),
        (models("model_config_list { config { base_path: '/' } }"), "a name of its own"),
        (models(f"model_config_list {{ config {{ {entry} }} config {{ {entry} }} }}"),
         "a name of its own"),
        (models("model_config_list { config { name: 'a' base_path: '/no/where' } }"), "/no/where"),
        (models(f"model_config_list {{ config {{ {entry} model_platform: 'x' }} }}"), "tensorflow"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=re.escape(message)):
            call()


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


def test_wrong_flags(monkeypatch, capsys):
    for flags, message in [
        (["--model_base_path=/no/where"], "--model_base_path: expected a folder"),
        ([], "expected --model_base_path=saved_models or"),
        (["--model_base_path=x", "--port=0", "--rest_api_port=0"], "received 0 for both"),
        (["--model_base_path=x", "--enable_batching=maybe"], "expected true or false"),
    ]:
        monkeypatch.setattr(sys, "argv", ["serve", *flags])
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


def test_the_snippets_of_the_readme(server, tmp_path, monkeypatch):
    text = (DEPLOY / "README.md").read_text()
    by_rest, by_grpc = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "http://localhost:8501" in by_rest and "localhost:8500" in by_grpc
    monkeypatch.chdir(tmp_path)
    exec(by_rest.replace("http://localhost:8501", server.rest_url), {})
    pngs = [tf.io.decode_png(Path(f"digit-{i}.png").read_bytes()) for i in range(4)]
    names = {}
    exec(by_grpc.replace("localhost:8500", server.grpc_address), names)
    assert names["images"].shape == (4, 28, 28, 1)
    for png, image in zip(pngs, names["images"]):
        np.testing.assert_allclose(png, 255 * image, rtol=0, atol=0.51)


@pytest.mark.skipif(shutil.which("nginx") is None, reason="no nginx: apt install nginx-light")
def test_behind_the_nginx_of_the_readme(server, tmp_path):
    (block,) = re.findall(r"```nginx\n(.*?)```", (DEPLOY / "README.md").read_text(), re.DOTALL)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "listen 80;" in block and "http://127.0.0.1:8501" in block
    block = block.replace("listen 80;", f"listen 127.0.0.1:{port};")
    block = block.replace("http://127.0.0.1:8501", server.rest_url)
    paths = "".join(
        f"{name}_temp_path {tmp_path}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = f"pid {tmp_path}/pid; daemon off; events {{}} http {{ access_log off; {paths} {block} }}"
    (tmp_path / "nginx.conf").write_text(text)
    command = ["nginx", "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "errors")]
    with subprocess.Popen(command) as nginx:
        try:
            eventually(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
            proxied = types.SimpleNamespace(rest_url=f"http://127.0.0.1:{port}")
            assert predict(proxied, "H", BODY) == (200, {"predictions": [2.5]})
            assert ask(proxied, "GET", "/v1/models/T%20x")[0] == 200
            assert ask(proxied, "GET", "/")[0] == 200
            assert ask(proxied, "POST", "/v1/models/H:predict", b" " * (9 << 20))[0] == 413
        finally:
            nginx.terminate()
