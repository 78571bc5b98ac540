"""Looks at each session: its real environment, shards, ports and values, and its interpreter.

It only looks. Who was started by hand is known by its environment, and by where it works.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from supervisor import kernel, observe
from supervisor.doctor.facts import SessionFacts
from supervisor.doctor.interpreter import ask_python, find_python
from supervisor.environ import SPAWN_VARIABLE
from supervisor.look.values import read_mark
from telemetry.masking import mask_secrets
from telemetry.mode import (
    LIBRARY_DIR_VARIABLE,
    MODE_VARIABLE,
    MULTIPROC_DIR_VARIABLE,
    parse_session_dir,
)
from telemetry.processes import read_environment
from telemetry.shards import ShardError, list_shards, parse_shard_name, read_shard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from telemetry.shards import Shard

_VARIABLES: Final = (MODE_VARIABLE, MULTIPROC_DIR_VARIABLE, LIBRARY_DIR_VARIABLE)
# Between two readings of the values; a session that counts at all has often counted by then.
_MOVE_SECONDS: Final = 0.5
_REJECTED: Final = "telemetry cannot count "


@dataclass(frozen=True, slots=True)
class Place:
    """Where metricsd reads, and on which port: what sessions are held against."""

    directory: Path
    port: int


def list_by_hand(cwd: Path, metricsd: int | None) -> list[int]:
    """List the sessions that were started by hand below a directory: Python, with our variables.

    Neither who has a supervisor, nor metricsd, nor whoever runs the doctor; of a family the eldest.
    """
    spared = {os.getpid(), *observe.find_ancestors(os.getpid())}
    found = []
    for pid in observe.list_own_pids():
        if pid in spared or pid == metricsd:
            continue
        environ = read_environment(pid)
        if SPAWN_VARIABLE in environ or not any(environ.get(name) for name in _VARIABLES):
            continue
        executable, where = observe.read_place(pid)
        if "python" in Path(executable).name and _is_below(where, cwd) and not is_metricsd(pid):
            found.append(pid)
    return [pid for pid in found if not set(observe.find_ancestors(pid)) & set(found)]


def is_metricsd(pid: int) -> bool:
    """Tell a metricsd, ours or the runbook's, by its command."""
    return any("metricsd" in Path(word).name for word in observe.read_command(pid)[:6])


def look_at_session(
    pid: int, place: Place, told: Mapping[str, Any], output: Iterable[str] = ()
) -> SessionFacts:
    """Look at one living session; `told` are the facts its supervisor says."""
    environ = read_environment(pid)
    words = observe.read_command(pid)
    executable, cwd = observe.read_place(pid)
    python = find_python(words, executable, cwd, environ.get("PATH", ""))
    shards = [shard for shard in list_shards(place.directory) if shard.pid == pid]
    elsewhere, unlinked = _find_open_shards(pid, place.directory)
    facts = SessionFacts(
        pid=pid,
        up_seconds=observe.read_age_seconds(pid),
        words=tuple(mask_secrets(words)),
        cwd=cwd,
        python=python,
        shards=len(shards),
        elsewhere=elsewhere,
        unlinked=unlinked,
        ports=_find_ports(pid),
        counted=_has_counted(shards),
        rejected=_find_rejected(output),
        **{"name": "", **told},
    )
    if not environ:
        return facts
    where = Path(os.path.normpath(Path(cwd) / parse_session_dir(environ)))
    return replace(
        facts,
        variables={name: environ[name] for name in _VARIABLES if name in environ},
        directory=str(where),
        same_directory=_is_same(where, place.directory),
        library=ask_python(python, words, environ, cwd) if python else facts.library,
    )


def measure(sessions: Iterable[SessionFacts], directory: Path) -> tuple[SessionFacts, ...]:
    """Look twice whether the values of each session move; who does is not stale any more."""
    sessions = tuple(sessions)
    shards: defaultdict[int, list[Shard]] = defaultdict(list)
    for shard in list_shards(directory):
        shards[shard.pid].append(shard)
    before = {s.pid: read_mark(shards[s.pid]) for s in sessions if s.pid and s.shards}
    if before:
        time.sleep(_MOVE_SECONDS)
    return tuple(
        replace(session, unmoved=True)
        if session.pid in before and read_mark(shards[session.pid]) == before[session.pid]
        else replace(session, stale="")
        for session in sessions
    )


def _find_open_shards(pid: int, directory: Path) -> tuple[tuple[str, ...], bool]:
    """Find in which other directories a process writes shards, and whether some were removed."""
    elsewhere, unlinked = set(), False
    for text, inode in kernel.list_open_files(pid):
        path = Path(text)
        if parse_shard_name(path.name) is None:
            continue
        if not _is_file(path, inode):
            unlinked = True
        elif not _is_same(path.parent, directory):
            elsewhere.add(str(path.parent))
    return tuple(sorted(elsewhere)), unlinked


def _is_file(path: Path, inode: int) -> bool:
    try:
        return path.stat().st_ino == inode
    except OSError:
        return False


def _find_ports(pid: int) -> tuple[int, ...]:
    listening = kernel.list_listening()
    held = kernel.find_socket_holders(listening, [pid])
    return tuple(sorted({listening[socket][1] for socket in held}))


def _has_counted(shards: Iterable[Shard]) -> bool:
    for shard in shards:
        if shard.kind != "counter":
            continue
        try:
            entries, _ = read_shard(shard.path)
        except (OSError, ShardError):
            continue
        if any(value > 0 for _, value, _ in entries):
            return True
    return False


def _find_rejected(output: Iterable[str]) -> tuple[str, ...]:
    """Find what a session's output says of updates that were dropped."""
    found = [line[line.index(_REJECTED) :] for line in output if _REJECTED in line]
    return tuple(line[:200] for line in found)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def _is_below(where: str, cwd: Path) -> bool:
    return bool(where) and Path(os.path.realpath(where)).is_relative_to(os.path.realpath(cwd))
