import json
import os
import shutil
import sys

import ai_edge_litert.interpreter
import ai_edge_litert.schema_py_generated as schema
import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_models import FACTS, labels_for, passing_through, settings_of, tiny

from tfgan_mnist import cli, export, load_model, runs
from tfgan_mnist.errors import UserError
from tfgan_mnist.exports import formats, saved_model
from tfgan_mnist.exports.versions import next_number, versions
from tfgan_mnist.training import checkpoints

FORMATS = ("onnx", "litert")


@pytest.fixture(scope="module", params=[(of, name) for of in FORMATS for name in ("gan", "cdcgan")])
def exported(request, tmp_path_factory):
    """(model, format, the file that the export command's function made of it)."""
    format_name, name = request.param
    model = tiny(name)
    base_path = tmp_path_factory.mktemp(name)
    return model, format_name, formats.export_file(model, base_path, format_name, {"note": "ä"})


def request_of(model, num):
    labels = {key: value.astype(np.int32) for key, value in labels_for(model, num).items()}
    return {"latents": model.latents(num), **labels}


def expected_of(model, request):
    return (model.sample(request["latents"], request.get("labels")) + 1) / 2


def command(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["export", *flags])
    with pytest.raises(SystemExit) as stop:
        cli.run(export.main, export.parser())
    return stop.value.code


def test_of_two_commands_one_gets_a_number(tmp_path, monkeypatch):
    (tmp_path / "1.onnx").write_text("of another command")
    numbers = iter([1, 2])  # when this one looked, it was not there
    monkeypatch.setattr(formats, "next_number", lambda _: next(numbers))
    assert formats.export_file(passing_through(), tmp_path, "onnx").name == "2.onnx"
    assert (tmp_path / "1.onnx").read_text() == "of another command"
    assert sorted(os.listdir(tmp_path)) == ["1.onnx", "2.onnx"]


def test_images_are_those_of_keras(exported):
    model, format_name, path = exported
    request = request_of(model, 12)
    images = formats.run(format_name, path.read_bytes(), request)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, expected_of(model, request), rtol=0, atol=1e-5)
    if model.num_classes:  # the image of a wrong label is NaN
        request["labels"][[1, 2]] = [-1, 10]
        wrong = formats.run(format_name, path.read_bytes(), request)
        assert np.isnan(wrong[[1, 2]]).all()
        np.testing.assert_allclose(wrong[3:], images[3:], rtol=0, atol=1e-6)


def test_the_interface_of_a_file(exported):
    model, format_name, path = exported
    names = ["labels", "latents"] if model.num_classes else ["latents"]
    if format_name == "onnx":
        onnx.checker.check_model(str(path), full_check=True)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        inputs = {tensor.name: (tensor.type, tensor.shape) for tensor in session.get_inputs()}
        assert inputs.pop("latents") == ("tensor(float)", ["batch", 4])
        assert inputs == {name: ("tensor(int32)", ["batch"]) for name in names[:-1]}
        (images,) = session.get_outputs()
        shape = ["batch", *FACTS.image_shape]
        assert (images.name, images.type, images.shape) == ("images", "tensor(float)", shape)
        for batch in (0, 1, 64):
            (made,) = session.run(None, request_of(model, batch))
            assert made.shape == (batch, *FACTS.image_shape)
    else:
        interpreter = ai_edge_litert.interpreter.Interpreter(str(path))
        signature = {"inputs": names, "outputs": ["images"]}
        assert interpreter.get_signature_list() == {"serving_default": signature}
        shapes = sorted(tuple(tensor["shape"]) for tensor in interpreter.get_input_details())
        assert shapes == [(1,), (1, 4)][-len(names) :]
        (images,) = interpreter.get_output_details()
        assert tuple(images["shape"]) == (1, *FACTS.image_shape)


def test_the_card_is_inside(exported):
    model, format_name, path = exported
    if format_name == "onnx":
        (entry,) = onnx.load(path).metadata_props
        assert entry.key == "model_card"
        card = json.loads(entry.value)
    else:
        stored = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
        (entry,) = (entry for entry in stored.metadata if entry.name == b"model_card")
        card = json.loads(bytes(stored.buffers[entry.buffer].data))
    assert (card["format"], card["model"], card["note"]) == (format_name, type(model).__name__, "ä")
    (signature,) = card["signatures"].values()
    assert ("NaN for a label" in signature) == bool(model.num_classes)
    rows = {"onnx": "B", "litert": "1"}[format_name]
    assert f"latents float32 ({rows}, 4)" in signature
    assert f"images float32 ({rows}, 8, 8, 3)" in signature


# Publishing


def test_a_number_stands_for_one_set_of_weights(tmp_path, capsys, monkeypatch):
    model = passing_through()
    assert formats.export_file(model, tmp_path, "onnx").name == "1.onnx"
    assert saved_model.export(model, tmp_path).name == "2"
    assert command(monkeypatch, f"--saved_model={tmp_path}", "--format=onnx") is None
    assert capsys.readouterr().out == f"Exported: {tmp_path}/2.onnx\n"
    written = (tmp_path / "2.onnx").read_bytes()
    (tmp_path / "latest").symlink_to("2")
    assert command(monkeypatch, f"--saved_model={tmp_path}/latest", "--format=onnx") is None
    assert (tmp_path / "2.onnx").read_bytes() == written
    (tmp_path / "9.tflite").touch()
    (tmp_path / "note.onnx").touch()
    assert next_number(tmp_path) == 10
    assert sorted(versions(tmp_path)) == [2]
    found = {"1.onnx", "2", "2.onnx", "9.tflite", "latest", "note.onnx"}
    assert set(os.listdir(tmp_path)) == found


def test_a_run_as_a_file(tmp_path, monkeypatch, capsys):
    model = tiny("gan")
    run = runs.create(tmp_path / "runs", settings_of("gan"), FACTS)
    checkpoints.save(run, model)
    flags = (f"--run={run}", f"--export_root={tmp_path}/exports", "--format=onnx")
    assert command(monkeypatch, *flags) is None
    path = tmp_path / "exports" / "gan" / "1.onnx"
    assert capsys.readouterr().out == f"Exported: {path}\n"
    request = request_of(model, 3)
    images = formats.run("onnx", path.read_bytes(), request)
    np.testing.assert_allclose(images, expected_of(model, request), rtol=0, atol=1e-5)
    assert json.loads(onnx.load(path).metadata_props[0].value)["data"]["num_images"] == 64


def test_a_file_of_other_images_is_not_published(tmp_path, monkeypatch):
    run = formats.run
    monkeypatch.setattr(formats, "run", lambda *arguments: run(*arguments) + 2e-5)
    with pytest.raises(RuntimeError, match="onnx: expected the images that Keras makes"):
        formats.export_file(passing_through(), tmp_path / "gan", "onnx")
    assert not os.listdir(tmp_path / "gan")


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        ("model_card.json", "model_card.json: expected a model card; it lacks image_shape"),
        ("saved_model.pb", "expected an export of tfgan_mnist"),
    ],
)
def test_what_is_not_an_export_is_not_converted(tmp_path, exports, damaged, message):
    version = shutil.copytree(exports / "gan" / "1", tmp_path / "1")
    (version / damaged).write_text("{}")
    with pytest.raises(UserError, match=message):
        formats.convert(version, "onnx")
    assert os.listdir(tmp_path) == ["1"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--saved_model=PATH --format=onnx", "expected the folder of a SavedModel"),
        ("--saved_model=PATH", "--format: expected onnx or litert for a --saved_model"),
        ("--saved_model=PATH --format=keras", "expected --run=FOLDER"),
        ("--run=PATH", "PATH: expected a run folder"),
        ("--run=PATH --format=tfjs", "invalid choice: 'tfjs'"),
        ("--run=PATH --page=PATH", "--page: expected --saved_model=FOLDER"),
        ("--run=PATH --saved_model=PATH", "not allowed with argument --run"),
        ("--run=PATH --format=litert",
         "missing packages: ai_edge_litert. pip install 'tfgan-mnist[litert]'"),
    ],
)  # fmt: skip
def test_what_the_command_refuses(tmp_path, monkeypatch, capsys, flags, message):
    find = formats.importlib.util.find_spec
    monkeypatch.setattr(
        formats.importlib.util, "find_spec", lambda n: None if n == "ai_edge_litert" else find(n)
    )
    assert command(monkeypatch, *flags.replace("PATH", str(tmp_path)).split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message.replace("PATH", str(tmp_path)) in line


def test_a_keras_file_is_the_whole_model(tmp_path):
    model = tiny("gan")
    path = formats.export_file(model, tmp_path, "keras")
    assert path == tmp_path / "1.keras" and next_number(tmp_path) == 2
    loaded = load_model(path)
    latents = model.latents(4)
    np.testing.assert_allclose(loaded.sample(latents), model.sample(latents), atol=1e-6)
    assert loaded.discriminator.count_params() == model.discriminator.count_params()
