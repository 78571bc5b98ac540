"""The configuration files a session is given: which they are, and what stands in them.

Pure. Somebody else reads them; nothing is expanded, no file that a file names is looked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from supervisor.gates.names import squash
from supervisor.gates.settings import DASHES
from supervisor.gates.texts import TEXT, read_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# More than any session has; each costs the reading of a file.
FILES_LIMIT: Final = 32
# What an option is called whose value is such a file, whatever its name ends with.
_OPTIONS: Final = frozenset(
    {"c", "cfg", "conf", "config", "configfile", "configpath", "configuration", "settings"}
)
# Of the variables that are merely inherited only the project's name files of the session's.
_PROJECTS: Final = ("peaktrade", "pt")
# How many tables above a key are looked at together with it.
_TABLES: Final = 2


@dataclass(frozen=True, slots=True)
class ConfigName:
    """The name of a file as it was given. A certain one is TOML; else it may be anything."""

    name: str
    certain: bool


def find_config_names(
    command: Sequence[str], *, inherited: Mapping[str, str], configured: Mapping[str, str]
) -> tuple[ConfigName, ...]:
    """Find what names a configuration file: words, values, and words inside a text, each once."""
    found: dict[str, ConfigName] = {}
    values = [value for name, value in inherited.items() if squash(name).startswith(_PROJECTS)]
    for name in (
        *_find_in_words(command),
        *(name for value in (*configured.values(), *values) for name in _find_in_words([value])),
    ):
        known = found.get(name.name)
        if known is None or name.certain:
            found[name.name] = name
    return tuple(found.values())


def _find_in_words(words: Sequence[str]) -> Iterator[ConfigName]:
    previous = ""
    for word in words:
        yield from _find_in_word(word, previous)
        if TEXT.search(word):
            for reading in read_text(word):
                before = ""
                for inner in reading:
                    yield from _find_in_word(inner, before)
                    before = inner
        previous = word


def _find_in_word(word: str, previous: str) -> Iterator[ConfigName]:
    """Read a word as names: whole, after a "=", behind a short option, in a list."""
    name, equals, value = word.partition("=")
    bare = word.lstrip(DASHES)
    wholes = [word, value] if equals else [word]
    if len(word) - len(bare) == 1:
        wholes.append(bare[1:])  # -cFILE
    for whole in wholes:
        for part in {whole, *re.split(r"[,:;=]", whole)}:
            text = part.strip("@'\" \t\r\n")
            if text.lower().endswith(".toml"):
                yield ConfigName(text, certain=True)
    if equals and name != name.lstrip(DASHES) and _is_config(name):
        yield ConfigName(value, certain=False)
    elif word == bare and previous != previous.lstrip(DASHES) and _is_config(previous):
        yield ConfigName(word, certain=False)


def _is_config(option: str) -> bool:
    return squash(option) in _OPTIONS


def walk(document: Mapping[str, object]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Give every value of a parsed file as text, with its key and the tables nearest to it."""
    stack: list[tuple[tuple[str, ...], object]] = [((), document)]
    while stack:
        path, value = stack.pop()
        match value:
            case dict():
                stack += [((*path, key)[-_TABLES - 1 :], each) for key, each in value.items()]
            case list():
                stack += [(path, each) for each in value]
            case bool() | str():
                yield path, str(value)
            case int() | float():
                yield path, "0" if value == 0 else "1"
            case _:  # a date
                yield path, "set"
