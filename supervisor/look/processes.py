"""Looks at processes: whose they are, and what the living ones of the sessions really do.

What a process is is read once for each, what it has in its environment now and then; its files
only when a shard of it has vanished.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Final, TypeAlias

from supervisor import kernel
from supervisor.drift.facts import Environment, Foreigner, Unlinked
from supervisor.observe import find_ancestors, read_command, read_nonce
from telemetry.holders import render_command
from telemetry.masking import mask_secrets
from telemetry.processes import find_variables, holds, read_environ
from telemetry.shards import RETIRED, parse_shard_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from supervisor.drift.facts import SessionPlan
    from telemetry.shards import Shard

# A command such as `env -u NAME python …` or a script becomes another program with another
# environment, so a new incarnation is looked at so often; and everybody at every twentieth look,
# for an environment is fixed only until the next exec, and a worker may come at any time.
_ENVIRONMENT_LOOKS: Final = 3
ENVIRONMENT_LOOKS_APART: Final = 20


Key: TypeAlias = "tuple[str, int]"  # a session's name, and one incarnation of it


@dataclass(frozen=True, slots=True)
class Member:
    """The leader of a living session."""

    name: str
    incarnation: int
    pid: int
    nonce: str
    started_at: float
    adopted: bool

    @property
    def key(self) -> Key:
        """What tells this incarnation from every other."""
        return self.name, self.incarnation


@dataclass(frozen=True, slots=True)
class Crew:
    """All that is ours at one moment; `children` are all our children, zombies too."""

    members: tuple[Member, ...] = ()
    children: frozenset[int] = frozenset()

    @property
    def leaders(self) -> dict[int, str]:
        """The sessions' names by their leaders' pids."""
        return {member.pid: member.name for member in self.members}


@dataclass(frozen=True, slots=True)
class WritersLook:
    """Whose the shards are: by session, of strangers, and of pids nobody living has.

    `all_own` says that each is of a child of ours, whose death we are told of.
    """

    by_session: Mapping[str, tuple[Shard, ...]] = field(default_factory=dict)
    foreigners: tuple[Foreigner, ...] = ()
    dead: frozenset[int] = frozenset()
    sessions: Mapping[int, str] = field(default_factory=dict)  # by pid
    all_own: bool = False


@dataclass(slots=True)
class Owners:
    """Tells whose a process is, and remembers it as long as that process lives."""

    _known: dict[int, tuple[str, str | None]] = field(default_factory=dict)

    def find(self, pid: int, identity: str, crew: Crew) -> str | None:
        """Find the session a living process belongs to; None when it is of none of ours.

        By what it was spawned with, by its group, or because it descends from one.
        """
        known = self._known.get(pid)
        if known is None or known[0] != identity:
            known = identity, _find_session(pid, crew)
            self._known[pid] = known
        return known[1]

    def forget(self, living: Collection[int]) -> None:
        """Forget all but these."""
        self._known = {pid: known for pid, known in self._known.items() if pid in living}


def _find_session(pid: int, crew: Crew) -> str | None:
    leaders = crew.leaders
    nonces = {member.nonce: member.name for member in crew.members if member.nonce}
    if (name := leaders.get(pid) or nonces.get(read_nonce(pid))) is not None:
        return name
    try:
        group, session = os.getpgid(pid), os.getsid(pid)
    except OSError:
        group = session = 0
    ancestry = (group, session, *find_ancestors(pid))
    return next((leaders[each] for each in ancestry if each in leaders), None)


@dataclass(slots=True)
class ProcessLooker:
    """Looks at whoever writes shards into one directory, and at the sessions' processes."""

    directory: Path
    _owners: Owners = field(default_factory=Owners)
    _former: Mapping[str, Shard] = field(default_factory=dict)
    _writers: dict[int, str] = field(default_factory=dict)  # the sessions of who had shards
    _suspects: dict[int, str] = field(default_factory=dict)  # who may write where nobody reads
    _rounds: int = 0
    # How often each incarnation was looked at for its environment, what was seen, and who is due.
    _looks: dict[Key, int] = field(default_factory=dict)
    _environments: dict[Key, tuple[Environment, ...]] = field(default_factory=dict)
    _hashes: dict[Key, int] = field(default_factory=dict)  # of all that these were found in
    _due: Sequence[Member] = ()
    _members: Sequence[Member] = ()
    _planned: Mapping[str, SessionPlan] = field(default_factory=dict)

    def look_at_writers(self, shards: Mapping[str, Shard], crew: Crew) -> WritersLook:
        """Find whose the shards are."""
        by_pid: defaultdict[int, list[Shard]] = defaultdict(list)
        for shard in shards.values():
            by_pid[shard.pid].append(shard)
        leaders = crew.leaders
        by_session: defaultdict[str, list[Shard]] = defaultdict(list)
        sessions: dict[int, str] = {}
        foreigners, dead = [], set()
        for pid, found in by_pid.items():
            name = leaders.get(pid)
            if name is None:
                identity = kernel.read_identity(pid)
                if identity is None:
                    dead.add(pid)
                    continue
                name = self._owners.find(pid, identity, crew)
            if name is not None:
                sessions[pid] = name
                by_session[name] += found
            elif pid in crew.children:
                continue  # of a session that has ended: it will be ended, too
            elif any(holds(pid, s.inode, s.device) is not False for s in found):
                names = tuple(shard.path.name for shard in found)
                foreigners.append(Foreigner(pid, show_command(pid), names))
            else:
                dead.add(pid)  # the pid was given to somebody else
        self._owners.forget(by_pid.keys())
        return WritersLook(
            {name: tuple(found) for name, found in by_session.items()},
            tuple(foreigners),
            frozenset(dead - crew.children),
            sessions,
            all_own=by_pid.keys() <= crew.children,
        )

    def look_for_unlinked(
        self, shards: Mapping[str, Shard], writers: WritersLook, crew: Crew
    ) -> dict[str, tuple[Unlinked, ...]]:
        """Find who of the sessions writes into files that were removed or moved away.

        Looked for only where a shard has vanished, and in whom we know nothing of yet.
        """
        for name, former in self._former.items():
            present = shards.get(name)
            if present is None or present.inode != former.inode:
                self._suspect(former.pid)
        for member in crew.members:
            if member.adopted and member.key not in self._looks:
                self._suspects[member.pid] = member.name
        self._former, self._writers = shards, dict(writers.sessions)
        found: dict[str, tuple[Unlinked, ...]] = {}
        for pid, session in list(self._suspects.items()):
            lost = self._find_lost(pid)
            if lost:
                found[session] = (*found.get(session, ()), Unlinked(pid, lost))
            else:
                del self._suspects[pid]
        return found

    def _suspect(self, pid: int) -> None:
        session = self._writers.get(pid)
        if session is not None:
            self._suspects[pid] = session

    def _find_lost(self, pid: int) -> tuple[str, ...]:
        """Name the shards that a process has open and that do not lie where they should."""
        if kernel.read_identity(pid) is None:
            return ()
        lost = set()
        for text, inode in kernel.list_open_files(pid):
            path = PurePath(text)
            parsed = parse_shard_name(path.name)
            if parsed is None or parsed[2] != pid:
                continue
            # One that is just being claimed by mistake comes back by itself.
            places = [self.directory / path.name]
            if RETIRED in path.parts:
                places.append(Path(text))
            if inode not in map(_find_inode, places):
                lost.add(path.name)
        return tuple(sorted(lost))

    def look_at_environments(
        self, crew: Crew, planned: Mapping[str, SessionPlan]
    ) -> dict[str, tuple[Environment, ...]]:
        """Read what the sessions' processes have of the planned variables.

        Of new ones; of those that were found wrong, for as long as they are there; and of all now
        and then.
        """
        self._rounds += 1
        if crew.members is not self._members or planned is not self._planned:
            self._members, self._planned = crew.members, planned
            keys = {member.key for member in crew.members}
            self._looks = {key: count for key, count in self._looks.items() if key in keys}
            self._environments = {k: v for k, v in self._environments.items() if k in keys}
            self._hashes = {}  # what is planned may be called otherwise now
            self._due = self._find_due(crew.members)
        everybody = self._rounds % ENVIRONMENT_LOOKS_APART == 0
        if due := crew.members if everybody else self._due:
            self._read_environments(due)
            self._due = self._find_due(due)
        return {name: found for (name, _), found in self._environments.items()}

    def _find_due(self, members: Iterable[Member]) -> list[Member]:
        return [
            member
            for member in members
            if self._looks.get(member.key, 0) < _ENVIRONMENT_LOOKS or self._is_wrong(member)
        ]

    def _is_wrong(self, member: Member) -> bool:
        wanted = self._find_variables(member)
        return any(found.variables != wanted for found in self._environments.get(member.key, ()))

    def _find_variables(self, member: Member) -> Mapping[str, str | None]:
        plan = self._planned.get(member.name)
        return {} if plan is None else plan.variables

    def _read_environments(self, members: Sequence[Member]) -> None:
        leaders = {member.pid for member in members}
        others = kernel.find_members(leaders, known=leaders)
        for member in members:
            key = member.key
            self._looks[key] = self._looks.get(key, 0) + 1
            pids = (member.pid, *sorted(others.get(member.pid, ())))
            environs = tuple((pid, read_environ(pid)) for pid in pids)
            if self._hashes.get(key) != (seen := hash(environs)):
                self._hashes[key] = seen
                self._environments[key] = self._find_environments(member, environs)

    def _find_environments(
        self, member: Member, environs: Iterable[tuple[int, bytes]]
    ) -> tuple[Environment, ...]:
        names = self._find_variables(member)
        seen = ((pid, find_variables(environ, names)) for pid, environ in environs)
        return tuple(
            Environment(pid, pid == member.pid, found) for pid, found in seen if found is not None
        )


def list_session_pids(crew: Crew) -> dict[int, str]:
    """List every process of the sessions, as far as it did not hide: their names by pid."""
    leaders = crew.leaders
    found = dict(leaders)
    for leader, pids in kernel.find_offspring(leaders).items():
        found.update(dict.fromkeys(pids, leaders[leader]))
    owners = Owners()
    for pid in crew.children - found.keys():
        identity = kernel.read_identity(pid)
        if identity is not None and (name := owners.find(pid, identity, crew)) is not None:
            found[pid] = name
    return found


def show_command(pid: int) -> str:
    """Read a process's command as it may be shown: in one line, without its secrets."""
    return render_command(mask_secrets(read_command(pid)))


def _find_inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None
