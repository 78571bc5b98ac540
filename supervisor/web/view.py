"""What the page is sent: the status document, and what metricsd's page says of its sessions; pure.

A public page is sent no arguments, no paths and no words of a log.
"""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

from supervisor.web.history import find_exposures

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.web.history import LastSignal, Sample

# What anybody may see. What is not named here is left out, also when it is new.
_PUBLIC: Final[Mapping[str, frozenset[str]]] = {
    "supervisor": frozenset({"state", "uptime_seconds", "version"}),
    "port": frozenset({"port"}),
    "metricsd": frozenset({"state", "restarts", "last_scrape_age_seconds"}),
    "shards": frozenset({"live", "retired", "unreadable", "bytes"}),
    "sessions": frozenset(
        {
            *("name", "state", "target", "incarnation", "restarts", "returncode", "exit"),
            *("uptime_seconds", "deadline_seconds", "shards", "cpu_percent", "rss_bytes"),
        }
    ),
    "exporters": frozenset({"name", "state", "port", "restarts", "uptime_seconds", "exit"}),
    "drift": frozenset({"kind", "hint", "since_seconds"}),
}
# Findings whose subject is a session or a pid; that of others may be a path or a command.
_PUBLIC_SUBJECTS: Final = frozenset(
    {
        *("missing-shard", "unlinked-shard", "stale-values", "env-mismatch", "session-listens"),
        *("orphan-shard", "foreign-shard", "metricsd-unhealthy", "log-unrotatable"),
    }
)


def build_view(
    document: Mapping[str, Any],
    strategies: Mapping[str, frozenset[str]],
    sample: Sample | None,
    signals: Mapping[str, LastSignal],
    now: float,
    *,
    public: bool,
) -> dict[str, Any]:
    """Build what is sent: `status`, and by session's name the strategies it counts for."""
    values = sample.values if sample is not None and sample.values is not None else {}
    return {
        "public": public,
        "status": build_public(document) if public else document,
        "strategies": {
            session: [
                {
                    "id": strategy,
                    "signal": found.signal if (found := signals.get(strategy)) else None,
                    "signal_age_seconds": round(now - found.at, 1) if found else None,
                    "exposures": find_exposures(values, strategy),
                }
                for strategy in sorted(ids)
            ]
            for session, ids in strategies.items()
        },
    }


def build_public(document: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of a status document what is nobody else's business."""
    shown: dict[str, Any] = {"schema": document.get("schema")}
    for section, keys in _PUBLIC.items():
        found = document.get(section)
        if isinstance(found, list):
            shown[section] = [_pick(entry, keys) for entry in found]
        elif found is not None:
            shown[section] = _pick(found, keys)
    for session, whole in zip(shown["sessions"], document["sessions"], strict=True):
        # The program's name, and none of its arguments.
        session["command"] = [PurePath(word).name for word in whole.get("command", [])[:1]]
    for found, whole in zip(shown["drift"], document["drift"], strict=True):
        found["subject"] = whole["subject"] if whole["kind"] in _PUBLIC_SUBJECTS else ""
    return shown


def _pick(entry: Mapping[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key in keys}


def render_event(kind: str, data: object) -> bytes:
    """Render a server-sent event (the WHATWG's text/event-stream): one line of JSON."""
    # A line break would end the event; JSON escapes those that are inside of strings.
    return f"event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
