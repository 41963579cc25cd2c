"""Builds the model of a run, and trains it with callbacks that write the run's files."""

import contextlib
import functools
from pathlib import Path

from tfgan_mnist import data, runs
from tfgan_mnist.config import Config
from tfgan_mnist.data import order
from tfgan_mnist.models import networks
from tfgan_mnist.models.gan import GAN
from tfgan_mnist.training import build, callbacks, distribution, progress, runtime
from tfgan_mnist.training.distribution import DistributionContext
from tfgan_mnist.training.evaluation_callback import RunEvaluation


def build_model(config: Config, facts: runs.DataFacts, context: DistributionContext) -> GAN:
    """The compiled model on the devices of `context`."""
    xla = config.xla == "yes" and context.num_replicas == 1  # it compiles for one device
    with context.strategy.scope(), networks.seeded(config.seed):
        model = build.build(config, facts.image_shape, facts.num_classes, xla)
    if context.is_chief:
        print(
            f"{type(model).__name__}: G {model.generator.count_params():,} and "
            f"D {model.discriminator.count_params():,} parameters, on {runtime.describe()}{context}"
        )
    return model


def train_epochs(
    model: GAN,
    images: data.Split,
    config: Config,
    context: DistributionContext,
    run: Path | None,
    evaluation: RunEvaluation | None,
    class_names: tuple[str, ...] = (),
) -> None:
    """Trains the remaining epochs, and writes the run's files where there is a folder `run`.

    An epoch that was stopped in its middle is completed by a `fit` of its own.
    """
    writing: list = []
    line = progress.Progress(config.epochs)
    if run:
        checkpoint = callbacks.Checkpoint(run)
        writing = [
            callbacks.Log(run, config.images_per_step),
            callbacks.SampleGrid(run, config.grid, config.tensorboard, class_names),
            *([evaluation] if evaluation else []),
            line,
            callbacks.TrainingDiagnostics(run, config.on_collapse, evaluation),
            *([callbacks.TensorBoard(run)] if config.tensorboard else []),
            *([callbacks.KeepModels(run, config.keep_every)] if config.keep_every else []),
            checkpoint,
        ]

    images = order.in_tensors(images)

    def fit(first_epoch: int, epochs: int, steps: int, *more) -> None:
        batches = functools.partial(
            order.batches,
            images,
            config.images_per_step,
            config.seed,
            first_step=model.steps_done,
            parts=config.discriminator_steps,
        )
        model.fit(
            distribution.share(context, batches, steps * (epochs - first_epoch)),
            initial_epoch=first_epoch,
            epochs=epochs,
            steps_per_epoch=steps,
            shuffle=False,  # the pipeline does it, as a function of the seed and the epoch
            callbacks=callbacks.Callbacks(
                [*writing, *more], add_history=True, model=model, steps=steps
            ),
            verbose=0,  # Keras's bar of seven metrics needs 206 columns
        )

    model.steps_per_execution = runtime.steps_per_execution(context.num_replicas)
    epoch, steps_done = divmod(model.steps_done, config.steps_per_epoch)
    with contextlib.ExitStack() as stack:
        stack.callback(line.end_line)
        if run:
            stack.enter_context(checkpoint.saving_on_signals())
        if steps_done:
            remaining = config.steps_per_epoch - steps_done
            fit(epoch, epoch + 1, remaining, callbacks.KeepMetrics(model))
            epoch += 1
        # Several steps in one call end where the batches do: Keras would go on into the next epoch.
        together = 1 if model.steps_per_execution > 1 else max(config.epochs - epoch, 1)
        for first in range(epoch, config.epochs, together):
            fit(first, first + together, config.steps_per_epoch)
