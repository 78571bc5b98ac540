"""Looks at the whole stack, with a supervisor or without: what the rules of the doctor judge by.

It only looks, asks over HTTP as Prometheus does, and has a deadline for each question.
"""

from __future__ import annotations

import asyncio
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from supervisor import client, kernel, observe
from supervisor.config import METRICSD, SUPERVISOR
from supervisor.control import Request
from supervisor.doctor.facts import Daemon, PortHolder, SessionFacts, Snapshot, Supervised
from supervisor.doctor.processes import (
    Place,
    is_metricsd,
    list_by_hand,
    look_at_session,
    measure,
)
from supervisor.doctor.sessions import find_told
from supervisor.errors import PtsupError
from supervisor.logs import read_since
from supervisor.look.health import read_violations
from supervisor.orphans import find_living, read_dead_status
from supervisor.probe import probe_health, probe_scrape
from telemetry.holders import find_port_holder
from telemetry.mode import find_probe_host, parse_multiproc_dir, render_address
from telemetry.processes import read_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config import Config
    from supervisor.rundir import RunDir

# Prometheus waits for 10 s by default; who takes a fifth of that is ill.
_ANSWER_SECONDS: Final = 2.0
_SESSION_METRICS: Final = b"peaktrade_"


@dataclass(frozen=True, slots=True)
class _Report:
    supervised: Supervised
    pid: int | None
    document: Mapping[str, Any]


def take_snapshot(run_dir: RunDir, config: Config, cwd: Path, options: tuple[str, ...]) -> Snapshot:
    """Look at everything; `config` says what is meant where nobody runs who could tell."""
    report = _read_report(run_dir)
    own = run_dir.read_own()
    host, port = own.get("host", config.host), own.get("port", config.port)
    holder = _find_holder(port, report.pid)
    metricsd = _find_metricsd(report, holder)
    health = _read_health(metricsd, host, port)
    directory = _find_directory(own, config, health, metricsd)
    place = Place(directory, port)
    outside = observe.find_outside_address()
    daemon = _find_daemon(metricsd, host, port)
    answers = bool(outside) and daemon is Daemon.UP and _scrapes(outside, port)
    return Snapshot(
        supervised=report.supervised,
        supervisor_pid=report.pid,
        supervisor_stopped=report.pid is not None and observe.is_stopped(report.pid),
        run_dir=str(run_dir.path),
        host=_find_bound_host(port, host),
        port=port,
        directory=str(directory),
        directory_problem=_find_problem(directory) if daemon is Daemon.UP else "",
        holder=holder,
        daemon=daemon,
        daemon_pid=metricsd,
        outside=render_address(outside, port) if outside else "",
        outside_answers=answers,
        sessions=measure(
            _look_at_sessions(report, run_dir, place) + _look_by_hand(place, cwd, metricsd, holder),
            directory,
        ),
        violations=_sum_violations(health),
        options=options,
    )


def _read_report(run_dir: RunDir) -> _Report:
    states = run_dir.read_states()
    pid = states.get(SUPERVISOR, {}).get("pid")
    connection = client.connect(run_dir)
    if connection is not None:
        try:
            document = client.ask(connection, Request("status"), _ANSWER_SECONDS)
        except PtsupError:
            return _Report(Supervised.SILENT, pid, read_dead_status(run_dir) or {})
        return _Report(Supervised.RUNNING, document["supervisor"]["pid"], document)
    if not states:
        return _Report(Supervised.NONE, None, {})
    lives = SUPERVISOR in find_living(states)
    document = read_dead_status(run_dir) or {}
    return _Report(Supervised.SILENT if lives else Supervised.DEAD, pid, document)


def _find_holder(port: int, supervisor: int | None) -> PortHolder | None:
    found = find_port_holder(port)
    if found is None:
        return None
    ours = found.pid == supervisor or is_metricsd(found.pid)
    return PortHolder(
        found.pid,
        found.command,
        is_metricsd=is_metricsd(found.pid),
        serves_session=not ours and _SESSION_METRICS in _fetch(port),
    )


def _fetch(port: int) -> bytes:
    try:
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=_ANSWER_SECONDS) as answer:
            page: bytes = answer.read(1 << 20)
    except (OSError, ValueError):
        return b""
    return page


def _find_metricsd(report: _Report, holder: PortHolder | None) -> int | None:
    told = report.document.get(METRICSD, {}).get("pid")
    if isinstance(told, int):
        return told
    return holder.pid if holder is not None and holder.is_metricsd else None


def _read_health(metricsd: int | None, host: str, port: int) -> Mapping[str, Any]:
    if metricsd is None or observe.is_stopped(metricsd):
        return {}
    return asyncio.run(probe_health(find_probe_host(host), port, _ANSWER_SECONDS)) or {}


def _find_daemon(pid: int | None, host: str, port: int) -> Daemon:
    if pid is None:
        return Daemon.NONE
    if observe.is_stopped(pid):
        return Daemon.STOPPED
    return Daemon.UP if _scrapes(find_probe_host(host), port) else Daemon.HUNG


def _scrapes(host: str, port: int) -> bool:
    return asyncio.run(probe_scrape(host, port, _ANSWER_SECONDS))


def _find_directory(
    own: Mapping[str, Any], config: Config, health: Mapping[str, Any], metricsd: int | None
) -> Path:
    """Find the directory metricsd reads: as it says, as recorded, by its command, as meant."""
    told = health.get("multiproc_dir") or own.get("multiproc_dir")
    if isinstance(told, str) and told.startswith("/"):
        return Path(told)
    if metricsd is not None and not own:
        words = observe.read_command(metricsd)
        _, cwd = observe.read_place(metricsd)
        given = _find_option(words, "--multiproc-dir")
        return Path(cwd) / (given or parse_multiproc_dir(read_environment(metricsd)))
    return config.multiproc_dir


def _find_option(words: tuple[str, ...], option: str) -> str:
    for word, following in zip(words, (*words[1:], ""), strict=True):
        if word == option:
            return following
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return ""


def _find_bound_host(port: int, host: str) -> str:
    hosts = {each for each, number in kernel.list_listening().values() if number == port}
    return hosts.pop() if len(hosts) == 1 else host


def _find_problem(directory: Path) -> str:
    try:
        os.listdir(directory)  # noqa: PTH208 - whether it can be read, not what is in it
    except FileNotFoundError:
        return "it was removed; what sessions write goes nowhere"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return ""


def _look_at_sessions(report: _Report, run_dir: RunDir, place: Place) -> list[SessionFacts]:
    found = []
    for told, known in find_told(report.document):
        pid = told["pid"]
        if pid is not None:
            # What a former incarnation said is of no concern any more.
            output = read_since(run_dir.log(told["name"]), told.get("log_start", 0))
            found.append(look_at_session(pid, place, known, output))
        else:
            found.append(
                SessionFacts(pid=None, state=told["state"], reason=told.get("reason", ""), **known)
            )
    return found


def _look_by_hand(
    place: Place, cwd: Path, metricsd: int | None, holder: PortHolder | None
) -> list[SessionFacts]:
    pids = list_by_hand(cwd, metricsd)
    if holder is not None and holder.serves_session and holder.pid not in pids:
        pids.append(holder.pid)
    return [look_at_session(pid, place, {}) for pid in pids]


def _sum_violations(health: Mapping[str, Any]) -> tuple[tuple[str, str, int], ...]:
    total: dict[tuple[str, str], int] = {}
    for each in read_violations(health):
        key = each.metric, each.label
        total[key] = total.get(key, 0) + each.series
    return tuple((*key, series) for key, series in sorted(total.items()))
