"""The checks of single values, wherever they come from: flag, file or socket.

Pure. Each gives the value back as it is meant, or raises a UsageError that begins with `where`.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Final

from supervisor.config import RESERVED_NAMES, SESSION_NAME, RestartWhen
from supervisor.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.config import SessionSpec

_DENIED: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{1,79}\*?")


def parse_session_name(name: object, where: str) -> str:
    """Check a session name; `where` says in the message who gave it."""
    if not isinstance(name, str) or not SESSION_NAME.fullmatch(name):
        raise UsageError(
            f"{where}: {show(name)} is not a session name",
            "a name has 1 to 64 of A-Z a-z 0-9 _ . - and begins with a letter or digit",
        )
    if name.lower() in RESERVED_NAMES:
        raise UsageError(f"{where}: the name {name!r} is ptsup's own", "choose another name")
    return name


def parse_port(value: object, where: str) -> int:
    """Check a TCP port: 1 to 65535."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535:
        return value
    raise UsageError(f"{where}: {show(value)} is not a port", "a port is a number from 1 to 65535")


def parse_command(value: object, where: str) -> tuple[str, ...]:
    """Check a command: a list of words, or one string that is split as a shell splits it."""
    words: object = value
    if isinstance(value, str):
        try:
            words = shlex.split(value)
        except ValueError as error:
            # The command itself may hold a secret (`env NAME=VALUE …`); it is never shown.
            raise UsageError(
                f"{where}: cannot split the command: {error}", "close the quotation"
            ) from None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UsageError(f"{where}: the command is neither a string nor a list of strings")
    if not words or not words[0]:
        raise UsageError(f"{where}: the command is empty", "give a program, then its arguments")
    if any("\0" in word for word in words):
        raise UsageError(f"{where}: the command holds a NUL character")
    return tuple(words)


def parse_seconds(value: object, where: str) -> float:
    """Check a duration: a number of seconds, 0 or more."""
    # The bound keeps out infinity, and integers that no float can hold.
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e300:
        return float(value)
    raise UsageError(f"{where}: {show(value)} is not a number of seconds, 0 or more")


def parse_interval(value: object, where: str) -> float:
    """Check how often or how long something is waited for: 1 second or more."""
    seconds = parse_seconds(value, where)
    if seconds < 1:
        raise UsageError(f"{where}: {show(value)} is less than a second")
    return seconds


def parse_restart(value: object, where: str) -> RestartWhen:
    """Check a restart policy: no, on-failure or always."""
    try:
        return RestartWhen(value)  # type: ignore[arg-type] # anything else raises, as it should
    except ValueError:
        choices = ", ".join(RestartWhen)
        raise UsageError(f"{where}: {show(value)} is not one of {choices}") from None


def parse_text(value: object, where: str) -> str:
    """Check a path or an address: a string, not empty, that the operating system can take."""
    if not isinstance(value, str) or "\0" in value:
        raise UsageError(f"{where}: {show(value)} is not a text", "put it in quotes")
    if not value.strip():
        raise UsageError(f"{where}: it is empty", "leave it out for the default")
    return value


def parse_env(value: object, where: str) -> dict[str, str]:
    """Check a table of environment variables: names to strings."""
    if not isinstance(value, dict):
        raise UsageError(f'{where}: not a table of NAME = "value"')
    for name, text in value.items():
        if not name or "=" in name or "\0" in name:
            raise UsageError(f"{where}: {show(name)} is not a variable name")
        if not isinstance(text, str) or "\0" in text:
            # The value itself may be a secret; it is never shown.
            raise UsageError(f"{where}.{name}: the value is not a string", "put it in quotes")
    return dict(value)


def parse_denied(value: object, where: str) -> tuple[str, ...]:
    """Check what a file adds to the list of NO-LIVE: names, or the beginnings of names (`ACME_*`).

    It can only add: there is no spelling that takes a name away.
    """
    if not isinstance(value, list):
        raise UsageError(f"{where}: not a list of names", 'write deny = ["ACME_LIVE", "ACME_GO*"]')
    for name in value:
        if not isinstance(name, str) or not _DENIED.fullmatch(name):
            raise UsageError(
                f"{where}: {show(name)} is not the name of a variable",
                "a name has A-Z a-z 0-9 _ and may end in *; nothing takes a name off the list",
            )
    return tuple(value)


def show(value: object) -> str:
    """Quote a value for a message: control characters escaped, cut to a line."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_unique(sessions: Sequence[SessionSpec]) -> None:
    """Refuse two sessions of one name (case aside: a file system may fold it)."""
    seen: set[str] = set()
    for session in sessions:
        if session.name.lower() in seen:
            raise UsageError(
                f"two sessions are named {session.name!r}", "names are unique, upper case aside"
            )
        seen.add(session.name.lower())
