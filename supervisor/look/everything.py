"""One look at everything that can drift: the lookers together, each asked for what is due.

For one thread at a time. What the supervisor knows by itself is not looked for here.
"""

from __future__ import annotations

import errno
import stat
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from supervisor.config.toml import find_mark
from supervisor.look.directory import DirectoryLook, DirectoryLooker
from supervisor.look.processes import Crew, Key, ProcessLooker, WritersLook
from supervisor.look.sockets import SocketLooker
from supervisor.look.values import ValueLooker

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from supervisor.drift.facts import Environment, Listening, SessionPlan, Unlinked

# Values are read so often while "for long" lasts, and at most once a minute.
_VALUE_LOOKS: Final = 10
_VALUES_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Look:
    """What was found, and for whom it was looked."""

    crew: Crew = field(default_factory=Crew)
    directory: DirectoryLook = field(default_factory=DirectoryLook)
    writers: WritersLook = field(default_factory=WritersLook)
    unlinked: Mapping[str, tuple[Unlinked, ...]] = field(default_factory=dict)
    environments: Mapping[str, tuple[Environment, ...]] = field(default_factory=dict)
    listening: tuple[Listening, ...] = ()
    unmoved: Mapping[str, float] = field(default_factory=dict)
    # Who has ever shown a shard, by session and incarnation.
    shown: frozenset[Key] = frozenset()
    config_changes: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Looker:
    """Looks again and again at one stack."""

    directory: Path
    port: int
    stale_values_seconds: float
    _last: Look = field(default_factory=Look)
    _directory: DirectoryLooker = field(init=False)
    _processes: ProcessLooker = field(init=False)
    _sockets: SocketLooker = field(init=False)
    _values: ValueLooker = field(default_factory=ValueLooker)

    def __post_init__(self) -> None:
        """Make the lookers."""
        self._directory = DirectoryLooker(self.directory)
        self._processes = ProcessLooker(self.directory)
        self._sockets = SocketLooker(self.port)

    def look_at_files(
        self, crew: Crew, touched: Collection[str], config_files: Collection[ConfigFile]
    ) -> Look:
        """Look at what raises file events: the directory, and the files of the configuration."""
        directory = self._directory.look(touched)
        writers = self._processes.look_at_writers(directory.shards, crew)
        shown = {
            member.key
            for member in crew.members
            if member.key in self._last.shown or member.name in writers.by_session
        }
        self._last = replace(
            self._last,
            crew=crew,
            directory=directory,
            writers=writers,
            unlinked=self._processes.look_for_unlinked(directory.shards, writers, crew),
            shown=frozenset(shown),
            config_changes=find_config_changes(config_files),
        )
        return self._last

    def look_at_all(
        self,
        crew: Crew,
        touched: Collection[str],
        config_files: Collection[ConfigFile],
        planned: Mapping[str, SessionPlan],
        now: float,
    ) -> Look:
        """Look at everything; `now` is monotonic."""
        seen = self.look_at_files(crew, touched, config_files)
        every = min(self.stale_values_seconds / _VALUE_LOOKS, _VALUES_SECONDS)
        self._last = replace(
            seen,
            environments=self._processes.look_at_environments(crew, planned),
            listening=self._sockets.look(crew),
            unmoved=self._values.look(seen.writers.by_session, crew, now, every),
        )
        return self._last


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file of the configuration, and the mark of what was read from it."""

    path: Path
    mark: int


def find_config_changes(files: Collection[ConfigFile]) -> dict[str, str]:
    """Say how files differ from what was read from them, by path.

    Raises OSError where nothing can be opened.
    """
    changes = {str(file.path): _find_change(file) for file in files}
    return {path: change for path, change in changes.items() if change}


def _find_change(file: ConfigFile) -> str:
    try:
        if not stat.S_ISREG(file.path.stat().st_mode):  # a FIFO would hold us up
            return "it is no regular file any more"
        data = file.path.read_bytes()
    except OSError as error:
        if error.errno in {errno.EMFILE, errno.ENFILE}:
            raise
        return f"it cannot be read: {error.strerror}"
    return "" if find_mark(data) == file.mark else "it was changed since"
