"""The status document as a person reads it. Pure: a document in, a table out."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from supervisor.logs import escape
from telemetry.mode import render_address

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import JustifyMethod, RenderableType

_STATE_STYLES: Final = {
    "running": "green",
    "starting": "cyan",
    "stopping": "yellow",
    "killing": "yellow",
    "backoff": "yellow",
    "exited": "dim",
    "stopped": "dim",
    "fatal": "bold red",
    "dead": "bold red",
}
_COLUMNS: Final[Mapping[str, JustifyMethod]] = {
    "SESSION": "left",
    "STATE": "left",
    "PID": "right",
    "UP": "right",
    "RESTARTS": "right",
    "EXIT": "left",
    "CPU": "right",
    "MEM": "right",
    "SHARDS": "right",
}
# The first to go where a terminal is too narrow.
_DISPENSABLE: Final = ("SHARDS", "MEM", "CPU", "RESTARTS", "PID", "UP")
_GAP: Final = 2
# What stands above and below the rows of sessions.
_HEAD_LINES: Final = 8
_COMMAND_WIDTH: Final = 12  # less of it says nothing
_NAME_WIDTH: Final = 12


def render_status(
    status: Mapping[str, Any], width: int | None, height: int | None = None
) -> RenderableType:
    """Render the document for so many columns and lines; None is as many as it takes."""
    sessions = status["sessions"]
    shown = sessions if height is None else sessions[: max(1, height - _HEAD_LINES)]
    parts: list[RenderableType] = [_render_head(status), ""]
    parts.append(_render_sessions(shown, width) if shown else Text("no sessions"))
    if len(shown) < len(sessions):
        parts.append(Text(f"and {len(sessions) - len(shown)} more", style="dim"))
    parts += [
        _render_text(f"{session['name']}: {session['reason']}", "red")
        for session in sessions
        if session.get("reason")
    ]
    parts += [
        _render_text(f"{found['kind']}: {found['subject']}: {found['hint']}", "yellow")
        for found in status["drift"]
    ]
    return Group(*parts)


def _render_head(status: Mapping[str, Any]) -> RenderableType:
    supervisor, port = status["supervisor"], status["port"]
    metricsd, shards = status["metricsd"], status["shards"]
    grid = Table.grid(padding=(0, 2))
    grid.add_row(
        "supervisor",
        _render_state(supervisor["state"]),
        f"pid {supervisor['pid'] or '-'}"
        + (
            f", up {render_seconds(supervisor['uptime_seconds'])}"
            if supervisor["uptime_seconds"]
            else ""
        ),
    )
    scraped = metricsd["last_scrape_age_seconds"]
    ago = "never scraped" if scraped is None else f"scraped {render_seconds(scraped)} ago"
    address = render_address(port["host"], port["port"]) if port["port"] else "no port"
    grid.add_row(
        "metricsd",
        _render_state(metricsd["state"]),
        _render_text(
            f"pid {metricsd['pid'] or '-'}, {address}, {ago}"
            + (f", {metricsd['restarts']} restarts" if metricsd["restarts"] else "")
        ),
    )
    counted = f"{shards['live']} live, {shards['retired']} retired"
    if shards["unreadable"]:
        counted += f", {shards['unreadable']} unreadable"
    size = render_bytes(shards["bytes"])
    grid.add_row("shards", "", _render_text(f"{counted}, {size} in {shards['dir']}"))
    states = Counter(session["state"] for session in status["sessions"])
    if states:
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        grid.add_row("sessions", "", counts)
    return grid


def _render_sessions(sessions: Sequence[Mapping[str, Any]], width: int | None) -> Table:
    """Draw the table, less the columns that do not fit; the command takes what is left over."""
    rows = [_build_cells(session) for session in sessions]
    widths = {c: max(len(c), *(cell_len(row[c].plain) for row in rows)) for c in _COLUMNS}
    if width is None:
        width = 1 << 16
    widths["SESSION"] = min(widths["SESSION"], max(_NAME_WIDTH, width // 3))
    for column in _DISPENSABLE:
        if sum(widths.values()) + _GAP * len(widths) <= width:
            break
        del widths[column]
    left = width - sum(widths.values()) - _GAP * len(widths)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for column, column_width in widths.items():
        table.add_column(column, justify=_COLUMNS[column], width=column_width, no_wrap=True)
    if left >= _COMMAND_WIDTH:
        table.add_column("COMMAND", width=left, no_wrap=True)
    for row, session in zip(rows, sessions, strict=True):
        cells = [row[column] for column in widths]
        if left >= _COMMAND_WIDTH:
            cells.append(_render_text(shlex.join(session["command"])))
        table.add_row(*cells)
    return table


def _build_cells(session: Mapping[str, Any]) -> dict[str, Text]:
    lives = session["pid"] is not None
    return {
        "SESSION": Text(session["name"]),
        "STATE": _render_state(session["state"]),
        "PID": Text(str(session["pid"] or "-")),
        "UP": Text(render_seconds(session["uptime_seconds"])),
        "RESTARTS": Text(str(session["restarts"])),
        "EXIT": _render_exit(session["exit"]),
        "CPU": Text(f"{session['cpu_percent']:.0f}%" if lives else "-"),
        "MEM": Text(render_bytes(session["rss_bytes"]) if lives else "-"),
        "SHARDS": Text(str(session["shards"])),
    }


def _render_text(text: str, style: str = "") -> Text:
    """Show what comes from outside as it is: no markup, no command to the terminal."""
    # A path or an argument may hold bytes that are no text; a terminal cannot take them.
    return Text(escape(text).encode(errors="backslashreplace").decode(), style=style)


def _render_state(state: str) -> Text:
    return Text(state, style=_STATE_STYLES.get(state, ""))


def _render_exit(word: str | None) -> Text:
    return Text(word or "-", style="" if word in {None, "0"} else "red")


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
