"""What can go wrong, and the exit code each kind means.

Pure. A PtsupError is one line for a person, with a hint of what to do about it; whoever
raises it has left nothing half done.
"""

from __future__ import annotations

from typing import ClassVar


class PtsupError(Exception):
    """A command could not do its work. Exit code 1."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(PtsupError):
    """Bad input: a flag, a config file, a command that cannot be run. Exit code 2."""

    exit_code = 2


class NothingRunsError(PtsupError):
    """No supervisor runs and none left any state. Exit code 3."""

    exit_code = 3


class SupervisorDeadError(PtsupError):
    """A supervisor left its state behind, or does not answer. Exit code 4."""

    exit_code = 4


class DriftError(PtsupError):
    """Something is not as planned, or a verification failed. Exit code 5."""

    exit_code = 5


class GateError(PtsupError):
    """A gate refused what could trade live. Exit code 6."""

    exit_code = 6


class PortHeldError(PtsupError):
    """Somebody else holds the port or the run directory. Exit code 7."""

    exit_code = 7


ERRORS_BY_EXIT_CODE: dict[int, type[PtsupError]] = {
    kind.exit_code: kind
    for kind in (
        PtsupError,
        UsageError,
        NothingRunsError,
        SupervisorDeadError,
        DriftError,
        GateError,
        PortHeldError,
    )
}


def build_error(exit_code: int, message: str, hint: str = "") -> PtsupError:
    """Build the error an exit code stands for, as the other side of a socket reported it."""
    return ERRORS_BY_EXIT_CODE.get(exit_code, PtsupError)(message, hint)
