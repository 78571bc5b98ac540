"""What the next supervisor would have to know, written down before anything depends on it.

Who has changed is noted, and all of that written at once: before a spawn, and before an answer.
One line for all of it; ourselves have a file. The words of a log line come from here too.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import supervisor
from supervisor import kernel
from supervisor.config.diff import build_stack_settings
from supervisor.errors import PtsupError
from supervisor.process import State
from supervisor.records import FORGOTTEN, build_origin, build_state
from supervisor.trouble import Trouble
from supervisor.words import describe, is_news, render_process
from telemetry.log_lines import Lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from supervisor.admission import Admitted
    from supervisor.children import Children, Origin
    from supervisor.config import Config
    from supervisor.fleet import Fleet
    from supervisor.process import Process
    from supervisor.rundir import RunDir

log = logging.getLogger("ptsup")


@dataclass(slots=True)
class Journal:
    """The journal of one supervisor; `members` are what its sessions are spawned from."""

    run_dir: RunDir
    members: Mapping[str, Admitted]
    children: Children
    find: Callable[[str], Process | None]
    numbers: dict[str, int]  # in the order in which they were added, by a former supervisor too
    _noted: dict[str, None] = field(default_factory=dict)  # who is otherwise than written down
    _gone: dict[str, None] = field(default_factory=dict)
    _origins: dict[str, Admitted | None] = field(default_factory=dict)  # as written down last
    _last_number: int = 0
    _trouble: Trouble = field(init=False)

    def __post_init__(self) -> None:
        """Go on counting."""
        self._trouble = Trouble(f"cannot write to {self.run_dir.journal}")
        self._last_number = max(self.numbers.values(), default=0)

    def note(self, name: str) -> None:
        """Have one written down at the next opportunity."""
        self._noted[name] = None

    def note_changes(self, before: Fleet, after: Fleet) -> None:
        """Note, and say, what the last step has changed."""
        news = []
        for name in after.touched:
            process, former = after.find(name), before.find(name)
            if process is None or process is former:
                continue
            if former is None or process.state is not former.state or _differs(former, process):
                self.note(name)
            if former is None or process.state is former.state or not is_news(process):
                continue
            if (former.state, process.state) != (State.STOPPED, State.RUNNING):  # an adoption
                news.append(render_process(describe(after, process)))
        if news:
            log.info(Lines(news))

    def forget(self, name: str) -> None:
        """Take off the list one that is no longer to be known."""
        self._noted.pop(name, None)
        self._gone[name] = None

    def write(self) -> bool:
        """Write down all that was noted; False, and said, when that cannot be done.

        Then it stays noted.
        """
        if not self._noted and not self._gone:
            return True
        processes = [process for name in self._noted if (process := self.find(name)) is not None]
        changes: list[dict[str, Any]] = [{"name": name, FORGOTTEN: True} for name in self._gone]
        changes += map(self._build_change, processes)
        if not self._append(changes):
            return False
        for name in self._gone:
            self._origins.pop(name, None)
        self._origins |= {each.name: self.members.get(each.name) for each in processes}
        self._noted, self._gone = {}, {}
        return True

    def write_intent(self, name: str, origin: Origin) -> bool:
        """Write down by what one is about to be spawned, who is written down already.

        False, and said, when that cannot be done.
        """
        marks = dict(origin.marks)
        intent = {"nonce": origin.nonce, "marks": marks, "log_start": origin.log_start}
        return self._append([{"name": name, **intent}])

    def _append(self, changes: list[dict[str, Any]]) -> bool:
        try:
            self.run_dir.append_journal(changes)
        except OSError as error:
            self._trouble.note(error)
            return False
        self._trouble.clear()
        return True

    def _build_change(self, process: Process) -> dict[str, Any]:
        """Build a line: what can change at any time, and the rest when it has changed."""
        name = process.name
        origin = self.children.origins.get(name)
        change = build_state(
            process,
            # Without one it is no intent yet: that incarnation is still to be spawned.
            nonce=origin.nonce if origin and origin.incarnation == process.incarnation else "",
            identity=origin.identity if origin else None,
        )
        member = self.members.get(name)
        if name not in self._origins or self._origins[name] is not member or name in self._gone:
            change |= build_origin(process.role, member.spec if member else None)
            change["number"] = self._find_number(name)
        return change

    def _find_number(self, name: str) -> int:
        if name not in self.numbers:
            self._last_number += 1
            self.numbers[name] = self._last_number
        return self.numbers[name]

    def write_own(self, config: Config) -> None:
        """Write down ourselves; raises PtsupError."""
        try:
            state = {
                "pid": os.getpid(),
                "identity": kernel.read_identity(os.getpid()),
                # In it is, for a moment, whoever was just forked.
                "session": os.getsid(0),
                "version": supervisor.__version__,
                "host": config.host,
                "port": config.port,
                "multiproc_dir": str(config.multiproc_dir),
                "denied": list(config.denied),
                "file": None if config.file is None else str(config.file),
                "settings": build_stack_settings(config),
            }
            self.run_dir.write_own(state)
        except OSError as error:
            raise PtsupError(
                f"cannot write to the run directory {self.run_dir.path}: {error.strerror}",
                "make room there, or choose another with --run-dir",
            ) from None


def _differs(former: Process, process: Process) -> bool:
    """Whether the next supervisor would have to know of what has changed in one state."""
    seen = (build_state(each, nonce="", identity=None) for each in (former, process))
    return next(seen) != next(seen)
