"""What others give us is read, not run: SavedModels, runs, archives, pictures."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfgan_mnist import (
    checkpoints,
    comparison,
    curves,
    data,
    evaluate,
    export,
    generate,
    images,
    runs,
    train_classifier,
)
from tfgan_mnist.errors import UserError
from tfgan_mnist.serving import operations
from tfgan_mnist.serving.saved_model import SavedModel
from tfgan_mnist.serving.settings import ModelConfig
from tfgan_mnist.serving.versions import Models, State

LATENTS = tf.TensorSpec((None, 4), tf.float32, name="latents")


def images_of(latents):
    return {"images": tf.zeros([tf.shape(latents)[0], 2, 2, 1])}


def reads(latents):
    text = tf.io.read_file("/etc/hostname")
    return {"images": images_of(latents)["images"] + float(tf.strings.length(text) * 0)}


class Programs:
    """Functions (latents) -> images that do something beside."""

    def __init__(self, folder):
        self.target = str(folder / "written")
        self.called = []

    def reads(self, latents):
        text = tf.io.read_file("/etc/hostname")
        return images_of(latents) | {"text": text}

    def writes(self, latents):
        with tf.control_dependencies([tf.io.write_file(self.target, "x")]):
            return {"images": tf.identity(images_of(latents)["images"])}

    def lists(self, latents):
        return images_of(latents) | {"names": tf.io.matching_files("/*")}

    def prints_to_a_file(self, latents):
        tf.print("x", output_stream=f"file://{self.target}")
        return images_of(latents)

    def calls_python(self, latents):
        return images_of(latents) | {
            "x": tf.numpy_function(lambda: self.called.append(1) or 1.0, [], tf.float64)
        }

    def reads_in_a_branch_of_a_branch(self, latents):
        @tf.function
        def inner(latents):
            return tf.cond(
                tf.size(latents) > 3,
                lambda: tf.strings.length(tf.io.read_file("/etc/hostname")),
                lambda: 0,
            )

        return images_of(latents) | {"x": inner(latents)}

    def saves_a_checkpoint(self, latents):
        tf.raw_ops.SaveV2(
            prefix=self.target, tensor_names=["x"], shape_and_slices=[""], tensors=[latents]
        )
        return images_of(latents)

    def reads_records(self, latents):
        total = tf.data.TextLineDataset("/etc/hostname").reduce(0, lambda n, _: n + 1)
        return images_of(latents) | {"x": total}


PROGRAMS = [name for name in vars(Programs) if not name.startswith("_")]


def save(program, folder) -> Path:
    """A SavedModel of a stranger's, with our signature and our card."""
    folder.mkdir(parents=True)
    module = tf.Module()
    module.weight = tf.Variable(1.0)

    def with_weight(latents):
        return program(latents * module.weight)

    function = tf.function(with_weight, [LATENTS])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": function})
    card = {"image_shape": [2, 2, 1], "latent_dim": 4, "num_classes": None}
    card |= {"signatures": {"serving_default": ""}, "config": {"dataset": "mnist"}}
    (folder / export.CARD).write_text(json.dumps(card))
    return folder


@pytest.fixture(scope="module")
def harmless(tmp_path_factory):
    return save(images_of, tmp_path_factory.mktemp("models") / "1")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_model_that_does_more_than_compute_is_not_loaded(name, tmp_path, monkeypatch):
    programs = Programs(tmp_path)
    folder = save(getattr(programs, name), tmp_path / "models" / "1")
    # Traced above; nothing of it may run from here on.
    Path(programs.target).unlink(missing_ok=True)
    programs.called.clear()
    with pytest.raises(ValueError, match="expected a model that only computes; it has"):
        SavedModel(folder)
    for load in (
        generate.from_saved_model,
        lambda path: evaluate.of_saved_model(path, 10, 0),
        lambda path: export.convert(path, "onnx"),
    ):
        with pytest.raises(UserError, match="expected a model that only computes"):
            load(folder)
    models = Models([ModelConfig("model", folder.parent)], None)
    models.poll()
    (version,) = models.statuses("model")
    assert version.state is State.END
    assert "only computes" in version.error
    assert not programs.called and not Path(programs.target).exists()


def change(folder, edit):
    """A copy of a SavedModel with another graph."""
    from tensorflow.core.protobuf import saved_model_pb2

    file = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    edit(model.meta_graphs[0])
    file.write_bytes(model.SerializeToString())


def fetches_the_saver(graph):
    """A signature whose output is the operation that writes the checkpoint."""
    (output,) = graph.signature_def["serving_default"].outputs.values()
    output.name = graph.saver_def.save_tensor_name


def calls_the_saver(graph):
    """The signature's function calls the one that writes the checkpoint."""
    saver = next(f for f in graph.graph_def.library.function if "save" in f.signature.name)
    (other,) = [f for f in graph.graph_def.library.function if "signature_wr" in f.signature.name]
    other.node_def.add(name="sly", op="StatefulPartitionedCall").attr[
        "f"
    ].func.name = saver.signature.name


def writes_when_it_is_restored(graph):
    graph.saver_def.restore_op_name = graph.saver_def.save_tensor_name.partition(":")[0]


def writes_at_the_start(graph):
    node = graph.graph_def.node.add(name="sly", op="WriteFile")
    graph.collection_def["saved_model_main_op"].node_list.value.append(node.name)


def an_object_offers_the_saver(graph):
    saver = next(f for f in graph.graph_def.library.function if "save" in f.signature.name)
    graph.object_graph_def.concrete_functions[saver.signature.name].SetInParent()


def an_object_is_the_saver(graph):
    saver = next(f for f in graph.graph_def.library.function if "save" in f.signature.name)
    node = graph.object_graph_def.nodes.add()
    node.bare_concrete_function.concrete_function_name = saver.signature.name


def a_gradient_is_the_saver(graph):
    saver = next(f for f in graph.graph_def.library.function if "save" in f.signature.name)
    graph.graph_def.library.gradient.add(function_name="sly", gradient_func=saver.signature.name)


def nobody_knows(graph):
    graph.graph_def.node.add(name="sly", op="NoSuchOperation")
    graph.graph_def.node[-1].input.append("")
    graph.collection_def["sly"].node_list.value.append("sly:0")


@pytest.mark.parametrize(
    "edit",
    [
        fetches_the_saver,
        calls_the_saver,
        an_object_is_the_saver,
        a_gradient_is_the_saver,
        writes_when_it_is_restored,
        writes_at_the_start,
        an_object_offers_the_saver,
        nobody_knows,
    ],
)
def test_the_checkpoints_own_writing_is_out_of_reach(edit, harmless, tmp_path):
    operations.expect_harmless(harmless)
    folder = shutil.copytree(harmless, tmp_path / "1")
    change(folder, edit)
    with pytest.raises(ValueError, match="only computes"):
        operations.expect_harmless(folder)


def test_what_only_computes_is_taken(exports):
    for version in exports.glob("*/1"):
        operations.expect_harmless(version)
    for name in ("VarHandleOp", "RandomUniform", "HashTableV2", "While", "Einsum", "Conv3D"):
        assert operations.is_harmless(name), name
    for name in ("RestoreV2", "PyFuncStateless", "SqlDataset", "DebugIdentityV2", "Abort", "_Send"):
        assert not operations.is_harmless(name), name


@pytest.mark.parametrize("key", ["num_classes", "latent_dim", "image_shape"])
@pytest.mark.parametrize("value", [10**12, "9", [1], -1, 0.5, [10**9] * 3])
def test_a_card_with_numbers_that_are_none(key, value, harmless, tmp_path):
    folder = shutil.copytree(harmless, tmp_path / "1")
    card = json.loads((folder / export.CARD).read_text())
    (folder / export.CARD).write_text(json.dumps(card | {key: value}))
    with pytest.raises(UserError, match="expected a model card; received"):
        export.read_card(folder)
    with pytest.raises(UserError, match="expected a model card; received"):
        export.convert(folder, "onnx")


# Runs


@pytest.fixture
def run(tmp_path):
    facts = runs.DataFacts((8, 8, 1), 10, 64)
    return runs.create(tmp_path / "runs", runs.Config(), facts)


@pytest.mark.parametrize(
    "text",
    [
        "epoch,seconds\n1,many\n",
        "epoch,seconds\n1,2,3\n",
        "epoch,seconds\nnan,2\n",
        "epoch,seconds\n1.5,2\n",
        "epoch,seconds\n1e99,2\n",
        'epoch,seconds\n1,"2\n',
        "seconds\n2\n",
        "\x00\n\x00",
        "epoch,seconds\n" + "9" * 200_000,
    ],
)
def test_a_broken_table_is_refused_by_name(text, run):
    (run / runs.LOG).write_text(text)
    with pytest.raises(UserError, match=r"log.csv: expected a table of numbers with columns epoch"):
        runs.read_history(run)
    (run / runs.LOG).unlink()
    (run / runs.EVALUATIONS).write_text(text)
    with pytest.raises(UserError, match=r"evaluations.csv: expected a table of numbers"):
        runs.best_step(run)


def test_a_table_that_lacks_what_is_drawn(run):
    runs.write_rows(run / runs.LOG, [{"epoch": 1, "seconds": 2.0}])
    runs.write_rows(run / runs.EVALUATIONS, [{"epoch": 1, "step": 3, "fid": 4.0, "class_0": 5}])
    curves.draw(*runs.read_history(run), run / runs.CURVES)
    assert (run / runs.CURVES).exists()


@pytest.mark.parametrize(
    "samples", [None, [], "x", {"scores": {}}, {"real": 1, "scores": {"fid": "x"}, "floor": {}}]
)
def test_figures_that_are_none_are_found_anew(samples, run):
    (run / runs.METRICS).write_text(json.dumps({"samples": samples}))
    assert not comparison.is_complete(runs.read_metrics(run)["samples"])


def test_links_out_of_a_run_are_not_followed_when_it_is_tidied(run, tmp_path):
    """Old checkpoints are removed: not what a stranger's link by such a name points to."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    folder = run / checkpoints.FOLDER
    folder.mkdir()
    for name in ("step_00000001", ".0a.partial.step_00000002"):
        (folder / name).symlink_to(precious, target_is_directory=True)
    from tfgan_mnist import build, files
    from tfgan_mnist.config import resolve

    tiny = {"g_hidden_widths": (4,), "d_hidden_widths": (4,), "latent_dim": 4}
    model = build.build(
        resolve({"model": "gan", "steps_per_epoch": 1} | tiny), (8, 8, 1), num_classes=10
    )
    for step in (5, 6, 7):
        model.global_step.assign(step)
        checkpoints.save(run, model)
    files.sweep(folder)
    assert (precious / "file").exists()
    # Names are numbers of eight digits, and nothing else is looked at.
    (folder / "step_../../../precious").parent.mkdir(parents=True, exist_ok=True)
    assert {path.name for path in checkpoints.found(run)} <= {
        f"step_{step:08d}" for step in (1, 6, 7)
    }


# Archives and pictures


def zip_with(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def header(shape, descr="|u1"):
    """The head of an array file of any size, and no more."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        header((10**6, 10**4, 10**4)),  # 91 TiB
        header((3,)),
        header((2,), "|O"),
        b"\x93NUMPY\x01\x00\x10\x00{'descr': f(), } ",
        b"",
    ],
    ids=["bomb", "short", "objects", "code", "empty"],
)
def test_an_archive_of_images_that_is_none(content, tmp_path):
    path = zip_with(tmp_path / "some.npz", **{"images.npy": content})
    with pytest.raises(UserError, match="cannot be read as an .npz archive"):
        images.read(path)


def test_members_of_an_archive_stay_inside(tmp_path):
    whole = header((1, 2, 2, 1)) + b"\0" * 4
    members = {"images.npy": whole, "../outside.npy": whole, "/tmp/outside.npy": whole}
    path = zip_with(tmp_path / "some.npz", **members)
    assert images.read(path).shape == (1, 2, 2, 1)
    assert [each.name for each in tmp_path.iterdir()] == ["some.npz"]


def test_a_broken_picture(tmp_path):
    path = tmp_path / "some.png"
    path.write_bytes(images.png_bytes(np.zeros((8, 8, 1), np.uint8))[:40])
    with pytest.raises(UserError, match="cannot be read as one"):
        images.read(path)


def test_too_few_images_for_a_classifier(monkeypatch, tmp_path):
    few = data.Split(np.zeros((100, 8, 8, 1), np.uint8), np.zeros(100, np.int32))
    found = data.ImageData("few", few, few, 10, ())
    monkeypatch.setattr(data, "load", lambda *arguments: found)
    with pytest.raises(UserError, match="expected at least 128 images; received 100"):
        train_classifier.main(
            train_classifier.parser().parse_args([f"--output={tmp_path / 'classifier'}"])
        )
    assert not (tmp_path / "classifier").exists()


def test_a_keras_archive_with_code_in_it_is_refused(tmp_path):
    import keras

    from tfgan_mnist.models import GAN, gan

    latents = keras.Input((4,))
    made = keras.layers.Lambda(lambda x: keras.ops.reshape(x, (-1, 2, 2, 1)))(latents)
    model = GAN(keras.Model(latents, made), gan.mlp_discriminator((2, 2, 1), (2,)))
    model.save(tmp_path / "some.keras")
    with pytest.raises(ValueError, match="safe"):
        keras.saving.load_model(tmp_path / "some.keras")
