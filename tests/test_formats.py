import json
import os
import sys

import ai_edge_litert.interpreter
import ai_edge_litert.schema_py_generated as schema
import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_models import FACTS, MODELS, labels_for, passing_through, settings_of, tiny

from tfgan_mnist import cli, export, load_model, runs
from tfgan_mnist.errors import UserError
from tfgan_mnist.exports import formats, saved_model
from tfgan_mnist.exports.versions import next_number, versions
from tfgan_mnist.training import checkpoints

FORMATS = ("onnx", "litert")


@pytest.fixture(scope="module", params=[(name, of) for name in MODELS for of in FORMATS])
def exported(request, tmp_path_factory):
    """(model, format, the file that the export command's function made of it)."""
    name, format_name = request.param
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


def test_images_are_those_of_keras(exported):
    model, format_name, path = exported
    request = request_of(model, 12)
    images = formats.run(format_name, path.read_bytes(), request)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, expected_of(model, request), rtol=0, atol=1e-5)


@pytest.mark.parametrize("exported", [("cdcgan", of) for of in FORMATS], indirect=True)
def test_the_image_of_a_wrong_label_is_nan(exported):
    model, format_name, path = exported
    request = request_of(model, 4) | {"labels": np.array([9, -1, 10, 0], np.int32)}
    images = formats.run(format_name, path.read_bytes(), request)
    assert np.isnan(images[1:3]).all()
    right = {key: value[[0, 3]] for key, value in request.items()}
    np.testing.assert_allclose(images[[0, 3]], expected_of(model, right), rtol=0, atol=1e-5)


@pytest.mark.parametrize("exported", [(name, "onnx") for name in MODELS], indirect=True)
def test_the_interface_of_an_onnx_file(exported):
    model, _, path = exported
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = {tensor.name: (tensor.type, tensor.shape) for tensor in session.get_inputs()}
    labels = {"labels": ("tensor(int32)", ["batch"])} if model.num_classes else {}
    assert inputs == {"latents": ("tensor(float)", ["batch", 4])} | labels
    (images,) = session.get_outputs()
    shape = ["batch", *FACTS.image_shape]
    assert (images.name, images.type, images.shape) == ("images", "tensor(float)", shape)
    for batch in (0, 1, 64):
        (made,) = session.run(None, request_of(model, batch))
        assert made.shape == (batch, *FACTS.image_shape)


def test_an_onnx_file_is_written_twice_alike(tmp_path):
    version = saved_model.export(tiny("cdcgan"), tmp_path)
    written = [formats.convert(version, "onnx").read_bytes() for _ in range(2)]
    assert written[0] == written[1]
    nodes = onnx.load_model_from_string(written[0]).graph.node
    assert [node.name for node in nodes] == [f"{each.op_type}_{i}" for i, each in enumerate(nodes)]


@pytest.mark.parametrize("exported", [(name, "litert") for name in MODELS], indirect=True)
def test_the_interface_of_a_litert_file(exported):
    model, _, path = exported
    interpreter = ai_edge_litert.interpreter.Interpreter(str(path))
    names = ["labels", "latents"] if model.num_classes else ["latents"]
    signature = {"inputs": names, "outputs": ["images"]}
    assert interpreter.get_signature_list() == {"serving_default": signature}
    shapes = {tuple(tensor["shape"]) for tensor in interpreter.get_input_details()}
    assert shapes == ({(1, 4), (1,)} if model.num_classes else {(1, 4)})
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
    assert card["licence"] == "Apache-2.0"
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
    (tmp_path / "latest").symlink_to("2")
    assert command(monkeypatch, f"--saved_model={tmp_path}/latest", "--format=onnx") is None
    (tmp_path / "9.tflite").touch()
    (tmp_path / "note.onnx").touch()
    assert next_number(tmp_path) == 10
    assert sorted(versions(tmp_path)) == [2]
    found = {"1.onnx", "2", "2.onnx", "9.tflite", "latest", "note.onnx"}
    assert set(os.listdir(tmp_path)) == found


def test_of_two_commands_one_gets_a_number(tmp_path, monkeypatch):
    (tmp_path / "1.onnx").write_text("of another command")
    numbers = iter([1, 2])  # when this one looked, it was not there
    monkeypatch.setattr(formats, "next_number", lambda _: next(numbers))
    assert formats.export_file(passing_through(), tmp_path, "onnx").name == "2.onnx"
    assert (tmp_path / "1.onnx").read_text() == "of another command"
    monkeypatch.setattr(formats, "next_number", lambda _: 3)
    monkeypatch.setattr(formats.files, "write_atomically", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        formats.export_file(passing_through(), tmp_path, "onnx")
    assert sorted(os.listdir(tmp_path)) == ["1.onnx", "2.onnx"]


def test_a_run_as_a_file(tmp_path, monkeypatch, capsys):
    model = tiny("cdcgan")
    run = runs.create(tmp_path / "runs", settings_of("cdcgan"), FACTS)
    checkpoints.save(run, model)
    flags = (f"--run={run}", f"--export_root={tmp_path}/exports", "--format=onnx")
    assert command(monkeypatch, *flags) is None
    path = tmp_path / "exports" / "cdcgan" / "1.onnx"
    assert capsys.readouterr().out == f"Exported: {path}\n"
    request = request_of(model, 3)
    images = formats.run("onnx", path.read_bytes(), request)
    np.testing.assert_allclose(images, expected_of(model, request), rtol=0, atol=1e-5)
    assert json.loads(onnx.load(path).metadata_props[0].value)["data"]["num_images"] == 64


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_file_of_other_images_is_not_published(tmp_path, monkeypatch, format_name):
    run = formats.run
    monkeypatch.setattr(formats, "run", lambda *arguments: run(*arguments) + 2e-5)
    with pytest.raises(RuntimeError, match=f"{format_name}: expected the images that Keras makes"):
        formats.export_file(passing_through(), tmp_path / "gan", format_name)
    assert not (tmp_path / "gan").exists()


@pytest.mark.parametrize("format_name", FORMATS)
def test_without_the_packages(tmp_path, monkeypatch, capsys, format_name):
    package = formats.NEEDS[format_name][-1]
    find = formats.importlib.util.find_spec
    monkeypatch.setattr(
        formats.importlib.util, "find_spec", lambda n: None if n == package else find(n)
    )
    assert command(monkeypatch, f"--run={tmp_path}", f"--format={format_name}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"missing packages: {package}. pip install 'tfgan-mnist[{format_name}]'")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("model_card.json", "model_card.json: expected a model card"),
        ("saved_model.pb", "expected an export of tfgan_mnist"),
    ],
)
def test_what_is_not_an_export_is_not_converted(tmp_path, damage, message):
    version = saved_model.export(passing_through(), tmp_path)
    (version / damage).write_text("{}")
    with pytest.raises(UserError, match=message):
        formats.convert(version, "onnx")
    assert os.listdir(tmp_path) == ["1"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--saved_model=PATH --format=onnx", "expected the folder of a SavedModel"),
        ("--saved_model=PATH", "--format: expected onnx or litert for a --saved_model"),
        ("--run=PATH", "PATH: expected a run folder"),
        ("--run=PATH --format=tfjs", "invalid choice: 'tfjs'"),
        ("--run=PATH --saved_model=PATH", "not allowed with argument --run"),
    ],
)
def test_what_the_command_refuses(tmp_path, monkeypatch, capsys, flags, message):
    assert command(monkeypatch, *flags.replace("PATH", str(tmp_path)).split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message.replace("PATH", str(tmp_path)) in line


def test_a_saved_model_needs_no_extra(tmp_path, monkeypatch):
    # It is what training ends with, wherever that is.
    for package in ("onnx", "onnxruntime", "tf2onnx", "ai_edge_litert", "tensorflow_serving"):
        monkeypatch.setitem(sys.modules, package, None)  # importing it raises ImportError
    assert saved_model.export(passing_through(), tmp_path).exists()


def test_a_keras_file_trains_on(tmp_path, monkeypatch, capsys):
    model = tiny("cdcgan")
    path = formats.export_file(model, tmp_path, "keras")
    assert path == tmp_path / "1.keras" and next_number(tmp_path) == 2
    loaded = load_model(path)
    request = request_of(model, 4)
    images = loaded.sample(request["latents"], request["labels"])
    np.testing.assert_allclose(images, model.sample(*request.values()), atol=1e-6)
    loaded.fit(np.zeros((8, 8, 8, 3)), np.zeros(8, np.int32), verbose=0)
    assert command(monkeypatch, f"--saved_model={tmp_path}", "--format=keras") == 2
    assert "expected --run=FOLDER" in capsys.readouterr().err
