"""Trains a GAN on a data set of images, from a configuration to an exported generator."""

import argparse
import contextlib
import dataclasses
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from tfgan_mnist import cli, flags, runs
from tfgan_mnist import config as configuration
from tfgan_mnist.config import Config
from tfgan_mnist.errors import UserError
from tfgan_mnist.training import cluster, resume

MAX_SECONDS = 10_000_000  # a third of a year; timers have a limit

if TYPE_CHECKING:  # flags are checked before TensorFlow starts
    from tfgan_mnist.data import ImageData, Split
    from tfgan_mnist.training.distribution import DistributionContext


def train(
    config: Config,
    run: Path | None = None,
    saved: tuple[Config, runs.DataFacts] | None = None,
    strategy: str = "auto",
    wait_seconds: float = cluster.WAIT_SECONDS,
) -> Path | None:
    """Trains as configured, exports the generator and returns the run's folder.

    Args:
      config: the configuration.
      run: the run's folder. Default: a new one with the next number.
      saved: `runs.read(run)` of a run that goes on; None begins a new one.
      strategy: where to train, one of `cluster.STRATEGIES`. Each worker of a cluster calls this;
        the chief writes the run, and the others return None.
      wait_seconds: how long to wait for other workers.

    Raises:
      UserError: the input or the machine is at fault.
      Stopped: SIGTERM or Ctrl-C during training; the state is saved.
    """
    # Set up the devices; seed and precision first, as variables depend on them.
    cli.start_tensorflow()
    from tfgan_mnist.training import distribution, evaluation_callback, finish, fit, runtime

    with contextlib.ExitStack() as stack:
        stack.enter_context(runtime.restored())
        runtime.configure(config.seed, config.precision)
        context = distribution.start(strategy, wait_seconds)
        stack.enter_context(distribution.together(context))

        # Load the data, and hold out training images for evaluations.
        image_data, facts = _load_data(config, context.is_chief)
        images, held_out = _hold_out(image_data, config)

        # Resolve what the configuration leaves to the data and the machine.
        config = _resolve(config, facts, images, context)

        # Choose the features for scores, and open the run's folder: only the chief has either.
        chief, evaluation = context.is_chief, None
        extractor = evaluation_callback.find_extractor(image_data, config) if chief else None
        run = resume.open_run(run, saved, config, facts) if chief else None
        if run:
            stack.enter_context(runs.locked(run))

        # Build the model, and restore its state.
        model = fit.build_model(config, facts, context)
        finished = run and saved and resume.restore(run, model, config, facts)
        distribution.copy_from_chief(context, model.training_state())
        if distribution.from_chief(context, [bool(finished)])[0]:
            return run

        # Train.
        if run and extractor and len(held_out.images):
            when = config.epochs_per_evaluation, config.epochs
            evaluation = evaluation_callback.RunEvaluation(
                run, extractor, held_out, *when, facts.class_names
            )
        fit.train_epochs(model, images, config, context, run, evaluation, facts.class_names)

        # Finish: choose the best weights, score them on the test images, draw and export.
        if run:
            finish.restore_best(run, model)
        distribution.copy_from_chief(context, model.training_state())
        scores = finish.evaluate_discriminator(model, image_data.test)
        if run:
            finish.write_report(run, model, image_data, scores, extractor, config.data_dir)
            finish.draw_pictures(run)
            finish.export_model(run, model, config, resumed=saved is not None)
    return run


def _load_data(config: Config, is_chief: bool) -> tuple["ImageData", runs.DataFacts]:
    """The data set in memory as uint8, and what a run keeps of it."""
    from tfgan_mnist import data

    if config.model in configuration.CONVOLUTIONAL and config.image_size % 4:
        smaller = config.image_size // 4 * 4
        if is_chief:
            print(
                f"image_size: {smaller} instead of {config.image_size}, as the networks of "
                f"{config.model} need a multiple of 4"
            )
        config = dataclasses.replace(config, image_size=smaller)
    image_data = data.load(*config.data_source)
    if config.model == "cdcgan" and not image_data.num_classes:
        raise UserError(
            f"cdcgan: expected pictures with labels: a folder of pictures for each class, or an "
            f".npz file with labels; {config.dataset} has none. dcgan and gan need none."
        )
    return image_data, runs.DataFacts(
        image_data.image_shape,
        image_data.num_classes,
        len(image_data.train.images),
        image_data.fingerprint,
        image_data.shown_class_names,
    )


def _hold_out(image_data: "ImageData", config: Config) -> tuple["Split", "Split"]:
    """The images to train on, and those of evaluations."""
    from tfgan_mnist.data import order
    from tfgan_mnist.training import evaluation_callback

    num = evaluation_callback.num_held_out(len(image_data.train.images))
    return order.hold_out(image_data.train, num if config.epochs_per_evaluation else 0)


def _resolve(
    config: Config, facts: runs.DataFacts, images: "Split", context: "DistributionContext"
) -> Config:
    """The configuration with the values that it leaves to the data and the machine.

    Raises:
      UserError: it does not fit the devices, or the workers do not agree.
    """
    from tfgan_mnist import data
    from tfgan_mnist.data import order
    from tfgan_mnist.models import augment
    from tfgan_mnist.training import distribution, runtime

    replicas = context.num_replicas
    largest = len(images.images) // config.discriminator_steps // replicas * replicas
    if 0 < largest < config.batch_size:
        if context.is_chief:
            print(
                f"batch_size: {largest:,} instead of {config.batch_size:,}, as there are "
                f"{len(images.images):,} training images"
            )
        config = dataclasses.replace(config, batch_size=largest)
    distribution.check_config(context, config)
    full_pass = order.steps_per_epoch(images, config.images_per_step)
    config = dataclasses.replace(
        config,
        dataset=data.canonical(config.dataset),
        image_size=facts.image_shape[0],
        channels=facts.image_shape[-1],
        steps_per_epoch=config.steps_per_epoch or full_pass,
        augment=augment.choose(config.augment, len(images.images)),
        precision=runtime.resolve_precision(config.precision),
        xla=runtime.resolve_xla(config.xla),
    )
    # Each worker reads its own data, and only the chief writes.
    shared = dataclasses.asdict(config) | dict.fromkeys(configuration.WITHOUT_EFFECT)
    shared["dataset"] = data.short_name(config.dataset)  # the facts compare the content
    distribution.expect_same(context, "configuration and data", f"{shared} {facts}")
    return config


def main(arguments) -> None:
    """Turns flags into a call of `train`."""
    explicit = flags.explicit(arguments)
    run, saved = None, None
    if arguments.resume:
        run = Path(arguments.resume)
        saved = runs.read(run)
        config = configuration.resolve(explicit, arguments.config, base=saved[0])
        resume.expect_same_config(run, saved[0], config)
    else:
        config = configuration.resolve(explicit, arguments.config)
        if arguments.run:
            run = Path(arguments.run)
            saved = runs.read(run) if (run / runs.CONFIG).exists() else None
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError("tensorboard: expected the package; pip install tensorboard")
    if arguments.dry_run:
        print(config)
    else:
        train(config, run, saved, arguments.strategy, arguments.wait_seconds)


def parser() -> cli.Parser:
    """The flags: a few of the command's own, and one for every field of the configuration."""
    parser = cli.Parser("train", __doc__, flags.ALSO_CALLED)
    first = parser.add_argument_group("used most")
    first.add_argument("--config", metavar="FILE", help="TOML file with some of the values below")
    place = first.add_mutually_exclusive_group()
    place.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")
    place.add_argument(
        "--run",
        metavar="RUN",
        help="folder to train in: begins a run there, or goes on with it; the command to repeat "
        "after a failure (default: a numbered folder under run_root)",
    )
    first.add_argument("--dry_run", action="store_true", help="show the configuration and stop")
    flags.add(parser, first)
    devices = parser.add_argument_group("devices")
    devices.add_argument(
        "--strategy",
        choices=cluster.STRATEGIES,
        default="auto",
        help="where to train; auto: on the workers that TF_CONFIG or SLURM names, else on all GPUs "
        "here, else on one device (default: %(default)s)",
    )
    devices.add_argument(
        "--wait_seconds",
        type=_seconds,
        default=cluster.WAIT_SECONDS,
        metavar="FLOAT",
        help="how long to wait for other workers (default: %(default)g)",
    )
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < MAX_SECONDS:  # written so that NaN fails too
        raise argparse.ArgumentTypeError(f"expected 0 to {MAX_SECONDS:,}; received {text}")
    return seconds


if __name__ == "__main__":
    cli.run(main, parser())
