"""The command line and the file become one Config: flag, then TOML, then environment, then default.

Pure: it reads no file, no environment and no clock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from supervisor.config import (
    DEFAULT_AUDIT_INTERVAL_SECONDS,
    DEFAULT_HOST,
    DEFAULT_MISSING_SHARD_SECONDS,
    DEFAULT_STALE_VALUES_SECONDS,
    RESERVED_NAMES,
    SESSION_NAME,
    Config,
    Policy,
    SessionSpec,
)
from supervisor.config.values import (
    check_ports,
    check_unique,
    parse_command,
    parse_port,
    parse_restart,
    parse_session_name,
    parse_text,
    show,
)
from supervisor.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.config.toml import FileConfig


def parse_session_flag(text: str, cwd: Path, policy: Policy) -> SessionSpec:
    """Read one `-s NAME=COMMAND`."""
    name, separator, command = text.partition("=")
    if not separator:
        raise UsageError(
            f"-s {show(text)}: not of the form NAME=COMMAND",
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
    sessions += [
        replace(parse_session_flag(text, cwd, policy), log=file.log) for text in flags.sessions
    ]
    check_unique([*file.exporters, *sessions])
    if flags.command:
        taken |= frozenset(spec.name for spec in (*file.exporters, *sessions))
        spec = build_command_session(flags.command, taken, cwd, policy)
        sessions.append(replace(spec, log=file.log))
    host, port, directory = file.host, file.port, file.multiproc_dir
    if flags.host is not None:
        host = parse_text(flags.host, "--host")
    if flags.port is not None:
        port = parse_port(flags.port, "--port")
    if flags.multiproc_dir is not None:
        directory = Path(parse_text(flags.multiproc_dir, "--multiproc-dir"))
    found = {"host": host, "port": port, "multiproc_dir": directory}
    flagged = {name for name in found if getattr(flags, name) is not None}
    config = Config(
        host=host or DEFAULT_HOST,
        port=port or fallback.port,
        multiproc_dir=cwd / (directory or fallback.multiproc_dir),
        given=file.given.union(name for name, value in found.items() if value is not None),
        flagged=frozenset(flagged),
        file=file.path,
        sessions=tuple(sessions),
    )
    config = take_settings(config, file)
    check_ports(config.members, (), config.port, file.places)
    return config


def take_settings(config: Config, file: FileConfig) -> Config:
    """Go by all that a file says besides sessions and places; where it is silent, the default."""
    return replace(
        config.deny(file.denied),
        file_marks=file.marks,
        exporters=file.exporters,
        allow_labels=file.allow_labels,
        audit_interval_seconds=file.audit_interval_seconds or DEFAULT_AUDIT_INTERVAL_SECONDS,
        missing_shard_seconds=file.missing_shard_seconds or DEFAULT_MISSING_SHARD_SECONDS,
        stale_values_seconds=file.stale_values_seconds or DEFAULT_STALE_VALUES_SECONDS,
        log=file.log,
    )
