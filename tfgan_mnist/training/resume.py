"""Going on with a run that was begun before."""

import dataclasses
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tfgan_mnist import config as configuration
from tfgan_mnist import files, runs
from tfgan_mnist.config import Config
from tfgan_mnist.errors import UserError

if TYPE_CHECKING:  # commands check their flags before they start TensorFlow
    from tfgan_mnist.models.gan import GAN

# All else has to stay, or it would be another run. More epochs stretch the learning rates' decay,
# so that the rates jump up where the run goes on.
MAY_CHANGE = (
    *configuration.WITHOUT_EFFECT,
    *("epochs", "sync_batch_norm", "on_collapse", "skip_broken"),
)


def expect_same_config(run: Path, former: Config, received: Config) -> None:
    """Raises UserError when a value would turn the resumed run into another one."""
    for key, value in dataclasses.asdict(former).items():
        if key == "dataset" and os.path.isabs(value):
            continue  # pictures may lie elsewhere now; it is their content that has to be the same
        if key not in MAY_CHANGE and getattr(received, key) != value:
            raise UserError(
                f"{key}: {run} was begun with {value!r}; received {getattr(received, key)!r}. "
                "Give the former value, or begin another run."
            )


def open_run(
    run: Path | None,
    saved: tuple[Config, runs.DataFacts] | None,
    config: Config,
    facts: runs.DataFacts,
) -> Path:
    """The folder of a run that goes on, or of a new one where nothing is `saved`.

    Raises:
      UserError: the run was begun with another configuration, or on other data.
    """
    if run and saved:
        expect_same_config(run, saved[0], config)
        _expect_same_data(run, saved[1], facts, config)
    else:
        run = runs.create(config.run_root, config, facts, run)
    print(f"{config.describe()}\n{'Resuming' if saved else 'Run folder'}: {run}")
    return run


def _expect_same_data(
    run: Path, former: runs.DataFacts, received: runs.DataFacts, config: Config
) -> None:
    pairs = zip(former._fields, former, received)
    differences = [f"{key} {was!r}, now {now!r}" for key, was, now in pairs if was != now]
    if differences:
        what = f"the {config.dataset} that is in {files.data_folder(config.data_dir)} now"
        if os.path.isabs(config.dataset):
            what = f"what {config.dataset} holds now"
        raise UserError(
            f"{run} was begun on other data than {what}: {'; '.join(differences)}. Put the "
            "former data there, or begin another run."
        )


def restore(run: Path, model: "GAN", config: Config, facts: runs.DataFacts) -> bool:
    """Puts the newest checkpoint into the model, and brings the run's files to its state.

    Returns:
      Whether the run is finished, its export included. Then its files stay as they are.

    Raises:
      UserError: no checkpoint can be read, or it is past the epochs of the configuration.
    """
    from tfgan_mnist.training import checkpoints

    for folder in (run, run / runs.SAMPLES, run / runs.MODELS, run / checkpoints.FOLDER):
        files.remove_partial(folder)
    if checkpoints.found(run):
        print(f"Continuing after step {checkpoints.restore(run, model):,}")
    done = model.steps_done / config.steps_per_epoch  # epochs
    if config.epochs < done:
        raise UserError(
            f"epochs: {run} is in epoch {math.ceil(done)}; expected at least as many, "
            f"received {config.epochs}"
        )
    runs.drop_rows_after(run, int(done))
    checkpoints.prune(run, model.steps_done)  # if a kill came between a save and this
    exported = run / runs.EXPORTED
    if done == config.epochs and exported.exists():
        where = os.fsdecode(exported.read_bytes())
        print(f"Nothing left to do: {run} is finished, exported to {where}")
        return True
    runs.rewrite(run, config, facts)
    exported.unlink(missing_ok=True)
    return False
