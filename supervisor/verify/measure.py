"""What to ask, and when: one verification, from the plan to a snapshot, within a bounded time.

The window is long enough when `up` was seen over all of it and, while a session runs, Prometheus
has scraped twice since the beginning. Nothing is judged here.
"""

from __future__ import annotations

import base64
import time
import urllib.parse
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from supervisor.scrape_config import JOB_NAME, find_targets
from supervisor.verify.ask import Question, ask_all
from supervisor.verify.checks import find_moved, find_running, read_version
from supervisor.verify.snapshot import Answer, Grafana, Query, Snapshot, read_active

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from supervisor.scrape_config import Target

ANSWER_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 1.0
# However seldom Prometheus scrapes, nobody waits longer for values to move.
PATIENCE_SECONDS: Final = 120.0

UP: Final = f'up{{job="{JOB_NAME}"}}'
_OURS: Final = f'__name__=~"peaktrade_(strategy|risk)_.+",job="{JOB_NAME}"'
FAMILIES: Final = f"count by (__name__) ({{{_OURS}}})"
COUNTERS: Final = f'{{__name__=~"peaktrade_(strategy|risk)_.+_total",job="{JOB_NAME}"}}'
# The runbook's own, for the evidence.
SHOWN: Final = (
    "up",
    f'sum(rate({{__name__=~"peaktrade_strategy_.+_total",job="{JOB_NAME}"}}[1m]))',
    f'sum(increase({{__name__=~"peaktrade_risk_.+_total",job="{JOB_NAME}"}}[5m]))',
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to verify: base URLs without a slash at their end, credentials as one header.

    `read_status` gives the status document, or in words why there is none.
    """

    prometheus_url: str
    read_status: Callable[[], Mapping[str, Any] | str]
    read_mode: Callable[[int], str]
    default_targets: Sequence[Target]
    grafana_url: str = ""
    grafana_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    window_seconds: float = 10.0
    answer_seconds: float = ANSWER_SECONDS


def build_authorization(environ: Mapping[str, str]) -> dict[str, str]:
    """Build Grafana's header from PTSUP_GRAFANA_TOKEN, else _USER and _PASSWORD, else none."""
    token = environ.get("PTSUP_GRAFANA_TOKEN", "")
    if token:
        return {"Authorization": f"Bearer {token}"}
    user = environ.get("PTSUP_GRAFANA_USER", "")
    if user:
        pair = f"{user}:{environ.get('PTSUP_GRAFANA_PASSWORD', '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


def measure(plan: Plan, progress: Callable[[float, str], None]) -> Snapshot:
    """Ask everything once, watch the window, and ask for what only then can be known.

    `progress` is told the part of it that is done (0..1), and what comes next.
    """
    progress(0.0, "asking")
    seen = _begin(plan)
    if read_version(seen):
        seen = _watch(plan, seen, progress)
        found = _ask_prometheus(plan, *SHOWN)
        seen = replace(seen, shown=tuple(found[expression] for expression in SHOWN))
    seen = _look_again(plan, seen)
    progress(1.0, "done")
    return seen


def _begin(plan: Plan) -> Snapshot:
    status = plan.read_status()
    document = None if isinstance(status, str) else status
    targets = find_targets(document) if document else list(plan.default_targets)
    pages = _ask_pages(plan, targets)
    questions = {"build": Question(f"{plan.prometheus_url}/api/v1/status/buildinfo")}
    if plan.grafana_url:
        for name, path in (("health", "health"), ("source", "datasources/name/prometheus")):
            url = f"{plan.grafana_url}/api/{path}"
            questions[name] = Question(url, plan.grafana_headers)
    answers = ask_all(questions, plan.answer_seconds)
    grafana = None
    if plan.grafana_url:
        grafana = _ask_proxy(
            plan,
            Grafana(
                url=plan.grafana_url,
                authorized=bool(plan.grafana_headers),
                health=answers["health"],
                datasource=answers["source"],
            ),
        )
    return Snapshot(
        prometheus_url=plan.prometheus_url,
        window_seconds=plan.window_seconds,
        targets=targets,
        pages=pages,
        build=answers["build"],
        status=document,
        absence=status if isinstance(status, str) else "",
        grafana=grafana,
    )


def _ask_pages(plan: Plan, targets: Iterable[Target]) -> dict[Target, Answer]:
    return ask_all({target: Question(target.url) for target in targets}, plan.answer_seconds)


def _look_again(plan: Plan, seen: Snapshot) -> Snapshot:
    """See what had only just been started when we began: pages that come up, shards, modes."""
    failed = [target for target, answer in seen.pages.items() if answer.problem]
    seen = replace(seen, pages={**seen.pages, **_ask_pages(plan, failed)})
    later = plan.read_status() if seen.status else ""
    if seen.status and not isinstance(later, str):
        # Who has ended meanwhile did run while we looked.
        now = {(s["name"], s["pid"]): s for s in later["sessions"]}
        sessions = [now.get((s["name"], s["pid"]), s) for s in seen.status["sessions"]]
        seen = replace(seen, status={**later, "sessions": sessions})
    return replace(seen, modes={s["name"]: plan.read_mode(s["pid"]) for s in find_running(seen)})


def _ask_proxy(plan: Plan, grafana: Grafana) -> Grafana:
    """Ask for `up` through the data source: by its uid, and by its number where that is unknown."""
    found = grafana.datasource.body
    if grafana.datasource.problem or not isinstance(found, dict):
        return grafana
    answer = None
    for way, key in (("uid/", "uid"), ("", "id")):
        if not found.get(key):
            continue
        name = urllib.parse.quote(str(found[key]), safe="")
        url = f"{plan.grafana_url}/api/datasources/proxy/{way}{name}/api/v1/query?query=up"
        question = Question(url, plan.grafana_headers)
        answer = ask_all({"up": question}, plan.answer_seconds)["up"]
        if answer.status != 404:
            break
    return replace(grafana, proxied_up=answer)


def _watch(plan: Plan, seen: Snapshot, progress: Callable[[float, str], None]) -> Snapshot:
    """Look at `up` each second until the window is over, and values have had time to move.

    The window begins when there is an `up`: a Prometheus that has just begun has none yet.
    """
    began = first_seen = time.monotonic()
    patience = plan.window_seconds
    while True:
        looked = time.monotonic()
        found = _ask_prometheus(plan, UP, COUNTERS, FAMILIES)
        targets = Question(f"{plan.prometheus_url}/api/v1/targets?state=active")
        active = ask_all({"": targets}, plan.answer_seconds)[""]
        if not any(query.values for query in seen.up):
            first_seen = looked
            seen = replace(seen, up=(), first=None)
        seen = replace(
            seen,
            up=(*seen.up, found[UP]),
            up_seconds=looked - first_seen,
            first=seen.first or found[COUNTERS],
            last=found[COUNTERS],
            families=found[FAMILIES],
            active=active,
        )
        patience = min(max(patience, _find_patience(active)), PATIENCE_SECONDS)
        left = _find_left(plan, seen, patience - (looked - began))
        if left <= 0 or found[UP].answer.error:
            return seen
        elapsed = looked - began
        progress(elapsed / (elapsed + left), "watching up and the values")
        time.sleep(max(0.0, min(LOOK_SECONDS, left) - (time.monotonic() - looked)))


def _find_left(plan: Plan, seen: Snapshot, patience_left: float) -> float:
    """Find how long to go on looking, at most; nothing is awaited that cannot come any more."""
    if not any(query.values for query in seen.up):
        return patience_left
    left = plan.window_seconds - seen.up_seconds
    return left if _is_settled(seen) else max(left, patience_left)


def _is_settled(seen: Snapshot) -> bool:
    """Tell whether waiting longer could show nothing more: all is scraped, and values moved."""
    active = read_active(seen.active)
    if active is None or any(found.get("health") == "unknown" for found in active):
        return False
    return not find_running(seen) or any((find_moved(seen) or {}).values())


def _find_patience(active: Answer) -> float:
    """Find how long two scrapes of metricsd take, and a moment; 0 when nobody scrapes it."""
    ours = [f for f in read_active(active) or () if f["labels"].get("job") == JOB_NAME]
    return max((2 * parse_duration(str(f.get("scrapeInterval"))) + 2 for f in ours), default=0.0)


def parse_duration(text: str) -> float:
    """Read what Prometheus writes as a duration (15s, 1m30s, 500ms) as seconds; else 0."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    seconds, number, unit = 0.0, "", ""
    for character in f"{text}0":
        if character.isdigit() and unit:
            if not number or unit not in units:
                return 0.0
            seconds += int(number) * units[unit]
            number, unit = "", ""
        if character.isdigit():
            number += character
        else:
            unit += character
    return seconds


def _ask_prometheus(plan: Plan, *expressions: str) -> dict[str, Query]:
    questions = {
        expression: Question(
            f"{plan.prometheus_url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        )
        for expression in expressions
    }
    answers = ask_all(questions, plan.answer_seconds)
    return {expression: Query(expression, answers[expression]) for expression in expressions}
