"""Watches paths for file events: the only watchfiles import. It never polls a directory.

The kernel's events are gathered by a thread of watchfiles' own, which sleeps while there are
none; whoever is awake anyway takes them from it. To ask it takes longer than all else at such a
moment, so where the kernel can tell whether anything has changed, nobody is asked before.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

from supervisor import kernel
from supervisor.trouble import Trouble

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from watchfiles._rust_notify import RustNotify

# watchfiles waits for events to calm down unless it is told that it has waited long enough.
_DEBOUNCE_MS: Final = 1
# It is told of a change as soon as we are, but may take a moment to take it down.
_ASK_SECONDS: Final = 1.5


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
    _changes: kernel.ChangeWatch | None = None  # None: not to be had
    _asking: bool = False  # until an answer that had its time
    _ask_until: float = 0.0
    _resting_in: asyncio.AbstractEventLoop | None = None
    _watched: dict[Path, tuple[int, int]] = field(default_factory=dict)
    _trouble: Trouble = field(
        default_factory=lambda: Trouble("cannot watch for file events, the audit looks in its turn")
    )

    def take(self) -> frozenset[str] | None:
        """Take what has been touched since the last time, by path; None when that is unknown."""
        if not self._has_changed():
            return frozenset()
        touched = self._drain()
        # What is watched is a file and not its name: one that was replaced is to be found anew,
        # though it may have the inode of the former one.
        gone = touched is None or (touched and any(str(path) in touched for path in self._watched))
        if gone or (len(self._watched) < len(self.paths) and self._find() != self._watched):
            self._arm()
            return None
        return touched

    def rest(self, wake: Callable[[], None]) -> bool:
        """Have the running loop say, once, when there is something to take.

        False where nobody would, or it is still being asked for: then `take` is to be called again.
        """
        if self._changes is None or self._asking:
            return False
        if self._resting_in is None:
            self._resting_in = asyncio.get_running_loop()
            self._resting_in.add_reader(self._changes, self._wake, wake)
        return True

    def _wake(self, wake: Callable[[], None]) -> None:
        self._rest_no_more()
        wake()

    def _rest_no_more(self) -> None:
        if self._resting_in is not None and self._changes is not None:
            self._resting_in.remove_reader(self._changes)
            self._resting_in = None

    def _has_changed(self) -> bool:
        """Whether there may be something to take; as long as there may, events are gathered."""
        if self._changes is None:
            return True
        if self._changes.has_fired():
            self._arm_changes(self._changes)
            return True
        asking, self._asking = self._asking, time.monotonic() < self._ask_until
        return asking

    def _arm_changes(self, changes: kernel.ChangeWatch) -> None:
        """Be told of the next change. Whatever came before is asked for."""
        self._asking, self._ask_until = True, time.monotonic() + _ASK_SECONDS
        if not changes.arm(*self._watched):
            self._close_changes()

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
            self._trouble.say("not every path is UTF-8")
        except (OSError, RuntimeError) as error:
            self._trouble.say(str(error))
        else:
            self._trouble.clear()
            # What is not there cannot tell that it has come.
            if len(self._watched) == len(self.paths):
                self._changes = kernel.watch_changes()
                if self._changes is not None:
                    self._arm_changes(self._changes)

    def close(self) -> None:
        """Watch no more."""
        if self._notify is not None:
            self._notify.close()
            self._notify = None
        self._close_changes()

    def _close_changes(self) -> None:
        self._rest_no_more()
        if self._changes is not None:
            self._changes.close()
            self._changes = None


def _find_mark(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - half the time, once a second
    except OSError:
        return None
    return found.st_dev, found.st_ino
