"""How a command ends when it does not end well through no fault of the program."""

import signal


class UserError(Exception):
    """The input or the machine is at fault, not the program.

    The message says what was expected, what was received and what to do. A command prints it as
    its only output on stderr and exits with status 2, without a traceback.
    """


class Stopped(Exception):
    """Work was asked to stop by a signal, and what was done is saved.

    A command prints the message and exits with 128 + the signal's number, as shells report it.
    """

    def __init__(self, signal_number: int, message: str):
        super().__init__(f"{signal.Signals(signal_number).name}: {message}")
        self.exit_status = 128 + signal_number
