"""Shows the sessions' output as it comes, each line behind the name of its session.

It only reads log files, so it may be slow, blocked or closed without a session noticing.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import click

from supervisor.logs import Follower

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

LOOK_SECONDS: Final = 0.2
_COLOURS: Final = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_yellow")


@dataclass(slots=True)
class Follow:
    """Follows the logs of whoever `find_names` names, from where they stand when first seen."""

    find_names: Callable[[], Iterable[str]]
    find_log: Callable[[str], Path]
    ended: threading.Event = field(default_factory=threading.Event)
    _followers: dict[str, Follower] = field(default_factory=dict)

    def begin(self, names: Iterable[str]) -> None:
        """Leave out what the logs of these hold already."""
        for name in names:
            follower = self._followers[name] = Follower(self.find_log(name))
            follower.seek_end()

    def run(self) -> None:
        """Print what comes until `ended` is set, and then what is left."""
        try:
            while not self.ended.wait(LOOK_SECONDS):
                self._print(last=False)
            self._print(last=True)
        except OSError:
            pass  # nobody reads our output any more; the sessions go on

    def _print(self, *, last: bool) -> None:
        for name in tuple(self.find_names()):
            if name not in self._followers:
                self._followers[name] = Follower(self.find_log(name))
        width = max(map(len, self._followers), default=0)
        for number, (name, follower) in enumerate(self._followers.items()):
            prefix = click.style(f"{name:<{width}} |", fg=_COLOURS[number % len(_COLOURS)])
            for line in follower.read_lines(last=last):
                click.echo(f"{prefix} {line}")
