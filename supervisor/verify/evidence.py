"""The evidence document of the runbook, written from what was measured and from nothing else. Pure.

A box is checked when its check passed. Paths are relative to where `ptsup verify` ran; what lies
elsewhere is named without the way there.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from supervisor.verify.checks import find_running, read_version
from supervisor.verify.render import find_queries, find_result, render_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from supervisor.verify.checks import Verdict
    from supervisor.verify.snapshot import Query, Snapshot

_SERIES_SHOWN: Final = 40
_FILES_SHOWN: Final = 60
# An absolute path: two parts at least, and not the path of a URL.
_PATH: Final = re.compile(r"(?<![\w:/.~-])/(?:[^\s/'\"`|]+/)+([^\s/'\"`|,;:]+)")

# What the runbook wants to see, and the checks that see it.
_CHECKLIST: Final = (
    ("ptsup holds the port, and metricsd answers on it", ("supervisor", "port:")),
    ("Sessions run in mode B, or in mode A as configured", ("mode:",)),
    ("Every configured target is scraped and up", ("prometheus", "target:")),
    ("0 targets DOWN", ("targets",)),
    ('up{job="peak_trade_metricsd"} == 1, without a break', ("up-stable",)),
    ("Series exist: peaktrade_strategy_*, peaktrade_risk_*", ("families:",)),
    ("Values update during the session", ("values",)),
)
_GRAFANA: Final = ("Grafana, its data source and the proxied query answer", ("grafana",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is told of the machine: versions, what lies in the shard directory, who has the port."""

    now: datetime
    cwd: str
    home: str
    versions: Mapping[str, str]
    directory: str
    shards: Sequence[tuple[str, int]]
    owners: Mapping[str, Sequence[str]]


def render_evidence(seen: Snapshot, verdicts: Sequence[Verdict], facts: Facts) -> str:
    """Write the document, whatever the result."""

    def hide(text: str) -> str:
        return hide_paths(text, facts.cwd, facts.home)

    parts = [
        f"# EV: metricsd Mode B Verify ({facts.now:%Y-%m-%d})\n",
        f"Measured by `ptsup verify`, {facts.now:%Y-%m-%d %H:%M:%S} UTC.\n",
        f"**RESULT={find_result(verdicts)}**\n",
        "## Setup\n",
        *_render_setup(seen, facts, hide),
        "\n## Commands\n",
        *_render_commands(seen, hide),
        "\n## Checklist\n",
        *_render_checklist(seen, verdicts),
        "\n## Verdicts\n",
        _fence(hide(line) for line in render_lines(verdicts)),
        "\n## Observations\n",
        *_render_observations(seen, hide),
        "\n## Shards\n",
        *_render_shards(facts, hide),
        "\n## Notes / Anomalies\n",
        *_render_notes(seen, verdicts, hide),
    ]
    return "\n".join(parts) + "\n"


def hide_paths(text: str, cwd: str, home: str) -> str:
    """Make paths below `cwd` relative, and leave of others their last part."""
    for base, short in ((cwd, "."), (home, "~")):
        if len(base) > 1:
            text = re.sub(rf"{re.escape(base)}(?=/|\b|$)", short, text)
    text = re.sub(r"(?<![\w.])\./", "", text)
    return _PATH.sub(r"…/\1", text)


def _render_setup(seen: Snapshot, facts: Facts, hide: Any) -> Iterator[str]:
    if seen.status:
        for name, mode in seen.modes.items():
            yield f"- PEAKTRADE_METRICS_MODE={mode or '(not seen)'} in {name}"
        yield f"- PEAKTRADE_METRICS_MULTIPROC_DIR={hide(facts.directory)}"
        port = seen.status["port"]
        yield f"- metricsd: port {port['port']} on {port['host']}"
        for role, command in facts.owners.items():
            shown = hide(shlex.join(command)) or "not to be seen"
            yield f"- port {port['port']}: {role}: `{shown}`"
    else:
        yield f"- {hide(seen.absence)}"
    yield f"- Prometheus: {seen.prometheus_url}, version {read_version(seen) or 'not seen'}"
    yield f"- Grafana: {seen.grafana.url if seen.grafana else 'not asked'}"
    yield from (f"- {name}: {version}" for name, version in facts.versions.items())


def _render_commands(seen: Snapshot, hide: Any) -> Iterator[str]:
    for role in ("sessions", "exporters"):
        for process in seen.status[role] if seen.status else ():
            command = hide(shlex.join(process["command"]))
            yield f"- {role[:-1]} {process['name']} ({process['state']}): `{command}`"
    grafana = f" --grafana {seen.grafana.url}" if seen.grafana else ""
    yield (
        f"- verify: `ptsup verify --prometheus {seen.prometheus_url}{grafana}"
        f" --window {seen.window_seconds:g}`"
    )


def _render_checklist(seen: Snapshot, verdicts: Sequence[Verdict]) -> Iterator[str]:
    for text, prefixes in (*_CHECKLIST, *((_GRAFANA,) if seen.grafana else ())):
        found = {
            prefix: [v for v in verdicts if v.id == prefix or _belongs(v.id, prefix)]
            for prefix in prefixes
        }
        passed = all(group and all(v.passed for v in group) for group in found.values())
        yield f"- [{'x' if passed else ' '}] {text}"


def _belongs(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and (prefix.endswith(":") or name.startswith(f"{prefix}-"))


def _render_observations(seen: Snapshot, hide: Any) -> Iterator[str]:
    yield f"`up` was looked at {len(seen.up)} times within {seen.up_seconds:.0f} s.\n"
    shown: set[str] = set()
    for query in find_queries(seen):
        if query.expression not in shown:
            shown.add(query.expression)
            yield _fence([f"# {query.expression}", *map(hide, _render_series(query))]) + "\n"
    if not shown:
        yield "No query was answered."


def _render_series(query: Query) -> Iterator[str]:
    values = query.values
    if values is None:
        yield query.answer.problem or "the answer makes no sense"
        return
    if not values:
        yield "(no series)"
    for labels, value in sorted(values.items())[:_SERIES_SHOWN]:
        pairs = dict(labels)
        name = pairs.pop("__name__", "")
        inner = ",".join(f'{label}="{text}"' for label, text in pairs.items())
        yield f"{name}{{{inner}}} {value:g}"
    if len(values) > _SERIES_SHOWN:
        yield f"… and {len(values) - _SERIES_SHOWN} more"


def _render_shards(facts: Facts, hide: Any) -> Iterator[str]:
    if not facts.directory:
        yield "Not seen: no supervisor runs."
        return
    lines = [f"{size:>9}  {name}" for name, size in facts.shards[:_FILES_SHOWN]]
    if len(facts.shards) > _FILES_SHOWN:
        lines.append(f"… and {len(facts.shards) - _FILES_SHOWN} more")
    yield _fence([f"# {hide(facts.directory)} (bytes, file)", *(lines or ["(nothing)"])])


def _render_notes(seen: Snapshot, verdicts: Sequence[Verdict], hide: Any) -> Iterator[str]:
    notes = [f"{v.id}: {v.message}" for v in verdicts if not v.passed]
    if seen.status:
        notes += [
            f"drift: {found['kind']}: {found['subject']}: {found['actual']}"
            for found in seen.status["drift"]
        ]
        if not find_running(seen):
            notes.append("no session ran")
    yield from (f"- {hide(note)}" for note in notes)
    if not notes:
        yield "- (none)"


def _fence(lines: Any) -> str:
    # A line cannot end the block: no backticks in it.
    return "\n".join(["```text", *(line.replace("```", "'''") for line in lines), "```"])
