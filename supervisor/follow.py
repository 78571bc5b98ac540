"""Shows the sessions' output as it comes, each line behind the name of its session.

It only reads log files, so it may be slow, blocked or closed without a session noticing. On a
terminal a footer stands below the lines: one writer for both, so neither tears the other.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import click

from supervisor.logs import Follower, render_line
from telemetry.plain import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

LOOK_SECONDS: Final = 0.2
_COLOURS: Final = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_yellow")
_CLEAR_LINE: Final = "\r\x1b[K"


@dataclass(slots=True)
class Follow:
    """Follows the logs of whoever `find_names` names, from where they stand when first seen."""

    find_names: Callable[[], Iterable[str]]
    find_log: Callable[[str], Path]
    find_footer: Callable[[], str] = lambda: ""
    ended: threading.Event = field(default_factory=threading.Event)
    is_stuck: bool = False  # it waits for a reader of our output, and dies with us
    _said: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    _followers: dict[str, Follower] = field(default_factory=dict)
    _footer: str = ""

    def begin(self, names: Iterable[str], lines: int = 0) -> None:
        """Show the last lines these logs hold already, and leave out the rest."""
        self._followers.update({name: Follower(self.find_log(name)) for name in names})
        for name, follower in self._followers.items():
            for line in follower.seek_tail(lines):
                self._show(name, line)

    def finish(self) -> None:
        """Show what has come since, an unfinished line too, and then no more."""
        self._look(last=True)

    def say(self, *lines: str) -> None:
        """Have lines of ptsup's own printed; never waits for the terminal."""
        for line in lines:
            self._said.put(line)

    def run(self) -> None:
        """Print what comes until `ended` is set, and then what is left."""
        try:
            while not self.ended.wait(LOOK_SECONDS):
                self._look(last=False)
            self._look(last=True)
        except OSError:
            pass  # nobody reads our output any more; the sessions go on

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """Follow in a thread of its own while the caller does something else."""
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.ended.set()
            thread.join(timeout=2)
            self.is_stuck = thread.is_alive()

    def _look(self, *, last: bool) -> None:
        # Taken first and shown last: what a session wrote before it ended comes before its end.
        said = [self._said.get() for _ in range(self._said.qsize())]
        for name in tuple(self.find_names()):
            if name not in self._followers:
                self._followers[name] = Follower(self.find_log(name))
        for name, follower in self._followers.items():
            for line in follower.read_lines(last=last):
                self._show(name, line)
        for text in said:
            self._clear_footer()
            click.echo(f"ptsup: {escape(text)}", err=True)
        if sys.stdout.isatty():
            footer = "" if last else self.find_footer()
            if footer != self._footer:
                self._clear_footer()
                click.echo(click.style(footer, fg="yellow"), nl=False, color=_find_colour())
                self._footer = footer

    def _show(self, name: str, line: bytes) -> None:
        """Show a line as harmless text: what reads our output may be a pager on a terminal."""
        self._clear_footer()
        names = list(self._followers)
        width, number = max(map(len, names)), names.index(name)
        prefix = click.style(f"{name:<{width}} |", fg=_COLOURS[number % len(_COLOURS)])
        click.echo(f"{prefix} {render_line(line)}", color=_find_colour())

    def _clear_footer(self) -> None:
        if self._footer:
            click.echo(_CLEAR_LINE, nl=False)
            self._footer = ""


def _find_colour() -> bool | None:
    """Whether to colour: None leaves it to click, which asks whether this is a terminal."""
    return False if os.environ.get("NO_COLOR") else None
