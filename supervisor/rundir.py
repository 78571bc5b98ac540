"""The run directory: its lock, the journal, logs and the socket paths.

The lock is a flock on the directory itself, so there is no lock file to go stale. The journal
is only appended to, each line begun by its newline: a torn one spoils no other.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from supervisor.config import METRICSD, SUPERVISOR
from supervisor.copies import is_copy
from supervisor.errors import PtsupError, UsageError
from supervisor.logs import open_log
from supervisor.records import parse_journal, parse_record
from telemetry.directories import create_private, find_exposure, lock_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# sockaddr_un.sun_path less its final NUL: 108 on Linux, 104 on macOS.
_SOCKET_PATH_LIMIT: Final = 103
_SOCKET_NAME: Final = "control.sock"
_HANDBACK_NAME: Final = "handback.sock"
_METRICS_NAME: Final = "metrics.prom"
_LOCK_SUFFIX: Final = ".lock"
_JOURNAL_SUFFIX: Final = ".jsonl"
_STATE_SUFFIXES: Final = frozenset({".json", _JOURNAL_SUFFIX, _LOCK_SUFFIX})
# The journal is written anew, as short as it can be, when it is longer than it then was and this.
_JOURNAL_GROWS_BYTES: Final = 1 << 22


@dataclass(slots=True)
class RunDir:
    """An absolute path and, once taken, the lock on it."""

    path: Path
    logs: Path = field(init=False)  # the directory of the log files
    states: Path = field(init=False)  # that of the journal and our own record
    _lock: int | None = None
    _journal: int | None = None  # while it is held open
    _journal_limit: int = _JOURNAL_GROWS_BYTES
    _journal_mark: tuple[int, int, int] = (0, 0, 0)
    _journal_read: dict[str, dict[str, Any]] = field(default_factory=dict)
    _logs: dict[str, Path] = field(default_factory=dict)  # a Path takes longer to make than to find

    def __post_init__(self) -> None:
        """Name what is in it."""
        self.logs, self.states = self.path / "logs", self.path / "state"

    # -- Making and locking -----------------------------------------------------------------

    def create(self) -> None:
        """Make the directory, private to this user; raises UsageError.

        One that is there already has to be ours or empty: we remove files by name in it.
        """
        try:
            foreign = self._find_foreign()
            if foreign is not None:
                raise UsageError(
                    f"cannot use the run directory {self.path}: {foreign} in it is not ptsup's",
                    "give it a directory of its own with --run-dir or PTSUP_RUN_DIR",
                )
            for directory in (self.path, self.logs, self.states):
                exposure = find_exposure(directory)
                if exposure is not None:
                    raise UsageError(
                        f"cannot use the run directory {self.path}: {directory}: {exposure}",
                        "give it a directory of your own with --run-dir or PTSUP_RUN_DIR",
                    )
                create_private(directory)
                # Ours by what is in it, so it may be made so by its mode as well.
                if directory.stat().st_mode & 0o077:
                    directory.chmod(0o700)
        except OSError as error:
            raise UsageError(
                f"cannot use the run directory {self.path}: {error.strerror}",
                "choose another with --run-dir or PTSUP_RUN_DIR",
            ) from None

    def _find_foreign(self) -> str | None:
        """Find something in the directory that no ptsup ever puts there."""
        if not self.path.exists():
            return None
        for path in sorted(self.path.iterdir()):
            ours = {self.logs.name, self.states.name, _SOCKET_NAME, _HANDBACK_NAME, _METRICS_NAME}
            if path.name not in ours and path != _find_beside(self.metrics):
                return path.name
        for directory, kinds in ((self.logs, {".log"}), (self.states, _STATE_SUFFIXES)):
            for path in sorted(directory.glob("*")):
                copied = directory == self.logs and is_copy(path.name)
                if path.suffix not in kinds and not copied and not _is_unfinished(path):
                    return f"{directory.name}/{path.name}"
        return None

    def lock(self) -> bool:
        """Take the lock for as long as this process lives; False when somebody has it."""
        if self._lock is None and self.path.is_dir():
            self._lock = lock_directory(self.path)
            return self._lock is not None
        return True  # ours already, or nobody can hold what is not there

    def unlock(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # -- Places -----------------------------------------------------------------------------

    def log(self, name: str) -> Path:
        """The log of one process."""
        if name not in self._logs:
            self._logs[name] = self.logs / f"{name}.log"
        return self._logs[name]

    def open_log(self, name: str) -> int:
        """Open it for appending, give back the descriptor; raises OSError."""
        return open_log(f"{self.logs}/{name}.log")  # a Path takes as long to make as a file

    @property
    def journal(self) -> Path:
        """What is known of metricsd, the sessions and exporters."""
        return self.states / f"journal{_JOURNAL_SUFFIX}"

    @property
    def metrics(self) -> Path:
        """The supervisor's part of the page, for metricsd to read."""
        return self.path / _METRICS_NAME

    @property
    def socket(self) -> Path:
        """The control socket: inside, or where a path is short enough for the OS."""
        return self._place_socket(_SOCKET_NAME)

    @property
    def handback(self) -> Path:
        """The socket on which metricsd gives the listening socket back; it lies likewise."""
        return self._place_socket(_HANDBACK_NAME)

    def _place_socket(self, name: str) -> Path:
        inside = self.path / name
        if len(os.fsencode(inside)) <= _SOCKET_PATH_LIMIT:
            return inside
        import hashlib  # noqa: PLC0415 - seldom needed, and slow to import

        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        kind = "" if name == _SOCKET_NAME else f"-{name.partition('.')[0]}"
        return _short_directory() / f"{digest}{kind}.sock"

    def create_socket_directory(self) -> None:
        """Make the short directory if a socket needs it; refuse one that is not ours."""
        if self.socket.parent == self.handback.parent == self.path:
            return
        directory = _short_directory()
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
        private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        if not private or stat.S_IMODE(found.st_mode) & 0o077:
            raise PtsupError(
                f"cannot use {directory} for the control socket: not a private directory of ours",
                "remove it, or choose a shorter --run-dir",
            )

    # -- State ------------------------------------------------------------------------------

    def write_own(self, document: dict[str, Any]) -> None:
        """Replace the state of the supervisor itself; raises OSError."""
        self._replace(self._own, json.dumps(document))

    def read_own(self) -> dict[str, Any]:
        """Read what the last supervisor wrote of itself; empty when there is no such state."""
        try:
            if self._own.is_file():  # a FIFO would hold us up
                return parse_record(json.loads(self._own.read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError, RecursionError):
            pass
        return {}

    @property
    def _own(self) -> Path:
        return self.states / f"{SUPERVISOR}.json"

    @contextlib.contextmanager
    def hold_journal(self) -> Iterator[None]:
        """Have the journal open for many writes, where it can be: else each opens it."""
        with contextlib.suppress(OSError):
            self._journal = self._open_journal()
        try:
            yield
        finally:
            if self._journal is not None:
                os.close(self._journal)
                self._journal = None

    def append_journal(self, changes: Sequence[Mapping[str, Any]]) -> None:
        """Write down what is otherwise of some processes, each with its name; raises OSError.

        All of it is one line, and all is there or nothing.
        """
        line = f"\n{json.dumps(changes)}".encode()
        if self._journal is not None:
            _write(self._journal, line)
            return
        descriptor = self._open_journal()
        try:
            _write(descriptor, line)
            long = os.fstat(descriptor).st_size > self._journal_limit
        finally:
            os.close(descriptor)
        if long:
            self.shorten_journal()

    def _open_journal(self) -> int:
        self._check_ours()
        return os.open(self.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def shorten_journal(self) -> None:
        """Write the journal anew, with what is known of each process by now; raises OSError."""
        text = f"\n{json.dumps(list(self._read_journal().values()))}"
        self._replace(self.journal, text)
        self._journal_limit = len(text) + _JOURNAL_GROWS_BYTES

    def _read_journal(self) -> dict[str, dict[str, Any]]:
        """Read it; a start asks twice of one that nobody writes, and a long one takes long."""
        try:
            found = self.journal.stat()
            if not stat.S_ISREG(found.st_mode):
                return {}
            mark = found.st_ino, found.st_size, found.st_mtime_ns
            if mark != self._journal_mark:
                text = self.journal.read_text(encoding="utf-8", errors="replace")
                self._journal_mark, self._journal_read = mark, parse_journal(text)
        except OSError:
            return {}
        return dict(self._journal_read)

    def write_metrics(self, text: str) -> None:
        """Replace the supervisor's part of the page; raises OSError."""
        self._replace(self.metrics, text)

    def _replace(self, path: Path, text: str) -> None:
        self._check_ours()
        beside = _find_beside(path)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        beside.replace(path)

    def _check_ours(self) -> None:
        if not self._is_ours():
            raise FileNotFoundError(errno.ENOENT, "the run directory was removed", str(self.path))

    def _is_ours(self) -> bool:
        """Whether the path still leads to the directory we locked, and not to another's."""
        if self._lock is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._lock), self.path.stat())
        except FileNotFoundError:
            return False

    def list_sessions(self) -> list[str]:
        """List the names of the sessions there is a state of."""
        return sorted(self._read_journal().keys() - {METRICSD})

    def read_states(self) -> dict[str, dict[str, Any]]:
        """Read what the last supervisor knew, by name: itself, then in the order of adding.

        What cannot be read counts as nothing.
        """
        own = self.read_own()
        return {SUPERVISOR: own, **self._read_journal()} if own else self._read_journal()

    def clean(self) -> None:
        """Leave nothing that says somebody runs here; the logs stay. Raises PtsupError.

        A directory that took the place of ours meanwhile is another's, and left alone.
        """
        if not self._is_ours():
            return
        try:
            for path in self.states.glob("*"):
                if path.suffix in _STATE_SUFFIXES or _is_unfinished(path):
                    path.unlink(missing_ok=True)
            beside = _find_beside(self.metrics)
            for path in (self.metrics, beside, self.socket, self.handback):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise PtsupError(
                f"cannot clean {self.path}: {error.filename}: {error.strerror}",
                "remove it by hand, then try again",
            ) from None
        # Something that is not ours may lie in these, or they were never made.
        with contextlib.suppress(OSError):
            self.states.rmdir()
        if self.handback.parent != self.path:  # the longer of the two names
            with contextlib.suppress(OSError):
                self.handback.parent.rmdir()


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _find_beside(path: Path) -> Path:
    """Where a file is written before it takes its name."""
    return path.with_name(f".{path.stem}.tmp")


def _is_unfinished(path: Path) -> bool:
    """Whether this is a state file that was not renamed any more."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _short_directory() -> Path:
    return Path("/tmp") / f"ptsup-{os.getuid()}"  # noqa: S108 - checked to be ours alone
