"""The checks of single values, wherever they come from: flag, file or socket.

Pure. Each gives the value back as it is meant, or raises a UsageError that begins with `where`.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, TypeGuard

from supervisor.config import (
    DEFAULT_READY_SECONDS,
    METRICSD,
    RESERVED_NAMES,
    SESSION_NAME,
    LogLimits,
    Readiness,
    RestartWhen,
)
from supervisor.errors import UsageError
from telemetry.mode import Mode
from telemetry.policy import build_policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from supervisor.config import SessionSpec

_DENIED: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{1,79}\*?")
STOP_SIGNALS: Final = ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "KILL")
# As setrlimit calls them, and what is counted in bytes.
LIMITS: Final = ("as", "core", "cpu", "data", "fsize", "memlock", "nofile", "nproc", "stack")
_IN_BYTES: Final = frozenset(LIMITS) - {"cpu", "nofile", "nproc"}
_SIZE: Final = re.compile(r"(\d{1,12})([KMGT])")
_URL: Final = re.compile(r"http://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?(/[!-~]*)?")
_LABEL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_COUNT_LIMIT: Final = 1000
_LOG_BYTES: Final = 64 << 10  # a log is cut at whole blocks, and each cut waits for the disk


class Where(Protocol):
    """Where a value stands; as text it begins a message."""

    def at(self, key: str, /) -> Where:
        """Where a key inside of it stands."""


Place: TypeAlias = Where | str


@dataclass(frozen=True, slots=True)
class Named:
    """A value that goes by a name alone, for want of a line."""

    name: str

    def at(self, key: str) -> Named:
        """Where a key inside of it stands."""
        return Named(f"{self.name}.{key}")

    def __str__(self) -> str:
        return self.name


def parse_session_name(name: object, where: Place) -> str:
    """Check a session name; `where` says in the message who gave it."""
    if not isinstance(name, str) or not SESSION_NAME.fullmatch(name):
        raise UsageError(
            f"{where}: {show(name)} is not a session name",
            "a name has 1 to 64 of A-Z a-z 0-9 _ . - and begins with a letter or digit",
        )
    if name.lower() in RESERVED_NAMES:
        raise UsageError(f"{where}: the name {name!r} is ptsup's own", "choose another name")
    return name


def parse_port(value: object, where: Place) -> int:
    """Check a TCP port: 1 to 65535."""
    if _is_integer(value) and 1 <= value <= 65535:
        return value
    raise UsageError(f"{where}: {show(value)} is not a port", "a port is a number from 1 to 65535")


def parse_command(value: object, where: Place) -> tuple[str, ...]:
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


def parse_seconds(value: object, where: Place) -> float:
    """Check a duration: a number of seconds, 0 or more."""
    # The bound keeps out infinity, and integers that no float can hold.
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e300:
        return float(value)
    raise UsageError(f"{where}: {show(value)} is not a number of seconds, 0 or more")


def parse_interval(value: object, where: Place) -> float:
    """Check how often or how long something is waited for: 1 second or more."""
    seconds = parse_seconds(value, where)
    if seconds < 1:
        raise UsageError(f"{where}: {show(value)} is less than a second")
    return seconds


def parse_positive(value: object, where: Place) -> float:
    """Check a duration that nothing can do without: a number of seconds above 0."""
    seconds = parse_seconds(value, where)
    if not seconds:
        raise UsageError(f"{where}: 0 is not a number of seconds above 0")
    return seconds


def parse_number(value: object, where: Place) -> int:
    """Check how many: a whole number, 1 or more."""
    if _is_integer(value) and 1 <= value < 1 << 31:
        return value
    raise UsageError(f"{where}: {show(value)} is not a whole number, 1 or more")


def parse_count(value: object, where: Place) -> int:
    """Check how many instances there are of a session."""
    if _is_integer(value) and 1 <= value <= _COUNT_LIMIT:
        return value
    raise UsageError(f"{where}: {show(value)} is not a number of instances, 1 to {_COUNT_LIMIT}")


def parse_restart(value: object, where: Place) -> RestartWhen:
    """Check a restart policy: no, on-failure or always."""
    try:
        return RestartWhen(value)  # type: ignore[arg-type] # anything else raises, as it should
    except ValueError:
        raise _refuse_choice(value, RestartWhen, where) from None


def parse_mode(value: object, where: Place) -> Mode:
    """Check a metrics mode: A or B."""
    try:
        return Mode(value)  # type: ignore[arg-type] # anything else raises, as it should
    except ValueError:
        raise _refuse_choice(value, Mode, where) from None


def parse_signal(value: object, where: Place) -> str:
    """Check the name of a signal, with or without its SIG."""
    name = value.removeprefix("SIG") if isinstance(value, str) else value
    if isinstance(name, str) and name in STOP_SIGNALS:
        return name
    raise _refuse_choice(value, STOP_SIGNALS, where)


def parse_exit_codes(value: object, where: Place) -> frozenset[int]:
    """Check a list of exit codes: each 0 to 255."""
    if not isinstance(value, list) or not value:
        raise UsageError(f"{where}: not a list of exit codes", "write [0, 3], say")
    for code in value:
        if not _is_integer(code) or not 0 <= code <= 255:
            raise UsageError(f"{where}: {show(code)} is not an exit code", "it is 0 to 255")
    return frozenset(value)


def parse_names(value: object, where: Place) -> tuple[str, ...]:
    """Check a list of names of sessions or exporters; each counts once."""
    if not isinstance(value, list):
        raise UsageError(f"{where}: not a list of names", 'write ["NAME", …]')
    return tuple(dict.fromkeys(parse_session_name(name, where) for name in value))


def parse_text(value: object, where: Place) -> str:
    """Check a path or an address: a string, not empty, that the operating system can take."""
    if not isinstance(value, str) or "\0" in value:
        raise UsageError(f"{where}: {show(value)} is not a text", "put it in quotes")
    if not value.strip():
        raise UsageError(f"{where}: it is empty", "leave it out for the default")
    return value


def parse_texts(value: object, where: Place) -> tuple[str, ...]:
    """Check one path, or a list of them."""
    return tuple(
        parse_text(each, where) for each in (value if isinstance(value, list) else [value])
    )


def parse_page_path(value: object, where: Place) -> str:
    """Check the path of a page, as it stands in a URL."""
    if isinstance(value, str) and re.fullmatch(r"/[!-~]*", value):
        return value
    raise UsageError(f"{where}: {show(value)} is not the path of a page", 'such as "/metrics"')


def parse_env(value: object, where: Place) -> dict[str, str]:
    """Check a table of environment variables: names to strings."""
    if not isinstance(value, dict):
        raise UsageError(f'{where}: not a table of NAME = "value"')
    for name, text in value.items():
        if not name or "=" in name or "\0" in name:
            raise UsageError(f"{where}: {show(name)} is not a variable name")
        if not isinstance(text, str) or "\0" in text:
            # The value itself may be a secret; it is never shown.
            place = f"{where}.{name}" if isinstance(where, str) else where.at(name)
            raise UsageError(f"{place}: the value is not a string", "put it in quotes")
    return dict(value)


def parse_denied(value: object, where: Place) -> tuple[str, ...]:
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


def parse_ready(value: object, where: Where) -> Readiness:
    """Check a readiness: a port or a page that has to answer, and within how many seconds."""
    table = _parse_table(value, ("port", "http", "timeout_seconds"), where)
    if ("port" in table) == ("http" in table):
        raise UsageError(
            f"{where}: give it one of port and http", 'such as { http = "http://127.0.0.1:8080/" }'
        )
    seconds = table.get("timeout_seconds", DEFAULT_READY_SECONDS)
    port, url = table.get("port"), table.get("http")
    if url is not None and not (isinstance(url, str) and parse_url(url)):
        raise UsageError(
            f"{where.at('http')}: {show(url)} is not an address of a page",
            'such as "http://127.0.0.1:8080/healthz"',
        )
    return Readiness(
        port=None if port is None else parse_port(port, where.at("port")),
        http=url,
        timeout_seconds=parse_positive(seconds, where.at("timeout_seconds")),
    )


def find_awaited_port(ready: Readiness | None) -> int | None:
    """Find the port that something listens on because its configuration waits for it."""
    if ready is None or ready.port is not None:
        return None if ready is None else ready.port
    url = parse_url(ready.http or "")
    return url[1] if url else None


def parse_url(text: str) -> tuple[str, int, str] | None:
    """Take the address of a page apart: host, port, path; None for what is none."""
    found = _URL.fullmatch(text)
    port = int(found[2] or 80) if found else 0
    return (found[1].strip("[]"), port, found[3] or "/") if found and 1 <= port <= 65535 else None


def parse_limits(value: object, where: Where) -> dict[str, int | None]:
    """Check a table of resource limits; None is unlimited."""
    table = _parse_table(value, LIMITS, where)
    return {name: _parse_limit(name, limit, where.at(name)) for name, limit in table.items()}


def parse_log(value: object, where: Where) -> LogLimits:
    """Check how long a log may be before it is rotated (0: never), and how many copies are kept."""
    table = _parse_table(value, ("max_bytes", "backups"), where)
    default = LogLimits()
    size = _parse_size(table.get("max_bytes", default.max_bytes))
    if size is None or 0 < size < _LOG_BYTES:
        raise UsageError(
            f"{where.at('max_bytes')}: {show(table['max_bytes'])} is not the size of a log",
            'a number of bytes, or "16M"; at least "64K", or 0: it is never rotated',
        )
    backups = table.get("backups", default.backups)
    if not _is_integer(backups) or not 0 <= backups <= 1000:
        raise UsageError(f"{where.at('backups')}: {show(backups)} is not a number of copies")
    return LogLimits(max_bytes=size, backups=backups)


def _parse_size(value: object) -> int | None:
    if _is_integer(value) and 0 <= value < 1 << 62:
        return value
    if isinstance(value, str) and (found := _SIZE.fullmatch(value)):
        return int(found[1]) << 10 * ("KMGT".index(found[2]) + 1)
    return None


def _parse_limit(name: str, value: object, where: Where) -> int | None:
    if value == "unlimited" or value is None:
        return None
    size = _parse_size(value) if name in _IN_BYTES or _is_integer(value) else None
    if size is not None:
        return size
    sizes = ', a size such as "512M"' if name in _IN_BYTES else ""
    raise UsageError(f"{where}: {show(value)} is not a limit", f'a number{sizes}, or "unlimited"')


def parse_labels(value: object, where: Place) -> tuple[str, ...]:
    """Check a list of label names the page may carry besides the fixed ones."""
    if not isinstance(value, list):
        raise UsageError(f"{where}: not a list of label names", 'write ["NAME", …]')
    for name in value:
        if not isinstance(name, str) or not _LABEL.fullmatch(name) or name.startswith("__"):
            raise UsageError(f"{where}: {show(name)} is not a label name")
    try:
        build_policy(value)
    except ValueError as error:
        raise UsageError(
            f"{where}: {error}", "it names instruments, or would grow without end"
        ) from None
    return tuple(dict.fromkeys(value))


def check_unique(sessions: Iterable[SessionSpec]) -> None:
    """Refuse two sessions of one name (case aside: a file system may fold it)."""
    seen: set[str] = set()
    for session in sessions:
        if session.name.lower() in seen:
            raise UsageError(
                f"two sessions are named {session.name!r}", "names are unique, upper case aside"
            )
        seen.add(session.name.lower())


def check_ports(
    specs: Iterable[SessionSpec],
    others: Iterable[SessionSpec],
    port: int,
    places: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Refuse a port that two would listen on: metricsd's, which it has to itself, or another's."""
    holders = {port: METRICSD, **{spec.port: spec.name for spec in others if spec.port}}
    for spec in specs:
        holder = holders.setdefault(spec.port, spec.name) if spec.port else spec.name
        if holder != spec.name:
            raise UsageError(
                f"{places.get(spec.name, spec.name)}: port {spec.port} is that of {holder}",
                "give each a port of its own",
            )


def show(value: object) -> str:
    """Quote a value for a message: control characters escaped, cut to a line."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, a list as deep
        return "a huge value"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _parse_table(value: object, known: Iterable[str], where: Where) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: not a table", f"known in it: {', '.join(known)}")
    for key in value:
        if key not in known:
            raise UsageError(f"{where.at(key)}: unknown key", f"known here: {', '.join(known)}")
    return value


def _refuse_choice(value: object, choices: Iterable[str], where: Place) -> UsageError:
    return UsageError(f"{where}: {show(value)} is not one of {', '.join(choices)}")
