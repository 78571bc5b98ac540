"""What the next supervisor would have to know, written down before anything depends on it.

One file for each process and one for ourselves; the words of a log line come from here too.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import supervisor
from supervisor import kernel
from supervisor.config import SUPERVISOR
from supervisor.config.diff import build_stack_settings
from supervisor.errors import PtsupError
from supervisor.lifecycle import Process, State
from supervisor.status import build_state, describe, is_news, render_process

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.admission import Admitted
    from supervisor.children import Children
    from supervisor.config import Config
    from supervisor.fleet import Fleet
    from supervisor.rundir import RunDir

log = logging.getLogger("ptsup")


@dataclass(slots=True)
class Journal:
    """The state files of one supervisor; `members` are what its sessions are spawned from."""

    run_dir: RunDir
    members: Mapping[str, Admitted]
    children: Children
    numbers: dict[str, int]  # in the order in which they were added, by a former supervisor too

    def note_changes(self, before: Fleet, after: Fleet) -> None:
        """Write down, and say, what has changed."""
        for process in after.processes:
            former = before.find(process.name)
            if process is former:
                continue
            self.write(process)
            if former is None or process.state is former.state or not is_news(process):
                continue
            if (former.state, process.state) != (State.STOPPED, State.RUNNING):  # an adoption
                log.info(render_process(describe(after, process)))

    def write(self, process: Process) -> bool:
        """Write down one process; False, and said, when that cannot be done."""
        member = self.members.get(process.name)
        origin = self.children.origins.get(process.name)
        state = build_state(
            process,
            member.spec if member else None,
            # Without one it is no intent yet: that incarnation is still to be spawned.
            nonce=origin.nonce if origin and origin.incarnation == process.incarnation else "",
            identity=origin.identity if origin else None,
            marks=origin.marks if origin else {},
            log_start=origin.log_start if origin else 0,
        )
        if process.name not in self.numbers:
            self.numbers[process.name] = max(self.numbers.values(), default=0) + 1
        state["number"] = self.numbers[process.name]
        try:
            self.run_dir.write_state(process.name, state)
        except OSError as error:
            log.warning("cannot write the state of %s: %s", process.name, error)
            return False
        return True

    def forget(self, name: str) -> None:
        """Take off the list one that is no longer to be known."""
        try:
            self.run_dir.remove_state(name)
        except OSError as error:
            log.warning("cannot remove the state of %s: %s", name, error)

    def write_own(self, config: Config) -> None:
        """Write down ourselves; raises PtsupError."""
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
        try:
            self.run_dir.write_state(SUPERVISOR, state)
        except OSError as error:
            raise PtsupError(
                f"cannot write to the run directory {self.run_dir.path}: {error.strerror}",
                "make room there, or choose another with --run-dir",
            ) from None
