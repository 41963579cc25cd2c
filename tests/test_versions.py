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
from tfgan_mnist.exports import versions as versions_of
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


def test_version_folders(tmp_path):
    for name in ("1", "00000123", "x", ".5.partial", "-3", "1.5", "9" * 30, "\u0663"):
        (tmp_path / name).mkdir()
    (tmp_path / "7").write_text("a file")
    assert sorted(versions_of.versions(tmp_path)) == [1, 123]
    assert versions_of.versions(tmp_path / "none") == {}


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


def test_a_version_ends_whatever_its_loading_comes_to(base_path, monkeypatch):
    def refused(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(versions, "Batcher", refused)
    version = versions.Version("H", 1, base_path / "1")
    version.load()
    assert (version.state, "new thread" in version.error) == (versions.State.END, True)


def publish_with_warmup(base_path, folder, *records):
    shutil.copytree(base_path / "1", folder)
    (folder / warmup.FILE).parent.mkdir()
    with tf.io.TFRecordWriter(str(folder / warmup.FILE)) as file:
        for record in records:
            file.write(record)


def test_warm_up_requests_are_replayed(tmp_path, base_path, monkeypatch):
    replayed = []
    run = session.SavedModel.run
    monkeypatch.setattr(
        session.SavedModel,
        "run",
        lambda self, name, inputs, outputs: (
            replayed.append((name, inputs["x"].tolist())) or run(self, name, inputs, outputs)
        ),
    )
    record = warmup.record("serving_default", {"x": np.float32([1, 2])}, "H")
    publish_with_warmup(base_path, tmp_path / "H" / "1", record)
    wrong = warmup.record("serving_default", {"z": np.float32([1, 2])})
    publish_with_warmup(base_path, tmp_path / "W" / "1", wrong)
    publish_with_warmup(base_path, tmp_path / "G" / "1", b"garbage")
    publish_with_warmup(base_path, tmp_path / "M" / "1", *[record] * 1001)
    publish_with_warmup(base_path, tmp_path / "N" / "1")
    (tmp_path / "N" / "1" / warmup.FILE).write_bytes(b"garbage" * 9)
    with start(model_base_path=str(tmp_path)) as server:
        assert replayed == [("serving_default", [1.0, 2.0])]
        assert states(server, "H") == {1: "AVAILABLE"}
        for model, message in [("W", "input size does not match"), ("G", "not a file of warm-up"),
                               ("M", "at most 1000"), ("N", "not a file of warm-up")]:  # fmt: skip
            _, _, content = ask(server, "GET", f"/v1/models/{model}")
            assert message in content
            assert states(server, model) == {1: "END"}
    with start(model_base_path=str(tmp_path), enable_model_warmup=False) as server:
        assert states(server, "W") == {1: "AVAILABLE"}


def test_warm_up_has_a_time_limit(tmp_path, base_path, monkeypatch, caplog):
    monkeypatch.setattr(versions, "WARM_UP_SECONDS", 0.2)
    run, replayed = session.SavedModel.run, []
    monkeypatch.setattr(
        session.SavedModel,
        "run",
        lambda *args: time.sleep(0.06) or replayed.append(args) or run(*args),
    )
    record = warmup.record("serving_default", {"x": np.float32([1, 2])}, "H")
    publish_with_warmup(base_path, tmp_path / "H" / "1", *[record] * 100)
    with start(model_base_path=str(tmp_path)) as server:
        assert states(server, "H") == {1: "AVAILABLE"}
    assert 0 < len(replayed) < 5
    assert "the rest of the warm-up requests is skipped" in caplog.text


def test_warm_up_records_are_those_of_the_official_messages():
    inputs = {"seed": np.int32([1, 2]), "labels": np.int32([3, 4])}
    record = warmup.record("png", inputs, "cdcgan")
    log = prediction_log_pb2.PredictionLog(
        predict_log=prediction_log_pb2.PredictLog(
            request=predict_pb2.PredictRequest(
                model_spec=model_pb2.ModelSpec(name="cdcgan", signature_name="png"),
                inputs={name: tf.make_tensor_proto(value) for name, value in inputs.items()},
            )
        )
    )
    assert record == log.SerializeToString(deterministic=True)
