"""Exports a run's generator: a SavedModel for TensorFlow Serving, or a file of another format.

A number under `saved_models/dcgan/` stands for one set of weights, `3/`, `3.onnx` and `3.tflite`:
--run takes the next number, --saved_model=saved_models/dcgan/3 keeps the version's number.
"""

from pathlib import Path

from tfgan_mnist import cli
from tfgan_mnist.config import Config
from tfgan_mnist.errors import UserError
from tfgan_mnist.exports import formats, page, saved_model
from tfgan_mnist.exports.card import describe_run
from tfgan_mnist.exports.versions import SUFFIXES, find_version

SAVED_MODEL = "saved_model"  # the format that is a folder; the others are those of `formats`


def export_run(run: Path, export_root: Path, format_name: str = SAVED_MODEL) -> Path:
    """Exports a run's best checkpoint under `export_root/<model>/`; returns the new path.

    Raises:
      UserError: not a run folder, no readable checkpoint in it, or nothing can be written.
    """
    card = describe_run(run)  # before TensorFlow's slow start, since it checks the run
    cli.start_tensorflow()
    from tfgan_mnist.training import checkpoints

    config, model = checkpoints.restore_run(run)
    base_path = export_root / config.model
    if format_name == SAVED_MODEL:
        return saved_model.export(model, base_path, card)
    return formats.export_file(model, base_path, format_name, card)


def export_page(version: Path, folder: Path) -> None:
    """Writes the page with a version to a folder for any web server, its ONNX file included.

    Raises:
      OSError: nothing can be written there.
      UserError: not an export of tfgan_mnist, or the packages of ONNX are not installed.
    """
    version = version.resolve()
    onnx = version.with_name(version.name + SUFFIXES["onnx"])
    if not onnx.exists():
        cli.start_tensorflow()
        onnx = formats.convert(version, "onnx")
    page.build(folder, version, onnx)


def main(arguments) -> None:
    """Turns flags into a call of `export_run`, `export_page` or `formats.convert`."""
    if arguments.page:
        if not arguments.saved_model:
            raise UserError("--page: expected --saved_model=FOLDER beside it")
        export_page(find_version(Path(arguments.saved_model)), Path(arguments.page))
        print(f"Page: {arguments.page}/index.html, for any web server: python -m http.server")
        return
    if arguments.format == "keras" and not arguments.run:
        raise UserError("--format=keras: expected --run=FOLDER; an export has the generator alone")
    if arguments.format != SAVED_MODEL:
        formats.expect_packages(arguments.format)
    if arguments.run:
        path = export_run(Path(arguments.run), Path(arguments.export_root), arguments.format)
    elif arguments.format == SAVED_MODEL:
        raise UserError(
            "--format: expected onnx or litert for a --saved_model; received saved_model"
        )
    else:
        version = find_version(Path(arguments.saved_model))
        cli.start_tensorflow()
        path = formats.convert(version, arguments.format)
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
        choices=[SAVED_MODEL, *SUFFIXES],
        default=SAVED_MODEL,
        help="onnx and litert need the extra of that name; keras: a file to train on with "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--page",
        metavar="FOLDER",
        help="write the page with the --saved_model to this folder, for any web server",
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
