"""What a run does after its last epoch: scores on the test images, pictures, the export."""

import os
from pathlib import Path

import tensorflow as tf

from tfgan_mnist import files, runs
from tfgan_mnist.config import Config
from tfgan_mnist.data import ImageData, Split, pictures, pixels
from tfgan_mnist.evaluation import curves, protocol, report
from tfgan_mnist.exports import card, saved_model
from tfgan_mnist.models.base import INFERENCE_BATCH
from tfgan_mnist.models.gan import GAN
from tfgan_mnist.training import checkpoints, evaluation_callback

GIF_MILLISECONDS = 400  # of a grid


def restore_best(run: Path, model: GAN) -> None:
    """Puts the checkpoint of the best evaluation into the model, if there is any."""
    best = runs.best_step(run)
    if best not in (None, model.steps_done):
        checkpoints.restore(run, model, best)


def evaluate_discriminator(model: GAN, test: Split) -> dict[str, float]:
    """`model.evaluate` on the test images, which Keras divides among all workers."""
    batches = tf.data.Dataset.from_tensor_slices(tuple(test)).batch(INFERENCE_BATCH)
    batches = batches.map(lambda images, labels: (pixels.to_float(images), labels))
    return model.evaluate(batches, verbose=0, return_dict=True)


def write_report(
    run: Path,
    model: GAN,
    data_set: ImageData,
    test: dict[str, float],
    classifier,
    data_dir: str,
) -> None:
    """Writes metrics.json and report.png, and prints the scores on the test images.

    Args:
      run: the run's folder.
      model: its weights were chosen on held-out images.
      data_set: the training and test images.
      test: what `evaluate_discriminator` returned.
      classifier: of the data set; None: the samples are not evaluated.
      data_dir: where the scores of real images are kept.
    """
    samples, labels = evaluation_callback.draw(model, protocol.NUM, seed=0)
    bound = evaluation_callback.jensen_shannon_bound(model, data_set.test, samples, labels)
    test = test | {"jsd_bound": bound}
    runs.add_metrics(run, test_images=len(data_set.test.labels), test=test)
    if classifier is None:
        return
    evaluation = protocol.evaluate(
        classifier,
        data_set,
        pixels.to_uint8(samples),
        labels,
        source=runs.name_of(run, model.steps_done),
        seed=0,
        data_dir=data_dir,
    )
    protocol.write(evaluation, run)
    print(f"\n{report.describe(evaluation.results)}\nScores:   {run / runs.METRICS}")


def draw_pictures(run: Path) -> None:
    """Writes `samples.gif` of the grids over time, and `curves.png` of the log."""
    grids = sorted(
        (run / runs.SAMPLES).glob("epoch_*.png"),
        key=lambda path: (len(path.name), path.name),  # epoch_1000 after epoch_999
    )
    pictures.write_gif(run / runs.GIF, [pictures.read(path)[0] for path in grids], GIF_MILLISECONDS)
    _, facts = runs.read(run)
    curves.draw(*runs.read_history(run), run / runs.CURVES, facts.class_names)
    print(f"Samples:  {run / runs.SAMPLES} and {run / runs.GIF}")
    print(f"Log:      {run / runs.LOG} and {run / runs.CURVES}")


def export_model(run: Path, model: GAN, config: Config, resumed: bool) -> None:
    """Exports the generator as the next version, and notes its path in the run's folder.

    A resumed run may have been killed between the two, so an export of the same weights will do.
    """
    base_path = Path(config.export_root) / config.model
    version = saved_model.export(model, base_path, card.describe_run(run), unless_there=resumed)
    with files.write_atomically(run / runs.EXPORTED) as partial:
        partial.write_bytes(os.fsencode(str(version)))
    print(f"Exported: {version}")
