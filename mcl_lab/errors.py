"""The errors that end a program, each with its exit status."""


class InputError(Exception):
    """The config or the input is wrong and nothing was started: exit status 2.

    `key` is the setting to change (`optimizer.lr`), `message` one line that says what would be right.
    """

    status = 2

    def __init__(self, key: str, message: str):
        super().__init__(f"{key}: {message}")
        self.key = key


class RunFailed(Exception):
    """A run that had started cannot go on; the message says why and what is kept."""

    status = 1


class Interrupted(RunFailed):
    """A run was asked to stop by a signal and stopped in good order: exit status 128 + signal, as a shell reports it."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.status = 128 + signal_number
