"""What the operator asked for: flags and TOML become one frozen Config.

Pure: text and mappings in, a Config or a UsageError out; it reads no file and no clock.
A session spec is one JSON document, so that it can be handed over a socket as it is.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Final, TypeVar

from supervisor.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")

SESSION_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
METRICSD: Final = "metricsd"
SUPERVISOR: Final = "supervisor"
# Names of our own log and state files, whatever the case a file system folds.
RESERVED_NAMES: Final = frozenset({METRICSD, SUPERVISOR})
DEFAULT_HOST: Final = "0.0.0.0"  # noqa: S104 - Prometheus comes from a container
DEFAULT_RUN_DIR: Final = ".ops_local/ptsup"
RUN_DIR_VARIABLE: Final = "PTSUP_RUN_DIR"
DEFAULT_FILE: Final = "ptsup.toml"


class RestartWhen(StrEnum):
    """When a session that ended by itself is started again."""

    NO = "no"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How one process is kept: the numbers `lifecycle.decide` goes by."""

    restart: RestartWhen = RestartWhen.NO
    stop_timeout_seconds: float = 75.0
    stable_seconds: float = 10.0
    backoff_seconds: float = 0.5
    backoff_limit_seconds: float = 30.0
    failure_limit: int | None = 5  # None: it never gives up
    success_exit_codes: frozenset[int] = frozenset({0})
    # None: up as soon as it is spawned. Doubled with each late start, for a slow machine.
    start_timeout_seconds: float | None = None
    start_timeout_limit_seconds: float = 30.0


METRICSD_POLICY: Final = Policy(
    restart=RestartWhen.ALWAYS,
    stop_timeout_seconds=5.0,
    # Who served for a second and is killed is to be back at once: scrapes wait.
    stable_seconds=1.0,
    backoff_seconds=0.1,
    backoff_limit_seconds=1.0,
    failure_limit=None,
    start_timeout_seconds=3.0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSpec:
    """One session as the operator wants it: an argument list, no shell, an absolute cwd."""

    name: str
    command: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    policy: Policy = Policy()

    def to_document(self) -> dict[str, Any]:
        """Build the JSON document of this spec."""
        return {
            "name": self.name,
            "command": list(self.command),
            "cwd": str(self.cwd),
            "env": dict(self.env),
            "restart": str(self.policy.restart),
            "stop_timeout_seconds": self.policy.stop_timeout_seconds,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything `ptsup start` needs to know. Directories are absolute."""

    host: str
    port: int
    multiproc_dir: Path
    given: frozenset[str] = frozenset()  # which of the three a flag or the file gave
    sessions: tuple[SessionSpec, ...] = ()
    planned: frozenset[str] = frozenset()  # which of them stand in the file


# -- Checks of single values ------------------------------------------------------------------


def parse_session_name(name: object, where: str) -> str:
    """Check a session name; `where` says in the message who gave it."""
    if not isinstance(name, str) or not SESSION_NAME.fullmatch(name):
        raise UsageError(
            f"{where}: {_show(name)} is not a session name",
            "a name has 1 to 64 of A-Z a-z 0-9 _ . - and begins with a letter or digit",
        )
    if name.lower() in RESERVED_NAMES:
        raise UsageError(f"{where}: the name {name!r} is ptsup's own", "choose another name")
    return name


def parse_port(value: object, where: str) -> int:
    """Check a TCP port: 1 to 65535."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535:
        return value
    raise UsageError(f"{where}: {_show(value)} is not a port", "a port is a number from 1 to 65535")


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
    raise UsageError(f"{where}: {_show(value)} is not a number of seconds, 0 or more")


def parse_restart(value: object, where: str) -> RestartWhen:
    """Check a restart policy: no, on-failure or always."""
    try:
        return RestartWhen(value)  # type: ignore[arg-type] # anything else raises, as it should
    except ValueError:
        choices = ", ".join(RestartWhen)
        raise UsageError(f"{where}: {_show(value)} is not one of {choices}") from None


def parse_text(value: object, where: str) -> str:
    """Check a path or an address: a string, not empty, that the operating system can take."""
    if not isinstance(value, str) or "\0" in value:
        raise UsageError(f"{where}: {_show(value)} is not a text", "put it in quotes")
    if not value.strip():
        raise UsageError(f"{where}: it is empty", "leave it out for the default")
    return value


def parse_env(value: object, where: str) -> dict[str, str]:
    """Check a table of environment variables: names to strings."""
    if not isinstance(value, dict):
        raise UsageError(f'{where}: not a table of NAME = "value"')
    for name, text in value.items():
        if not name or "=" in name or "\0" in name:
            raise UsageError(f"{where}: {_show(name)} is not a variable name")
        if not isinstance(text, str) or "\0" in text:
            # The value itself may be a secret; it is never shown.
            raise UsageError(f"{where}.{name}: the value is not a string", "put it in quotes")
    return dict(value)


def _show(value: object) -> str:
    """Quote a value for a message: control characters escaped, cut to a line."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# -- Sessions from the command line -----------------------------------------------------------


def parse_session_flag(text: str, cwd: Path, policy: Policy) -> SessionSpec:
    """Read one `-s NAME=COMMAND`."""
    name, separator, command = text.partition("=")
    if not separator:
        raise UsageError(
            f"-s {_show(text)}: not of the form NAME=COMMAND",
            "for instance: -s paper='python examples/shadow_session.py'",
        )
    where = f"-s {name}" if SESSION_NAME.fullmatch(name) else "-s"
    return SessionSpec(
        name=parse_session_name(name, where),
        command=parse_command(command, where),
        cwd=cwd,
        policy=policy,
    )


def build_command_session(
    command: Sequence[str], taken: frozenset[str], cwd: Path, policy: Policy
) -> SessionSpec:
    """Build the session of `-- COMMAND...`, named after its script."""
    words = parse_command(list(command), "COMMAND")
    name = find_free_name(find_script_stem(words), taken)
    return SessionSpec(name=name, command=words, cwd=cwd, policy=policy)


def find_script_stem(command: Sequence[str]) -> str:
    """Name a command after its script: `python examples/paper.py --x` is `paper`.

    `python -m shop.paper` and `./paper.sh` are `paper`; anything else goes by its program.
    """
    stem = PurePath(command[0]).stem
    for word, following in zip(command, (*command[1:], ""), strict=True):
        if word == "-m" and following:
            stem = following.rpartition(".")[2]
            break
        if word.endswith((".py", ".sh")):
            stem = PurePath(word).stem
            break
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", stem).lstrip("_.-")[:60]
    return stem or "session"


def find_free_name(stem: str, taken: frozenset[str]) -> str:
    """Make a name unique, upper case aside: paper, then paper-2, paper-3."""
    taken = RESERVED_NAMES.union(other.lower() for other in taken)
    name, number = stem, 1
    while name.lower() in taken:
        number += 1
        name = f"{stem}-{number}"
    return name


# -- TOML -------------------------------------------------------------------------------------

_TOP_KEYS: Final = frozenset({"host", "port", "multiproc_dir", "session"})
_SESSION_KEYS: Final = frozenset({"command", "restart", "stop_timeout_seconds", "env", "cwd"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FileConfig:
    """What a TOML file says; None where it says nothing."""

    host: str | None = None
    port: int | None = None
    multiproc_dir: Path | None = None
    sessions: tuple[SessionSpec, ...] = ()


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


# -- Precedence: flag, then TOML, then environment, then default ------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The options of `ptsup start` that shape the Config; None where not given."""

    host: str | None = None
    port: int | None = None
    multiproc_dir: str | None = None
    restart: str | None = None
    sessions: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """What the environment says, or else the defaults."""

    port: int
    multiproc_dir: Path


def build_config(
    flags: Flags,
    file: FileConfig,
    fallback: Fallback,
    cwd: Path,
    taken: frozenset[str] = frozenset(),
) -> Config:
    """Join flags, file and environment into one Config; raises UsageError.

    `taken` are the names of sessions that are there already; only the one ptsup itself gives
    to `-- COMMAND` keeps clear of them.
    """
    policy = Policy()
    if flags.restart is not None:
        policy = replace(policy, restart=parse_restart(flags.restart, "--restart"))
    sessions = list(file.sessions)
    sessions += [parse_session_flag(text, cwd, policy) for text in flags.sessions]
    check_unique(sessions)
    if flags.command:
        taken |= frozenset(session.name for session in sessions)
        sessions.append(build_command_session(flags.command, taken, cwd, policy))
    host, port, directory = file.host, file.port, file.multiproc_dir
    if flags.host is not None:
        host = parse_text(flags.host, "--host")
    if flags.port is not None:
        port = parse_port(flags.port, "--port")
    if flags.multiproc_dir is not None:
        directory = Path(parse_text(flags.multiproc_dir, "--multiproc-dir"))
    found = {"host": host, "port": port, "multiproc_dir": directory}
    return Config(
        host=host or DEFAULT_HOST,
        port=port or fallback.port,
        multiproc_dir=cwd / (directory or fallback.multiproc_dir),
        given=frozenset(name for name, value in found.items() if value is not None),
        sessions=tuple(sessions),
        planned=frozenset(session.name for session in file.sessions),
    )


def check_unique(sessions: Sequence[SessionSpec]) -> None:
    """Refuse two sessions of one name (case aside: a file system may fold it)."""
    seen: set[str] = set()
    for session in sessions:
        if session.name.lower() in seen:
            raise UsageError(
                f"two sessions are named {session.name!r}", "names are unique, upper case aside"
            )
        seen.add(session.name.lower())


def parse_session_document(document: object) -> SessionSpec:
    """Read back what `SessionSpec.to_document` wrote; raises UsageError."""
    if not isinstance(document, dict):
        raise UsageError("a session is not a JSON object")
    name = parse_session_name(document.get("name"), "session")
    where = f"session {name}"
    cwd = document.get("cwd")
    if not isinstance(cwd, str) or not cwd.startswith("/") or "\0" in cwd:
        raise UsageError(f"{where}: the working directory is not absolute")
    default = Policy()
    timeout = document.get("stop_timeout_seconds", default.stop_timeout_seconds)
    policy = Policy(
        restart=parse_restart(document.get("restart", default.restart), where),
        stop_timeout_seconds=parse_seconds(timeout, where),
    )
    return SessionSpec(
        name=name,
        command=parse_command(document.get("command"), where),
        cwd=Path(cwd),
        env=parse_env(document.get("env", {}), where),
        policy=policy,
    )
