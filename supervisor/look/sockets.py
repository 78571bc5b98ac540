"""Looks at who listens on TCP ports: the sessions, and others on the metrics' own port.

Whose a socket is is found out once for each socket.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from supervisor import kernel
from supervisor.drift.facts import Listening
from supervisor.look.processes import list_session_pids, show_command
from supervisor.observe import list_pids

if TYPE_CHECKING:
    from supervisor.look.processes import Crew


@dataclass(slots=True)
class SocketLooker:
    """Looks again and again; `port` is that of the metrics."""

    port: int
    # None: of nobody we have anything to say about.
    _known: dict[str, Listening | None] = field(default_factory=dict)

    def look(self, crew: Crew) -> tuple[Listening, ...]:
        """Find the sessions' listening sockets, and those of others on the metrics' port."""
        present = kernel.list_listening()
        fresh = {
            socket: address for socket, address in present.items() if socket not in self._known
        }
        self._known = {socket: found for socket, found in self._known.items() if socket in present}
        if fresh:
            self._known.update(self._find(fresh, crew))
        return tuple(found for found in self._known.values() if found is not None)

    def _find(self, fresh: dict[str, tuple[str, int]], crew: Crew) -> dict[str, Listening | None]:
        sessions = list_session_pids(crew)
        holders = kernel.find_socket_holders(fresh, sessions)
        found: dict[str, Listening | None] = dict.fromkeys(fresh)
        for socket, pid in holders.items():
            found[socket] = _describe(fresh[socket], pid, sessions[pid])
        others = {s for s, (_, port) in fresh.items() if port == self.port and s not in holders}
        others -= kernel.find_socket_holders(others, [os.getpid()]).keys()
        strangers = kernel.find_socket_holders(others, list_pids()) if others else {}
        for socket in others:
            found[socket] = _describe(fresh[socket], strangers.get(socket), "")
        return found


def _describe(address: tuple[str, int], pid: int | None, session: str) -> Listening:
    holder = "somebody this user may not see" if pid is None else f"{show_command(pid)} (pid {pid})"
    return Listening(*address, holder, session)
