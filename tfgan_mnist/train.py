"""Trains a GAN on a data set of images, from a configuration to an exported generator."""

import contextlib
import dataclasses
import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tfgan_mnist import cli, cluster, config, files, protocol, runs
from tfgan_mnist.config import Config
from tfgan_mnist.errors import UserError
from tfgan_mnist.report import describe

if TYPE_CHECKING:
    from tfgan_mnist.data import Split
    from tfgan_mnist.distribution import DistributionContext

# A resumed run may be told these anew. All else is what it was, or it would be another run. With
# more epochs the learning rates' decay is stretched, so that they jump up where the run goes on.
MAY_CHANGE_ON_RESUME = (
    *config.PLACES,
    "epochs",
    "tensorboard",
    "sync_batch_norm",
    "on_collapse",
    "on_nonfinite",
)
# In these the workers of a run may differ: each reads its own data, and only the chief writes.
OWN_TO_WORKERS = (*config.PLACES, "tensorboard")
MAX_SECONDS = 10_000_000  # a third of a year; timers do not take any number


def train(
    settings: Config,
    run: Path | None = None,
    strategy: str = "auto",
    wait_seconds: float = cluster.WAIT_SECONDS,
) -> Path | None:
    """Trains as configured, exports the generator and returns the run's folder.

    Where there are several workers, each of them calls this. The chief does all that is told here;
    the others compute with it, write nothing and return None.

    Args:
      settings: the resolved configuration.
      run: the run's folder. If a run was begun in it, that one goes on where its newest checkpoint
        stopped. Default: a new folder with the next number.
      strategy: where to train, one of `cluster.STRATEGIES`.
      wait_seconds: how long other workers may take to come.

    Raises:
      UserError: something that the user can mend.
      Stopped: SIGTERM or Ctrl-C during training; the state is saved.
    """
    cli.start_tensorflow()
    from tfgan_mnist import distribution, runtime

    # Settle what must not change once there are variables, and where these will be.
    runtime.configure(settings.seed, settings.precision)
    placement = distribution.start(strategy, wait_seconds)
    with distribution.together(placement):
        if placement.is_chief:
            return _train(settings, run, placement)
        with distribution.without_trace() as scratch:
            settings = dataclasses.replace(settings, run_root=scratch, tensorboard=False)
            _train(settings, None, placement)
    return None


def _train(settings: Config, run: Path | None, placement: "DistributionContext") -> Path:
    """`train` on devices that are settled."""
    from tfgan_mnist import build, callbacks, checkpoints, data, distribution, quality, runtime
    from tfgan_mnist.data import order

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
        fingerprint=data_set.fingerprint,
    )
    # Held out even where there is no classifier yet: the run stays the same when there will be one.
    evaluated = settings.epochs_per_evaluation > 0
    num_held_out = quality.num_held_out(facts.num_images) if evaluated else 0
    training, held_out = order.hold_out(data_set.train, num_held_out)
    judges = evaluated and placement.is_chief
    judge = _judge(settings, facts, data_set.test) if judges else None
    full_pass = order.steps_per_epoch(training, settings.images_per_step)
    settings = dataclasses.replace(
        settings,
        channels=facts.image_shape[-1],
        steps_per_epoch=settings.steps_per_epoch or full_pass,
        precision=runtime.resolve_precision(settings.precision),
    )
    distribution.expect_divisible(placement, settings.batch_size)
    _expect_no_rollback(settings, placement)
    shared = dataclasses.asdict(settings) | dict.fromkeys(OWN_TO_WORKERS, "")
    distribution.expect_same(placement, "settings and data", f"{shared} {facts}")

    # The run's folder: a new one, or the one to resume.
    resumed = run is not None and (run / runs.CONFIG).exists()
    if run is None or not resumed:
        run = runs.create(settings.run_root, settings, facts, run)
    print(f"{settings}\n\n{'Resuming' if resumed else 'Run folder'}: {run}")
    with runs.locked(run):
        if resumed:
            _expect_same_settings(run, runs.read(run)[0], settings)
            _expect_same_data(run, facts, settings)
            for folder in (run, run / runs.SAMPLES, run / checkpoints.FOLDER):
                files.sweep(folder)

        # The model, and its state when there is one.
        xla = runtime.use_xla() and placement.replicas == 1  # it compiles for one device
        with placement.strategy.scope():
            model = build.build(settings, facts.image_shape, facts.num_classes, xla)
        print(
            f"{type(model).__name__}: G {model.generator.count_params():,} and "
            f"D {model.discriminator.count_params():,} parameters, "
            f"on {runtime.describe()}{placement}"
        )
        if resumed and checkpoints.found(run):
            print(f"Continuing after step {checkpoints.restore(run, model):,}")
        distribution.copy_from_chief(placement, model.training_state())
        _expect_epochs_ahead(run, settings, model.steps_done)
        epoch, steps_done = divmod(model.steps_done, settings.steps_per_epoch)
        runs.drop_rows_after(run, epoch)
        checkpoints.prune(run, model.steps_done)  # a kill may have come between a save and this
        exported = run / runs.EXPORTED
        finished = epoch >= settings.epochs and exported.exists()
        if distribution.chief_says(placement, finished):
            if finished:
                where = os.fsdecode(exported.read_bytes())
                print(f"Nothing left to do: {run} is finished, exported to {where}")
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
            quality.TrainingDiagnostics(
                run, settings.on_collapse, evaluation, settings.on_nonfinite
            ),
            *([callbacks.TensorBoard(run)] if settings.tensorboard else []),
            callbacks.Checkpoint(run),
            stop,
        ]
        report = quality.TestReport(run, data_set, judge, settings.data_dir)
        # A run that goes on may have been killed when its export was there and it had not said so.
        publish = callbacks.ExportSavedModel(
            Path(settings.export_root) / settings.model, run, unless_there=resumed
        )
        at_the_end = [
            callbacks.RestoreBest(run),
            callbacks.CopyFromChief(placement),
            report,
            callbacks.Pictures(run),
            publish,
        ]
        if not placement.is_chief:
            # What all workers have to take part in. The rest needs no partner, and is the chief's.
            during, at_the_end = [], [callbacks.CopyFromChief(placement), report]

        def fit(first_epoch: int, epochs: int, steps: int, extra: list) -> None:
            batches = distribution.share(
                placement,
                functools.partial(
                    order.batches,
                    training,
                    settings.images_per_step,
                    settings.seed,
                    first_step=model.steps_done,
                    parts=settings.discriminator_steps,
                ),
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
        # Signals are the chief's business: it saves and stops, and the others follow.
        with stop.listening() if placement.is_chief else contextlib.nullcontext():
            if steps_done:
                remaining = settings.steps_per_epoch - steps_done
                fit(epoch, epoch + 1, remaining, [callbacks.KeepMetrics(model)])
                epoch += 1
            fit(epoch, settings.epochs, settings.steps_per_epoch, at_the_end)
            if placement.workers > 1:
                distribution.expect_same_state(placement, model.training_state())
                print(f"All {placement.workers} workers hold the same weights.")
            with files.write_atomically(exported) as partial:
                partial.write_bytes(os.fsencode(str(publish.exported)))

    if report.results:
        print(f"\n{describe(report.results)}")
    print(f"Samples:  {run / runs.SAMPLES} and {run / runs.GIF}")
    print(f"Log:      {run / runs.LOG} and {run / runs.CURVES}")
    print(f"Scores:   {run / runs.METRICS}")
    print(f"Exported: {publish.exported}")
    return run


def _judge(settings: Config, facts: runs.DataFacts, test: "Split"):
    """The classifier of the data set, or None when samples cannot be judged; the reason is said."""
    from tfgan_mnist import classifier

    fewest = min(facts.num_images, len(test.images))
    if fewest < protocol.MIN_SAMPLES:
        print(f"Samples are not judged: that takes {protocol.MIN_SAMPLES:,} images, not {fewest:,}")
        return None
    try:
        return classifier.load(settings.dataset, facts.image_shape, settings.data_dir)
    except UserError as error:
        print(f"Samples are not judged: {error}")
        return None


def _expect_no_rollback(settings: Config, placement: "DistributionContext") -> None:
    """Raises UserError when several workers would have to go back to other weights together."""
    for key, others in (("on_collapse", "warn or stop"), ("on_nonfinite", "skip or stop")):
        if placement.workers > 1 and getattr(settings, key) == "rollback":
            raise UserError(
                f"{key}: expected {others} where several workers train together; received "
                "rollback, which one process can do, on all its GPUs"
            )


def _expect_epochs_ahead(run: Path, settings: Config, steps_done: int) -> None:
    """Raises UserError when the run is past the epochs it is to have."""
    begun = -(-steps_done // settings.steps_per_epoch)
    if settings.epochs < begun:
        raise UserError(
            f"epochs: {run} is in epoch {begun}; expected at least as many, "
            f"received {settings.epochs}"
        )


def _expect_same_data(run: Path, received: runs.DataFacts, settings: Config) -> None:
    """Raises UserError when the run was begun on other data."""
    _, former = runs.read(run)
    if not former.fingerprint:
        former = former._replace(fingerprint=received.fingerprint)
    pairs = zip(former._fields, former, received)
    differences = [f"{key} {was!r}, now {now!r}" for key, was, now in pairs if was != now]
    if differences:
        where = files.data_folder(settings.data_dir)
        raise UserError(
            f"{run} was begun on other data than the {settings.dataset} that is in {where} now: "
            f"{'; '.join(differences)}. Put the former data there, or begin another run."
        )


def _expect_same_settings(run: Path, former: Config, received: Config) -> None:
    """Raises UserError when a setting would turn the resumed run into another one."""
    for key, value in dataclasses.asdict(former).items():
        if key not in MAY_CHANGE_ON_RESUME and getattr(received, key) != value:
            raise UserError(
                f"{key}: {run} was begun with {value!r}; received {getattr(received, key)!r}. "
                "Give the former value, or begin another run."
            )


def main(arguments) -> None:
    """Turns flags into a call of `train`."""
    flags = config.explicit_flags(arguments)
    if not 0 <= arguments.wait_seconds < MAX_SECONDS:  # written so that NaN fails too
        raise UserError(
            f"--wait_seconds: expected 0 to {MAX_SECONDS:,}; received {arguments.wait_seconds}"
        )
    if arguments.run and arguments.resume:
        raise UserError("--run and --resume: expected one of them; --run resumes as well")
    run = Path(arguments.run) if arguments.run else None
    if arguments.resume:
        run = Path(arguments.resume)
        former, _ = runs.read(run)
        settings = config.resolve(flags, arguments.config, base=former)
        _expect_same_settings(run, former, settings)
    else:
        settings = config.resolve(flags, arguments.config)
    if arguments.dry_run:
        print(settings)
    else:
        train(settings, run, arguments.strategy, arguments.wait_seconds)


def parser() -> cli.Parser:
    """The flags: a few of the command's own, and one for every field of the configuration."""
    parser = cli.Parser("train", __doc__)
    parser.add_argument("--config", metavar="FILE", help="TOML file with some of the values below")
    parser.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")
    parser.add_argument(
        "--run",
        metavar="RUN",
        help="folder to train in: begins a run there, or goes on with it. The command to start "
        "again after whatever happened (default: a numbered folder under run_root)",
    )
    parser.add_argument(
        "--strategy",
        choices=cluster.STRATEGIES,
        default="auto",
        help="where to train; auto: on the workers that TF_CONFIG or SLURM names, else on all GPUs "
        "here, else on one device (default: %(default)s)",
    )
    parser.add_argument(
        "--wait_seconds",
        type=float,
        default=cluster.WAIT_SECONDS,
        metavar="FLOAT",
        help="how long other workers may take to come (default: %(default)g)",
    )
    parser.add_argument("--dry_run", action="store_true", help="show the configuration and stop")
    config.add_flags(parser)
    return parser


if __name__ == "__main__":
    cli.run(main, parser())
