"""Reads the configuration file anew and applies what has changed in it, all or nothing.

Everything is checked before anything is done. Sessions that do not stand in the file, from the
command line or handed over, are not its business; but no gate closes on one that runs.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from supervisor.admission import Admitted, admit, find_gate_refusal
from supervisor.config import METRICSD, Config
from supervisor.config.diff import (
    Change,
    Difference,
    build_stack_settings,
    diff_settings,
    diff_specs,
    is_live,
)
from supervisor.config.flags import take_settings
from supervisor.config.values import check_ports
from supervisor.config_file import read_config_file
from supervisor.crew import find_otherwise
from supervisor.environ import build_starter
from supervisor.errors import GateError, UsageError
from supervisor.events import Restart
from supervisor.fleet import is_opened, is_settled
from supervisor.process import ENDED, State, Target
from supervisor.words import describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from supervisor.config import SessionSpec
    from supervisor.config.diff import Keys
    from supervisor.config.toml import FileConfig
    from supervisor.loop import Loop
    from supervisor.process import Process

# What a running supervisor cannot change: its port is in the hands of metricsd and Prometheus.
_FIXED = ("host", "port", "multiproc_dir")
# What is otherwise in one that was taken out, and put in again before it was down.
_RETURNING = "session"


@dataclass(frozen=True, slots=True)
class Plan:
    """A reload that was checked, and only has to be done."""

    config: Config
    difference: Difference
    members: dict[str, Admitted]


async def reload(loop: Loop, *, apply: bool) -> dict[str, Any]:
    """Read, check, and (if told to) apply; answers when who had to come and go has. PtsupError."""
    file = loop.config.file
    if file is None:
        raise UsageError(
            "cannot reload: this supervisor was started without a file",
            "hand its sessions over with `ptsup start -f FILE`",
        )
    found = await asyncio.to_thread(read_config_file, file, again=True)
    plan = build_plan(loop, found)
    document = plan.difference.to_document()
    if not apply:
        return {"difference": document, "sessions": []}
    waiting = _apply(loop, plan)
    removed = plan.difference.removed
    await loop.wait_until(
        lambda: (
            # One that another reload puts back meanwhile is here to stay.
            all(loop.fleet.find(name) is None or name not in loop.fleet.leaving for name in removed)
            and all(_is_up(loop, name, incarnation) for name, incarnation in waiting.items())
        )
    )
    up = [process for name in waiting if (process := loop.fleet.find(name))]
    return {
        "difference": document,
        "sessions": [describe(loop.fleet, process) for process in up],
    }


def _is_up(loop: Loop, name: str, former: int) -> bool:
    """Whether one that was added or restarted has come up, or will not by itself."""
    process = loop.fleet.find(name)
    if process is None or (former and process.state in ENDED):
        return True
    if former:
        return process.incarnation > former and process.state is not State.STARTING
    return is_settled(loop.fleet, process)


def build_plan(loop: Loop, found: FileConfig) -> Plan:
    """Check what was read, and find what has to be done; raises PtsupError."""
    _check_fixed(loop.config, found)
    specs = (*found.exporters, *found.sessions)
    others = _find_others(loop)
    _check_names(loop, specs, others, found)
    living = [spec for spec in others if not _gives_its_name(loop, spec.name)]
    check_ports(specs, living, loop.config.port, found.places)
    config = _build_config(loop.config, found)
    check_living(loop, living, config, "reload")
    starter = build_starter(dict(os.environ))
    members = {
        spec.name: admit(spec, starter, config.multiproc_dir, config.denied) for spec in specs
    }
    old = [member.spec for member in loop.members.values() if member.spec.planned]
    difference = diff_specs(old, specs, lambda spec, keys: _amend(loop, spec, keys))
    settings = diff_settings(build_stack_settings(loop.config), build_stack_settings(config))
    return Plan(config, replace(difference, settings=settings), members)


def _find_others(loop: Loop) -> list[SessionSpec]:
    return [member.spec for member in loop.members.values() if not member.spec.planned]


def _amend(loop: Loop, spec: SessionSpec, keys: Keys) -> Keys:
    """Find by which keys one is otherwise: who was adopted runs as it was spawned before that."""
    name, children = spec.name, loop.children
    spawned = find_otherwise(children.present.get(name), children.origins.get(name), spec)
    if spawned is not None:
        keys = (*filter(is_live, keys), *spawned)
    return (*keys, _RETURNING) if name in loop.fleet.leaving else keys


def _gives_its_name(loop: Loop, name: str) -> bool:
    process = loop.fleet.find(name)
    return process is None or (process.state in ENDED and is_opened(loop.fleet, process))


def _check_fixed(config: Config, found: FileConfig) -> None:
    for key in _FIXED:
        value, running = getattr(found, key), getattr(config, key)
        if value is not None and value != running and key not in config.flagged:
            raise UsageError(
                f"{found.places[key]}: this supervisor has {running}, and keeps it while it runs",
                "`ptsup stop`, then `ptsup start`",
            )


def _check_names(
    loop: Loop, specs: Sequence[SessionSpec], others: Sequence[SessionSpec], found: FileConfig
) -> None:
    taken = {spec.name.lower() for spec in others if not _gives_its_name(loop, spec.name)}
    planned = {name: m.spec for name, m in loop.members.items() if m.spec.planned}
    for spec in specs:
        where = found.places.get(spec.name, spec.name)
        if spec.name.lower() in taken:
            raise UsageError(
                f"{where}: a session of that name runs that is not of the file",
                "choose another name, or stop that one first",
            )
        if spec.name in planned and spec.role is not planned[spec.name].role:
            raise UsageError(
                f"{where}: {spec.name} was {planned[spec.name].role} and cannot become another",
                "give it another name",
            )


def check_living(loop: Loop, specs: Iterable[SessionSpec], config: Config, verb: str) -> None:
    """Refuse a longer list of NO-LIVE that forbids one that is there already; GateError."""
    if config.denied == loop.config.denied:
        return
    for spec in specs:
        given = loop.members[spec.name].starter.given
        refusal = find_gate_refusal(spec, given, config.denied)
        if refusal is not None:
            raise GateError(
                f"cannot {verb}: {spec.name} is there already: {refusal.message}",
                f"`ptsup stop {spec.name}` first, or take that out of gates.deny",
            )


def _build_config(config: Config, found: FileConfig) -> Config:
    others = (spec for spec in config.sessions if not spec.planned)
    return replace(take_settings(config, found), sessions=(*others, *found.sessions))


def _apply(loop: Loop, plan: Plan) -> dict[str, int]:
    """Do it; gives back who comes up by it, with the last incarnation each had before."""
    difference, members = plan.difference, plan.members
    served = loop.config.metricsd_options
    loop.reconfigure(plan.config)
    loop.remove(difference.removed)
    changed = {change.spec.name for change in difference.changed}
    # Of who was adopted the file may say again what it was spawned by: that is no change of it.
    loop.update(
        [
            members[name]
            for name, member in loop.members.items()
            if name in changed or (name in members and members[name].spec != member.spec)
        ]
    )
    waiting: dict[str, int] = {}
    for change in difference.changed:
        process = loop.fleet.find(change.spec.name)
        if change.restarts and process is not None and _is_wanted(process, change):
            waiting[process.name] = process.incarnation
            loop.take(Restart(process.name))
    loop.add([members[spec.name] for spec in difference.added])
    waiting |= {spec.name: 0 for spec in difference.added}
    if plan.config.metricsd_options != served:  # scrapes wait meanwhile
        loop.take(Restart(METRICSD))
    return waiting


def _is_wanted(process: Process, change: Change) -> bool:
    """Whether it is to be up, and was: what somebody stopped stays down, with its new settings.

    One that waits for others goes on waiting.
    """
    if _RETURNING in change.keys:
        return True
    return process.target is Target.UP and process.state is not State.STOPPED
