"""Versions that appear, replace each other, break and disappear while requests arrive."""

import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from serving import BODY, ask, eventually, predict, save_half_plus, start, states
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

from tfgan_mnist.exports import session, warmup
from tfgan_mnist.exports.request_errors import RequestError
from tfgan_mnist.serving import settings, versions
from tfgan_mnist.serving.settings import ServerConfig


@pytest.fixture(scope="module")
def base_path(tmp_path_factory):
    """The base path of H with the versions 1 and 2."""
    folder = tmp_path_factory.mktemp("models") / "H"
    folder.mkdir()
    save_half_plus(folder / "1", 1)
    save_half_plus(folder / "00000002", 2)
    return folder


def test_which_versions_are_served():
    found = {1, 2, 5, 9}
    config = settings.ModelConfig("m", Path("m"))
    assert config.aspired(found) == {9}
    assert settings.ModelConfig("m", Path("m"), latest=2).aspired(found) == {5, 9}
    assert settings.ModelConfig("m", Path("m"), latest=0).aspired(found) == found
    assert settings.ModelConfig("m", Path("m"), specific=(2, 3)).aspired(found) == {2}
    assert config.aspired(set()) == set()


def test_a_new_version_takes_over_and_no_request_is_lost(tmp_path):
    folder = tmp_path / "H"
    folder.mkdir()
    save_half_plus(folder / "1", 1)
    stop, wrong, seen = threading.Event(), [], []
    with start(model_base_path=str(folder)) as server:

        def load():
            while not stop.is_set():
                status, answer = predict(server, "H", {"instances": [0.0]})
                if status == 200:
                    seen.append(answer["predictions"][0])
                else:
                    wrong.append(answer)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in (2, 3):
            save_half_plus(folder / str(number), number)
            eventually(lambda number=number: states(server).get(number) == "AVAILABLE")
            eventually(lambda number=number: seen and seen[-1] == number)
        # A broken version is reported, and the good one stays.
        (folder / ".4").mkdir()
        shutil.copy(folder / "3" / "saved_model.pb", folder / ".4")
        (folder / ".4").rename(folder / "4")
        eventually(lambda: states(server).get(4) == "END")
        _, _, content = ask(server, "GET", "/v1/models/H/versions/4")
        status = json.loads(content)["model_version_status"][0]["status"]
        assert status["error_code"] == "UNKNOWN"
        assert "not a valid checkpoint" in status["error_message"]
        # Repaired, it is loaded.
        shutil.copytree(folder / "3" / "variables", folder / "4" / "variables")
        eventually(lambda: states(server).get(4) == "AVAILABLE")
        eventually(lambda: states(server) == {4: "AVAILABLE", 3: "END", 2: "END", 1: "END"})
        # Taken back, the one before is served again.
        shutil.rmtree(folder / "4")
        eventually(lambda: states(server)[3] == "AVAILABLE")
        eventually(lambda: states(server)[4] == "END")
        stop.set()
        for thread in threads:
            thread.join()
        assert ask(server, "POST", "/v1/models/H/versions/1:predict", BODY)[0] == 404
        # Without its base path the model stays, and without its versions it goes.
        folder.rename(tmp_path / "away")
        time.sleep(0.2)
        assert predict(server, "H", BODY)[0] == 200
        (tmp_path / "H").mkdir()
        eventually(lambda: set(states(server).values()) == {"END"})
        status, answer = predict(server, "H", BODY)
        assert (status, answer["error"]) == (404, "Servable not found for request: Latest(H)")
        # They come back.
        save_half_plus(folder / "5", 5)
        eventually(lambda: predict(server, "H", BODY) == (200, {"predictions": [5.5]}))
    assert wrong == []
    assert seen == sorted(seen)
    assert set(seen) == {1.0, 2.0, 3.0}


def test_a_version_in_use_stays_loaded(base_path):
    (config,) = settings.models_of(ServerConfig(model_base_path=str(base_path)))
    models = versions.Models([config])
    models.poll()
    with models.use("H") as version:
        retiring = threading.Thread(target=version.retire)
        retiring.start()
        eventually(lambda: version.state is versions.State.UNLOADING)
        with pytest.raises(RequestError, match="not found"), models.use("H"):
            pass
        answer = version.submit("serving_default", {"x": np.float32([1.0])}).result(20)
        assert answer["y"] == [2.5]
        assert retiring.is_alive()
    retiring.join(20)
    assert version.state is versions.State.END
    models.stop()


def test_warm_up_requests_are_replayed(tmp_path, base_path, monkeypatch):
    replayed, run = [], session.SavedModel.run
    monkeypatch.setattr(
        session.SavedModel,
        "run",
        lambda *request: replayed.append(request[1:]) or run(*request),
    )
    inputs = {"x": np.float32([1, 2])}
    right, wrong = warmup.record("serving_default", inputs), warmup.record("sample", inputs)
    for model, record in {"H": right, "W": wrong, "G": b"garbage"}.items():
        shutil.copytree(base_path / "1", tmp_path / model / "1")
        path = tmp_path / model / "1" / warmup.FILE
        path.parent.mkdir()
        with tf.io.TFRecordWriter(str(path)) as file:
            file.write(record)
    with start(model_base_path=str(tmp_path)) as server:
        np.testing.assert_equal(replayed, [("serving_default", inputs)])
        assert states(server, "H") == {1: "AVAILABLE"}
        for model, message in [("W", "not found in signature"), ("G", "not a file of warm-up")]:
            _, _, content = ask(server, "GET", f"/v1/models/{model}")
            assert message in content
            assert states(server, model) == {1: "END"}
    with start(model_base_path=str(tmp_path), enable_model_warmup=False) as server:
        assert states(server, "W") == {1: "AVAILABLE"}


def test_warm_up_records_are_those_of_the_official_messages():
    inputs = {"seed": np.int32([1, 2]), "labels": np.int32([3, 4])}
    record = warmup.record("png", inputs)
    log = prediction_log_pb2.PredictionLog(
        predict_log=prediction_log_pb2.PredictLog(
            request=predict_pb2.PredictRequest(
                model_spec=model_pb2.ModelSpec(signature_name="png"),
                inputs={name: tf.make_tensor_proto(value) for name, value in inputs.items()},
            )
        )
    )
    assert record == log.SerializeToString(deterministic=True)
