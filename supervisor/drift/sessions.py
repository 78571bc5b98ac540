"""The rules about sessions: what they write, say, and listen on; one for each kind. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.drift import (
    ENV_MISMATCH,
    LABEL_VIOLATION,
    MENDED_SECONDS,
    MISSING_SHARD,
    SESSION_LISTENS,
    STALE_VALUES,
    UNLINKED_SHARD,
    Finding,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from supervisor.drift.facts import Environment, Listening, Plan, SessionPlan, Snapshot


def find_missing_shard(plan: Plan, snapshot: Snapshot) -> Iterator[Finding]:
    """Find sessions that have lived for long and never shown a shard."""
    for session in snapshot.sessions:
        silent = session.silent_seconds
        if (
            silent is not None
            and silent >= plan.missing_shard_seconds
            and _shares(plan, session.name)
        ):
            yield Finding(
                kind=MISSING_SHARD,
                subject=session.name,
                expected=f"a shard within {plan.missing_shard_seconds:g} s of its start",
                actual=f"it (pid {session.pid}) has written none",
                hint="its Python needs prometheus_client, and must import it after the environment"
                " is set; `ptsup doctor` tells which. A session may also have nothing to count yet",
                since=snapshot.now,
            )


def find_stale_values(plan: Plan, snapshot: Snapshot) -> Iterator[Finding]:
    """Find sessions none of whose values has moved for long."""
    for session in snapshot.sessions:
        unmoved = session.unmoved_seconds
        if unmoved is not None and unmoved >= plan.stale_values_seconds:
            yield Finding(
                kind=STALE_VALUES,
                subject=session.name,
                expected=f"a value moves at least every {plan.stale_values_seconds:g} s",
                actual=f"none of those of pid {session.pid} has",
                hint=f"see `ptsup logs {session.name}`: it hangs, or its market is closed",
                since=snapshot.now - (unmoved - plan.stale_values_seconds),
            )


def find_unlinked_shard(_plan: Plan, snapshot: Snapshot) -> Iterator[Finding]:
    """Find living sessions that write into files no scrape can find any more."""
    for session in snapshot.sessions:
        for unlinked in session.unlinked:
            yield Finding(
                kind=UNLINKED_SHARD,
                subject=f"{session.name} (pid {unlinked.pid})",
                expected="its shards lie in the shard directory while it lives",
                actual=f"{', '.join(unlinked.shards)} was removed or moved away under it",
                hint=f"`ptsup restart {session.name}`: what it counts until then is lost",
                since=snapshot.now,
            )


def find_env_mismatch(plan: Plan, snapshot: Snapshot) -> Iterator[Finding]:
    """Find processes of sessions whose environment is not the planned one."""
    for session in snapshot.sessions:
        planned = plan.sessions.get(session.name)
        for environment in session.environments if planned else ():
            assert planned is not None
            wrong = _find_wrong(planned.variables, environment)
            if wrong:
                yield Finding(
                    kind=ENV_MISMATCH,
                    subject=f"{session.name} (pid {environment.pid})",
                    expected=", ".join(f"{name}={planned.variables[name]}" for name in wrong),
                    actual=", ".join(_render_set(environment, name) for name in wrong),
                    hint="something in its command sets or clears these variables: leave them"
                    f" alone there, then `ptsup restart {session.name}`",
                    since=snapshot.now,
                )


def _find_wrong(planned: Mapping[str, str], environment: Environment) -> list[str]:
    """Find the variables that differ; that one is unset matters in the leader alone.

    For a session may well run small programs with an environment of their own.
    """
    return [
        name
        for name, value in planned.items()
        if (found := environment.variables.get(name)) != value
        and (environment.leads or found is not None)
    ]


def _render_set(environment: Environment, name: str) -> str:
    found = environment.variables.get(name)
    return f"{name} is not set" if found is None else f"{name}={found}"


def find_session_listens(plan: Plan, snapshot: Snapshot) -> Iterator[Finding]:
    """Find sessions that listen where none should: on any port, or on that of the metrics."""
    for socket in snapshot.listening:
        metrics = socket.port == plan.port
        if not socket.session or not (metrics or _is_unplanned(plan, socket)):
            continue
        yield Finding(
            kind=SESSION_LISTENS,
            subject=f"{socket.session} on port {socket.port}",
            expected=f"only metricsd listens on port {plan.port}"
            if metrics
            else "a session in Mode B listens on no port: metricsd shows its metrics",
            actual=f"{socket.holder} listens on {socket.host}:{socket.port}",
            hint="take its metrics server out of it (start_session_http() does nothing in Mode B),"
            f" then `ptsup restart {socket.session}`",
            since=snapshot.now,
        )


def _is_unplanned(plan: Plan, socket: Listening) -> bool:
    planned = plan.sessions.get(socket.session)
    awaited = planned is not None and socket.port in planned.ports
    return _shares(plan, socket.session) and not awaited


def find_label_violation(_plan: Plan, snapshot: Snapshot) -> Iterator[Finding]:
    """Find series that were left off the page; of the dead they are listed for a while."""
    for found in snapshot.violations:
        if not found.lives and snapshot.now - found.seen_at >= MENDED_SECONDS:
            continue
        where = f" in {', '.join(found.shards)}" if found.shards else ""
        name = found.label == "__name__"
        yield Finding(
            kind=LABEL_VIOLATION,
            subject=f"{found.metric} of {found.writer}",
            expected="only ptsup's own metrics are called ptsup_*"
            if name
            else "only labels that are allowed, and no instrument's",
            actual=(
                f"{found.series} series{where} carry "
                + ("that name" if name else f"the label {found.label!r}")
                + "; they are not on the page"
            ),
            hint="take the label out where the metric is defined; docs/drift.md tells which may be"
            " allowed, and which never",
            since=found.seen_at,
        )


def _shares(plan: Plan, name: str) -> bool:
    planned: SessionPlan | None = plan.sessions.get(name)
    return planned is None or planned.shares
