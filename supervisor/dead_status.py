"""The same document of a supervisor that died: from what it has left, and who of it lives.

Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from supervisor.config import METRICSD, SUPERVISOR, Role
from supervisor.config.keys import read_settings
from supervisor.config.values import find_awaited_port
from supervisor.process import State
from supervisor.status import SCHEMA, build_shards
from supervisor.words import render_exit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from supervisor.status import ShardFacts


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
        "shards": build_shards(shards),
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
