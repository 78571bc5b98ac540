"""A text for a shell, read as the words that a shell may make of it.

Pure. It expands nothing: what a shell would put in leaves a sign behind that is no off value.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# ' and " stay for _unquote. What opens a group or a substitution leaves a $ behind: a value that
# begins with one is unknown before a shell has run it.
_SHELL_SIGNS: Final = str.maketrans(
    {**dict.fromkeys("({<`", "$ "), **dict.fromkeys(")}>;&|\t\n", " ")}
)
TEXT: Final = re.compile(r"""[\s'"`$&|;<>(){}\\]""")


def find_text_letters(word: str) -> set[str]:
    """Find the option letters after which the program `word` takes a text of words."""
    program = word.rsplit("/", 1)[-1]
    if program == "env":
        return {"S"}
    return {"c"} if program == "su" or program.endswith("sh") else set()


def hands_over_text(word: str, letters: set[str]) -> bool:
    """Tell whether `word` is an option (-c, -lc, -S) that a shell text comes with or after."""
    if word.startswith("--"):
        return bool(letters) and word.startswith(("--command", "--split-string"))
    return word.startswith("-") and not letters.isdisjoint(word)


def read_text(text: str) -> Iterator[list[str]]:
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
