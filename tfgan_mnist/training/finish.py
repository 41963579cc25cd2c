"""What a run does after its last epoch: scores on the test images, pictures, the export."""

import contextlib
import os
import shlex
from pathlib import Path

import tensorflow as tf

from tfgan_mnist import files, runs
from tfgan_mnist.config import Config
from tfgan_mnist.data import ImageData, Split, pictures, pixels
from tfgan_mnist.errors import UserError
from tfgan_mnist.evaluation import choice, curves, protocol, report
from tfgan_mnist.evaluation.extractor import Extractor
from tfgan_mnist.exports import card, saved_model, versions
from tfgan_mnist.models.base import INFERENCE_BATCH
from tfgan_mnist.models.gan import GAN
from tfgan_mnist.training import checkpoints, evaluation_callback

GIF_MILLISECONDS = 400  # of a grid
WORSE = 2.0  # times the FID; seeds of a recipe differ by a tenth


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
    extractor: Extractor | None,
    data_dir: str,
) -> None:
    """Writes metrics.json and report.png, and prints the scores on the test images.

    Args:
      run: the run's folder.
      model: its weights were chosen on held-out images.
      data_set: the training and test images.
      test: what `evaluate_discriminator` returned.
      extractor: of the data set's features; None: the samples are not evaluated.
      data_dir: where the scores of real images are kept.
    """
    real_labels = data_set.train.labels
    samples, labels = evaluation_callback.draw(model, protocol.NUM, 0, real_labels)
    bound = evaluation_callback.jensen_shannon_bound(model, data_set.test, samples, labels)
    test = test | {"jsd_bound": bound}
    runs.add_metrics(run, test_images=len(data_set.test.labels), test=test)
    if extractor is None:
        return
    evaluation = protocol.evaluate(
        extractor,
        data_set,
        pixels.to_uint8(samples),
        labels,
        source=runs.name_of(run, model.steps_done),
        seed=0,
        data_dir=data_dir,
        second=choice.second(extractor, data_set),
    )
    protocol.write(evaluation, run)
    print(f"\n{report.describe(evaluation.results)}\nScores:   {run / runs.METRICS}")


def draw_pictures(run: Path) -> None:
    """Writes `samples.gif` of the grids over time, and `curves.png` of the log."""
    grids = sorted(
        (run / runs.SAMPLES).glob("epoch_*.png"),
        key=lambda path: (len(path.name), path.name),  # epoch_1000 after epoch_999
    )
    frames = [pictures.read(path)[0] for path in grids]
    frames = [each for each in frames if each.shape == frames[-1].shape]  # `grid` may have changed
    pictures.write_gif(run / runs.GIF, frames, GIF_MILLISECONDS)
    _, facts = runs.read(run)
    features = runs.read_metrics(run).get("evaluations", {}).get("features", "")
    curves.draw(*runs.read_history(run), run / runs.CURVES, facts.class_names, features)
    print(f"Samples:  {run / runs.SAMPLES} and {run / runs.GIF}")
    print(f"Log:      {run / runs.LOG} and {run / runs.CURVES}")


def export_model(run: Path, model: GAN, config: Config, resumed: bool) -> None:
    """Exports the generator as the next version, and notes its path in the run's folder.

    It hides neither a better version nor one of other data, which others draw with and serve: then
    it is exported into the run's folder. A resumed run may have been killed between export and
    note, so an export of the same weights will do.
    """
    description = card.describe_run(run)
    public = Path(config.export_root) / config.model
    reason = _why_not_public(public, description)
    base_path = run / runs.EXPORT / config.model if reason else public
    version = saved_model.export(model, base_path, description, unless_there=resumed)
    with files.write_atomically(run / runs.EXPORTED) as partial:
        partial.write_bytes(os.fsencode(str(version)))
    print(f"Exported: {version}")
    if reason:
        print(
            f"Not published in {public}: {reason}. To publish it all the same:\n"
            f"  python -m tfgan_mnist.export --run={shlex.quote(str(run))} "
            f"--export_root={shlex.quote(config.export_root)}"
        )


def _why_not_public(base_path: Path, description: dict) -> str:
    """Why a run must not become the highest version under `base_path`; "" when it may.

    A version of the same data is better where the run's FID, of the same features, is more than
    `WORSE` times as high, or is not known.
    """
    cards = {}
    for number, version in sorted(versions.versions(base_path).items()):
        with contextlib.suppress(UserError):  # without a card
            cards[number] = card.read(version)
    if not cards:
        return ""
    highest = max(cards)
    if not card.of_same_data(description, cards[highest]):
        return f"version {highest} is of other data ({card.describe_quality(cards[highest])})"
    fid = card.fid_of(description)
    found = [
        (of_other, number)
        for number, other in cards.items()
        if (of_other := card.fid_of(other)) is not None
        and card.of_same_data(description, other)
        and (fid is None or card.features_of(description) == card.features_of(other))
    ]
    if not found or (fid is not None and fid <= WORSE * min(found)[0]):
        return ""
    _, best = min(found)
    qualities = [card.describe_quality(each) for each in (cards[best], description)]
    return f"version {best} ({qualities[0]}) is better than this run ({qualities[1]})"
