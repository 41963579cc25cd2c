"""Errors reported to the user without a traceback."""

import signal


class UserError(Exception):
    """The input or the machine is at fault, not the program.

    The message says what was expected, what was received and what to do. A command prints it to
    stderr and exits with status 2.
    """


class Stopped(Exception):
    """A signal ended training, whose state is saved.

    A command prints the message and exits with 128 + the signal's number, as shells report it.
    """

    def __init__(self, signal_number: int, message: str):
        super().__init__(f"{signal.Signals(signal_number).name}: {message}")
        self.exit_status = 128 + signal_number


class WorkerLost(Exception):
    """A worker of a distributed run ended or did not start, and the others cannot go on.

    Started again, the run goes on from its last checkpoint. The exit status tells a supervisor to
    start it again: 138 is what Kubeflow's `restartPolicy: ExitCode` leaves to programs for that;
    1 to 127 are final there.
    """

    exit_status = 138
