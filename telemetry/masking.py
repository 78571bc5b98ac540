"""Leaves out of a command the values of what looks like a secret, wherever it is shown or kept.

Pure. It goes by names, and by the form of an address; what is secret and not called so is shown.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

MASK: Final = "***"
# What a variable, an option or a field is called whose value is nobody's business.
_HUSH: Final = re.compile(
    r"SECRET|TOKEN|PASSW|PASSPHRASE|CREDENTIAL|AUTHORIZATION|PRIVATE|BEARER"
    r"|(?:API|ACCESS|AUTH|SIGNING|ENCRYPTION)[_-]?KEY",
    re.IGNORECASE,
)
_OPTION: Final = re.compile(r"--?[\w-]+")
# Each run of letters is tried once, from its beginning: an argument may be 128 KiB long.
_SETTING: Final = re.compile(r"(?<![\w-])[\w-]+=")
# A header or a field of a document, or an option inside a text.
_FIELD: Final = re.compile(r"(?<![\w-])[\w-]+(?:[\"']?[ \t]*:(?!//)|[ \t]+)[ \t]*")
_VALUE: Final = re.compile(r"(?:'[^']*'|\"[^\"]*\"|\S)*")
_FIELD_VALUE: Final = re.compile(r"'[^']*'|\"[^\"]*\"|[^,}\n'\"]*")
# The password of an address: scheme://user:password@host.
_ADDRESS: Final = re.compile(r"(?<=://)([^/\s@:'\"]*):([^/\s'\"]+)(?=@)")


def looks_secret(name: str) -> bool:
    """Tell whether what is called so is nobody's business."""
    return _HUSH.search(name) is not None


def mask_secrets(command: Sequence[str]) -> list[str]:
    """Leave out of a command the values of what looks like a secret: `--token ***`, `X_TOKEN=***`.

    What is shown or written down goes through here; only the child gets the command itself.
    """
    masked = [mask_text(word) for word in command]
    for position, word in enumerate(masked[:-1]):
        hushed = _OPTION.fullmatch(word) and looks_secret(word)
        if hushed and not masked[position + 1].startswith("-"):
            masked[position + 1] = MASK
    return masked


@lru_cache(maxsize=4096)  # a command never changes, and a look at all of them takes long
def mask_command(command: tuple[str, ...]) -> tuple[str, ...]:
    """Leave the secrets out of a command."""
    return tuple(mask_secrets(command))


def mask_text(text: str) -> str:
    """Mask each secret in a text: settings, headers, fields, options, passwords in addresses."""
    return _ADDRESS.sub(rf"\1:{MASK}", _mask_fields(_mask_settings(text)))


def _mask_settings(word: str) -> str:
    """Mask each NAME=VALUE: to the end where the word begins with it, else as a shell reads it."""
    parts, done = [], 0
    for found in _SETTING.finditer(word):
        if found.start() < done or not looks_secret(found[0]):
            continue
        parts.append(f"{word[done : found.end()]}{MASK}")
        value = _VALUE.match(word, found.end())
        done = value.end() if value and found.start() else len(word)
    return "".join(parts) + word[done:]


def _mask_fields(text: str) -> str:
    """Mask each `NAME: VALUE`, and each `--NAME VALUE` of a text."""
    parts, done = [], 0
    for found in _FIELD.finditer(text):
        is_option = ":" not in found[0]
        if found.start() < done or not looks_secret(found[0]):
            continue
        if is_option and not found[0].startswith("-"):
            continue
        value = (_VALUE if is_option else _FIELD_VALUE).match(text, found.end())
        if value and value[0] and value[0] != MASK and not (is_option and value[0][0] == "-"):
            parts.append(f"{text[done : found.end()]}{MASK}")
            done = value.end()
    return "".join(parts) + text[done:]
