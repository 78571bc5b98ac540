"""A name and the value it is given: as a variable, an option, a word, a key of a file.

Pure. It reads them, and judges none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from supervisor.gates.names import is_false_like

if TYPE_CHECKING:
    from collections.abc import Iterator

_PRINTABLE: Final = re.compile(r"-{0,2}[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
# A dash that an editor made longer is still one to the eye.
DASHES: Final = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"


@dataclass(frozen=True, slots=True)
class Setting:
    """A name and the value it is given; None for an option that has none attached.

    `shown` is empty when the name stands inside another name's value: that is not printed.
    """

    name: str
    shown: str
    value: str | None
    following: str = ""
    is_option: bool = False

    @property
    def is_off(self) -> bool:
        """`--live=no` is off; `--live no` may be an option that is on, and a word."""
        return self.value is not None and is_false_like(self.value)

    @property
    def choice(self) -> str:
        """The value of a name that needs one: `--mode=live` or `--mode live`."""
        return self.following if self.value is None else self.value

    @property
    def is_given(self) -> bool:
        """Tell whether the choice was made: an option that follows is none."""
        return not is_false_like(self.choice) and not self.choice.startswith("-")


def render_subject(setting: Setting, found: str) -> str:
    """Give the name as the operator spelled it when that is safe to print, else the list's."""
    if _PRINTABLE.fullmatch(setting.shown):
        return setting.shown
    return f"--{found.lower().replace('_', '-')}" if setting.is_option else found


def parse_settings(word: str, following: str) -> Iterator[Setting]:
    """Read a word as the settings it may be: --name, --name=value, NAME=value, -eNAME=value.

    A value that is a setting itself (--env=NAME=value, OPTIONS=--live) is read like a word.
    """
    segments = word.split("=")
    last = len(segments) - 1
    for place, segment in enumerate(segments):
        bare = segment.lstrip(DASHES)
        is_option = bare != segment
        shown = segment if place == 0 else ""
        if place < last:
            # A value that goes on after a "=" is neither off nor a mode.
            value = segments[place + 1] if place + 1 == last else "="
            yield Setting(segment, shown, value, is_option=is_option)
            if len(segment) - len(bare) == 1:
                yield Setting(bare[1:], "", value)
            # {A=2,NAME=value}, --define:NAME=value, environ[NAME]=value
            if tail := re.split(r"[,:\[]", segment)[-1]:
                yield Setting(tail, "", value)
        elif is_option:
            yield Setting(segment, shown, None, following, is_option=True)
            if len(segment) - len(bare) == 1:
                yield Setting(segment[:2], segment[:2], segment[2:], is_option=True)
