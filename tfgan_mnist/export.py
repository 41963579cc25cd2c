"""Exports a run's generator: a SavedModel for TensorFlow Serving, or a file of another format.

A number stands for one set of weights: --run takes the next one, --saved_model=saved_models/dcgan/3
gives a file the version's number, as in saved_models/dcgan/3.onnx.
"""

from pathlib import Path

from tfgan_mnist import cli
from tfgan_mnist.config import Config
from tfgan_mnist.errors import UserError
from tfgan_mnist.exports import card, formats, saved_model, versions

SAVED_MODEL = "saved_model"  # the format that is a folder; the others are files


def export_run(run: Path, export_root: Path, format_name: str = SAVED_MODEL) -> Path:
    """Exports what a run has learnt under `export_root/<model>/`; returns where it is.

    Raises:
      UserError: not a run folder, no readable checkpoint in it, or nothing can be written.
    """
    description = card.describe_run(run)  # before TensorFlow's slow start: is this a run?
    cli.start_tensorflow()
    from tfgan_mnist.training import checkpoints

    config, model = checkpoints.restore_run(run)
    base_path = export_root / config.model
    if format_name == SAVED_MODEL:
        return saved_model.export(model, base_path, description)
    return saved_model.export_file(model, base_path, format_name, description)


def main(arguments) -> None:
    """Turns flags into a call of `export_run` or `convert`."""
    if arguments.format != SAVED_MODEL:
        formats.expect_packages(arguments.format)
    if arguments.run:
        path = export_run(Path(arguments.run), Path(arguments.export_root), arguments.format)
    elif arguments.format == SAVED_MODEL:
        raise UserError(
            "--format: expected onnx or litert for a --saved_model; received saved_model"
        )
    else:
        version = versions.find_version(Path(arguments.saved_model))
        cli.start_tensorflow()
        path = saved_model.convert(version, arguments.format)
    print(f"Exported: {path}")


def parser() -> cli.Parser:
    """The flags of the command."""
    parser = cli.Parser("export", __doc__.partition("\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", metavar="FOLDER", help="a run, such as runs/0003-dcgan")
    source.add_argument(
        "--saved_model",
        metavar="FOLDER",
        help="an export to convert: a version's folder, or its parent for the highest version",
    )
    parser.add_argument(
        "--format",
        choices=[SAVED_MODEL, *versions.SUFFIXES],
        default=SAVED_MODEL,
        help="onnx and litert need the extra of that name (default: %(default)s)",
    )
    parser.add_argument(
        "--export_root",
        default=Config.export_root,
        metavar="FOLDER",
        help="where a run's <model>/<version>/ is written (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    cli.run(main, parser())
