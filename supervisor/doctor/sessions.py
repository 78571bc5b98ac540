"""The rules about sessions: parts B and C of the runbook's triage. Pure.

Each session fails for the first cause that explains it; what follows from that is not said.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any, Final

from supervisor.doctor import Diagnosis, fails, passes
from supervisor.doctor.facts import Daemon, Library, Supervised
from supervisor.drift import MISSING_SHARD, STALE_VALUES
from telemetry.labels import ALLOWLISTS
from telemetry.masking import MASK
from telemetry.mode import (
    LIBRARY_DIR_VARIABLE,
    MODE_VARIABLE,
    MULTIPROC_DIR_VARIABLE,
    Mode,
    parse_mode,
    parse_session_dir,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from supervisor.doctor.facts import SessionFacts, Snapshot

# A Python session has imported what it needs by then.
_IMPORTED_SECONDS: Final = 5.0
# So long may a session have nothing to count, or wait for its first signal.
_SILENT_SECONDS: Final = 600.0
_ENDED_BADLY: Final = frozenset({"fatal", "backoff"})

# What a supervisor says of how one was to run.
_PLANNED: Final = ("name", "planned", "mode", "ready_port")


def find_told(document: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
    """Find who is to be judged, sessions and exporters that have ended badly: entry and facts.

    How long is too long has been configured, and only the supervisor knows it: hence its words.
    """
    drift = {
        (found["kind"], found["subject"]): found["expected"] for found in document.get("drift", ())
    }
    failed = [told for told in document.get("exporters", ()) if told["state"] in _ENDED_BADLY]
    for told in (*document.get("sessions", ()), *failed):
        facts = {key: told[key] for key in _PLANNED if key in told}
        facts["stale"] = drift.get((STALE_VALUES, told["name"]), "")
        facts["silent"] = drift.get((MISSING_SHARD, told["name"]), "")
        yield told, facts


def find_in_sessions(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Find what is good and what is not of each session, in order."""
    if not snapshot.sessions:
        yield passes("sessions", "no session runs: there is nothing to look into")
    for session in snapshot.sessions:
        found = list(_find_in_session(session, snapshot))
        first = next((n for n, each in enumerate(found) if not each.good), len(found) - 1)
        yield from found[: first + 1]


def _find_in_session(session: SessionFacts, snapshot: Snapshot) -> Iterator[Diagnosis]:
    if session.pid is None:
        if session.state in _ENDED_BADLY:
            yield _find_end(session, snapshot)
        return
    yield from _find_ports(session, snapshot)
    if session.variables is None:
        yield passes("mode-b", f"{_name(session)}: its environment is not ours to see")
        return
    yield _find_mode(session, session.variables, snapshot)
    if _is_planned_a(session, session.variables):
        return  # its counts are on its own page
    yield _find_directory(session, session.variables, snapshot)
    if snapshot.directory_problem:
        return
    if session.python:
        yield _find_library(session, snapshot)
    yield _find_shards(session, session.variables, snapshot)
    if session.shards:
        yield _find_counts(session, snapshot)
        yield _find_values(session, snapshot)


def _find_end(session: SessionFacts, snapshot: Snapshot) -> Diagnosis:
    reason = session.reason or "it ended too often"
    is_gate = "cannot start" in reason and ("live" in reason or "cannot be checked" in reason)
    return fails(
        "gate" if is_gate else "session-up",
        f"{_name(session)}: {session.state}: {reason}",
        (
            f"see `{_ptsup(snapshot, 'logs', session.name)}`, and mend what it says",
            f"`{_ptsup(snapshot, 'restart', session.name)}`",
        ),
    )


def _find_ports(session: SessionFacts, snapshot: Snapshot) -> Iterator[Diagnosis]:
    unplanned = [port for port in session.ports if port != session.ready_port]
    if snapshot.port in session.ports:
        again = _again(session, snapshot)
        yield fails(
            "session-binds",
            f"{_name(session)} holds the metrics port {snapshot.port} itself: Mode A, or a server"
            " of its own",
            again,
        )
    elif session.ports and (not unplanned or session.mode == Mode.A):
        ports = ", ".join(map(str, session.ports))
        yield passes("session-binds", f"{_name(session)} listens on port {ports}, as configured")
    elif unplanned:
        ports = ", ".join(map(str, unplanned))
        mode = parse_mode(session.variables or {})
        yield Diagnosis(
            "session-binds",
            mode is Mode.A,  # then it may serve itself
            f"{_name(session)} listens on port {ports}; in Mode B metricsd alone serves",
            (
                "take its metrics server (start_http_server) out of its program",
                *_restart(session, snapshot),
            ),
        )
    else:
        yield passes("session-binds", f"{_name(session)} listens on no port")


def _is_planned_a(session: SessionFacts, variables: Mapping[str, str]) -> bool:
    return session.mode == Mode.A and parse_mode(variables) is Mode.A


def _find_mode(
    session: SessionFacts, variables: Mapping[str, str], snapshot: Snapshot
) -> Diagnosis:
    if parse_mode(variables) is Mode.B:
        message = f"{_name(session)}: {MODE_VARIABLE}=B in its own environment"
        return passes("mode-b", message)
    if _is_planned_a(session, variables):
        return passes("mode-b", f"{_name(session)}: mode A as configured")
    found = variables.get(MODE_VARIABLE)
    told = "is not set" if found is None else f"is {found!a}"
    return fails(
        "mode-b",
        f"{_name(session)}: {MODE_VARIABLE} {told} in its environment: it runs in Mode A",
        _again(session, snapshot),
    )


def _find_directory(
    session: SessionFacts, variables: Mapping[str, str], snapshot: Snapshot
) -> Diagnosis:
    name, where = _name(session), snapshot.directory
    told = parse_session_dir(variables)
    if not session.same_directory:
        relative = "" if told.startswith("/") else f", relative to its directory {session.cwd}"
        return fails(
            "directory-relative" if relative else "directory-agrees",
            f"{name}: its shards go to {session.directory} ({told}{relative}), "
            f"and metricsd reads {where}",
            _again(session, snapshot),
        )
    if session.elsewhere:
        return fails(
            "directory-agrees",
            f"{name} writes shards into {', '.join(session.elsewhere)}, and metricsd reads {where}",
            (
                f"its program sets {LIBRARY_DIR_VARIABLE} itself: take that out",
                *_restart(session, snapshot),
            ),
        )
    return passes("directory-agrees", f"{name} and metricsd agree on {where}")


def _find_library(session: SessionFacts, snapshot: Snapshot) -> Diagnosis:
    name = _name(session)
    match session.library:
        case Library.THERE:
            message = f"{name}: {session.python} imports prometheus_client"
            return passes("prometheus-client", message)
        case Library.UNKNOWN:
            message = f"{name}: {session.python} did not tell whether it imports it"
            return passes("prometheus-client", message)
        case Library.MISSING:
            python = shlex.quote(session.python)
            return fails(
                "prometheus-client",
                f"{name}: {session.python} cannot import prometheus_client: it counts nothing",
                (
                    f"`{python} -m pip install prometheus-client`",
                    *_restart(session, snapshot),
                ),
            )


def _find_shards(
    session: SessionFacts, variables: Mapping[str, str], snapshot: Snapshot
) -> Diagnosis:
    name, up = _name(session), session.up_seconds
    if session.unlinked:
        return fails(
            "shards-written",
            f"{name} writes into shards that were removed under it: no scrape finds them",
            _restart(session, snapshot),
        )
    if session.shards:
        return passes("shards-written", f"{name} has {session.shards} shards there")
    if session.python and up >= _IMPORTED_SECONDS and not variables.get(LIBRARY_DIR_VARIABLE):
        return fails(
            "imported-early",
            f"{name} writes no shard: {LIBRARY_DIR_VARIABLE} is not in its environment, and"
            " prometheus_client was imported before anything set it",
            _again(session, snapshot),
        )
    judged = session.name and snapshot.supervised is Supervised.RUNNING
    if session.silent or (up >= _SILENT_SECONDS and not judged):
        wanted = f" (expected: {session.silent})" if session.silent else ""
        return fails(
            "shards-written",
            f"{name} has written no shard in {up:.0f} s{wanted}: its program makes no telemetry"
            " call, or not in this process",
            (_look_at_log(session, snapshot),),
        )
    message = f"{name} has no shard yet, after {up:.0f} s: it may have had nothing to count"
    return passes("shards-written", message)


def _find_counts(session: SessionFacts, snapshot: Snapshot) -> Diagnosis:
    name = _name(session)
    if session.rejected and not session.counted:
        return fails(
            "allowlist",
            f"{name}: every update is dropped, all its counters are 0: {session.rejected[-1]}",
            (
                _name_allowed(session.rejected[-1]),
                *_restart(session, snapshot),
            ),
        )
    if session.rejected:
        message = f"{name} has dropped some updates: {session.rejected[-1]}"
        return passes("allowlist", message)
    return passes("allowlist", f"{name} says of no update that it was dropped")


def _find_values(session: SessionFacts, snapshot: Snapshot) -> Diagnosis:
    name, up = _name(session), session.up_seconds
    if not session.counted and up >= _SILENT_SECONDS:
        message = f"{name}: every counter is still 0 after {up:.0f} s"
    elif session.unmoved and session.stale:
        message = f"{name}: none of its values moves; expected: {session.stale}"
    elif session.unmoved:
        message = f"{name}: no value moved just now; a session may wait a minute for its next poll"
        return passes("values-move", message)
    else:
        return passes("values-move", f"{name}: its values move")
    return fails("values-move", message, (_look_at_log(session, snapshot),))


def _name_allowed(rejected: str) -> str:
    """Say which values would be counted in place of the one that was dropped."""
    found = re.search(r"cannot count (\w+)=", rejected)
    allowed = ALLOWLISTS.get(found[1]) if found else None
    if found is None or allowed is None:
        return "write a value in its program that is allowed (docs/doctor.md)"
    return f"write {found[1]} in its program as one of: {', '.join(allowed)}"


# -- What to do --------------------------------------------------------------------------------


def _name(session: SessionFacts) -> str:
    return session.name or f"pid {session.pid}"


def _ptsup(snapshot: Snapshot, verb: str, *words: str) -> str:
    return shlex.join(("ptsup", verb, *snapshot.options, *words))


def _look_at_log(session: SessionFacts, snapshot: Snapshot) -> str:
    where = _ptsup(snapshot, "logs", session.name) if session.name else ""
    return f"see `{where}`: is it past its start?" if where else "see its output: does it work?"


def _restart(session: SessionFacts, snapshot: Snapshot) -> tuple[str, ...]:
    """Build the steps that start a session again as it was."""
    if session.name:
        return (f"`{_ptsup(snapshot, 'restart', session.name)}`",)
    return _again(session, snapshot)


def _again(session: SessionFacts, snapshot: Snapshot) -> tuple[str, ...]:
    """Build the steps that start a session's own program anew, with what Mode B needs.

    What stood before it in its command (`env NAME=…`) has done its work, and is not among the
    words of the process. One of the file stays one of the file.
    """
    if session.planned:
        return (
            "take what makes it so out of its program, or out of the file (then reload that)",
            f"`{_ptsup(snapshot, 'restart', session.name)}`",
        )
    end = f"`{_ptsup(snapshot, 'stop', session.name)}`" if session.name else f"`kill {session.pid}`"
    if not session.words or any(MASK in word for word in session.words):
        return (end, "start its program anew with `ptsup start`, and no variables before it")
    command = shlex.join(session.words)
    enter = f"cd {shlex.quote(session.cwd)} && "
    if snapshot.supervised is not Supervised.NONE or snapshot.daemon is Daemon.NONE:
        name = session.name or f"session-{session.pid}"
        words: tuple[str, ...] = ("-d", "-s", f"{name}={command}")
        if snapshot.supervised is Supervised.NONE:
            words += ("--port", str(snapshot.port), "--multiproc-dir", snapshot.directory)
        if not snapshot.options:  # the default one is another where the session runs
            words += ("--run-dir", snapshot.run_dir)
        return (end, f"`{enter}{_ptsup(snapshot, 'start', *words)}`")
    where = shlex.quote(snapshot.directory)
    settings = f"{MODE_VARIABLE}=B {MULTIPROC_DIR_VARIABLE}={where} {LIBRARY_DIR_VARIABLE}={where}"
    return (end, f"`{enter}{settings} {command} &`")
