"""A file of KEY=VALUE lines becomes variables. It holds secrets: no message ever shows a value.

Pure: the text in. Nothing is expanded; a value is what stands there.
"""

from __future__ import annotations

import re
from typing import Final

from supervisor.errors import UsageError

_LINE: Final = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.]*)[ \t]*=[ \t]*(.*)", re.DOTALL)
# A value in quotes, and nothing behind it but a comment.
_SINGLE: Final = re.compile(r"'([^']*)'[ \t]*(?:#.*)?", re.DOTALL)
_DOUBLE: Final = re.compile(r'"((?:\\.|[^"\\])*)"[ \t]*(?:#.*)?', re.DOTALL)
_COMMENT: Final = re.compile(r"(?:^|[ \t]+)#.*", re.DOTALL)
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$", "`": "`"}


def parse_dotenv(text: str, name: str) -> dict[str, str]:
    r"""Read the lines of the file `name`: comments, `export`, quotes as a shell means them.

    In double quotes \n, \r, \t, \", \\ and \$ are read; the last of two equal names counts.
    """
    found = {}
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        if match is None or "\0" in stripped:
            raise UsageError(f"{name}:{number}: not of the form NAME=VALUE", "# begins a comment")
        found[match[1]] = _read_value(match[2], f"{name}:{number}")
    return found


def _read_value(text: str, where: str) -> str:
    if not text.startswith(("'", '"')):
        return _COMMENT.sub("", text, count=1).rstrip()
    if found := _SINGLE.fullmatch(text):
        return found[1]
    if found := _DOUBLE.fullmatch(text):
        return re.sub(r"\\(.)", _unescape, found[1], flags=re.DOTALL)
    raise UsageError(f"{where}: the quotation is not closed, or something follows it")


def _unescape(found: re.Match[str]) -> str:
    return _ESCAPES.get(found[1], found[0])
