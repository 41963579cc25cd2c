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

from tfgan_mnist import cli, config, export, files, runs
from tfgan_mnist.errors import UserError
from tfgan_mnist.exports import card, saved_model, versions, warmup
from tfgan_mnist.training import checkpoints

ARCHIVE = type(keras.export.ExportArchive())  # of this backend
SIGNATURES = ("serving_default", "sample", "png")


@pytest.fixture(scope="module", params=MODELS)
def exported(request, tmp_path_factory):
    """(model, folder of its export, the export in a C++ session)."""
    model = tiny(request.param)
    folder = saved_model.export(model, tmp_path_factory.mktemp("exports") / request.param)
    with CppSession(folder) as session:
        yield model, folder, session


@pytest.fixture(scope="module")
def model():
    return passing_through()


# What the C++ session makes of an export


@pytest.mark.parametrize("batch", [0, 1, 64])
def test_served_images_are_those_of_keras(exported, batch):
    model, _, session = exported
    latents, labels = model.latents(batch), labels_for(model, batch)
    served = session.run("serving_default", latents=latents, **labels)["images"]
    assert served.dtype == np.float32
    assert served.shape == (batch, *model.image_shape)
    expected = (model.sample(latents, **labels) + 1) / 2
    np.testing.assert_allclose(served, expected, rtol=0, atol=1e-5)
    if batch:
        assert 0 <= served.min() < 0.4 < 0.6 < served.max() <= 1


@pytest.mark.parametrize("batch", [0, 1, 64])
def test_png_holds_the_images_of_sample(exported, batch):
    model, _, session = exported
    request = {"seed": np.arange(batch), **labels_for(model, batch)}
    images = session.run("sample", **request)["images"]
    assert images.shape == (batch, *model.image_shape)
    pngs = session.run("png", **request)["png_bytes"]
    assert pngs.shape == (batch,)
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
@pytest.mark.parametrize("signature", SIGNATURES)
@pytest.mark.parametrize("wrong", [-1, NUM_CLASSES])
def test_a_label_that_is_not_a_class_is_refused(exported, signature, wrong):
    model, _, session = exported
    rows = {"latents": model.latents(3)} if signature == "serving_default" else {"seed": [1, 2, 3]}
    with pytest.raises(RuntimeError, match=rf"expected 0\.\.9; received\] \[{wrong}\]"):
        session.run(signature, labels=[0, wrong, 9], **rows)
    session.run(signature, labels=[0, 5, 9], **rows)  # and the session goes on


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
    served = {
        name: (described(signature.inputs), described(signature.outputs))
        for name, signature in session.signatures.items()
        if not name.startswith("__")
    }
    assert served == expected
    assert {session.signatures[name].method_name for name in expected} == {
        "tensorflow/serving/predict"
    }


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


@pytest.mark.parametrize("exported", ["cdcgan"], indirect=True)
def test_saved_model_cli(exported, tmp_path, run_python):
    """TensorFlow's own command shows and runs every signature."""
    _, folder, session = exported
    rows = {"seed": np.array([3, 4], np.int32), "labels": np.array([2, 6], np.int32)}
    rows["latents"] = np.zeros((2, 4), np.float32)
    np.savez(tmp_path / "rows.npz", **rows)
    commands = [["show", f"--dir={folder}", "--all"]]
    for name in SIGNATURES:
        inputs = [f"{key}={tmp_path}/rows.npz[{key}]" for key in session.signatures[name].inputs]
        options = {"dir": folder, "tag_set": "serve", "signature_def": name}
        options |= {"inputs": ";".join(inputs), "outdir": tmp_path / name}
        commands.append(["run", *(f"--{key}={value}" for key, value in options.items())])
    # In one process: each would import TensorFlow anew. Not in this one: its flags are global.
    output = run_python(f"""
        import sys
        from tensorflow.python.tools import saved_model_cli
        for arguments in {commands}:
            sys.argv = ["saved_model_cli", *arguments]
            try:
                saved_model_cli.main()
            except SystemExit as stop:
                assert not stop.code, stop.code
    """)
    for name in SIGNATURES:
        assert f"signature_def['{name}']" in output
        inputs = {key: rows[key] for key in session.signatures[name].inputs}
        ((key, values),) = session.run(name, **inputs).items()
        shown = np.load(tmp_path / name / f"{key}.npy", allow_pickle=name == "png")
        if name == "png":
            assert [tf.io.decode_png(png).shape for png in shown] == [FACTS.image_shape] * 2
        else:
            np.testing.assert_allclose(shown, values, rtol=0, atol=1e-6)


def test_weights_are_stored_once(exported):
    model, folder, _ = exported
    stored = tf.train.list_variables(str(folder / "variables" / "variables"))
    numbers = sum(np.prod(shape) for _, shape in stored if shape)
    assert numbers == model.generator.count_params()


def test_no_xla(exported):
    assert "_XlaMustCompile" not in str(exported[2].meta_graph.graph_def)


@pytest.mark.parametrize("name", MODELS)
def test_the_exports_that_ship(exports, name):
    """In the C++ session, with the requests that a server warms them up by."""
    folder = exports / name / "1"
    described = json.loads((folder / card.CARD).read_text())
    requests = dict(warmup.read(folder))
    with CppSession(folder) as session:
        assert (
            set(SIGNATURES) == set(requests) == set(session.signatures) - {"__saved_model_init_op"}
        )
        answers = {key: session.run(key, **inputs) for key, inputs in requests.items()}
    rows = len(requests["png"]["seed"])
    for key in ("serving_default", "sample"):
        images = answers[key]["images"]
        assert images.shape == (rows, *described["image_shape"])
        assert images.min() >= 0 and images.max() <= 1
        assert images.max() - images.min() > 0.5
    pngs = np.stack([tf.io.decode_png(png) for png in answers["png"]["png_bytes"]])
    np.testing.assert_allclose(pngs, 255 * answers["sample"]["images"], rtol=0, atol=0.51)


# Which weights, and in which precision


@pytest.fixture
def restored_policy():
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)


@pytest.mark.usefixtures("restored_policy")
@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_float32_whatever_the_precision(tmp_path, precision):
    keras.config.set_dtype_policy(precision)
    model = tiny("cdcgan")
    latents, labels = model.latents(NUM_CLASSES), np.arange(NUM_CLASSES)
    with CppSession(saved_model.export(model, tmp_path)) as session:
        graph = str(session.meta_graph.graph_def)
        served = session.run("serving_default", latents=latents, labels=labels)["images"]
    assert "DT_HALF" not in graph
    assert "DT_BFLOAT16" not in graph
    keras.config.set_dtype_policy("float32")
    reference = tiny("cdcgan")
    expected = (reference.sample(latents, labels) + 1) / 2
    np.testing.assert_allclose(served, expected, rtol=0, atol=1e-5)


def test_an_export_holds_the_average(tmp_path):
    """After training it gives the images of `sample`, which the last weights do not."""
    model = tiny("gan")
    images = np.random.default_rng(0).uniform(-1, 1, (32, *model.image_shape)).astype(np.float32)
    model.fit(images, batch_size=2, verbose=0)
    latents = model.latents(8)
    with CppSession(saved_model.export(model, tmp_path)) as session:
        served = session.run("serving_default", latents=latents)["images"]
    expected = (model.sample(latents) + 1) / 2
    of_last_weights = (model.generator(latents).numpy() + 1) / 2
    assert abs(expected - of_last_weights).max() > 1e-3
    np.testing.assert_allclose(served, expected, rtol=0, atol=1e-5)


# Publishing


def test_version_numbers_grow(tmp_path, model):
    for name in ("00000007", "latest", ".9.partial", "-10", "8.5"):
        (tmp_path / name).mkdir()
    (tmp_path / "12").write_text("not a folder")
    assert list(versions.versions(tmp_path)) == [7]
    assert saved_model.export(model, tmp_path) == tmp_path / "8"
    assert sorted(versions.versions(tmp_path)) == [7, 8]
    assert versions.versions(tmp_path / "nothing") == {}


def test_a_version_is_never_overwritten(tmp_path, model, monkeypatch):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_text("of another command")
    monkeypatch.setattr(
        versions, "versions", lambda _: {}
    )  # when this one looked, it was not there
    assert saved_model.export(model, tmp_path) == tmp_path / "2"
    assert (tmp_path / "1" / "saved_model.pb").read_text() == "of another command"
    assert os.listdir(tmp_path / "1") == ["saved_model.pb"]


def test_a_number_is_taken_by_a_file_too(tmp_path, model, monkeypatch):
    write = saved_model._write

    def meanwhile(*arguments):
        write(*arguments)
        (tmp_path / "1.onnx").touch()

    monkeypatch.setattr(saved_model, "_write", meanwhile)
    assert saved_model.export(model, tmp_path) == tmp_path / "2"
    assert sorted(os.listdir(tmp_path)) == ["1.onnx", "2"]


def test_trouble_after_the_renaming_publishes_nothing_twice(tmp_path, model, monkeypatch):
    sync = files._sync
    monkeypatch.setattr(
        files, "_sync", lambda path: disk_error() if path == tmp_path else sync(path)
    )
    with pytest.raises(OSError, match="Input/output"):
        saved_model.export(model, tmp_path)
    assert os.listdir(tmp_path) == ["1"]
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        saved_model.export(model, tmp_path / "file")


def no_space(*_, **__):
    message = "{{node SaveV2}} /tmp/x/variables; No space left on device [Op:SaveV2]"
    raise tf.errors.ResourceExhaustedError(None, None, message)


def interrupt(*_, **__):
    raise KeyboardInterrupt


def disk_error(*_, **__):
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("place", "failure", "error", "message"),
    [
        ((ARCHIVE, "write_out"), no_space, UserError, "export: No space left"),
        ((ARCHIVE, "write_out"), interrupt, KeyboardInterrupt, None),
        ((saved_model, "_serve"), disk_error, OSError, "Input/output"),
        ((files.os, "rename"), disk_error, OSError, "Input/output"),
    ],
)
def test_a_failure_leaves_nothing(tmp_path, model, monkeypatch, place, failure, error, message):
    monkeypatch.setattr(*place, failure)
    with pytest.raises(error, match=message):
        saved_model.export(model, tmp_path / "gan")
    assert os.listdir(tmp_path / "gan") == []


@pytest.mark.parametrize("signature", ["sample", "png"])
def test_an_export_of_other_images_is_not_published(tmp_path, model, monkeypatch, signature):
    serve = saved_model._serve

    def serve_another(folder, requests):
        answers = serve(folder, requests)
        other = serve(folder, {signature: {k: v[::-1] for k, v in requests[signature].items()}})
        return answers | other

    monkeypatch.setattr(saved_model, "_serve", serve_another)
    with pytest.raises(RuntimeError, match=f"'{signature}': expected the images that Keras makes"):
        saved_model.export(model, tmp_path)
    assert os.listdir(tmp_path) == []


def test_nan_is_not_published(tmp_path):
    model = tiny("gan")
    weight = model.averaged_generator.weights[0]
    weight.assign(np.full(weight.shape, np.nan))
    for write in (saved_model.export, lambda *to: saved_model.export_file(*to, "onnx")):
        with pytest.raises(UserError, match="the generator has weights that are NaN or infinite"):
            write(model, tmp_path)
    assert os.listdir(tmp_path) == []


def test_card(exported):
    model, folder, _ = exported
    described = json.loads((folder / card.CARD).read_text())
    assert described["model"] == type(model).__name__
    assert described["generator_parameters"] == model.generator.count_params()
    assert (described["latent_dim"], described["image_shape"]) == (4, [8, 8, 3])
    assert described["num_classes"] == model.num_classes
    assert tuple(described["signatures"]) == SIGNATURES
    assert ("labels int32 (B,) in 0..9" in described["signatures"]["png"]) == bool(
        model.num_classes
    )
    assert described["versions"]["tensorflow"] == tf.__version__
    assert described["licence"] == "Apache-2.0"
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", described["exported"])


# The command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder as training leaves it, and its model."""
    model = tiny("cdcgan")
    run = runs.create(tmp_path_factory.mktemp("runs"), settings_of("cdcgan"), FACTS)
    checkpoints.save(run, model)
    (run / "metrics.json").write_text('{"fid": 12.5}')
    return run, model


def test_the_command_exports_a_run(tmp_path, run, capsys):
    run, model = run
    flags = [f"--run={run}", f"--export_root={tmp_path}"]
    export.main(export.parser().parse_args(flags))
    version = tmp_path / "cdcgan" / "1"
    assert capsys.readouterr().out == f"Exported: {version}\n"

    latents, labels = model.latents(4), [2, 0, 2, 6]
    with CppSession(version) as session:
        served = session.run("serving_default", latents=latents, labels=labels)["images"]
    expected = (model.sample(latents, labels) + 1) / 2
    np.testing.assert_allclose(served, expected, rtol=0, atol=1e-5)

    described = json.loads((version / card.CARD).read_text())
    assert described["config"]["seed"] == 0
    assert described["data"]["num_images"] == 64
    assert described["metrics"] == {"fid": 12.5}
    assert str(run.parent) not in json.dumps(described)  # no places of the machine that trained it
    assert not set(config.PLACES) & set(described["config"])


def test_the_command_refuses_what_is_not_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["export", f"--run={tmp_path}"])
    with pytest.raises(SystemExit) as stop:
        cli.run(export.main, export.parser())
    assert stop.value.code == cli.EXIT_USER_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path}: expected a run folder")
