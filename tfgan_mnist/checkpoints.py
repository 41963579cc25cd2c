"""Checkpoints: the whole state of training, complete on disk or not there at all."""

import contextlib
import json
import re
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from tfgan_mnist import build, files, runs, runtime
from tfgan_mnist.config import Config
from tfgan_mnist.errors import UserError
from tfgan_mnist.models.gan import GAN

FOLDER = "checkpoints"
VERSIONS = "versions.json"  # in a checkpoint, of what wrote it
KEEP = 2  # the newest, and one to fall back on if that turns out to be damaged


def save(run: Path, model: GAN) -> Path:
    """Writes `checkpoints/step_<global step>/` of a run.

    Of the earlier ones stay those that `prune` tells.

    Raises:
      UserError, OSError: it cannot be written, or holds what is not finite; the checkpoints before
        it are still there.
    """
    step = model.steps_done
    expect_finite(model)
    path = _path(run, step)
    if path.exists():
        # It could not be read, or training would have gone on from it.
        files.remove(path)
    try:
        with files.write_atomically(path) as partial:
            partial.mkdir()
            _checkpoint(model).write(str(partial / "state"))
            (partial / VERSIONS).write_text(json.dumps(_versions()) + "\n")
    except tf.errors.OpError as error:
        # After the names of operations and temporary files, before that of the operation again.
        reason = error.message.rpartition(";")[2].partition("[Op:")[0].strip()
        raise UserError(f"{path}: the checkpoint cannot be written: {reason}") from error
    prune(run, step)
    return path


def prune(run: Path, step: int) -> None:
    """Removes all checkpoints but the newest `KEEP`, that of `step` and the best evaluation's.

    What cannot be removed stays: it may be removed the next time.
    """
    needed = [_path(run, each) for each in (step, runs.best_step(run)) if each is not None]
    for old in found(run)[KEEP:]:
        if old not in needed:
            with contextlib.suppress(OSError):
                files.remove(old)


def restore(run: Path, model: GAN, step: int | None = None) -> int:
    """Puts the newest readable checkpoint of a run into `model`, and returns its step.

    TensorFlow checks the stored CRC of every tensor it reads. A damaged checkpoint is named in a
    warning and the one before it is used. One that another TensorFlow or Keras wrote is used, and
    a warning says so.

    Args:
      step: of the checkpoint to take if it is there.

    Raises:
      UserError: no checkpoint, or none that can be read.
    """
    paths = found(run)
    if step is not None:
        paths.sort(key=lambda path: path != _path(run, step))  # first; the others keep their order
    for path in paths:
        others = _other_versions(path)
        try:
            _checkpoint(model).read(str(path / "state")).assert_consumed()
        except Exception as error:  # a damaged file raises whatever it comes to
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            by = f" (written by {others})" if others else ""
            logging.warning("%s%s cannot be read and is passed over: %s", path, by, reason)
        else:
            if others:
                logging.warning(
                    "%s was written by %s. What follows may differ from a run without the change.",
                    path,
                    others,
                )
            return model.steps_done
    expected = run / FOLDER
    raise UserError(
        f"{expected}: none of the {len(paths)} checkpoints can be read"
        if paths
        else f"{expected}: no checkpoint there; the run was stopped before its first one"
    )


def expect_finite(model: GAN) -> None:
    """Raises UserError when a weight, a statistic or an optimizer's slot is NaN or infinite."""
    for owner, variables in model.training_state().items():
        for variable in variables if owner != "metrics" else ():
            value = keras.ops.convert_to_numpy(variable)
            if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
                raise UserError(
                    f"step {model.steps_done:,}: {owner} holds values that are NaN or infinite "
                    f"({variable.path}); expected finite ones. Nothing was saved. The checkpoint "
                    "before is as it was; begin another run with lower learning rates."
                )


def roll_back(run: Path, model: GAN) -> int:
    """Puts networks and optimizers back to the best evaluation's, and returns its step.

    The count of steps goes on: as randomness is a function of it, the same steps would end where
    they ended before. So do the learning rates' schedules, which read the optimizers' counts.

    Raises:
      UserError: there is no evaluation yet, or its checkpoint cannot be read.
    """
    best = runs.best_step(run)
    if best is None or _path(run, best) not in found(run):
        raise UserError("there is no evaluated checkpoint to go back to")
    counts = (model.global_step, model.d_optimizer.iterations, model.g_optimizer.iterations)
    values = [count.numpy() for count in counts]
    step = restore(run, model, best)
    if step != best:
        raise UserError(f"the checkpoint of step {best:,} cannot be read")
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
    # The precision of the training: loss scales are part of its state.
    here = keras.config.dtype_policy()
    keras.config.set_dtype_policy(runtime.resolve_precision(config.precision))
    try:
        model = build.build(config, facts.image_shape, facts.num_classes)
    finally:
        keras.config.set_dtype_policy(here)
    restore(run, model, runs.best_step(run))
    return config, model


def found(run: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    paths = (run / FOLDER).glob("step_*")
    return sorted((p for p in paths if re.fullmatch(r"step_\d{8}", p.name)), reverse=True)


def _other_versions(path: Path) -> str:
    """How TensorFlow and Keras that wrote a checkpoint differ from those here; "" when they do not.

    For instance "keras 3.14.0, older than 3.15.1 here".
    """
    file = path / VERSIONS
    try:
        if file.exists():
            by = files.read_json(file)
        else:  # of before checkpoints had one
            by = files.read_json(path.parents[1] / runs.CONFIG)["versions"]
        return " and ".join(
            f"{package} {by[package]}, "
            f"{'newer' if _numbers(by[package]) > _numbers(here) else 'older'} than {here} here"
            for package, here in _versions().items()
            if by[package] != here
        )
    except (OSError, UserError, ValueError, LookupError, TypeError):
        return ""  # damaged, or of before runs had them


def _versions() -> dict[str, str]:
    return {"tensorflow": tf.__version__, "keras": keras.__version__}


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _path(run: Path, step: int) -> Path:
    return run / FOLDER / f"step_{step:08d}"


def _checkpoint(model: GAN) -> tf.train.Checkpoint:
    # Plain lists of variables: every one is there by construction. Keras objects tracked by
    # attribute would leave out what they do not track, dropout's seeds among them.
    state = {
        key: [getattr(variable, "value", variable) for variable in variables]
        for key, variables in model.training_state().items()
    }
    return tf.train.Checkpoint(**state)
