"""What `ptsup status` says, as one document: from the fleet, or from what a dead one left.

Pure. The keys are a contract with scripts (schema ptsup.status/1); keys may be added.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from supervisor.config.values import find_awaited_port
from supervisor.drift import build_drift
from supervisor.fleet import Phase, find_reason
from supervisor.words import find_exit
from telemetry.masking import mask_command
from telemetry.mode import render_address

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from supervisor.config import SessionSpec
    from supervisor.drift import Finding
    from supervisor.fleet import Fleet
    from supervisor.process import Process

SCHEMA: Final = "ptsup.status/1"


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
        "shards": build_shards(facts.shards),
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
        "command": list(mask_command(spec.command)),
        "log": log,
        "log_start": facts.log_starts.get(process.name, 0),
        "cpu_percent": round(cpu_percent, 1),
        "rss_bytes": rss_bytes,
        "reason": find_reason(fleet, process),
        "last_lines": list(facts.last_lines.get(process.name, ())),
    }


def build_shards(shards: ShardFacts) -> dict[str, Any]:
    """Build what is said of the shard directory."""
    return {
        "dir": shards.directory,
        "live": shards.live,
        "retired": shards.retired,
        "unreadable": shards.unreadable,
        "bytes": shards.bytes,
    }
