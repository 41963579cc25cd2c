"""Trains a GAN on a data set of images, from a configuration to an exported generator."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tfgan_mnist import cli, config, files, runs, scoring
from tfgan_mnist.config import Config
from tfgan_mnist.errors import UserError
from tfgan_mnist.report import describe

if TYPE_CHECKING:
    from tfgan_mnist.data import Split

# A resumed run may be told these anew. All else is what it was, or it would be another run. With
# more epochs the learning rates' decay is stretched, so that they jump up where the run goes on.
MAY_CHANGE_ON_RESUME = (
    "data_dir",
    "manual_dir",
    "run_root",
    "export_root",
    "epochs",
    "tensorboard",
    "on_collapse",
)


def train(settings: Config, run: Path | None = None) -> Path:
    """Trains as configured, exports the generator and returns the run's folder.

    Args:
      settings: the resolved configuration.
      run: the folder of an earlier run, to go on where its newest checkpoint stopped.

    Raises:
      UserError: something that the user can mend.
      Stopped: SIGTERM or Ctrl-C during training; the state is saved.
    """
    cli.start_tensorflow()
    from tfgan_mnist import callbacks, checkpoints, data, models, quality, runtime

    # Settle what must not change once there are variables.
    runtime.settle(settings.seed, settings.precision)

    # The data, in memory as uint8. They settle what the configuration leaves to them.
    if settings.tensorboard:
        callbacks.expect_tensorboard()
    data_set = data.load(
        settings.dataset,
        settings.data_dir or None,
        settings.manual_dir or None,
        settings.image_size,
        settings.channels or None,
    )
    facts = runs.DataFacts(
        image_shape=data_set.train.images.shape[1:],
        num_classes=data_set.num_classes,
        num_images=len(data_set.train.images),
    )
    # Held out even where there is no classifier yet: the run stays the same when there will be one.
    evaluated = settings.epochs_per_evaluation > 0
    num_held_out = quality.num_held_out(facts.num_images) if evaluated else 0
    training, held_out = data.hold_out(data_set.train, num_held_out)
    judge = _judge(settings, facts, data_set.test) if evaluated else None
    full_pass = data.steps_per_epoch(training, settings.images_per_step)
    settings = dataclasses.replace(
        settings,
        channels=facts.image_shape[-1],
        steps_per_epoch=settings.steps_per_epoch or full_pass,
        precision=runtime.resolve_precision(settings.precision),
    )

    # The run's folder: a new one, or the one to resume.
    resumed = run is not None
    run = run or runs.create(settings.run_root, settings, facts)
    print(f"{settings}\n\n{'Resuming' if resumed else 'Run folder'}: {run}")
    with runs.locked(run):
        if resumed:
            _expect_same_data(run, facts)
            for folder in (run, run / runs.SAMPLES, run / checkpoints.FOLDER):
                files.sweep(folder)

        # The model, and its state when there is one.
        model = models.build(settings, facts.image_shape, facts.num_classes, runtime.use_xla())
        print(
            f"{type(model).__name__}: G {model.generator.count_params():,} and "
            f"D {model.discriminator.count_params():,} parameters, on {runtime.describe()}"
        )
        if resumed and checkpoints.found(run):
            print(f"Continuing after step {checkpoints.restore(run, model):,}")
        _expect_epochs_ahead(run, settings, model.steps_done)
        epoch, steps_done = divmod(model.steps_done, settings.steps_per_epoch)
        runs.drop_rows_after(run, epoch)
        exported = run / runs.EXPORTED
        if epoch >= settings.epochs and exported.exists():
            print(f"Nothing left to do: {run} is finished, and exported to {exported.read_text()}")
            return run
        if resumed:
            runs.rewrite(run, settings, facts)
            exported.unlink(missing_ok=True)

        # What happens during training, in this order; a checkpoint says "this epoch is done".
        stop = callbacks.StopOnSignal(run)
        evaluation = None
        if judge and num_held_out:
            evaluation = quality.Evaluation(
                run,
                judge,
                held_out,
                settings.epochs_per_evaluation,
                last_epoch=settings.epochs,
            )
        during = [
            callbacks.SampleGrid(run, settings.tensorboard),
            callbacks.Log(run, settings.images_per_step),
            *([evaluation] if evaluation else []),
            quality.CollapseWatch(run, settings.on_collapse, evaluation),
            *([callbacks.tensorboard(run)] if settings.tensorboard else []),
            callbacks.Checkpoint(run),
            stop,
        ]
        report = quality.TestReport(run, data_set, judge, settings.data_dir)
        publish = callbacks.ExportSavedModel(Path(settings.export_root) / settings.model, run)
        at_the_end = [callbacks.RestoreBest(run), report, publish, callbacks.Pictures(run)]

        def fit(first_epoch: int, epochs: int, steps: int, extra: list) -> None:
            batches = data.batches(
                training,
                settings.images_per_step,
                settings.seed,
                first_step=model.steps_done,
            )
            model.fit(
                batches,
                initial_epoch=first_epoch,
                epochs=epochs,
                steps_per_epoch=steps,
                shuffle=False,  # the pipeline does it, as a function of the seed and the epoch
                callbacks=[*during, *extra],
                # On a terminal a bar with an ETA; in a file, where bars pile up, a line per epoch.
                verbose=1 if sys.stdout.isatty() else 2,
            )

        # Train. An epoch that was stopped in its middle is finished first, by a `fit` of its own.
        with stop.listening():
            if steps_done:
                remaining = settings.steps_per_epoch - steps_done
                fit(epoch, epoch + 1, remaining, [callbacks.KeepMetrics(model)])
                epoch += 1
            fit(epoch, settings.epochs, settings.steps_per_epoch, at_the_end)
            with files.publish(exported) as partial:
                partial.write_text(str(publish.exported))

    if report.told:
        print(f"\n{describe(report.told)}")
    print(f"Samples:  {run / runs.SAMPLES} and {run / runs.GIF}")
    print(f"Log:      {run / runs.LOG} and {run / runs.CURVES}")
    print(f"Scores:   {run / runs.METRICS}")
    print(f"Exported: {publish.exported}")
    return run


def _judge(settings: Config, facts: runs.DataFacts, test: "Split"):
    """The classifier of the data set, or None when samples cannot be judged; the reason is said."""
    from tfgan_mnist import classifier

    fewest = min(facts.num_images, len(test.images))
    if fewest < scoring.MINIMUM:
        print(f"Samples are not judged: that takes {scoring.MINIMUM:,} images, not {fewest:,}")
        return None
    try:
        return classifier.load(settings.dataset, facts.image_shape, settings.data_dir)
    except UserError as error:
        print(f"Samples are not judged: {error}")
        return None


def _expect_epochs_ahead(run: Path, settings: Config, steps_done: int) -> None:
    """Raises UserError when the run is past the epochs it is to have."""
    begun = -(-steps_done // settings.steps_per_epoch)
    if settings.epochs < begun:
        raise UserError(
            f"epochs: {run} is in epoch {begun}; expected at least as many, "
            f"received {settings.epochs}"
        )


def _expect_same_data(run: Path, facts: runs.DataFacts) -> None:
    """Raises UserError when the run was begun on other data."""
    _, former = runs.read(run)
    if facts != former:
        raise UserError(f"{run} was begun on {former._asdict()}; received {facts._asdict()}")


def _expect_same_settings(run: Path, former: Config, received: Config) -> None:
    """Raises UserError when a setting would turn the resumed run into another one."""
    for key, value in dataclasses.asdict(former).items():
        if key not in MAY_CHANGE_ON_RESUME and getattr(received, key) != value:
            raise UserError(
                f"{key}: {run} was begun with {value!r}; received {getattr(received, key)!r}. "
                "Leave it out, or start a new run without --resume."
            )


def main(arguments) -> None:
    """Turns flags into a call of `train`."""
    flags = config.explicit_flags(arguments)
    run = Path(arguments.resume) if arguments.resume else None
    if run:
        former, _ = runs.read(run)
        settings = config.resolve(flags, arguments.config, base=former)
        _expect_same_settings(run, former, settings)
    else:
        settings = config.resolve(flags, arguments.config)
    if arguments.dry_run:
        print(settings)
    else:
        train(settings, run)


def parser() -> cli.Parser:
    """The flags: a few of the command's own, and one for every field of the configuration."""
    parser = cli.Parser("train", __doc__)
    parser.add_argument("--config", metavar="FILE", help="TOML file with some of the values below")
    parser.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")
    parser.add_argument("--dry_run", action="store_true", help="show the configuration and stop")
    config.add_flags(parser)
    return parser


if __name__ == "__main__":
    cli.run(main, parser())
