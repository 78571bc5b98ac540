"""A TOML file becomes a FileConfig; a UsageError says the line and the key.

Pure: the text in; the file itself, and those it names, are read by who calls.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from supervisor.config import LogLimits, Role, SessionSpec
from supervisor.config.dotenv import parse_dotenv
from supervisor.config.keys import EXPORTER_KEYS, SESSION_KEYS, SETTINGS, build_spec, check_spec
from supervisor.config.order import check_order
from supervisor.config.values import (
    parse_command,
    parse_count,
    parse_denied,
    parse_env,
    parse_interval,
    parse_labels,
    parse_log,
    parse_port,
    parse_session_name,
    parse_text,
    parse_texts,
)
from supervisor.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

T = TypeVar("T")

TOP_KEYS: Final = (
    *("host", "port", "multiproc_dir", "allow_labels", "audit_interval_seconds"),
    *("missing_shard_seconds", "stale_values_seconds"),
    *("log", "gates", "session", "exporter"),
)
GATES_KEYS: Final = ("deny",)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileConfig:
    """What a TOML file says; None where it says nothing."""

    path: Path | None = None
    host: str | None = None
    port: int | None = None
    multiproc_dir: Path | None = None
    allow_labels: tuple[str, ...] = ()
    audit_interval_seconds: float | None = None
    denied: tuple[str, ...] = ()
    missing_shard_seconds: float | None = None
    stale_values_seconds: float | None = None
    sessions: tuple[SessionSpec, ...] = ()
    exporters: tuple[SessionSpec, ...] = ()
    given: frozenset[str] = frozenset()  # the keys of the file as a whole that it has
    # Where the keys and the names of the above stand, for what is found to be wrong later.
    places: Mapping[str, str] = field(default_factory=dict)
    marks: Mapping[Path, int] = field(default_factory=dict)  # of it, and of each env_file
    # Of our own logs, and of those that say nothing else.
    log: LogLimits = field(default_factory=LogLimits)


def find_mark(data: bytes) -> int:
    """Tell one content of a file from another."""
    return zlib.crc32(data)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that is named and could not be read."""

    reason: str


def find_env_files(text: str, path: Path) -> set[Path]:
    """Find the files that have to be read before `path`, whose text this is, can be."""
    import tomllib  # noqa: PLC0415 - only a start needs it

    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError):
        return set()
    tables = [document.get(role) for role in Role]
    members = [table for t in tables if isinstance(t, dict) for table in t.values()]
    values = [table.get("env_file") for table in members if isinstance(table, dict)]
    names = [name for v in values for name in (v if isinstance(v, list) else [v])]
    return {path.parent / name for name in names if isinstance(name, str) and "\0" not in name}


def parse_toml(
    text: str, path: Path, files: Mapping[Path, str | Unreadable] = MappingProxyType({})
) -> FileConfig:
    """Read the text of `path` (absolute: relative directories in it start at its folder).

    `files` has the texts of those that `find_env_files` finds.
    """
    import tomllib  # noqa: PLC0415 - only a start needs it

    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a syntax error; or too long, too deep
        raise UsageError(
            _render_toml_error(str(error), text, path), "see docs/config.md for the format"
        ) from None
    reader = _Reader(_index_lines(text), path, files)
    reader.check_keys(document, TOP_KEYS, ())

    def read(key: str, parse: Callable[[object, _Key], T]) -> T | None:
        return parse(document[key], reader.find((key,))) if key in document else None

    directory, log = read("multiproc_dir", parse_text), read("log", parse_log)
    document = _pass_on(document, "log")
    sessions = reader.read_tables(document, Role.SESSION)
    exporters = reader.read_tables(document, Role.EXPORTER)
    sessions = reader.check_order(sessions, exporters)
    return FileConfig(
        path=path,
        host=read("host", parse_text),
        port=read("port", parse_port),
        multiproc_dir=path.parent / directory if directory else None,
        allow_labels=read("allow_labels", parse_labels) or (),
        audit_interval_seconds=read("audit_interval_seconds", parse_interval),
        denied=reader.read_denied(document.get("gates", {})),
        missing_shard_seconds=read("missing_shard_seconds", parse_interval),
        stale_values_seconds=read("stale_values_seconds", parse_interval),
        log=log or LogLimits(),
        marks=_mark_all({path: text, **files}),
        sessions=tuple(sessions.values()),
        exporters=tuple(exporters.values()),
        given=frozenset(document),
        places={
            **{key: str(reader.find((key,))) for key in document},
            **{name: str(reader.find(keys)) for name, keys in reader.tables.items()},
        },
    )


def _mark_all(files: Mapping[Path, str | Unreadable]) -> dict[Path, int]:
    texts = {path: text for path, text in files.items() if isinstance(text, str)}
    return {path: find_mark(text.encode(errors="surrogateescape")) for path, text in texts.items()}


def _pass_on(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Let each session and exporter have what a table says for all, word by word."""
    usual = document.get(key, {})

    def take(table: object) -> object:
        if not isinstance(table, dict) or not isinstance(own := table.get(key, {}), dict):
            return table  # which is refused where it is read
        return {**table, key: {**usual, **own}}

    def take_all(tables: object) -> object:
        return {n: take(t) for n, t in tables.items()} if isinstance(tables, dict) else tables

    return {**document, **{role: take_all(document[role]) for role in Role if role in document}}


def _render_toml_error(message: str, text: str, path: Path) -> str:
    """Put the place of a syntax error where a person (and an editor) looks for it."""
    what, _, place = message.partition(" (at ")
    found = re.match(r"line (\d+)", place)
    line = int(found[1]) if found else max(1, len(text.splitlines()))
    return f"{path}:{line}: {what}"


@dataclass(frozen=True, slots=True)
class _Key:
    """A key of the file; as text it is `path:line: dotted.key`."""

    lines: Mapping[str, int]
    path: Path
    keys: tuple[str, ...]

    def at(self, key: str) -> _Key:
        return replace(self, keys=(*self.keys, key))

    def __str__(self) -> str:
        # One in an inline table stands where its table does.
        parts = (".".join(self.keys[:length]) for length in range(len(self.keys), 0, -1))
        line = next((self.lines[part] for part in parts if part in self.lines), None)
        place = f"{self.path}:{line}" if line else str(self.path)
        return f"{place}: {'.'.join(map(_quote, self.keys))}"


def _quote(key: str) -> str:
    shown = key if key.isprintable() and key else ascii(key)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads the tables of one file; says where in it a key stands, which tomllib does not."""

    lines: Mapping[str, int]
    path: Path
    files: Mapping[Path, str | Unreadable]
    tables: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by the names they give
    taken: dict[str, str] = field(default_factory=dict)  # lower case -> name

    def find(self, keys: tuple[str, ...]) -> _Key:
        return _Key(self.lines, self.path, keys)

    def check_keys(
        self, table: Mapping[str, object], known: tuple[str, ...], parents: tuple[str, ...]
    ) -> None:
        for key in table:
            if key not in known:
                raise UsageError(
                    f"{self.find((*parents, key))}: unknown key",
                    f"known here: {', '.join(sorted(known))}",
                )

    def read_denied(self, table: object) -> tuple[str, ...]:
        where = self.find(("gates",))
        if not isinstance(table, dict):
            raise UsageError(f"{where}: not a table", "write [gates]")
        self.check_keys(table, GATES_KEYS, where.keys)
        return parse_denied(table.get("deny", []), where.at("deny"))

    def read_tables(self, document: Mapping[str, object], role: Role) -> dict[str, SessionSpec]:
        """Read all sessions, or all exporters, by name."""
        tables = document.get(role, {})
        if not isinstance(tables, dict):
            raise UsageError(f"{self.find((role,))}: not a table", f"write [{role}.NAME]")
        found: dict[str, SessionSpec] = {}
        for name, table in tables.items():
            for spec in self._read_table(role, name, table):
                self._take_name(spec.name, (role, name))
                found[spec.name] = spec
        return found

    def _take_name(self, name: str, keys: tuple[str, ...]) -> None:
        taken = self.taken.setdefault(name.lower(), name)
        if taken in self.tables:
            other = str(self.find(self.tables[taken])).removeprefix(f"{self.path}:")
            raise UsageError(
                f"{self.find(keys)}: the name {name!r} is taken by line {other}",
                "names are unique among sessions and exporters, upper case aside",
            )
        self.tables[name] = keys

    def _read_table(self, role: Role, name: str, table: object) -> Iterator[SessionSpec]:
        where = self.find((role, name))
        parse_session_name(name, where)
        if not isinstance(table, dict):
            raise UsageError(f"{where}: not a table", f"write [{role}.{name}]")
        known = EXPORTER_KEYS if role is Role.EXPORTER else SESSION_KEYS
        self.check_keys(table, known, where.keys)
        if "command" not in table:
            raise UsageError(f"{where}: no command", 'write command = ["python", …]')
        settings: dict[str, Any] = {
            key: SETTINGS[key].parse(value, where.at(key))
            for key, value in table.items()
            if key in SETTINGS
        }
        env = self._read_env_files(table, where)
        spec = build_spec(
            role,
            settings,
            name=name,
            command=parse_command(table["command"], where.at("command")),
            cwd=self.path.parent / parse_text(table.get("cwd", "."), where.at("cwd")),
            env=env | parse_env(table.get("env", {}), where.at("env")),
        )
        check_spec(spec, where)
        spec = replace(spec, planned=True)
        if "count" not in table:
            yield spec
            return
        count = parse_count(table["count"], where.at("count"))
        if count > 1 and spec.port is not None:
            raise UsageError(f"{where.at('count')}: several instances cannot share one port")
        for number in range(1, count + 1):
            yield replace(spec, name=parse_session_name(f"{name}-{number}", where.at("count")))

    def _read_env_files(self, table: Mapping[str, object], where: _Key) -> dict[str, str]:
        found: dict[str, str] = {}
        if "env_file" in table:
            for name in parse_texts(table["env_file"], where.at("env_file")):
                path = self.path.parent / name
                text = self.files.get(path, Unreadable("it was not looked for"))
                if isinstance(text, Unreadable):
                    raise UsageError(f"{where.at('env_file')}: cannot read {path}: {text.reason}")
                found |= parse_dotenv(text, str(path))
        return found

    def check_order(
        self, sessions: Mapping[str, SessionSpec], exporters: Mapping[str, SessionSpec]
    ) -> dict[str, SessionSpec]:
        """Check who waits for whom; a name with a `count` stands for all its instances."""
        instances: dict[str, tuple[str, ...]] = {}
        for name, keys in self.tables.items():
            instances[keys[-1]] = (*instances.get(keys[-1], ()), name)

        def expand(names: tuple[str, ...]) -> tuple[str, ...]:
            groups = [
                (name,) if name in self.tables else instances.get(name, (name,)) for name in names
            ]
            return tuple(dict.fromkeys(name for group in groups for name in group))

        ordered = {
            name: replace(spec, start_after=expand(spec.start_after))
            for name, spec in sessions.items()
        }
        check_order(
            {name: spec.start_after for name, spec in ordered.items()},
            known={*ordered, *exporters},
            where=lambda name: str(self.find((*self.tables[name], "start_after"))),
        )
        return ordered


# Strings of several lines and comments, in which nothing is a key; and the other strings, in
# which nothing begins one of these.
_TEXTS: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*',
    re.DOTALL,
)


def _index_lines(text: str) -> dict[str, int]:
    """Find the line on which each table and key is first written; tables may be headed or dotted.

    Once for the whole file: a file may have a thousand sessions.
    """
    lines: dict[str, int] = {}
    inside = ""
    for number, line in enumerate(_TEXTS.sub(_blank, text).split("\n"), 1):
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


def _blank(found: re.Match[str]) -> str:
    if found[0].startswith("#"):
        return ""
    return "\n" * found[0].count("\n") if found[0].startswith(('"""', "'''")) else found[0]
