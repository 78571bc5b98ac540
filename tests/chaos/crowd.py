"""The processes of the storm: who is born, whom to kill when, who has died.

Each says in a FIFO that it is there, and is held by a pidfd from then on: so a death is seen at
once, and nobody else can be killed in its place.
"""

from __future__ import annotations

import heapq
import json
import os
import selectors
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from chaos.events import EventLog

LEADER = "lead"
# Whoever may not be killed yet is looked at again after so long.
PUT_OFF_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Member:
    """A process that counts; `owner` is what its ledgers are named after."""

    name: str
    role: str
    pid: int
    descriptor: int

    @property
    def owner(self) -> str:
        return f"{self.name}.{self.role}.{self.pid}"


@dataclass(slots=True)
class Crowd:
    """`find_life_seconds` says after how long a member is to be killed; None: it ends itself.

    No session is killed while no more than `enough` live: a slow machine brings them up slowly,
    and the storm then takes longer, but is no smaller.
    """

    directory: Path
    log: EventLog
    find_life_seconds: Callable[[str, str, int], float | None]
    enough: int = 0
    killed: set[str] = field(default_factory=set)  # owners
    born: Counter[str] = field(default_factory=Counter)  # by name and by role
    deaths: Counter[str] = field(default_factory=Counter)  # by role
    living: dict[int, Member] = field(default_factory=dict)
    failure: BaseException | None = None
    _due: list[tuple[float, int]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _births: int = field(init=False)
    _torn: bytes = b""

    def __post_init__(self) -> None:
        os.mkfifo(self.directory / "births")
        # For both, or the FIFO would end whenever nobody has something to say.
        self._births = os.open(self.directory / "births", os.O_RDWR | os.O_NONBLOCK)
        self._selector.register(self._births, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def leaders(self) -> int:
        """How many sessions live."""
        return sum(member.role == LEADER for member in tuple(self.living.values()))

    def close(self) -> None:
        """Stop watching, and kill whoever is still there."""
        self._over.set()
        self._thread.join(10)
        for member in self.living.values():
            self._kill(member)
            os.close(member.descriptor)
        self._selector.close()
        os.close(self._births)

    def _watch(self) -> None:
        try:
            while not self._over.is_set():
                self._turn()
        except BaseException as error:  # noqa: BLE001 - told by the storm
            self.failure = error

    def _turn(self) -> None:
        timeout = 0.2
        if self._due:
            timeout = min(timeout, max(0.0, self._due[0][0] - time.monotonic()))
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                self._take_births()
            else:
                self._bury(key.data)
        while self._due and self._due[0][0] <= time.monotonic():
            pid = heapq.heappop(self._due)[1]
            member = self.living.get(pid)
            if member is not None and member.role == LEADER and self.leaders <= self.enough:
                heapq.heappush(self._due, (time.monotonic() + PUT_OFF_SECONDS, pid))
            elif member is not None:
                self.killed.add(member.owner)
                self.log.note("SIGKILL", member.pid, f"{member.name}.{member.role}")
                self._kill(member)

    def _kill(self, member: Member) -> None:
        try:
            signal.pidfd_send_signal(member.descriptor, signal.SIGKILL)
        except ProcessLookupError:
            self.killed.discard(member.owner)

    def _take_births(self) -> None:
        *lines, self._torn = (self._torn + os.read(self._births, 1 << 16)).split(b"\n")
        for line in lines:
            birth = json.loads(line)
            self._take_birth(birth["name"], birth["role"], birth["pid"])

    def _take_birth(self, name: str, role: str, pid: int) -> None:
        self.log.note("born", pid, f"{name}.{role}")
        self.born[name] += role == LEADER
        self.born[f"all {role == LEADER}"] += 1
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._count_death(name, role, pid)
            return
        if bytes(self.directory) not in read_command(pid):
            os.close(descriptor)
            self._count_death(name, role, pid)
            return
        member = self.living[pid] = Member(name, role, pid, descriptor)
        self._selector.register(descriptor, selectors.EVENT_READ, member)
        lives = self.find_life_seconds(name, role, self.born[name])
        if lives is not None:
            heapq.heappush(self._due, (time.monotonic() + lives, pid))

    def _bury(self, member: Member) -> None:
        self._selector.unregister(member.descriptor)
        os.close(member.descriptor)
        del self.living[member.pid]
        self._count_death(member.name, member.role, member.pid)

    def _count_death(self, name: str, role: str, pid: int) -> None:
        self.log.note("dead", pid, f"{name}.{role}")
        self.deaths[LEADER if role == LEADER else "worker"] += 1


def read_command(pid: int) -> bytes:
    """Read a command line; empty when the process is gone or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
