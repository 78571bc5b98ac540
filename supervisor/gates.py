"""NO-LIVE: finds what would enable live trading in a command and its environment. No off switch.

It reads names and words; it opens no file, expands nothing and runs nothing. What a program, a
script or a configuration file sets inside itself is out of its reach; a value that is only known
once a shell has expanded it counts as on. It names what it refuses and never shows a value.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, assert_never

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

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


class Where(StrEnum):
    """Where a refused name stands."""

    ENVIRONMENT = "in the environment"
    CONFIGURED = "in the configured environment"
    ARGUMENTS = "in the arguments"
    SHELL = "inside sh -c"
    TEXT = "inside an argument"


class Reason(StrEnum):
    """Why a name is refused."""

    LIVE = "would enable live trading"
    CREDENTIAL = "is an exchange credential"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What may not be started, and why; safe to print, for it holds names and no value."""

    subject: str
    where: Where
    reason: Reason = Reason.LIVE

    @property
    def message(self) -> str:
        """One line, to follow "cannot start NAME: "."""
        return f"{self.subject} {self.where} {self.reason}"

    @property
    def hint(self) -> str:
        """One line: what the operator can do."""
        match self.where:
            case Where.ENVIRONMENT:
                remedy = f"unset {self.subject}"
            case Where.CONFIGURED:
                remedy = f"take {self.subject} out of the session's env in the config"
            case Where.ARGUMENTS | Where.SHELL | Where.TEXT:
                remedy = (
                    f"leave {self.subject} out, write a plain off or paper value,"
                    " or rename it if it means something else"
                )
            case _:
                assert_never(self.where)
        match self.reason:
            case Reason.LIVE:
                return (
                    f"{remedy}; only shadow and paper sessions start, this gate has no off switch"
                )
            case Reason.CREDENTIAL:
                return f"{remedy}; shadow and paper sessions run without exchange credentials"
            case _:
                assert_never(self.reason)


def find_refusal(
    command: Sequence[str],
    *,
    inherited: Mapping[str, str],
    configured: Mapping[str, str],
    denied: Collection[str] = (),
) -> Refusal | None:
    """Find the first thing that forbids starting `command`, or None. Never raises.

    `inherited` is the environment the session would get, `configured` what its config sets;
    an off value in one does not excuse an on value in the other. Credentials forbid when they
    are configured or given as arguments; inherited ones are for `strip_credentials`.
    `denied` adds to the list names or patterns (`PREFIX*`) that the config has checked.
    """
    gate = _Gate(_VARIABLES.extended(denied), _OPTIONS.extended(denied))
    return (
        gate.find_in_environment(configured, Where.CONFIGURED)
        or gate.find_in_environment(inherited, Where.ENVIRONMENT)
        or gate.find_in_command(command)
    )


def strip_credentials(inherited: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Split `inherited` into the environment without credentials and their names, sorted.

    The names are as they were found: escape them before a terminal sees them.
    """
    names = tuple(sorted(name for name in inherited if _CREDENTIALS.find(_squash(name))))
    kept = {name: value for name, value in inherited.items() if name not in names}
    return kept, names


@dataclass(frozen=True, slots=True)
class _Names:
    """Squashed names and patterns, each with the spelling its list gives it."""

    whole: Mapping[str, str]
    patterns: tuple[tuple[str, str], ...] = ()

    def extended(self, names: Iterable[str]) -> _Names:
        whole = dict(self.whole)
        patterns = list(self.patterns)
        for name in names:
            squashed = "*".join(map(_squash, name.split("*")))
            if "*" in squashed:
                patterns.append((squashed, name))
            elif squashed:
                whole[squashed] = name
        return _Names(whole, tuple(patterns))

    def find(self, squashed: str) -> str | None:
        """Find the list's spelling of a squashed name, or None."""
        if found := self.whole.get(squashed):
            return found
        return next((name for pat, name in self.patterns if fnmatchcase(squashed, pat)), None)


@dataclass(frozen=True, slots=True)
class _Setting:
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
        return self.value is not None and _is_false_like(self.value)

    @property
    def choice(self) -> str:
        """The value of a name that needs one: `--mode=live` or `--mode live`."""
        return self.following if self.value is None else self.value

    @property
    def is_given(self) -> bool:
        """Tell whether the choice was made: an option that follows is none."""
        return not _is_false_like(self.choice) and not self.choice.startswith("-")


@dataclass(frozen=True, slots=True)
class _Gate:
    """The switches, as variables and as options: the fixed list and what a config adds."""

    variables: _Names
    options: _Names

    def find_in_environment(self, environ: Mapping[str, str], where: Where) -> Refusal | None:
        for name, value in environ.items():
            refusal = self._judge(_Setting(name, name, value), where)
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
            if _hands_over_text(word, letters):
                where = Where.SHELL
            is_text = _TEXT.search(word) is not None
            if is_text:
                texts.append((word, where))
            words.append("" if is_text and where is Where.SHELL else word)
            letters |= _find_text_letters(word)
        if refusal := self._find_in_words(words, Where.ARGUMENTS):
            return refusal
        readings = ((reading, where) for text, where in texts for reading in _read_text(text))
        return next(filter(None, (self._find_in_words(*reading) for reading in readings)), None)

    def _find_in_words(self, words: Sequence[str], where: Where) -> Refusal | None:
        for place, word in enumerate(words):
            following = words[place + 1] if place + 1 < len(words) else ""
            for setting in _parse_settings(word, following):
                if refusal := self._judge(setting, where):
                    return refusal
            if word in _SUBCOMMANDS and _follows_program(words, place, where):
                return Refusal(word, where)
        return None

    def _judge(self, setting: _Setting, where: Where) -> Refusal | None:
        name = _squash(setting.name)
        switches = self.options if setting.is_option else self.variables
        modes = _MODE_OPTIONS if setting.is_option else _MODE_VARIABLES
        if setting.is_off:
            return None
        if found := switches.find(name):
            return Refusal(_render_subject(setting, found), where)
        if (found := modes.find(name)) and _is_live_choice(found, setting.choice, where):
            return Refusal(_render_subject(setting, found), where)
        if (found := _CREDENTIALS.find(name)) and setting.is_given:
            return Refusal(_render_subject(setting, found), where, Reason.CREDENTIAL)
        return None


def _squash(name: str) -> str:
    """Reduce a name to its letters and digits, case folded, look-alikes as what they look like.

    So --enable-live-trading, enableLiveTrading and Enable_Live_Trading are one name, and so are
    PEAK_TRADE_X and PEAKTRADE_X, both of which the project uses.
    """
    if not name.isascii():
        # Marks go first: normalizing sorts a run of them, and that takes quadratic time.
        unmarked = "".join(char for char in name if not unicodedata.combining(char))
        name = unicodedata.normalize("NFKD", unmarked).translate(_LOOK_ALIKES)
    return "".join(filter(str.isalnum, name.casefold()))


def _is_false_like(value: str) -> bool:
    """Tell whether a value is off. `lower`, as `casefold` would take a long s for an s."""
    return value.strip(" \t\r\n").lower() in FALSE_LIKE


def _is_live_choice(name: str, value: str, where: Where) -> bool:
    """Tell whether a mode is a live one, or one that only a shell's expansion will tell."""
    if where is Where.SHELL and name.endswith("MODE") and "$" in value:
        return True
    return any(_squash(part) in _LIVE_VALUES for part in re.split(r"[,;:|+/]", value))


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


def _render_subject(setting: _Setting, found: str) -> str:
    """Give the name as the operator spelled it when that is safe to print, else the list's."""
    if _PRINTABLE.fullmatch(setting.shown):
        return setting.shown
    return f"--{found.lower().replace('_', '-')}" if setting.is_option else found


def _parse_settings(word: str, following: str) -> Iterator[_Setting]:
    """Read a word as the settings it may be: --name, --name=value, NAME=value, -eNAME=value.

    A value that is a setting itself (--env=NAME=value, OPTIONS=--live) is read like a word.
    """
    segments = word.split("=")
    last = len(segments) - 1
    for place, segment in enumerate(segments):
        bare = segment.lstrip(_DASHES)
        is_option = bare != segment
        shown = segment if place == 0 else ""
        if place < last:
            # A value that goes on after a "=" is neither off nor a mode.
            value = segments[place + 1] if place + 1 == last else "="
            yield _Setting(segment, shown, value, is_option=is_option)
            if len(segment) - len(bare) == 1:
                yield _Setting(bare[1:], "", value)
            # {A=2,NAME=value}, --define:NAME=value, environ[NAME]=value
            if tail := re.split(r"[,:\[]", segment)[-1]:
                yield _Setting(tail, "", value)
        elif is_option:
            yield _Setting(segment, shown, None, following, is_option=True)
            if len(segment) - len(bare) == 1:
                yield _Setting(segment[:2], segment[:2], segment[2:], is_option=True)


def _find_text_letters(word: str) -> set[str]:
    """Find the option letters after which the program `word` takes a text of words."""
    program = word.rsplit("/", 1)[-1]
    if program == "env":
        return {"S"}
    return {"c"} if program == "su" or program.endswith("sh") else set()


def _hands_over_text(word: str, letters: set[str]) -> bool:
    """Tell whether `word` is an option (-c, -lc, -S) that a shell text comes with or after."""
    if word.startswith("--"):
        return bool(letters) and word.startswith(("--command", "--split-string"))
    return word.startswith("-") and not letters.isdisjoint(word)


def _read_text(text: str) -> Iterator[list[str]]:
    """Read a text as the words a shell may make of it, nested quotes opened, at any depth.

    Twice if it holds backslashes: as quotes of one character, a sign quoted so being part of
    a word, and as the blanks that `env -S` and $'…' make of them. Linear; no text is malformed.
    """
    quoted = re.sub(r"""\\[^\w'"=\\-]""", "$", text.replace("\\\n", ""))
    yield _split_text(quoted.replace("\\", ""))
    if "\\" in text:
        yield _split_text(re.sub(r"\\.", " ", text, flags=re.DOTALL))


def _split_text(text: str) -> list[str]:
    # As JSON says it: "NAME": VALUE.
    text = re.sub(r"""["']([\w.-]+)["']\s*:\s*([^\s,{}\[\]]*)""", r" \1=\2 ", text)
    # As fish and csh say it: set -x NAME VALUE, setenv NAME VALUE.
    text = re.sub(r"\b(?:setenv|set[ \t]+-\w+)[ \t]+([\w.-]+)[ \t]+", r" \1=", text)
    # A value may begin with a brace that closes nothing.
    text = text.replace("=}", "=$ ").translate(_SHELL_SIGNS)
    return [_unquote(word) for word in text.split(" ") if word]


def _unquote(word: str) -> str:
    """Drop the quotes; a value whose quote is still open goes on past what is seen of it."""
    value = word.partition("=")[2]
    goes_on = value.startswith(("'", '"')) and value.count(value[0]) % 2 == 1
    return word.replace("'", "").replace('"', "") + ("$" if goes_on else "")


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
        first, *rest = map(_squash, name.split("_"))
        whole = "".join((first, *rest))
        shortest = len(first) + 1 if rest else max(2, len(first) - lacking)
        for length in range(shortest, len(whole)):
            for prefix in _PREFIXES:
                abbreviations.setdefault(_squash(prefix) + whole[:length], prefix + name)
    return abbreviations


# The Greek and Cyrillic letters that print like the Latin ones our names are made of, for the
# eye that checks a config. Compatibility forms (full width, mathematical) NFKD undoes.
_LOOK_ALIKES: Final = {
    ord(other): latin
    for latin, others in {
        "a": "\u0391\u03b1\u0410\u0430",
        "b": "\u0392\u0412\u0432",
        "c": "\u0421\u0441",
        "d": "\u0501",
        "e": "\u0395\u03b5\u0415\u0435",
        "g": "\u050c",
        "h": "\u0397\u041d\u043d\u04bb",
        "i": "\u0399\u03b9\u0406\u0456\u04c0\u0131",
        "k": "\u039a\u03ba\u041a\u043a",
        "l": "\u04cf",
        "m": "\u039c\u041c\u043c",
        "n": "\u039d",
        "o": "\u039f\u03bf\u041e\u043e",
        "p": "\u03a1\u03c1\u0420\u0440",
        "s": "\u0405\u0455",
        "t": "\u03a4\u03c4\u0422\u0442",
        "u": "\u03c5",
        "v": "\u03bd\u0474\u0475",
        "x": "\u03a7\u03c7\u0425\u0445",
        "y": "\u03a5\u0423\u0443",
    }.items()
    for other in others
}
# ' and " stay for _unquote. What opens a group or a substitution leaves a $ behind: a value that
# begins with one is unknown before a shell has run it.
_SHELL_SIGNS: Final = str.maketrans(
    {**dict.fromkeys("({<`", "$ "), **dict.fromkeys(")}>;&|\t\n", " ")}
)
_TEXT: Final = re.compile(r"""[\s'"`$&|;<>(){}\\]""")
_PRINTABLE: Final = re.compile(r"-{0,2}[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
# A dash that an editor made longer is still one to the eye.
_DASHES: Final = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"

_PLAIN_SWITCHES: Final = tuple(_build_plain_switches())
_SWITCHES: Final = (*DENIED_VARIABLES, *_build_forms(_PLAIN_SWITCHES))
_VARIABLES: Final = _Names({}).extended(_SWITCHES)
_OPTIONS: Final = _Names(_build_abbreviations(_PLAIN_SWITCHES, lacking=1)).extended(
    name for name in _SWITCHES if name not in _NEVER_OPTIONS
)
_MODE_VARIABLES: Final = _Names({}).extended(_build_forms(MODE_NAMES))
_MODE_OPTIONS: Final = _Names(_build_abbreviations(MODE_NAMES, lacking=2)).extended(
    _build_forms(MODE_NAMES)
)
_CREDENTIALS: Final = _Names({}).extended(CREDENTIALS)
_LIVE_VALUES: Final = frozenset(map(_squash, LIVE_VALUES))
# A subcommand is its exact word: `unset LIVE` and `$LIVE` are none.
_SUBCOMMANDS: Final = frozenset({*LIVE_VALUES, *(value.replace("_", "-") for value in LIVE_VALUES)})
