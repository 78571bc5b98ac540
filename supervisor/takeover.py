"""What a start takes from a supervisor that died: its settings, its sessions, its socket.

It looks, and asks metricsd; only a metricsd that does not answer is killed. Nothing that a
former run counted is ever cleared here.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervisor import kernel
from supervisor.admission import Admitted, find_gate_refusal
from supervisor.adoption import Former, build_spec, read_state
from supervisor.client import wait_until_gone
from supervisor.config import METRICSD, SUPERVISOR
from supervisor.config.marks import build_marks, diff_marks
from supervisor.drift.facts import LostListener
from supervisor.environ import build_starter
from supervisor.errors import PtsupError, UsageError
from supervisor.gates import Reason
from supervisor.observe import read_command
from supervisor.orphans import find_former
from supervisor.port import take_back, take_port
from supervisor.process import State, Target
from telemetry.mode import render_address
from telemetry.processes import read_environment

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Mapping, Sequence

    from supervisor.config import Config
    from supervisor.rundir import RunDir

log = logging.getLogger("ptsup")

# What was killed may have to come back from the disk first.
_DEATH_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Left:
    """What a supervisor that died has left; nothing of all that after an orderly end."""

    crashed: bool
    own: Mapping[str, Any]
    former: tuple[Former, ...] = ()

    @property
    def living(self) -> tuple[Former, ...]:
        """The processes whose leaders live."""
        return tuple(each for each in self.former if each.lives)

    @property
    def metricsd(self) -> Former | None:
        """The living metricsd."""
        return next((each for each in self.living if each.name == METRICSD), None)


def find_left(run_dir: RunDir, denied: Sequence[str]) -> Left:
    """Find what was left; raises SupervisorDeadError for what cannot be found.

    What is `denied` now and what was so for the dead one both count: the list only grows.
    """
    states = run_dir.read_states()
    own = states.get(SUPERVISOR, {})
    denied = (*own.get("denied", ()), *denied)
    former = tuple(_look_at(each, denied) for each in find_former(run_dir, states))
    return Left(bool(states), own, former)


def _look_at(former: Former, denied: Sequence[str]) -> Former:
    """Look at the real command and environment of a living session: the gates are for all."""
    if not former.lives or former.pid is None:
        return former
    seen = replace(former, words=read_command(former.pid))
    if former.name == METRICSD:
        return seen
    spec, _ = build_spec(seen, {})
    spec = replace(spec, command=seen.words or spec.command)
    refusal = find_gate_refusal(spec, read_environment(former.pid), denied)
    if refusal is None or refusal.reason is Reason.UNCHECKED:
        return seen  # it has long read its file; what has become of that since says nothing
    return replace(seen, refusal=refusal.message)


def settle_config(config: Config, left: Left) -> Config:
    """Go on with host, port and shard directory of the dead one; raises UsageError.

    Something else may be given only when nobody lives who goes by them.
    """
    found: dict[str, Any] = {
        name: left.own[name] for name in ("host", "port", "multiproc_dir") if name in left.own
    }
    given: dict[str, Any] = {
        "host": config.host,
        "port": config.port,
        "multiproc_dir": str(config.multiproc_dir),
    }
    for name in sorted(config.given & found.keys()):
        if left.living and given[name] != found[name]:
            raise UsageError(
                f"cannot start: the supervisor that died here had {name} {found[name]}, "
                f"not {given[name]}",
                "leave it out to go on with its sessions, or `ptsup stop` them first",
            )
        found[name] = given[name]
    settled = {**given, **found}
    return replace(
        config,
        host=settled["host"],
        port=settled["port"],
        denied=config.deny(left.own.get("denied", ())).denied,
        multiproc_dir=Path(settled["multiproc_dir"]),
    )


def take_listener(
    config: Config, run_dir: RunDir, left: Left
) -> tuple[socket.socket, Left, list[LostListener]]:
    """Get the listening socket back from metricsd, or bind it anew; raises PtsupError.

    A metricsd that does not give it back is killed, and no longer among the living.
    """
    metricsd = left.metricsd
    if metricsd is None or metricsd.pid is None or metricsd.identity is None:
        return take_port(config.host, config.port), left, []
    listener = take_back(run_dir.handback, config.port)
    if listener is not None:
        return listener, left, []
    kernel.signal_process(metricsd.pid, metricsd.identity, signal.SIGKILL)
    if not wait_until_gone(metricsd.pid, metricsd.identity, _DEATH_SECONDS):
        raise PtsupError(
            f"cannot start: metricsd (pid {metricsd.pid}) hangs, and does not die of KILL",
            "wait for what it waits for (a disk, say), then start again",
        )
    address = render_address(config.host, config.port)
    lost = LostListener(address, metricsd.pid, time.monotonic())
    dead = replace(metricsd, identity=None)
    former = tuple(dead if each is metricsd else each for each in left.former)
    return take_port(config.host, config.port), replace(left, former=former), [lost]


def readmit(former: Sequence[Former], given: Iterable[Admitted]) -> dict[str, Admitted]:
    """Build what each adopted session is restarted by: as given anew, else as recorded."""
    named = {member.spec.name: member for member in given}
    starter = build_starter(dict(os.environ))  # once: there may be a thousand of them
    members = {}
    for each in former:
        if each.name == METRICSD:
            continue
        member = named.get(each.name)
        if member is None:
            spec, missing = build_spec(each, starter.given)
            member = Admitted(spec, starter, missing)
        outdated = _find_outdated(each, member)
        members[each.name] = replace(member, outdated=outdated) if outdated else member
    return members


def _find_outdated(former: Former, member: Admitted) -> tuple[str, ...]:
    """Name the keys by which what lives was spawned otherwise, as far as that can be known."""
    if not former.lives or member.missing:
        return ()
    return diff_marks(former.record.get("marks", {}), build_marks(member.spec, former.nonce))


def find_kept_down(config: Config, former: Sequence[Former]) -> frozenset[str]:
    """Find the sessions of the file that somebody stopped: a crash does not start them again.

    One given on the command line is started, and so is all when nobody lives any more.
    """
    if not any(each.lives for each in former):
        return frozenset()
    stopped = {
        each.name
        for each in former
        if each.incarnation
        and read_state(each.record) is State.STOPPED
        and each.record.get("target") == Target.DOWN
    }
    return config.planned & stopped


def render_kept(former: Sequence[Former], members: Mapping[str, Admitted]) -> list[str]:
    """Say which sessions go on as they were spawned, though they would be otherwise by now."""
    return [
        f"{each.name} (pid {each.pid}) runs already; its new {', '.join(keys)} counts from its"
        f" next start: `ptsup restart {each.name}`"
        for each in former
        if each.name in members and (keys := members[each.name].outdated)
    ]
