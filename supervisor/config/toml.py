"""A TOML file becomes a FileConfig; a UsageError says the line and the key.

Pure: the text in; the file itself is read by who calls.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from supervisor.config import Policy, SessionSpec
from supervisor.config.values import (
    parse_command,
    parse_denied,
    parse_env,
    parse_interval,
    parse_port,
    parse_restart,
    parse_seconds,
    parse_session_name,
    parse_text,
)
from supervisor.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

T = TypeVar("T")

_TOP_KEYS: Final = frozenset(
    {
        *("host", "port", "multiproc_dir", "session", "gates"),
        *("audit_interval_seconds", "missing_shard_seconds", "stale_values_seconds"),
    }
)
_GATES_KEYS: Final = frozenset({"deny"})
_SESSION_KEYS: Final = frozenset({"command", "restart", "stop_timeout_seconds", "env", "cwd"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FileConfig:
    """What a TOML file says; None where it says nothing."""

    host: str | None = None
    port: int | None = None
    multiproc_dir: Path | None = None
    sessions: tuple[SessionSpec, ...] = ()
    denied: tuple[str, ...] = ()
    audit_interval_seconds: float | None = None
    missing_shard_seconds: float | None = None
    stale_values_seconds: float | None = None
    path: Path | None = None
    mark: int = 0


def find_mark(data: bytes) -> int:
    """Tell one content of a file from another."""
    return zlib.crc32(data)


def parse_toml(text: str, path: Path) -> FileConfig:
    """Read the text of `path` (absolute: relative directories in it start at its folder)."""
    import tomllib  # noqa: PLC0415 - only a start needs it

    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a syntax error; or too long, too deep
        raise UsageError(
            _render_toml_error(str(error), text, path), "see docs/config.md for the format"
        ) from None
    reader = _TomlReader(_index_lines(text), path)
    reader.check_keys(document, _TOP_KEYS, ())
    sessions = document.get("session", {})
    if not isinstance(sessions, dict):
        raise UsageError(f"{reader.locate(('session',))}: not a table", "write [session.NAME]")

    def read(key: str, parse: Callable[[object, str], T]) -> T | None:
        return parse(document[key], reader.locate((key,))) if key in document else None

    directory = read("multiproc_dir", parse_text)
    return FileConfig(
        host=read("host", parse_text),
        port=read("port", parse_port),
        multiproc_dir=path.parent / directory if directory else None,
        sessions=tuple(reader.read_session(name, table) for name, table in sessions.items()),
        denied=reader.read_denied(document.get("gates", {})),
        audit_interval_seconds=read("audit_interval_seconds", parse_interval),
        missing_shard_seconds=read("missing_shard_seconds", parse_interval),
        stale_values_seconds=read("stale_values_seconds", parse_interval),
        path=path,
        mark=find_mark(text.encode(errors="surrogateescape")),
    )


def _render_toml_error(message: str, text: str, path: Path) -> str:
    """Put the place of a syntax error where a person (and an editor) looks for it."""
    what, _, place = message.partition(" (at ")
    found = re.match(r"line (\d+)", place)
    line = int(found[1]) if found else max(1, len(text.splitlines()))
    return f"{path}:{line}: {what}"


@dataclass(frozen=True, slots=True)
class _TomlReader:
    """Says where in the file a key stands, which tomllib does not."""

    lines: Mapping[str, int]
    path: Path

    def locate(self, keys: tuple[str, ...]) -> str:
        """Say where a key stands; one in an inline table stands where its table does."""
        parts = (".".join(keys[:length]) for length in range(len(keys), 0, -1))
        line = next((self.lines[part] for part in parts if part in self.lines), None)
        place = f"{self.path}:{line}" if line else str(self.path)
        return f"{place}: {'.'.join(keys)}"

    def check_keys(
        self, table: Mapping[str, object], known: frozenset[str], parents: tuple[str, ...]
    ) -> None:
        for key in table:
            if key not in known:
                raise UsageError(
                    f"{self.locate((*parents, key))}: unknown key",
                    f"known here: {', '.join(sorted(known))}",
                )

    def read_denied(self, table: object) -> tuple[str, ...]:
        if not isinstance(table, dict):
            raise UsageError(f"{self.locate(('gates',))}: not a table", "write [gates]")
        self.check_keys(table, _GATES_KEYS, ("gates",))
        return parse_denied(table.get("deny", []), self.locate(("gates", "deny")))

    def read_session(self, name: str, table: object) -> SessionSpec:
        keys = ("session", name)
        parse_session_name(name, self.locate(keys))
        if not isinstance(table, dict):
            raise UsageError(f"{self.locate(keys)}: not a table", f"write [session.{name}]")
        self.check_keys(table, _SESSION_KEYS, keys)
        if "command" not in table:
            raise UsageError(f"{self.locate(keys)}: no command", 'write command = ["python", …]')
        policy = Policy()
        if "restart" in table:
            where = self.locate((*keys, "restart"))
            policy = replace(policy, restart=parse_restart(table["restart"], where))
        if "stop_timeout_seconds" in table:
            where = self.locate((*keys, "stop_timeout_seconds"))
            seconds = parse_seconds(table["stop_timeout_seconds"], where)
            policy = replace(policy, stop_timeout_seconds=seconds)
        cwd = parse_text(table.get("cwd", "."), self.locate((*keys, "cwd")))
        return SessionSpec(
            name=name,
            command=parse_command(table["command"], self.locate((*keys, "command"))),
            cwd=self.path.parent / cwd,
            env=parse_env(table.get("env", {}), self.locate((*keys, "env"))),
            policy=policy,
        )


def _index_lines(text: str) -> dict[str, int]:
    """Find the line on which each table and key is first written; tables may be headed or dotted.

    Once for the whole file: a file may have a thousand sessions.
    """
    lines: dict[str, int] = {}
    inside = ""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("["):
            key = inside = re.sub(r"[\s\"']", "", stripped.lstrip("[").partition("]")[0])
        else:
            written = re.sub(r"[\s\"']", "", stripped.partition("=")[0])
            key = f"{inside}.{written}" if inside else written
        while key:
            lines.setdefault(key, number)
            key = key.rpartition(".")[0]
    return lines
