"""What is wrong, and what mends it: the runbook's triage as rules over a snapshot.

Pure. A failure names the cause, not what follows from it: where metricsd is down, nothing is
said of a page. A step is a command to run as it stands, or says what a person has to change.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from supervisor.doctor import fails, passes
from supervisor.doctor.facts import Daemon, Supervised
from supervisor.doctor.sessions import find_in_sessions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.doctor import Diagnosis
    from supervisor.doctor.facts import Snapshot


def find_diagnoses(snapshot: Snapshot) -> list[Diagnosis]:
    """Find what is good and what is not, in the order of the runbook's triage: A, B, C."""
    return [
        *_find_supervisor(snapshot),
        *_find_port(snapshot),
        *_find_metricsd(snapshot),
        *_find_directory(snapshot),
        *find_in_sessions(snapshot),
        *_find_violations(snapshot),
    ]


def build_start(snapshot: Snapshot) -> str:
    """Build the command that starts the stack on this port and directory."""
    words = ("ptsup", "start", "-d", *snapshot.options)
    if snapshot.supervised is Supervised.NONE:
        words += ("--port", str(snapshot.port), "--multiproc-dir", snapshot.directory)
    return f"`{shlex.join(words)}`"


def _find_supervisor(snapshot: Snapshot) -> Iterator[Diagnosis]:
    pid, where = snapshot.supervisor_pid, snapshot.run_dir
    match snapshot.supervised:
        case Supervised.RUNNING:
            yield passes("supervisor", f"it runs (pid {pid}) in {where}")
        case Supervised.SILENT:
            wake = f"`kill -CONT {pid}`" if snapshot.supervisor_stopped else f"`kill {pid}`"
            does = "is stopped by a signal" if snapshot.supervisor_stopped else "does not answer"
            yield fails("supervisor", f"it (pid {pid}) {does}", (wake,))
        case Supervised.DEAD:
            message = f"it (pid {pid}) died; its sessions go on, and nobody restarts them"
            yield fails("supervisor", message, (build_start(snapshot),))
        case Supervised.NONE if snapshot.daemon is not Daemon.NONE:
            message = f"none runs; metricsd (pid {snapshot.daemon_pid}) was started by hand"
            yield passes("supervisor", message)
        case Supervised.NONE if snapshot.holder is None:
            message = f"none runs in {where}"
            yield fails("supervisor", message, (build_start(snapshot),))
        case Supervised.NONE:
            pass  # the port is the matter


def _find_port(snapshot: Snapshot) -> Iterator[Diagnosis]:
    holder, port = snapshot.holder, snapshot.port
    if holder is None:
        if snapshot.supervised is not Supervised.NONE:
            message = f"nobody listens on port {port}"
            steps = (f"`{shlex.join(('ptsup', 'stop', *snapshot.options))}`", build_start(snapshot))
            yield fails("port-holder", message, steps)
        return
    who = f"pid {holder.pid} ({holder.command})"
    if holder.is_metricsd or holder.pid == snapshot.supervisor_pid:
        yield passes("port-holder", f"{who} listens on port {port}")
        return
    ours = next((s for s in snapshot.sessions if s.pid == holder.pid), None)
    if ours is not None or holder.serves_session:
        return  # said of the session
    yield fails(
        "port-holder",
        f"port {port} is held by {who}, which is not metricsd",
        (
            f"if that process may end: `kill {holder.pid}` (else give ptsup another --port)",
            build_start(snapshot),
        ),
    )


def _find_metricsd(snapshot: Snapshot) -> Iterator[Diagnosis]:
    pid = snapshot.daemon_pid
    by_hand = snapshot.supervised is Supervised.NONE
    match snapshot.daemon:
        case Daemon.UP:
            address = f"http://127.0.0.1:{snapshot.port}/metrics"
            yield passes("metricsd-up", f"{address} answers (pid {pid})")
            yield from _find_outside(snapshot)
        case Daemon.STOPPED:
            message = f"metricsd (pid {pid}) is stopped by a signal (SIGSTOP, or Ctrl-Z)"
            yield fails("metricsd-up", message, (f"`kill -CONT {pid}`",))
        case Daemon.HUNG:
            message = f"metricsd (pid {pid}) lives and does not answer: it hangs"
            again = (build_start(snapshot),) if by_hand else ()
            yield fails("metricsd-up", message, (f"`kill -9 {pid}`", *again))
        case Daemon.NONE if snapshot.holder is None:
            message = f"metricsd does not run: nobody listens on port {snapshot.port}"
            yield fails("metricsd-up", message, (build_start(snapshot),))
        case Daemon.NONE:
            pass  # whoever holds its port is the matter


def _find_outside(snapshot: Snapshot) -> Iterator[Diagnosis]:
    if not snapshot.outside:
        message = "this machine has no address but the loopback: only a Prometheus here can scrape"
        yield passes("reachable", message)
    elif snapshot.outside_answers:
        message = f"http://{snapshot.outside}/metrics answers: a Prometheus in a container gets it"
        yield passes("reachable", message)
    else:
        what = (
            f"metricsd listens on {snapshot.host} alone"
            if snapshot.host.startswith("127.") or snapshot.host in {"localhost", "::1"}
            else f"http://{snapshot.outside}/metrics does not answer"
        )
        stop = f"`{shlex.join(('ptsup', 'stop', *snapshot.options))}`"
        if snapshot.supervised is Supervised.NONE:
            stop = f"`kill {snapshot.daemon_pid}`"
        words = ("ptsup", "start", "-d", *snapshot.options, "--port", str(snapshot.port))
        start = shlex.join((*words, "--host", "0.0.0.0", "--multiproc-dir", snapshot.directory))  # noqa: S104
        yield fails(
            "reachable",
            f"{what}: a Prometheus in a container (host.docker.internal) cannot scrape it",
            (stop, f"`{start}`, with the sessions you had"),
        )


def _find_directory(snapshot: Snapshot) -> Iterator[Diagnosis]:
    where = snapshot.directory
    if snapshot.directory_problem:
        restarts = tuple(
            f"`{shlex.join(('ptsup', 'restart', *snapshot.options, session.name))}`"
            for session in snapshot.sessions
            if session.name and session.pid is not None
        )
        yield fails(
            "directory",
            f"the shard directory {where}: {snapshot.directory_problem}",
            (f"`mkdir -p -m 700 {shlex.quote(where)}`", *restarts),
        )
    elif snapshot.daemon is Daemon.UP:
        yield passes("directory", f"metricsd reads {where}")


def _find_violations(snapshot: Snapshot) -> Iterator[Diagnosis]:
    if snapshot.violations:
        named = "; ".join(
            f"{series} series of {metric} (label {label})"
            for metric, label, series in snapshot.violations[:5]
        )
        yield fails(
            "label-policy",
            f"left off the page for a label that is not allowed: {named}",
            ("take that label out where the metric is defined, then restart its session",),
        )
    elif snapshot.daemon is Daemon.UP:
        yield passes("label-policy", "no series is left off the page for its labels")
