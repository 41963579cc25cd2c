"""What all commands share: they parse flags, run, and report errors of the user in one line."""

import difflib
import io
import logging as std_logging
import os
import re
import sys
import tempfile
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags, logging
from absl.flags import argparse_flags

from tfgan_mnist import files
from tfgan_mnist.errors import Stopped, UserError, WorkerLost

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


class Parser(argparse_flags.ArgumentParser):
    """A flag parser for `python -m tfgan_mnist.<command>`.

    Abbreviated flags are refused: `--epoch=3` must not silently become `--epochs=3`. The error of a
    wrong flag is one line, without the list of all flags.
    """

    def __init__(self, command: str, description: str, also_called: dict[str, str] | None = None):
        """`also_called`: names of flags in other programs -> what to give instead."""
        prog = f"python -m tfgan_mnist.{command}"
        super().__init__(
            prog=prog,
            usage=f"{prog} [--flag=value ...]",
            description=description,
            allow_abbrev=False,
        )
        self.also_called = also_called or {}

    def parse_known_args(self, args=None, namespace=None):
        try:
            found, unknown = super().parse_known_args(args, namespace)
            for name, value in vars(found).items():
                setattr(found, name, _with_home(value))
            return found, unknown
        except (ValueError, flags.Error) as error:  # a flag of absl's own, such as --verbosity=x
            self.error(str(error))

    def error(self, message: str) -> NoReturn:
        hints = []
        for word in re.findall(r"--(?:no-)?\w+", message):
            if word[2:] in self.also_called:
                hints.append(self.also_called[word[2:]])
            elif word not in self._option_string_actions:
                hints += difflib.get_close_matches(word, self._option_string_actions, n=1)
        hint = f"did you mean {hints[0]}? " if hints else ""
        self.exit(EXIT_USER_ERROR, f"error: {message}; {hint}{self.prog} --help lists all flags\n")


def _with_home(value):
    """A flag's value with the home folder for `~`, which shells do not replace after `--flag=`."""
    if isinstance(value, list):
        return [_with_home(item) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) else value


def run(main: Callable, parser: Parser) -> None:
    """Parses the command line and exits with `main(arguments)`, an exit status or None for 0.

    `UserError`, file-system errors and a lack of memory are printed as one message with exit
    status 2. Anything else is a bug and keeps its traceback.
    """

    def guarded(arguments):
        try:
            return main(arguments)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
        except MemoryError as error:
            print(f"error: not enough memory for this: {error}", file=sys.stderr)
        except BrokenPipeError:
            raise
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        except (Stopped, WorkerLost) as stopped:
            print(stopped, file=sys.stderr)
            return stopped.exit_status
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
        return EXIT_USER_ERROR

    if sys.platform == "win32":
        print(f"error: {files.NEEDS_LOCKS}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files need not be text, and printing one must not fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            app.run(guarded, flags_parser=lambda argv: parser.parse_args(argv[1:]))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader went away, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_BROKEN_PIPE)


def start_tensorflow() -> None:
    """Imports TensorFlow and finds its devices without its start-up messages.

    These are ten lines on CPU features and missing CUDA libraries. TF_CPP_MIN_LOG_LEVEL does not
    silence those that TensorFlow 2.21 writes before its logging starts, so stderr's file descriptor
    is redirected meanwhile; what was written is shown if the import fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
            # Keras's exporter and others log every step.
            logging.set_verbosity(logging.WARNING)
            plain = std_logging.Formatter("%(levelname)s: %(message)s")
            logging.get_absl_handler().setFormatter(plain)
        except BaseException:
            chatter.seek(0)
            os.write(stderr, chatter.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
