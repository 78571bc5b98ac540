"""The verdicts on a snapshot: what was seen is held against the plan. Pure.

A check that could not see what it is about fails, and says what it did not see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from supervisor.scrape_config import JOB_NAME
from supervisor.verify.snapshot import read_active, read_vector
from telemetry.mode import MODE_VARIABLE, Mode, parse_mode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from supervisor.scrape_config import Target
    from supervisor.verify.snapshot import Grafana, Snapshot

FAMILY_PREFIXES: Final = ("peaktrade_strategy_", "peaktrade_risk_")
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check: passed or not, what was seen, and what to do about it."""

    id: str
    passed: bool
    message: str
    next: str = ""


def find_verdicts(seen: Snapshot) -> list[Verdict]:
    """Judge a snapshot: the supervisor, the pages, Prometheus, the values, Grafana."""
    found = [_judge_supervisor(seen), *_judge_sessions(seen)]
    found += [_judge_page(seen, target) for target in seen.targets]
    reached = _judge_prometheus(seen)
    found.append(reached)
    if reached.passed:
        found += [_judge_target(seen, target) for target in seen.targets]
        found += [_judge_down(seen), _judge_up(seen), *_judge_families(seen), _judge_values(seen)]
    if seen.grafana is not None:
        found += _judge_grafana(seen.grafana)
    return found


def _fail(name: str, message: str, next_step: str) -> Verdict:
    return Verdict(name, passed=False, message=message, next=next_step)


def _pass(name: str, message: str) -> Verdict:
    return Verdict(name, passed=True, message=message)


# -- Here ------------------------------------------------------------------------------------------


def _judge_supervisor(seen: Snapshot) -> Verdict:
    if seen.status is None:
        return _fail("supervisor", seen.absence or "no supervisor runs", "ptsup start -d")
    metricsd = seen.status["metricsd"]
    if metricsd["state"] != "running":
        return _fail("supervisor", f"metricsd is {metricsd['state']}", "ptsup logs metricsd")
    pid = seen.status["supervisor"]["pid"]
    return _pass("supervisor", f"the supervisor (pid {pid}) runs, and metricsd with it")


def find_running(seen: Snapshot) -> list[Mapping[str, Any]]:
    """Find the sessions that run."""
    sessions = seen.status["sessions"] if seen.status else ()
    return [session for session in sessions if session["state"] == "running"]


def _judge_sessions(seen: Snapshot) -> Iterator[Verdict]:
    """Judge each running session: mode B and shards of its own are what brings its values here."""
    for session in find_running(seen):
        name = f"mode:{session['name']}"
        mode = seen.modes.get(session["name"]) or session.get("mode") or "B"
        real = parse_mode({MODE_VARIABLE: mode})
        if real is Mode.A and session.get("mode") == Mode.A:
            yield _pass(name, "mode A as configured")
        elif real is Mode.A:
            yield _fail(
                name,
                f"the session runs in mode A ({MODE_VARIABLE}={mode!a}): "
                "its counts are not on metricsd's page",
                f"take {MODE_VARIABLE} out of its command",
            )
        elif not session["shards"]:
            yield _fail(
                name,
                "the session has written no shard: it has no metrics on metricsd's page",
                "see that it calls telemetry.ensure_registered() and has prometheus_client",
            )
        else:
            yield _pass(name, f"mode B, {session['shards']} shards")


def _judge_page(seen: Snapshot, target: Target) -> Verdict:
    name = f"port:{target.job}:{target.port}"
    url, problem = target.url, seen.pages[target].problem
    if problem:
        who = _find_server(seen, target)
        look = f"; ptsup logs {who}" if who else ""
        return _fail(name, f"{url} {problem}", f"ptsup status{look}")
    return _pass(name, f"{url} answers 200")


def _find_server(seen: Snapshot, target: Target) -> str:
    """Find by its port who was to serve a page; empty when no supervisor says it."""
    if target.job == JOB_NAME:
        return "metricsd"
    members = (*seen.status["exporters"], *seen.status["sessions"]) if seen.status else ()
    return next((str(m["name"]) for m in members if m.get("port") == target.port), "")


# -- Prometheus ------------------------------------------------------------------------------------


def _judge_prometheus(seen: Snapshot) -> Verdict:
    url, problem = seen.prometheus_url, seen.build.problem
    if problem:
        return _fail(
            "prometheus", f"{url} {problem}", "start Prometheus, or give its URL with --prometheus"
        )
    version = read_version(seen)
    if not version:
        return _fail("prometheus", f"{url} is no Prometheus", "give its URL with --prometheus")
    return _pass("prometheus", f"{url} answers, version {version}")


def read_version(seen: Snapshot) -> str:
    """Read Prometheus' version; empty when it did not say one."""
    try:
        return str(seen.build.body["data"]["version"])
    except (KeyError, TypeError):
        return ""


def _judge_target(seen: Snapshot, target: Target) -> Verdict:
    """Judge whether Prometheus scrapes a page of ours, under its own name, and finds it up."""
    name = f"target:{target.job}:{target.port}"
    active = read_active(seen.active)
    if active is None:
        return _fail(name, _say_missing(seen, "its targets"), "verify again")
    here = [found for found in active if _find_port(found) == target.port]
    named = [found for found in here if found["labels"].get("job") == target.job]
    wiring = "load what `ptsup scrape-config` prints into Prometheus, and verify again"
    if not named:
        others = sorted({repr(str(found["labels"].get("job"))) for found in here})
        message = f"Prometheus has no job {target.job} with a target on port {target.port}"
        if others:
            message = (
                f"Prometheus scrapes port {target.port} as job {', '.join(others)}, "
                f"not as {target.job}"
            )
        return _fail(name, message, wiring)
    down = [found for found in named if found.get("health") != "up"]
    if down:
        return _fail(
            name,
            "; ".join(_describe(found) for found in down),
            "the page has to be reachable from where Prometheus runs: "
            f"not bound to 127.0.0.1, and {target.port} open",
        )
    return _pass(name, f"up as {', '.join(str(f['labels'].get('instance')) for f in named)}")


def _find_port(found: Mapping[str, Any]) -> int | None:
    try:
        parts = urlsplit(str(found.get("scrapeUrl")))
        return parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None


def _describe(found: Mapping[str, Any]) -> str:
    labels = found["labels"]
    error = str(found.get("lastError") or "")[:160]
    said = f": {error}" if error else ""
    return f"{labels.get('job')} {labels.get('instance')} is {found.get('health')}{said}"


def _judge_down(seen: Snapshot) -> Verdict:
    """Judge all targets Prometheus has, whoever's they are: the runbook wants 0 DOWN."""
    active = read_active(seen.active)
    if active is None:
        return _fail("targets", _say_missing(seen, "its targets"), "verify again")
    down = [found for found in active if found.get("health") != "up"]
    if not active:
        return _fail("targets", "Prometheus has no targets", "ptsup scrape-config")
    if down:
        message = f"{len(down)} of {_count(active)} DOWN"
        message += "".join(f"; {_describe(found)}" for found in down[:_SHOWN])
        return _fail("targets", message, "bring them up, or take them out of Prometheus")
    return _pass("targets", f"{_count(active)}, 0 DOWN")


def _count(active: Sequence[object]) -> str:
    return f"{len(active)} target{'s' if len(active) != 1 else ''}"


def _say_missing(seen: Snapshot, what: str) -> str:
    problem = seen.active.problem if seen.active else "was not asked"
    return f"Prometheus did not say {what}: {problem or 'the answer makes no sense'}"


def _judge_up(seen: Snapshot) -> Verdict:
    name, next_step = "up-stable", "ptsup logs metricsd; see `ptsup status` for its restarts"
    seconds = f"{seen.up_seconds:.0f} s"
    values = [query.values for query in seen.up]
    good = [bool(found) and set(found.values()) == {1.0} for found in values if found is not None]
    if None in values or not values:
        problem = next((q.answer.problem for q in seen.up if q.values is None), "") or "no answer"
        return _fail(name, f"up could not be seen all the time: {problem}", "verify again")
    if not any(values):
        message = f'there is no up{{job="{JOB_NAME}"}}'
        return _fail(name, message, "load what `ptsup scrape-config` prints into Prometheus")
    if not all(good):
        bad = good.count(False)
        message = f"up was not 1 in {bad} of {len(good)} looks within {seconds}"
        return _fail(name, message, next_step)
    if seen.up_seconds < seen.window_seconds:
        message = f"up was seen for {seconds} only, not for {seen.window_seconds:g} s"
        return _fail(name, message, "verify again")
    return _pass(name, f"up was 1 in each of {len(good)} looks within {seconds}")


def _judge_families(seen: Snapshot) -> Iterator[Verdict]:
    found = seen.families.values if seen.families else None
    names = sorted(dict(labels).get("__name__", "") for labels in found or ())
    for prefix in FAMILY_PREFIXES:
        name = f"families:{prefix}*"
        ours = [family for family in names if family.startswith(prefix)]
        if found is None:
            problem = seen.families.answer.problem if seen.families else "it was not asked"
            yield _fail(name, f"the series could not be seen: {problem}", "verify again")
        elif not ours:
            yield _fail(
                name,
                f"Prometheus has no series {prefix}* of job {JOB_NAME}",
                "run a session that counts with telemetry, in mode B",
            )
        else:
            yield _pass(name, ", ".join(ours))


def find_moved(seen: Snapshot) -> dict[str, float] | None:
    """Find by how much each family of counters grew; None when that was not seen."""
    first = seen.first.values if seen.first else None
    last = seen.last.values if seen.last else None
    if first is None or last is None:
        return None
    moved: dict[str, float] = {}
    for labels, value in last.items():
        name = dict(labels).get("__name__", "")
        moved[name] = moved.get(name, 0.0) + max(0.0, value - first.get(labels, 0.0))
    return moved


def _judge_values(seen: Snapshot) -> Verdict:
    moved, running = find_moved(seen), find_running(seen)
    names = ", ".join(str(session["name"]) for session in running[:_SHOWN])
    if not running:
        message = "no session runs, so no value was seen to move"
        return _fail("values", message, "start a session, and verify while it runs")
    if moved is None:
        problem = next((q.answer.problem for q in (seen.first, seen.last) if q), "") or "not asked"
        return _fail("values", f"the counters could not be seen: {problem}", "verify again")
    grown = {name: by for name, by in moved.items() if by > 0}
    if not grown:
        return _fail(
            "values",
            f"no counter moved within {seen.up_seconds:.0f} s while {names} ran",
            "see what it does with `ptsup logs`; a session that waits counts nothing: "
            "a longer --window may see it",
        )
    said = ", ".join(f"{name} +{by:g}" for name, by in sorted(grown.items()))
    return _pass("values", f"moved while {names} ran: {said}")


# -- Grafana ---------------------------------------------------------------------------------------


def _judge_grafana(grafana: Grafana) -> Iterator[Verdict]:
    problem = grafana.health.problem
    if problem:
        message = f"{grafana.url} {problem}"
        yield _fail("grafana", message, "start Grafana, or give its URL with --grafana")
        return
    database = _read(grafana.health.body, "database")
    if database != "ok":
        message = f"{grafana.url} is no healthy Grafana: its database is {database!a}"
        yield _fail("grafana", message, "see Grafana's log")
        return
    yield _pass(
        "grafana", f"{grafana.url} is healthy, version {_read(grafana.health.body, 'version')}"
    )
    source = _judge_datasource(grafana)
    yield source
    if source.passed:
        yield _judge_proxy(grafana)


def _read(body: object, key: str) -> Any:
    return body.get(key) if isinstance(body, dict) else None


def _judge_datasource(grafana: Grafana) -> Verdict:
    name, answer = "grafana-datasource", grafana.datasource
    kind = _read(answer.body, "type")
    if answer.status in {401, 403}:
        sent = "the credentials were refused" if grafana.authorized else "it wants credentials"
        return _fail(
            name,
            f"Grafana answers {answer.status}: {sent}",
            "set PTSUP_GRAFANA_TOKEN, or PTSUP_GRAFANA_USER and PTSUP_GRAFANA_PASSWORD",
        )
    if answer.status == 404:
        message = 'Grafana has no data source named "prometheus"'
        return _fail(name, message, "add it in Grafana, with Prometheus' URL")
    if answer.problem:
        return _fail(name, f"Grafana {answer.problem}", "see Grafana's log")
    if kind != "prometheus":
        message = f'the data source "prometheus" is of type {kind!a}'
        return _fail(name, message, "make it one of type prometheus, with Prometheus' URL")
    return _pass(name, 'the data source "prometheus" is of type prometheus')


def _judge_proxy(grafana: Grafana) -> Verdict:
    name, answer = "grafana-proxy", grafana.proxied_up
    if answer is None or answer.problem:
        problem = answer.problem if answer else "was not asked"
        message = f"the query `up` through Grafana: {problem}"
        return _fail(name, message, "see the data source's URL in Grafana")
    found = read_vector(answer)
    ours = [value for labels, value in (found or {}).items() if ("job", JOB_NAME) in labels]
    if not ours:
        message = f"the data source knows no up of job {JOB_NAME}: it is another Prometheus"
        return _fail(name, message, "give the data source the URL of the Prometheus verified here")
    if set(ours) != {1.0}:
        message = f'through Grafana up{{job="{JOB_NAME}"}} is {min(ours):g}'
        return _fail(name, message, "see the target's verdict above")
    return _pass(name, f'through Grafana up{{job="{JOB_NAME}"}} is 1')
