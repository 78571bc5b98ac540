"""The supervisor's own part of the page, in Prometheus' text format.

Pure. The names are a contract with dashboards. metricsd puts the lines on its page as long as
the process that the first line names is alive.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from supervisor.drift import KINDS
from supervisor.process import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from supervisor.drift import Finding
    from supervisor.fleet import Fleet

# What may not stand in a label's value as it is.
_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def render_exposition(fleet: Fleet, findings: Iterable[Finding], *, pid: int, identity: str) -> str:
    """Render the file: a line that says whose it is, then our families."""
    sessions = fleet.sessions.values()
    states = Counter(str(process.state) for process in sessions)
    kinds = Counter(found.kind for found in findings)
    up = {process.name: int(process.state is State.RUNNING) for process in sessions}
    restarts = {process.name: process.restarts for process in sessions}
    return "".join(
        (
            f"# ptsup {pid} {identity}\n",
            _render_family(
                "ptsup_session_up", "gauge", "Whether the session is running.", "session", up
            ),
            _render_family(
                "ptsup_session_restarts_total",
                "counter",
                "How often the session was spawned after the first time.",
                "session",
                restarts,
            ),
            _render_family(
                "ptsup_sessions",
                "gauge",
                "Number of sessions in each state.",
                "state",
                {str(state): states[state] for state in State},
            ),
            _render_family(
                "ptsup_drift_findings",
                "gauge",
                "Number of findings of each kind that the supervisor looks for.",
                "kind",
                {kind: kinds[kind] for kind in (*KINDS, *sorted(kinds.keys() - set(KINDS)))},
            ),
        )
    )


def _render_family(
    name: str, kind: str, help_text: str, label: str, values: Mapping[str, int]
) -> str:
    lines = [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
    lines += [
        f'{name}{{{label}="{text.translate(_ESCAPES)}"}} {value}' for text, value in values.items()
    ]
    return "".join(f"{line}\n" for line in lines)
