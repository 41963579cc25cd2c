"""Checkpoints: the whole state of training, complete on disk or absent."""

import json
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from tfgan_mnist import files, runs
from tfgan_mnist.config import Config
from tfgan_mnist.errors import UserError
from tfgan_mnist.models.gan import GAN
from tfgan_mnist.training import build, runtime

FOLDER = "checkpoints"
VERSIONS = "versions.json"  # in a checkpoint: TensorFlow and Keras that wrote it
KEEP = 2  # the newest, and the one before in case that is damaged


def save(run: Path, model: GAN) -> Path:
    """Writes `checkpoints/step_<global step>/` of a run, and removes old ones as `prune` does.

    Raises:
      UserError, OSError: it cannot be written, or the state is not finite; the checkpoints before
        it are still there.
    """
    step = model.steps_done
    if found_non_finite := describe_non_finite(model):
        raise UserError(
            f"step {step:,}: {found_non_finite}; expected finite ones. Nothing was saved. The last "
            "checkpoint is as it was; begin another run with lower learning rates."
        )
    path = _path(run, step)
    if path.exists():  # unreadable, or training would have gone on from it
        files.remove(path)
    try:
        with files.write_atomically(path) as partial:
            partial.mkdir()
            _checkpoint(model).write(str(partial / "state"))
            (partial / VERSIONS).write_text(json.dumps(_versions()) + "\n")
    except tf.errors.OpError as error:
        # Names of operations and temporary files come before and after the reason.
        reason = error.message.rpartition(";")[2].partition("[Op:")[0].strip()
        raise UserError(f"{path}: the checkpoint cannot be written: {reason}") from error
    prune(run, step)
    return path


def prune(run: Path, step: int) -> None:
    """Removes all checkpoints but the newest `KEEP`, that of `step` and the best evaluation's."""
    needed = [_path(run, each) for each in (step, runs.best_step(run)) if each is not None]
    for old in found(run)[KEEP:]:
        if old not in needed:
            files.remove(old)


def restore(run: Path, model: GAN, step: int | None = None) -> int:
    """Reads the newest readable checkpoint of a run into `model`, and returns its step.

    TensorFlow checks the CRC of every tensor. A warning names each unreadable checkpoint, and one
    that another TensorFlow or Keras wrote.

    Args:
      step: of the checkpoint to prefer to the newest.

    Raises:
      UserError: no checkpoint, or none that can be read.
    """
    paths = found(run)
    if step is not None:
        paths.sort(key=lambda path: path != _path(run, step))  # stable
    for path in paths:
        try:
            with files.literal(path) as folder:
                _checkpoint(model).read(str(folder / "state")).assert_consumed()
        except Exception as error:  # damaged files raise errors of many types
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            logging.warning("%s is unreadable; skipping it: %s", path, reason)
        else:
            if others := _other_versions(path):
                logging.warning("%s was written by %s. Results may differ.", path, others)
            return model.steps_done
    raise UserError(
        f"{run / FOLDER}: expected a readable checkpoint; received {len(paths)} unreadable ones"
        if paths
        else f"{run / FOLDER}: no checkpoint there; the run was stopped before its first one"
    )


def describe_non_finite(model: GAN) -> str | None:
    """Which weight, statistic or optimizer's slot is NaN or infinite; None when all are finite."""
    for owner, variables in model.training_state().items():
        for variable in variables if owner != "metrics" else ():
            value = keras.ops.convert_to_numpy(variable)
            if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
                return f"{owner} holds values that are NaN or infinite ({variable.path})"
    return None


def roll_back(run: Path, model: GAN) -> int:
    """Restores the best evaluation's networks and optimizers, and returns its step.

    Without an evaluation, those of the newest checkpoint. The count of steps goes on: randomness is
    a function of it, and the same steps would end as they did before. The learning rates' schedules
    go on as well, which read the optimizers' counts.

    Raises:
      UserError: there is no checkpoint that can be read.
    """
    counts = (model.global_step, model.d_optimizer.iterations, model.g_optimizer.iterations)
    values = [count.numpy() for count in counts]
    step = restore(run, model, runs.best_step(run))
    for count, value in zip(counts, values):
        count.assign(value)
    return step


def restore_run(run: str | Path) -> tuple[Config, GAN]:
    """The configuration and the trained model of the run in folder `run`.

    The model is that of the checkpoint with the best evaluation, or the newest without any.

    Raises:
      UserError: not a run folder, or no readable checkpoint in it.
    """
    run = Path(run)
    config, facts = runs.read(run)
    with runtime.restored():
        # The precision of the training, as loss scales are part of its state.
        keras.config.set_dtype_policy(runtime.resolve_precision(config.precision))
        model = build.build(config, facts.image_shape, facts.num_classes)
    restore(run, model, runs.best_step(run))
    return config, model


def found(run: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    return sorted((run / FOLDER).glob("step_" + 8 * "[0-9]"), reverse=True)


def _other_versions(path: Path) -> str:
    """How the versions that wrote a checkpoint differ: "keras 3.9.2 (here 3.15.1)", or ""."""
    try:
        by = files.read_json(path / VERSIONS)
    except (OSError, UserError):
        return ""  # damaged, or older than this file
    return " and ".join(
        f"{name} {by.get(name)} (here {here})"
        for name, here in _versions().items()
        if by.get(name) != here
    )


def _versions() -> dict[str, str]:
    return {"tensorflow": tf.__version__, "keras": keras.__version__}


def _path(run: Path, step: int) -> Path:
    return run / FOLDER / f"step_{step:08d}"


def _checkpoint(model: GAN) -> tf.train.Checkpoint:
    # Lists of variables: Keras objects would leave out what they do not track, dropout's seeds
    # among them.
    state = {
        key: [getattr(variable, "value", variable) for variable in variables]
        for key, variables in model.training_state().items()
    }
    return tf.train.Checkpoint(**state)
