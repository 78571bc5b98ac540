"""What a gate says: which name may not be started, where it stands, and why.

Pure. A refusal holds names and never a value, so it is safe to print.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, assert_never

# How much of all its configuration files a session may have: what is longer is no configuration,
# and the one who reads it has other things to do.
FILE_LIMIT_BYTES: Final = 256 << 10


class Where(StrEnum):
    """Where a refused name stands."""

    ENVIRONMENT = "in the environment"
    CONFIGURED = "in the configured environment"
    ARGUMENTS = "in the arguments"
    SHELL = "inside sh -c"
    TEXT = "inside an argument"
    FILE = "in a configuration file"


class Reason(StrEnum):
    """Why a name is refused."""

    LIVE = "would enable live trading"
    CREDENTIAL = "is an exchange credential"
    UNCHECKED = "cannot be checked"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What may not be started, and why; safe to print, for it holds names and no value."""

    subject: str
    where: Where
    reason: Reason = Reason.LIVE
    file: str = ""  # which one, where it is a configuration file
    detail: str = ""

    @property
    def message(self) -> str:
        """One line, to follow "cannot start NAME: "."""
        where = f"in {self.file}" if self.file else self.where
        line = f"{self.subject} {where} {self.reason}"
        return f"{line}: {self.detail}" if self.detail else line

    @property
    def hint(self) -> str:
        """One line: what the operator can do."""
        match self.where:
            case Where.ENVIRONMENT:
                remedy = f"unset {self.subject}"
            case Where.CONFIGURED:
                remedy = f"take {self.subject} out of the session's env in the config"
            case Where.ARGUMENTS | Where.SHELL | Where.TEXT | Where.FILE:
                remedy = (
                    f"leave {self.subject} out, write a plain off or paper value,"
                    " or rename it if it means something else"
                )
            case _:
                assert_never(self.where)
        match self.reason:
            case Reason.LIVE:
                return (
                    f"{remedy}; only shadow and paper sessions start, this gate has no off switch"
                )
            case Reason.CREDENTIAL:
                return f"{remedy}; shadow and paper sessions run without exchange credentials"
            case Reason.UNCHECKED:
                return (
                    "a session starts when the gate can read what configures it: a regular file"
                    f" of TOML, at most {FILE_LIMIT_BYTES >> 10} KiB"
                )
            case _:
                assert_never(self.reason)
