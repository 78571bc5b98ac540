"""The gate itself: judges the settings of an environment, a command, a configuration file.

Pure, and never raises. An off value in one place does not excuse an on value in another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from supervisor.gates.files import walk
from supervisor.gates.names import (
    CREDENTIAL_NAMES,
    FILE_KEYS,
    LIVE_FORMS,
    MODE_OPTIONS,
    MODE_VARIABLES,
    OPTIONS,
    SUBCOMMANDS,
    VARIABLES,
    squash,
)
from supervisor.gates.refusal import Reason, Refusal, Where
from supervisor.gates.settings import Setting, parse_settings, render_subject
from supervisor.gates.texts import TEXT, find_text_letters, hands_over_text, read_text

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from supervisor.gates.names import Names


@dataclass(frozen=True, slots=True)
class Gate:
    """The switches in each of their forms: the fixed list and what a config adds."""

    variables: Names
    options: Names
    keys: Names

    @classmethod
    def build(cls, denied: Collection[str]) -> Gate:
        """Build the gate of the fixed list, and what `denied` adds to it."""
        return cls(VARIABLES.extended(denied), OPTIONS.extended(denied), FILE_KEYS.extended(denied))

    def find_in_environment(self, environ: Mapping[str, str], where: Where) -> Refusal | None:
        """Judge variables; a credential that is merely inherited is no reason to refuse."""
        for name, value in environ.items():
            refusal = self._judge(Setting(name, name, value), where)
            if refusal is None:
                continue
            if refusal.reason is Reason.CREDENTIAL and where is Where.ENVIRONMENT:
                continue
            return refusal
        return None

    def find_in_command(self, command: Sequence[str]) -> Refusal | None:
        """Judge the words of a command, then those inside a word that is a text itself.

        A text for a shell is no word: LIVE=0 is off in `sh -c 'LIVE=0 python x.py'`, but
        not in `env 'LIVE=0 python x.py'`.
        """
        words: list[str] = []
        texts: list[tuple[str, Where]] = []
        letters: set[str] = set()
        where = Where.TEXT
        for word in command:
            if hands_over_text(word, letters):
                where = Where.SHELL
            is_text = TEXT.search(word) is not None
            if is_text:
                texts.append((word, where))
            words.append("" if is_text and where is Where.SHELL else word)
            letters |= find_text_letters(word)
        if refusal := self._find_in_words(words, Where.ARGUMENTS):
            return refusal
        readings = ((reading, where) for text, where in texts for reading in read_text(text))
        return next(filter(None, (self._find_in_words(*reading) for reading in readings)), None)

    def _find_in_words(self, words: Sequence[str], where: Where) -> Refusal | None:
        for place, word in enumerate(words):
            following = words[place + 1] if place + 1 < len(words) else ""
            for setting in parse_settings(word, following):
                if refusal := self._judge(setting, where):
                    return refusal
            if (found := _find_subcommand(word)) and _follows_program(words, place, where):
                return Refusal(found, where)
        return None

    def find_in_document(self, document: Mapping[str, object], file: str) -> Refusal | None:
        """Judge every key of a configuration file, by itself and with the tables it stands in."""
        for path, value in walk(document):
            if refusal := self._judge_key(path, value):
                return replace(refusal, file=file)
        return None

    def _judge_key(self, path: Sequence[str], value: str) -> Refusal | None:
        name, shown = squash(path[-1]), ".".join(path)
        setting = Setting(path[-1], shown, value)
        is_mode = MODE_VARIABLES.find(name) is not None
        if setting.is_off:
            return None
        for length in range(1, len(path) + 1):
            # [live] mode = "paper" is a mode, as any other; live_mode = "paper" is a switch.
            found = self.keys.find("".join(map(squash, path[-length:])))
            if found and not (is_mode and length > 1):
                return Refusal(render_subject(setting, found), Where.FILE)
        return self._judge_choice(setting, name, Where.FILE)

    def _judge(self, setting: Setting, where: Where) -> Refusal | None:
        name = squash(setting.name)
        switches = self.options if setting.is_option else self.variables
        if setting.is_off:
            return None
        if found := switches.find(name):
            return Refusal(render_subject(setting, found), where)
        return self._judge_choice(setting, name, where)

    def _judge_choice(self, setting: Setting, name: str, where: Where) -> Refusal | None:
        modes = MODE_OPTIONS if setting.is_option else MODE_VARIABLES
        if (found := modes.find(name)) and _is_live_choice(found, setting.choice, where):
            return Refusal(render_subject(setting, found), where)
        if (found := CREDENTIAL_NAMES.find(name)) and setting.is_given:
            return Refusal(render_subject(setting, found), where, Reason.CREDENTIAL)
        return None


def _find_subcommand(word: str) -> str | None:
    """Name the subcommand a word is, or looks like."""
    if word in SUBCOMMANDS:
        return word
    found = "" if word.isascii() else squash(word)
    return next((name for name in sorted(SUBCOMMANDS) if squash(name) == found), None)


def _is_live_choice(name: str, value: str, where: Where) -> bool:
    """Tell whether a mode is a live one, or one that only a shell's expansion will tell."""
    if where is Where.SHELL and name.endswith("MODE") and "$" in value:
        return True
    return any(squash(part) in LIVE_FORMS for part in re.split(r"[,;:|+/]", value))


def _follows_program(words: Sequence[str], place: int, where: Where) -> bool:
    """Tell whether the word before `place` is a program, so that a subcommand may follow it.

    Only a word that looks like one is: `cd live` and `--tags new live` are no subcommands, nor
    is anything in prose.
    """
    before = words[max(place - 2, 0) : place]
    if where is Where.TEXT or not before:
        return False
    last = before[-1]
    looks_like_one = "/" in last or last.endswith(".py") or last == "--" or "-m" in before[:-1]
    return looks_like_one or (place == 1 and where is Where.ARGUMENTS)
