"""What `ptsup status` says, as one document: from the fleet, or from what a dead one left.

Pure. The keys are a contract with scripts (schema ptsup.status/1); keys may be added.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from supervisor.config import METRICSD, SUPERVISOR, Role
from supervisor.config.keys import build_settings, read_settings
from supervisor.config.values import find_awaited_port
from supervisor.drift import build_drift
from supervisor.fleet import Phase, find_reason
from supervisor.lifecycle import Ending, Process, State
from telemetry.masking import mask_secrets
from telemetry.mode import render_address

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from supervisor.config import SessionSpec
    from supervisor.drift import Finding
    from supervisor.fleet import Fleet

SCHEMA: Final = "ptsup.status/1"
_SHOWN_STOPPING: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFacts:
    """What lies in the shard directory. `by_pid` counts the flat shards of each pid.

    `live` are the flat ones of the living; `retired` those of the dead that no base holds yet.
    """

    directory: str
    by_pid: Mapping[int, int] = field(default_factory=dict)
    live: int = 0
    retired: int = 0
    unreadable: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the supervisor knows besides its fleet. Usage is (percent of a core, bytes)."""

    pid: int
    version: str
    run_dir: str
    started_at: float
    host: str
    port: int
    shards: ShardFacts
    last_scrape_age_seconds: float | None = None
    usage: Mapping[int, tuple[float, int]] = field(default_factory=dict)
    last_lines: Mapping[str, Sequence[str]] = field(default_factory=dict)  # of who is fatal
    log_starts: Mapping[str, int] = field(default_factory=dict)  # offsets
    listens: Mapping[str, Sequence[str]] = field(default_factory=dict)  # of exporters: addresses
    findings: Sequence[Finding] = ()


def build_status(
    fleet: Fleet,
    specs: Mapping[str, SessionSpec],
    facts: Facts,
    log: Callable[[str], str],
    now: float,
) -> dict[str, Any]:
    """Build the document of a living supervisor; `now` is monotonic, as in the fleet."""
    stopping = fleet.phase not in {Phase.OPENING, Phase.SERVING}
    return {
        "schema": SCHEMA,
        "supervisor": {
            "pid": facts.pid,
            "state": "stopping" if stopping else "running",
            "uptime_seconds": round(now - facts.started_at, 3),
            "version": facts.version,
            "run_dir": facts.run_dir,
        },
        "port": {"host": facts.host, "port": facts.port, "holder_pid": facts.pid},
        "metricsd": {
            "state": str(fleet.metricsd.state),
            "pid": fleet.metricsd.pid,
            "restarts": fleet.metricsd.restarts,
            "last_scrape_age_seconds": facts.last_scrape_age_seconds,
            "log": log(fleet.metricsd.name),
        },
        "shards": _build_shards(facts.shards),
        "sessions": [
            _build_session(fleet, process, specs[name], facts, log(name), now)
            for name, process in fleet.sessions.items()
        ],
        "exporters": [
            _build_exporter(fleet, process, specs[name], facts, log(name), now)
            for name, process in fleet.exporters.items()
        ],
        "drift": build_drift(facts.findings, now),
    }


def _build_session(
    fleet: Fleet, process: Process, spec: SessionSpec, facts: Facts, log: str, now: float
) -> dict[str, Any]:
    return {
        **_build_process(fleet, process, spec, facts, log, now),
        "mode": str(spec.mode),
        "port": spec.port,
        "ready_port": find_awaited_port(spec.ready),
        "shards": facts.shards.by_pid.get(process.pid or -1, 0),
    }


def _build_exporter(
    fleet: Fleet, process: Process, spec: SessionSpec, facts: Facts, log: str, now: float
) -> dict[str, Any]:
    listens = facts.listens.get(process.name, ())
    return {
        **_build_process(fleet, process, spec, facts, log, now),
        "port": spec.port,
        "path": spec.path,
        "listens": list(listens),
        "note": render_reach(spec.port or 0, listens),
    }


def render_reach(port: int, listens: Collection[str]) -> str:
    """Say so when nobody on another machine, and no container, can reach the port."""
    if not listens or not all(map(_is_loopback, listens)):
        return ""
    return (
        f"listens on {', '.join(render_address(host, port) for host in listens)} alone: "
        "a Prometheus in a container cannot reach it"
    )


def _is_loopback(host: str) -> bool:
    return host.startswith(("127.", "::ffff:127.")) or host == "::1"


def _build_process(
    fleet: Fleet, process: Process, spec: SessionSpec, facts: Facts, log: str, now: float
) -> dict[str, Any]:
    pid = process.pid or -1
    cpu_percent, rss_bytes = facts.usage.get(pid, (0.0, 0))
    uptime = 0.0
    if process.started_at is not None:
        uptime = (now if process.ended_at is None else process.ended_at) - process.started_at
    return {
        "name": process.name,
        "state": str(process.state),
        "target": str(process.target),
        "planned": spec.planned,
        "pid": process.pid,
        "incarnation": process.incarnation,
        "restarts": process.restarts,
        "returncode": process.returncode,
        "exit": find_exit(process),
        "uptime_seconds": round(uptime, 3),
        # One in backoff may wait for its turn, too.
        "deadline_seconds": (
            None if process.deadline is None else max(0.0, round(process.deadline - now, 3))
        ),
        "command": list(_mask(spec.command)),
        "log": log,
        "log_start": facts.log_starts.get(process.name, 0),
        "cpu_percent": round(cpu_percent, 1),
        "rss_bytes": rss_bytes,
        "reason": find_reason(fleet, process),
        "last_lines": list(facts.last_lines.get(process.name, ())),
    }


@lru_cache(maxsize=4096)  # a command never changes, and a look at all of them takes long
def _mask(command: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(mask_secrets(command))


def describe(fleet: Fleet, process: Process) -> dict[str, Any]:
    """Build what the answer to a request says of a session."""
    return {
        "name": process.name,
        "state": str(process.state),
        "pid": process.pid,
        "incarnation": process.incarnation,
        "returncode": process.returncode,
        "exit": find_exit(process),
        "reason": find_reason(fleet, process),
    }


def render_process(described: Mapping[str, Any]) -> str:
    """Say in a line what a process has become: `paper: running (pid 7)`."""
    line = f"{described['name']}: {described['state']}"
    if described["state"] == State.RUNNING:
        line += f" (pid {described['pid']})"
    elif described["exit"] is not None:
        line += f" (exit {described['exit']})"
    return f"{line}: {described['reason']}" if described["reason"] else line


def is_news(process: Process) -> bool:
    """Whether a person wants to read of a new state.

    Not that one is starting, for it will be running in a moment; nor that one is stopping
    when nobody asked for it, which only says that its end is being tidied up.
    """
    if process.state is State.STOPPING:
        return process.ending is Ending.ASKED
    return process.state is not State.STARTING


def find_exit(process: Process) -> str | None:
    """Say in a word how the last incarnation ended; None while it runs or before the first."""
    if process.pid is not None and not process.dead:
        return None
    if process.started_at is None:  # it could not be spawned, or never was
        return None
    return render_exit(process.returncode)


def render_exit(returncode: int | None) -> str:
    """Write an exit status as a word: 0, 1, SIGKILL, unknown."""
    if returncode is None:
        return "unknown"
    if returncode >= 0:
        return str(returncode)
    try:
        return signal.Signals(-returncode).name
    except ValueError:  # a real-time signal has no name of its own
        return f"SIG{-returncode}"


def _build_shards(shards: ShardFacts) -> dict[str, Any]:
    return {
        "dir": shards.directory,
        "live": shards.live,
        "retired": shards.retired,
        "unreadable": shards.unreadable,
        "bytes": shards.bytes,
    }


def render_stopping(left: Sequence[tuple[str, float]]) -> str:
    """Say in a line who is still stopping, and how many seconds each has before KILL."""
    if not left:
        return ""
    shown = [f"{name} ({max(0, seconds):.0f} s)" for name, seconds in left[:_SHOWN_STOPPING]]
    if len(left) > len(shown):
        shown.append(f"{len(left) - len(shown)} more")
    return f"stopping, KILL in: {', '.join(shown)}"


def find_stopping(status: Mapping[str, Any], now_after_seconds: float) -> list[tuple[str, float]]:
    """Find who is stopping in a document that was read `now_after_seconds` ago."""
    return [
        (session["name"], session["deadline_seconds"] - now_after_seconds)
        for session in status["sessions"]
        if session["state"] == State.STOPPING and session["deadline_seconds"] is not None
    ]


# -- State files: what a supervisor leaves for the next one -------------------------------------


def build_state(process: Process, *, nonce: str, identity: str | None) -> dict[str, Any]:
    """Build what is recorded of a process whenever it has changed.

    Times are monotonic, and mean something as long as the boot lasts that the identity names.
    """
    return {
        "name": process.name,
        "state": str(process.state),
        "target": str(process.target),
        "pid": process.pid,
        "identity": identity,
        "incarnation": process.incarnation,
        "nonce": nonce,
        "returncode": process.returncode,
        "dead": process.dead,
        "ending": process.ending,
        "failures": process.failures,
        "failed_at": list(process.failed_at),
        "started_at": process.started_at,
        "ready_at": process.ready_at,
    }


def build_origin(role: Role, spec: SessionSpec | None) -> dict[str, Any]:
    """Build what is recorded of what a process is spawned from; metricsd has no spec.

    Of its environment only the names of the configured variables are in it.
    """
    return {
        "role": str(role),
        "command": list(_mask(spec.command)) if spec else [],
        "cwd": str(spec.cwd) if spec else "",
        "variables": sorted(spec.env) if spec else [],
        "planned": spec.planned if spec else False,
        "settings": build_settings(spec) if spec else {},
    }


def build_dead_status(
    states: Mapping[str, dict[str, Any]],
    living: Mapping[str, int],
    *,
    run_dir: str,
    shards: ShardFacts,
    log: Callable[[str], str],
) -> dict[str, Any]:
    """Build the document of a supervisor that died; `living` has the orphans' pids by name."""
    supervisor = states.get(SUPERVISOR, {})
    metricsd = states.get(METRICSD, {})
    members = {n: state for n, state in states.items() if n not in {SUPERVISOR, METRICSD}}
    return {
        "schema": SCHEMA,
        "supervisor": {
            "pid": supervisor.get("pid"),
            # It may live and only not answer; then its children are no orphans yet.
            "state": "running" if SUPERVISOR in living else "dead",
            "uptime_seconds": 0.0,
            "version": supervisor.get("version"),
            "run_dir": run_dir,
        },
        "port": {
            "host": supervisor.get("host"),
            "port": supervisor.get("port"),
            "holder_pid": living.get(METRICSD),
        },
        "metricsd": {
            "state": "running" if METRICSD in living else "exited",
            "pid": living.get(METRICSD),
            "restarts": max(0, metricsd.get("incarnation", 1) - 1),
            "last_scrape_age_seconds": None,
            "log": log(METRICSD),
        },
        "shards": _build_shards(shards),
        "sessions": [
            _build_dead_session(name, state, shards, log(name), living.get(name))
            for name, state in members.items()
            if state.get("role") != Role.EXPORTER
        ],
        "exporters": [
            _build_dead_exporter(name, state, log(name), living.get(name))
            for name, state in members.items()
            if state.get("role") == Role.EXPORTER
        ],
        "drift": [],
    }


def _build_dead_session(
    name: str,
    state: Mapping[str, Any],
    shards: ShardFacts,
    log: str,
    pid: int | None,
) -> dict[str, Any]:
    settings = state.get("settings", {})
    return {
        **_build_dead_process(name, state, log, pid),
        "mode": settings.get("mode", "B"),
        "port": settings.get("port"),
        "ready_port": find_awaited_port(read_settings(settings).get("ready")),
        "shards": shards.by_pid.get(pid or -1, 0),
    }


def _build_dead_exporter(
    name: str, state: Mapping[str, Any], log: str, pid: int | None
) -> dict[str, Any]:
    settings = state.get("settings", {})
    return {
        **_build_dead_process(name, state, log, pid),
        "port": settings.get("port"),
        "path": settings.get("path", "/metrics"),
        "listens": [],
        "note": "",
    }


def _build_dead_process(
    name: str, state: Mapping[str, Any], log: str, pid: int | None
) -> dict[str, Any]:
    recorded, returncode = state.get("state"), state.get("returncode")
    # Whatever it was doing when its supervisor died, it has ended since, nobody saw how.
    ended = recorded in {State.STOPPED, State.EXITED, State.FATAL}
    gone = str(recorded) if ended else str(State.EXITED)
    lives = pid is not None
    never_spawned = not state.get("incarnation")
    return {
        "name": name,
        "state": str(State.RUNNING) if lives else gone,
        "target": state.get("target"),
        "planned": state.get("planned", False),
        "pid": pid,
        "incarnation": state.get("incarnation"),
        "restarts": max(0, state.get("incarnation", 1) - 1),
        "returncode": None if lives else returncode,
        "exit": None if lives or never_spawned else render_exit(returncode),
        "uptime_seconds": 0.0,
        "deadline_seconds": None,
        "command": state.get("command", []),
        "log": log,
        "log_start": state.get("log_start", 0),
        "cpu_percent": 0.0,
        "rss_bytes": 0,
        "reason": "",
        "last_lines": [],
    }
