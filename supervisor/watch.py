"""Watches paths for file events: the only watchfiles import. It never polls a directory.

The kernel's events are gathered by a thread of watchfiles' own, which sleeps while there are
none; whoever is awake anyway takes them from it.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from watchfiles._rust_notify import RustNotify

log = logging.getLogger("ptsup")

# watchfiles waits for events to calm down unless it is told that it has waited long enough.
_DEBOUNCE_MS: Final = 1


def _give_up() -> SimpleNamespace:
    """Make a "stop event" that is never set, but ends the wait for more at the third question.

    watch() looks at the events between two questions; raising leaves them where they are. So
    this takes what there is and waits for nothing, where even its shortest wait would sleep.
    """
    return SimpleNamespace(is_set=iter((False, False)).__next__)  # then it raises StopIteration


@dataclass(slots=True)
class Watch:
    """Watches these paths, each directory without what lies deeper.

    A path that is not there (yet, or any more) is watched from when it is.
    """

    paths: tuple[Path, ...]
    _notify: RustNotify | None = None
    _watched: dict[Path, tuple[int, int]] = field(default_factory=dict)
    _failed: str = ""

    def take(self) -> frozenset[str] | None:
        """Take what has been touched since the last time, by path; None when that is unknown."""
        touched = self._drain()
        # What is watched is a file and not its name: one that was replaced is to be found anew,
        # though it may have the inode of the former one.
        gone = touched is None or (touched and any(str(path) in touched for path in self._watched))
        if gone or (len(self._watched) < len(self.paths) and self._find() != self._watched):
            self._arm()
            return None
        return touched

    def _drain(self) -> frozenset[str] | None:
        if self._notify is None:
            return None
        try:
            # The step of 0 ms: not even the smallest sleep.
            changes = self._notify.watch(_DEBOUNCE_MS, 0, 0, _give_up())
        except StopIteration:
            return frozenset()
        if isinstance(changes, str):  # a signal came in between
            return None
        return frozenset(path for _, path in changes)

    def _find(self) -> dict[Path, tuple[int, int]]:
        return {path: mark for path in self.paths if (mark := _find_mark(path)) is not None}

    def _arm(self) -> None:
        """Watch what is there now."""
        # Imported here: it takes a while, and `ptsup start` has answered by now.
        from watchfiles._rust_notify import RustNotify  # noqa: PLC0415

        self.close()
        self._watched = self._find()
        paths = [str(path) for path in self._watched]
        try:
            self._notify = RustNotify(paths, False, False, 0, False, True)  # noqa: FBT003  its own way
        except UnicodeError:
            self._complain("not every path is UTF-8")
        except (OSError, RuntimeError) as error:
            self._complain(str(error))
        else:
            self._complain("")

    def _complain(self, reason: str) -> None:
        if reason and reason != self._failed:
            log.warning("cannot watch for file events, the audit looks in its turn: %s", reason)
        self._failed = reason

    def close(self) -> None:
        """Watch no more."""
        if self._notify is not None:
            self._notify.close()
            self._notify = None


def _find_mark(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - half the time, once a second
    except OSError:
        return None
    return found.st_dev, found.st_ino
