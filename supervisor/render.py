"""The status document as a person reads it. Pure: a document in, styled lines out.

Only rich's cell arithmetic is used here: its console would cost a third of a cold `status`.
"""

from __future__ import annotations

import shlex
import textwrap
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click
from rich.cells import cell_len, set_cell_size

from telemetry.mode import render_address
from telemetry.plain import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_STYLES: Final[Mapping[str, Mapping[str, Any]]] = {
    "running": {"fg": "green"},
    "starting": {"fg": "cyan"},
    "stopping": {"fg": "yellow"},
    "killing": {"fg": "yellow"},
    "backoff": {"fg": "yellow"},
    "exited": {"dim": True},
    "stopped": {"dim": True},
    "fatal": {"fg": "red", "bold": True},
    "dead": {"fg": "red", "bold": True},
}
_RED: Final[Mapping[str, Any]] = {"fg": "red"}
_RIGHT: Final = frozenset({"PID", "UP", "RESTARTS", "CPU", "MEM", "SHARDS"})
# The first to go where a terminal is too narrow.
_DISPENSABLE: Final = ("PAGE", "SHARDS", "MEM", "CPU", "RESTARTS", "PID", "UP")
_GAP: Final = 2
# What stands above and below the rows of sessions.
_HEAD_LINES: Final = 8
_COMMAND_WIDTH: Final = 12  # less of it says nothing
_NAME_WIDTH: Final = 12
_UNBOUNDED: Final = 1 << 16
_LABEL_WIDTH: Final = 12  # of what stands before the parts of a finding


@dataclass(frozen=True, slots=True)
class _Cell:
    """A text that is harmless for a terminal, and how to style it."""

    text: str
    style: Mapping[str, Any]

    def draw(self, width: int, *, right: bool) -> str:
        """Pad or cut the text to a width in terminal cells, then style it."""
        text = self.text
        if cell_len(text) > width:
            text = set_cell_size(text, max(0, width - 1)) + "…"
        padding = " " * (width - cell_len(text))
        styled = click.style(text, **self.style) if self.style and text else text
        return padding + styled if right else styled + padding


def render_status(
    status: Mapping[str, Any], width: int | None, height: int | None = None
) -> list[str]:
    """Render the document for so many columns and lines; None is as many as it takes.

    The lines carry styles; `click.echo` leaves them out where the output is no terminal.
    """
    sessions, width = status["sessions"], width or _UNBOUNDED
    shown = sessions if height is None else sessions[: max(1, height - _HEAD_LINES)]
    lines = [*_render_head(status, width), ""]
    lines += _render_table("SESSION", shown, width) if shown else ["no sessions"]
    if len(shown) < len(sessions):
        lines.append(click.style(f"and {len(sessions) - len(shown)} more", dim=True))
    exporters = status["exporters"]
    if exporters:
        lines += ["", *_render_table("EXPORTER", exporters, width)]
    for exporter in exporters:
        if exporter["note"]:
            text = f"{exporter['name']}: {exporter['note']}"
            lines += [click.style(line, fg="yellow") for line in _wrap(text, width)]
    for session in (*sessions, *exporters):
        if session.get("reason"):
            text = f"{session['name']}: {session['reason']}"
            lines += [click.style(line, fg="red") for line in _wrap(text, width)]
        # What a log line says stays one line: it is cut, and `ptsup logs` has the rest.
        for line in session.get("last_lines", ()):
            lines.append(click.style(_cut(f"  {_clean(line)}", width), dim=True))
    for found in status["drift"]:
        text = f"{found['kind']}: {found['subject']}: {found['actual']}. {found['hint']}"
        lines += [click.style(line, fg="yellow") for line in _wrap(text, width)]
    return [line.rstrip() for line in lines]


def render_drift(findings: Sequence[Mapping[str, Any]], width: int | None) -> list[str]:
    """Render findings for so many columns: each with what was expected, what is, what to do."""
    lines = []
    width = width or _UNBOUNDED
    for found in findings:
        lasted = render_seconds(found["since_seconds"])
        title = f"{found['kind']}: {found['subject']}, for {lasted}"
        lines += [click.style(line, fg="yellow") for line in _wrap(title, width)]
        for label in ("expected", "actual", "hint"):
            first, *more = _wrap(found[label], max(1, width - _LABEL_WIDTH)) or [""]
            lines.append(f"  {label:<{_LABEL_WIDTH - 2}}{first}")
            lines += [f"{'':{_LABEL_WIDTH}}{line}" for line in more]
    return lines


def _render_head(status: Mapping[str, Any], width: int) -> Iterator[str]:
    rows = list(_build_head(status))
    state_width = max(len(state) for _, state, _ in rows)
    indent = len("supervisor") + _GAP + state_width + _GAP
    for label, state, text in rows:
        cell = _build_state(state).draw(state_width, right=False)
        first, *more = _wrap(text, max(1, width - indent)) or [""]
        yield f"{label:<10}{'':{_GAP}}{cell}{'':{_GAP}}{first}"
        yield from (f"{'':{indent}}{line}" for line in more)


def _build_head(status: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Build the rows above the table: label, state, text."""
    supervisor, port = status["supervisor"], status["port"]
    metricsd, shards = status["metricsd"], status["shards"]
    up = supervisor["uptime_seconds"]
    since = f", up {render_seconds(up)}" if up else ""
    yield "supervisor", supervisor["state"], f"pid {supervisor['pid'] or '-'}{since}"
    scraped = metricsd["last_scrape_age_seconds"]
    ago = "never scraped" if scraped is None else f"scraped {render_seconds(scraped)} ago"
    address = render_address(port["host"], port["port"]) if port["port"] else "no port"
    restarts = f", {metricsd['restarts']} restarts" if metricsd["restarts"] else ""
    yield (
        "metricsd",
        metricsd["state"],
        f"pid {metricsd['pid'] or '-'}, {address}, {ago}{restarts}",
    )
    counted = f"{shards['live']} live, {shards['retired']} retired"
    if shards["unreadable"]:
        counted += f", {shards['unreadable']} unreadable"
    yield "shards", "", f"{counted}, {render_bytes(shards['bytes'])} in {shards['dir']}"
    states = Counter(session["state"] for session in status["sessions"])
    if states:
        yield "sessions", "", ", ".join(f"{count} {state}" for state, count in states.items())


def _render_table(head: str, members: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """Draw the table, less the columns that do not fit; the command takes what is left over."""
    rows = [_build_cells(head, member) for member in members]
    widths = {c: max(len(c), *(cell_len(row[c].text) for row in rows)) for c in rows[0]}
    commands = widths.pop("COMMAND")
    widths[head] = min(widths[head], max(_NAME_WIDTH, width // 3))
    for column in _DISPENSABLE:
        if sum(widths.values()) + _GAP * len(widths) <= width:
            break
        widths.pop(column, None)
    left = width - sum(widths.values()) - _GAP * len(widths)
    if left >= _COMMAND_WIDTH:
        widths["COMMAND"] = min(left, commands)
    header = {column: _Cell(column, {"bold": True}) for column in widths}
    return [
        (" " * _GAP).join(
            row[column].draw(column_width, right=column in _RIGHT)
            for column, column_width in widths.items()
        )
        for row in [header, *rows]
    ]


def _build_cells(head: str, session: Mapping[str, Any]) -> dict[str, _Cell]:
    lives, word = session["pid"] is not None, session["exit"]
    if "shards" in session:
        own = {"SHARDS": _Cell(str(session["shards"]), {})}
    else:
        own = {"PAGE": _Cell(_clean(f":{session['port'] or '-'}{session['path']}"), {})}
    return {
        head: _Cell(_clean(session["name"]), {}),
        "STATE": _build_state(session["state"]),
        "PID": _Cell(str(session["pid"] or "-"), {}),
        "UP": _Cell(render_seconds(session["uptime_seconds"]), {}),
        "RESTARTS": _Cell(str(session["restarts"]), {}),
        "EXIT": _Cell(word or "-", {} if word in {None, "0"} else _RED),
        "CPU": _Cell(f"{session['cpu_percent']:.0f}%" if lives else "-", {}),
        "MEM": _Cell(render_bytes(session["rss_bytes"]) if lives else "-", {}),
        **own,
        "COMMAND": _Cell(_clean(shlex.join(session["command"])), {}),
    }


def _build_state(state: str) -> _Cell:
    return _Cell(_clean(state), _STYLES.get(state, {}))


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 1)) + "…"


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(_clean(text), width, break_on_hyphens=False)


def _clean(text: str) -> str:
    """Show what comes from outside as it is: no command to the terminal, and only text."""
    return escape(text)


def render_seconds(seconds: float) -> str:
    """Write a duration with its two largest units, rounded down: 4.2s, 3m07s, 5h20m, 3d04h."""
    if seconds < 60:
        return f"{int(seconds * 10) / 10:.1f}s" if seconds < 10 else f"{int(seconds)}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02d}h"


def render_bytes(size: float) -> str:
    """Write a size with a unit of 1024, rounded down: 512B, 64K, 21M, 1.5G."""
    for unit in "BKMGT":
        if size < 1024 or unit == "T":
            break
        size /= 1024
    if size < 10 and unit not in "BK":
        return f"{int(size * 10) / 10:.1f}{unit}"
    return f"{int(size)}{unit}"
