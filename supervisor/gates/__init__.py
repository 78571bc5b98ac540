"""NO-LIVE: finds what would enable live trading in what a session is given. No off switch.

Pure: it reads names and words, and the text of configuration files; it opens no file, expands
nothing and runs nothing. What a program or a script sets inside itself is out of its reach; a
value that is only known once a shell has expanded it counts as on. It names what it refuses and
never shows a value.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from supervisor.gates.gate import Gate
from supervisor.gates.names import CREDENTIAL_NAMES, squash
from supervisor.gates.refusal import Reason, Refusal, Where

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from supervisor.gates.files import ConfigName

__all__ = [
    "Reason",
    "Refusal",
    "Where",
    "build_unchecked",
    "find_refusal",
    "find_refusal_in_file",
    "strip_credentials",
]

_HARMLESS: Final = re.compile(r"[\w./~+@,=-]{1,200}", re.ASCII)


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
    gate = Gate.build(denied)
    return (
        gate.find_in_environment(configured, Where.CONFIGURED)
        or gate.find_in_environment(inherited, Where.ENVIRONMENT)
        or gate.find_in_command(command)
    )


def find_refusal_in_file(
    config: ConfigName, text: str, *, denied: Collection[str] = ()
) -> Refusal | None:
    """Find the first key of a configuration file that forbids its session. Never raises.

    A certain file that is no TOML cannot be checked, and forbids it; another is not TOML's.
    """
    import tomllib  # noqa: PLC0415 - only a start needs it

    try:
        document = tomllib.loads(text.removeprefix("\ufeff").replace("\r\n", "\n"))
    except (ValueError, RecursionError) as error:
        if not config.certain:
            return None
        place = re.search(r"line \d+", str(error))
        return build_unchecked(config, f"no TOML{f' ({place[0]})' if place else ''}")
    return Gate.build(denied).find_in_document(document, _render_file(config.name))


def build_unchecked(config: ConfigName, detail: str) -> Refusal:
    """Build what is said of a file that nobody can tell to be harmless."""
    return Refusal(_render_file(config.name), Where.ARGUMENTS, Reason.UNCHECKED, detail=detail)


def _render_file(name: str) -> str:
    """Give a file's name as it is when that is safe to print."""
    if _HARMLESS.fullmatch(name):
        return name
    shown = ascii(name)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def strip_credentials(inherited: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Split `inherited` into the environment without credentials and their names, sorted.

    The names are as they were found: escape them before a terminal sees them.
    """
    names = tuple(sorted(filter(_is_credential, inherited)))
    kept = dict(inherited)
    for name in names:
        del kept[name]
    return kept, names


@lru_cache(maxsize=1024)
def _is_credential(name: str) -> bool:
    # Every spawn asks, and mostly of the same names.
    return CREDENTIAL_NAMES.find(squash(name)) is not None
