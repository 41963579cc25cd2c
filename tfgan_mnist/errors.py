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


class WorkerLost(Exception):
    """A worker of a distributed run is gone, or never came, and the others cannot go on alone.

    Nothing is wrong with the run: started again it goes on from its last checkpoint. The exit
    status says so to a supervisor. 138 is what Kubeflow's `restartPolicy: ExitCode` leaves to
    programs for "start me again"; 1 to 127 are final there.
    """

    exit_status = 138
