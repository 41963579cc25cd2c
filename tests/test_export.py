import json
import os
import re
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from cpp_session import CppSession
from tensorflow_serving.apis import prediction_log_pb2
from tiny_models import FACTS, MODELS, NUM_CLASSES, labels_for, passing_through, settings_of, tiny
from tiny_training import batch as batch_of
from tiny_training import step

from tfgan_mnist import config, export, files, runs
from tfgan_mnist.errors import UserError
from tfgan_mnist.exports import formats, saved_model, warmup
from tfgan_mnist.exports.card import CARD
from tfgan_mnist.exports.session import SavedModel
from tfgan_mnist.exports.versions import versions
from tfgan_mnist.training import checkpoints

SIGNATURES = ("serving_default", "sample", "png")


def expected_of(model, latents, labels=None):
    return (model.sample(latents, labels) + 1) / 2


@pytest.fixture(scope="module", params=["gan", "cdcgan"])
def exported(request, tmp_path_factory):
    """(trained model, folder of its export, the export in a C++ session)."""
    model = tiny(request.param)
    for _ in range(3):
        step(model, batch_of(shape=FACTS.image_shape, classes=NUM_CLASSES))
    folder = saved_model.export(model, tmp_path_factory.mktemp("exports") / request.param)
    with CppSession(folder) as session:
        yield model, folder, session


@pytest.fixture(scope="module")
def model():
    return passing_through()


# What the C++ session makes of an export


def test_served_images_are_those_of_keras(exported):
    model, _, session = exported
    for batch in (0, 1, 64):
        latents, labels = model.latents(batch), labels_for(model, batch)
        served = session.run("serving_default", latents=latents, **labels)["images"]
        assert served.dtype == np.float32
        assert served.shape == (batch, *model.image_shape)
        expected = expected_of(model, latents, **labels)
        np.testing.assert_allclose(served, expected, rtol=0, atol=1e-5)
    assert 0 <= served.min() < 0.4 < 0.6 < served.max() <= 1
    # It is the average that is exported after training.
    inputs = [latents, *labels.values()] if labels else latents
    live = (model.generator(inputs, training=False).numpy() + 1) / 2
    assert abs(live - served).max() > 1e-4  # ten times what may differ from `model.sample`


def test_png_holds_the_images_of_sample(exported):
    model, _, session = exported
    for batch in (0, 1, 64):
        request = {"seed": np.arange(batch), **labels_for(model, batch)}
        images = session.run("sample", **request)["images"]
        pngs = session.run("png", **request)["png_bytes"]
        assert images.shape == (batch, *model.image_shape) and pngs.shape == (batch,)
        for image, png in zip(images, pngs):
            np.testing.assert_allclose(tf.io.decode_png(png), 255 * image, rtol=0, atol=0.51)


def test_a_row_is_a_function_of_its_seed(exported):
    model, folder, session = exported
    seeds = [7, -1, 7, 2**31 - 1]
    labels = {"labels": [3] * len(seeds)} if model.num_classes else {}
    images = session.run("sample", seed=seeds, **labels)["images"]
    np.testing.assert_allclose(images[0], images[2], rtol=0, atol=1e-6)
    assert len(np.unique(images.round(4), axis=0)) == 3
    with CppSession(folder) as restarted:
        one = {key: value[-1:] for key, value in labels.items()}
        again = restarted.run("sample", seed=seeds[-1:], **one)["images"]
    np.testing.assert_allclose(images[-1:], again, rtol=0, atol=1e-6)


def test_seeds_draw_standard_normal_latents(tmp_path):
    with CppSession(saved_model.export(passing_through(), tmp_path)) as session:
        latents = 2 * session.run("sample", seed=np.arange(500))["images"] - 1
    assert abs(latents.mean()) < 0.02
    assert abs(latents.std() - 1) < 0.02
    assert abs(np.corrcoef(latents.reshape(500, -1).T) - np.eye(64)).max() < 0.25


@pytest.mark.parametrize("exported", ["cdcgan"], indirect=True)
def test_a_label_that_is_not_a_class_is_refused(exported):
    model, _, session = exported
    rows = {"latents": model.latents(3)}
    for signature in SIGNATURES:
        for wrong in (-1, NUM_CLASSES):
            with pytest.raises(RuntimeError, match=rf"expected 0\.\.9; received\] \[{wrong}\]"):
                session.run(signature, labels=[0, wrong, 9], **rows)
        session.run(signature, labels=[0, 5, 9], **rows)  # and the session goes on
        rows = {"seed": [1, 2, 3]}


def test_signatures(exported):
    model, _, session = exported

    def described(tensors):
        return {
            key: (tf.as_dtype(info.dtype).name, [dim.size for dim in info.tensor_shape.dim])
            for key, info in tensors.items()
        }

    labels = {"labels": ("int32", [-1])} if model.num_classes else {}
    images = {"images": ("float32", [-1, *model.image_shape])}
    expected = {
        "serving_default": ({"latents": ("float32", [-1, 4])} | labels, images),
        "sample": ({"seed": ("int32", [-1])} | labels, images),
        "png": ({"seed": ("int32", [-1])} | labels, {"png_bytes": ("string", [-1])}),
    }
    for name, signature in expected.items():
        served = session.signatures[name]
        assert (described(served.inputs), described(served.outputs)) == signature
        assert served.method_name == "tensorflow/serving/predict"
    assert set(session.signatures) == {*SIGNATURES, "__saved_model_init_op"}


def test_the_warmup_runs(exported):
    """The records are read by TensorFlow Serving's own stubs and replayed as it does."""
    _, folder, session = exported
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    warmed = []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        name = request.model_spec.signature_name
        inputs = {key: tf.make_ndarray(tensor) for key, tensor in request.inputs.items()}
        dtypes = {key: info.dtype for key, info in session.signatures[name].inputs.items()}
        assert dtypes == {key: tensor.dtype for key, tensor in request.inputs.items()}
        (output,) = session.run(name, **inputs).values()
        assert 1 <= len(output) <= 16
        warmed.append(name)
    assert sorted(warmed) == sorted(SIGNATURES)


def test_weights_are_stored_once_and_nothing_needs_xla(exported):
    model, folder, session = exported
    stored = tf.train.list_variables(str(folder / "variables" / "variables"))
    numbers = sum(np.prod(shape) for _, shape in stored if shape)
    assert numbers == model.generator.count_params()
    assert "_XlaMustCompile" not in str(session.meta_graph.graph_def)


@pytest.mark.parametrize("name", MODELS)
def test_the_exports_that_ship(exports, name):
    """In the C++ session, with the requests that a server warms them up by."""
    folder = exports / name / "1"
    card = json.loads((folder / CARD).read_text())
    requests = dict(warmup.read(folder))
    assert set(requests) == set(SIGNATURES)
    with CppSession(folder) as session:
        answers = {key: session.run(key, **inputs) for key, inputs in requests.items()}
    for key in ("serving_default", "sample"):
        images = answers[key]["images"]
        assert images.shape == (len(requests["png"]["seed"]), *card["image_shape"])
        assert 0 <= images.min() < 0.2 < 0.8 < images.max() <= 1
    pngs = np.stack([tf.io.decode_png(png) for png in answers["png"]["png_bytes"]])
    np.testing.assert_allclose(pngs, 255 * answers["sample"]["images"], rtol=0, atol=0.51)


def test_float32_whatever_the_precision(tmp_path):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = tiny("cdcgan")
    finally:
        keras.config.set_dtype_policy(policy)
    latents, labels = model.latents(NUM_CLASSES), np.arange(NUM_CLASSES)
    with CppSession(saved_model.export(model, tmp_path)) as session:
        graph = str(session.meta_graph.graph_def)
        served = session.run("serving_default", latents=latents, labels=labels)["images"]
    assert "DT_HALF" not in graph
    expected = expected_of(tiny("cdcgan"), latents, labels)
    np.testing.assert_allclose(served, expected, rtol=0, atol=1e-5)


# Publishing


def test_version_numbers_grow(tmp_path, model, monkeypatch):
    # Without any extra, as it is what training ends with.
    for package in ("onnx", "onnxruntime", "tf2onnx", "ai_edge_litert", "tensorflow_serving"):
        monkeypatch.setitem(sys.modules, package, None)  # importing it raises ImportError
    for name in ("00000007", "latest", ".9.partial", "-10", "8.5", "9" * 30):
        (tmp_path / name).mkdir()
    (tmp_path / "8").write_text("not a folder")
    assert list(versions(tmp_path)) == [7]
    rename = files.os.rename

    def meanwhile(*arguments):  # another command takes the number
        (tmp_path / "9").mkdir(exist_ok=True)
        (tmp_path / "9" / "file").write_text("of another command")
        return rename(*arguments)

    monkeypatch.setattr(files.os, "rename", meanwhile)
    assert saved_model.export(model, tmp_path) == tmp_path / "10"
    assert sorted(versions(tmp_path)) == [7, 9, 10]
    assert os.listdir(tmp_path / "9") == ["file"]
    assert versions(tmp_path / "nothing") == {}


def test_a_full_disk_leaves_nothing(tmp_path, model, monkeypatch):
    def no_space(*_, **__):
        message = "{{node SaveV2}} /tmp/x/variables; No space left on device [Op:SaveV2]"
        raise tf.errors.ResourceExhaustedError(None, None, message)

    monkeypatch.setattr(type(keras.export.ExportArchive()), "write_out", no_space)
    with pytest.raises(UserError, match="export: No space left"):
        saved_model.export(model, tmp_path / "gan")
    assert os.listdir(tmp_path / "gan") == []


def test_a_file_in_place_of_the_base_path(tmp_path, model):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        saved_model.export(model, tmp_path / "file")


def test_an_export_of_other_images_is_not_published(tmp_path, model, monkeypatch):
    run = SavedModel.run

    def run_another(saved, name, request):
        return run(saved, name, {key: value[::-1] for key, value in request.items()})

    monkeypatch.setattr(SavedModel, "run", run_another)
    message = "'serving_default': expected the images that Keras makes"
    with pytest.raises(RuntimeError, match=message):
        saved_model.export(model, tmp_path)
    assert os.listdir(tmp_path) == []


def test_nan_is_not_published(tmp_path):
    model = tiny("gan")
    weight = model.averaged_generator.weights[0]
    weight.assign(np.full(weight.shape, np.nan))
    for write in (saved_model.export, lambda *to: formats.export_file(*to, "onnx")):
        with pytest.raises(UserError, match="the generator has weights that are NaN or infinite"):
            write(model, tmp_path)
    assert os.listdir(tmp_path) == []


def test_card(exported):
    model, folder, _ = exported
    card = json.loads((folder / CARD).read_text())
    assert card["model"] == type(model).__name__
    assert card["generator_parameters"] == model.generator.count_params()
    assert (card["latent_dim"], card["image_shape"]) == (4, [8, 8, 3])
    assert card["num_classes"] == model.num_classes
    assert tuple(card["signatures"]) == SIGNATURES
    assert ("labels int32 (B,) in 0..9" in card["signatures"]["png"]) == bool(model.num_classes)
    assert card["versions"]["tensorflow"] == tf.__version__
    assert card["licence"] == "Apache-2.0"
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", card["exported"])


# The command


def test_the_command_exports_a_run(tmp_path, capsys):
    model = tiny("gan")
    run = runs.create(tmp_path / "runs", settings_of("gan"), FACTS)
    checkpoints.save(run, model)
    (run / "metrics.json").write_text('{"fid": 12.5}')
    flags = [f"--run={run}", f"--export_root={tmp_path}"]
    export.main(export.parser().parse_args(flags))
    version = tmp_path / "gan" / "1"
    assert capsys.readouterr().out == f"Exported: {version}\n"

    latents = model.latents(4)
    with CppSession(version) as session:
        served = session.run("serving_default", latents=latents)["images"]
    np.testing.assert_allclose(served, expected_of(model, latents), rtol=0, atol=1e-5)

    card = json.loads((version / CARD).read_text())
    assert card["config"]["seed"] == 0
    assert card["data"]["num_images"] == 64
    assert card["metrics"] == {"fid": 12.5}
    assert str(run.parent) not in json.dumps(card)  # no places of the machine that trained it
    assert not set(config.PLACES) & set(card["config"])
