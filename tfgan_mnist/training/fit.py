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

    Each epoch is a `fit` of its own, on batches that end with it: an execution of several steps
    ends where the batches do, and would go on into the next epoch without that end.
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

    def fit(epoch: int, steps_done: int) -> None:
        steps = config.steps_per_epoch - steps_done
        batches = functools.partial(
            order.batches,
            images,
            config.images_per_step,
            config.seed,
            first_step=model.steps_done,
            parts=config.discriminator_steps,
        )
        of_epoch = [*writing, *([callbacks.KeepMetrics(model)] if steps_done else [])]
        model.fit(
            distribution.share(context, batches, steps),
            initial_epoch=epoch,
            epochs=epoch + 1,
            steps_per_epoch=steps,
            shuffle=False,  # the pipeline does it, as a function of the seed and the epoch
            callbacks=callbacks.Callbacks(of_epoch, add_history=True, model=model, steps=steps),
            verbose=0,  # Keras's bar of seven metrics needs 206 columns
        )

    model.steps_per_execution = runtime.steps_per_execution(context.num_replicas)
    first, steps_done = divmod(model.steps_done, config.steps_per_epoch)
    with contextlib.ExitStack() as stack:
        stack.callback(line.end_line)
        if run:
            stack.enter_context(checkpoint.saving_on_signals())
        for epoch in range(first, config.epochs):
            fit(epoch, steps_done if epoch == first else 0)
