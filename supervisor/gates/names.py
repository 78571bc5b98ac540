"""The names that would enable live trading, and what counts as the same name.

Pure. The lists are the operators'; a config can add to them, and nothing takes away from them.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# Off, whatever the case, with or without blanks around it. Anything else is on.
FALSE_LIKE: Final = frozenset({"", "0", "false", "no", "off"})

# The list the operators know. A config can add to it; nothing takes away from it.
DENIED_VARIABLES: Final = (
    "PEAK_TRADE_LIVE_ENABLED",
    "PEAK_TRADE_LIVE_ARMED",
    "PEAK_TRADE_LIVE_MODE",
    "PEAK_TRADE_ENABLE_LIVE_TRADING",
    "PEAK_TRADE_LIVE_AUTHORIZED",
    "PEAK_TRADE_LIVE_ORDERS",
    "PT_LIVE*",
    "PT_ARMED",
    "PT_CONFIRM*",
    "PT_TRADE",
    "PT_ENABLED",
    "LIVE",
    "LIVE_ALLOWED",
    "RECORD",
    "TRADING_ENABLE",
    "EXECUTION_ENABLE",
    "ENABLE_LIVE_TRADING",
)

# Names that say the same in plain words, as programs call their options and settings.
PLAIN_SWITCHES: Final = (
    "ALLOW_LIVE",
    "ALLOW_LIVE_TRADING",
    "ARM_LIVE",
    "BOUNDED_PILOT",
    "BOUNDED_PILOT_MODE",
    "CONFIRM_LIVE",
    "ENABLE_EXECUTION",
    "ENABLE_LIVE",
    "ENABLE_TRADING",
    "EXECUTE_LIVE",
    "EXECUTION_ENABLED",
    "FORCE_LIVE",
    "GO_LIVE",
    "IS_LIVE",
    "LIVE_ENABLE",
    "LIVE_EXECUTION",
    "LIVE_MODE_ARMED",
    "LIVE_TRADE",
    "LIVE_TRADING",
    "LIVE_TRADING_ENABLE",
    "LIVE_TRADING_ENABLED",
    "REAL_MONEY",
    "RUN_LIVE",
    "TRADE_LIVE",
    "TRADING_ENABLED",
)

# Names whose value chooses: `--mode paper` is fine, `--mode live` is not.
MODE_NAMES: Final = (
    "M",
    "MODE",
    "RUN_MODE",
    "SESSION_MODE",
    "TRADE_MODE",
    "TRADING",
    "TRADING_MODE",
    "TRADING_ENVIRONMENT",
    "EXEC_MODE",
    "EXECUTION",
    "EXECUTION_MODE",
    "ENV",
    "ENV_NAME",
    "ENVIRONMENT",
    "RUNTIME",
    "PROFILE",
    "ACCOUNT",
    "ACCOUNT_TYPE",
)
LIVE_VALUES: Final = (
    "live",
    "live_armed",
    "live_trade",
    "live_trading",
    "trade_live",
    "bounded_pilot",
    "real",
    "real_money",
)

CREDENTIALS: Final = ("*_API_KEY", "*_API_SECRET")

# `--record FILE` is what the recorder of a paper session is called; the variable stays denied.
_NEVER_OPTIONS: Final = frozenset({"RECORD"})
# None, the project's two, and the section of its configuration that carries the same switches.
_PREFIXES: Final = ("", "PEAK_TRADE_", "PT_", "ENVIRONMENT_")


@dataclass(frozen=True, slots=True)
class Names:
    """Squashed names and patterns, each with the spelling its list gives it."""

    whole: Mapping[str, str]
    patterns: tuple[tuple[str, str], ...] = ()

    def extended(self, names: Iterable[str]) -> Names:
        """Add names and patterns; nothing is ever taken away."""
        whole = dict(self.whole)
        patterns = list(self.patterns)
        for name in names:
            squashed = "*".join(map(squash, name.split("*")))
            if "*" in squashed:
                patterns.append((squashed, name))
            elif squashed:
                whole[squashed] = name
        return Names(whole, tuple(patterns))

    def find(self, squashed: str) -> str | None:
        """Find the list's spelling of a squashed name, or None."""
        if found := self.whole.get(squashed):
            return found
        return next((name for pat, name in self.patterns if fnmatchcase(squashed, pat)), None)


def squash(name: str) -> str:
    """Reduce a name to its letters and digits, case folded, look-alikes as what they look like.

    So --enable-live-trading, enableLiveTrading and Enable_Live_Trading are one name, and so are
    PEAK_TRADE_X and PEAKTRADE_X, both of which the project uses.
    """
    if not name.isascii():
        # Marks go first: normalizing sorts a run of them, and that takes quadratic time.
        unmarked = "".join(char for char in name if not unicodedata.combining(char))
        # Before and after: normalizing makes another letter of some of them.
        name = unicodedata.normalize("NFKD", unmarked.translate(_LOOK_ALIKES))
        name = name.translate(_LOOK_ALIKES)
    return "".join(filter(str.isalnum, name.casefold()))


def is_false_like(value: str) -> bool:
    """Tell whether a value is off. `lower`, as `casefold` would take a long s for an s."""
    return value.strip(" \t\r\n").lower() in FALSE_LIKE


def _build_forms(names: Iterable[str]) -> Iterator[str]:
    """Give each name bare and under each prefix of the project."""
    for name in names:
        for prefix in _PREFIXES:
            yield prefix + name


def _build_plain_switches() -> Iterator[str]:
    """Give the denied names less their prefix while they still say what they turn on.

    --live-armed is PEAK_TRADE_LIVE_ARMED by another name; --enabled is not PT_ENABLED.
    """
    for name in DENIED_VARIABLES:
        bare = re.sub("^(PEAK_TRADE|PT)_", "", name)
        if re.search("LIVE|ARMED|TRADING|EXECUTION", bare) and "*" not in bare:
            yield bare
    yield from PLAIN_SWITCHES


def _build_abbreviations(names: Iterable[str], *, lacking: int) -> dict[str, str]:
    """Map what argparse takes for an option as well: beginnings that still say which it is.

    Those that reach into the second word (--enable-l), and of a single word those that lack
    at most `lacking` letters (--liv). --enable may be anything.
    """
    abbreviations: dict[str, str] = {}
    for name in names:
        first, *rest = map(squash, name.split("_"))
        whole = "".join((first, *rest))
        shortest = len(first) + 1 if rest else max(2, len(first) - lacking)
        for length in range(shortest, len(whole)):
            for prefix in _PREFIXES:
                abbreviations.setdefault(squash(prefix) + whole[:length], prefix + name)
    return abbreviations


# The letters of other alphabets that print like the Latin ones our names are made of, for the eye
# that checks a config: Greek, Cyrillic, Cherokee, Armenian, small capitals, letters with a stroke.
# Compatibility forms (full width, mathematical) NFKD undoes; marks and what has no width go.
_LOOK_ALIKES: Final = {
    ord(other): latin
    for latin, others in {
        "a": "\u0391\u03b1\u0410\u0430\u1d00\u13aa\u0251",
        "b": "\u0392\u0412\u0432\u0299\u13f4\u0180",
        "c": "\u0421\u0441\u03f9\u03f2\u1d04\u13df\u0188",
        "d": "\u0501\u1d05\u13a0\u0111\u0500",
        "e": "\u0395\u03b5\u0415\u0435\u1d07\u13ac\u04bd\u0247",
        "f": "\u0493\ua730\u03dc\u0192",
        "g": "\u050c\u0262\u0261\u13c0\u01e5",
        "h": "\u0397\u041d\u043d\u04bb\u029c\u13bb\u0570\u0127",
        "i": "\u0399\u03b9\u0406\u0456\u04c0\u0131\u026a\u0269\u13a5\u13c6\u0268",
        "k": "\u039a\u03ba\u041a\u043a\u1d0b\u13e6\u0199",
        "l": "\u04cf\u029f\u13de\u0142\u019a\u054c",
        "m": "\u039c\u041c\u043c\u1d0d\u13b7",
        "n": "\u039d\u0274\u0578\u057c",
        "o": "\u039f\u03bf\u041e\u043e\u1d0f\u0585\u0555\u00f8",
        "p": "\u03a1\u03c1\u0420\u0440\u1d18\u13e2",
        "r": "\u0433\u0280\u13a1\u13d2\u024d",
        "s": "\u0405\u0455\ua731\u13da\u054f",
        "t": "\u03a4\u03c4\u0422\u0442\u1d1b\u13a2\u0167",
        "u": "\u03c5\u1d1c\u057d\u054d",
        "v": "\u03bd\u0474\u0475\u1d20\u13d9",
        "w": "\u051d\u051c\u1d21\u13b3\u0461",
        "x": "\u03a7\u03c7\u0425\u0445",
        "y": "\u03a5\u0423\u0443\u028f\u03b3\u04af\u04ae",
        "z": "\u0396\u1d22\u13c3",
        # Letters to Unicode, and nothing to the eye.
        "": "\u115f\u1160\u3164\uffa0",
    }.items()
    for other in others
}

_PLAIN_SWITCHES: Final = tuple(_build_plain_switches())
_SWITCHES: Final = (*DENIED_VARIABLES, *_build_forms(_PLAIN_SWITCHES))
VARIABLES: Final = Names({}).extended(_SWITCHES)
OPTIONS: Final = Names(_build_abbreviations(_PLAIN_SWITCHES, lacking=1)).extended(
    name for name in _SWITCHES if name not in _NEVER_OPTIONS
)
# A key of a configuration file is spelled out; like the option, `record` is no switch there.
FILE_KEYS: Final = Names({}).extended(name for name in _SWITCHES if name not in _NEVER_OPTIONS)
MODE_VARIABLES: Final = Names({}).extended(_build_forms(MODE_NAMES))
MODE_OPTIONS: Final = Names(_build_abbreviations(MODE_NAMES, lacking=2)).extended(
    _build_forms(MODE_NAMES)
)
CREDENTIAL_NAMES: Final = Names({}).extended(CREDENTIALS)
LIVE_FORMS: Final = frozenset(map(squash, LIVE_VALUES))
# A subcommand is its exact word: `unset LIVE` and `$LIVE` are none.
SUBCOMMANDS: Final = frozenset({*LIVE_VALUES, *(value.replace("_", "-") for value in LIVE_VALUES)})
