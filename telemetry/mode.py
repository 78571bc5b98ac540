"""Mode A or B, the shard directory and the port, read from an environment.

Pure and standard library only, so that a session, metricsd and the supervisor agree by
construction. Nothing here changes an environment; it only reads the mapping it is given.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MODE_VARIABLE: Final = "PEAKTRADE_METRICS_MODE"
MULTIPROC_DIR_VARIABLE: Final = "PEAKTRADE_METRICS_MULTIPROC_DIR"
# The one prometheus_client reads, when it is imported; the second is its deprecated spelling.
LIBRARY_DIR_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
LIBRARY_DIR_VARIABLES: Final = (LIBRARY_DIR_VARIABLE, "prometheus_multiproc_dir")
# In order of precedence: the second is the legacy name.
PORT_VARIABLES: Final = ("PEAK_TRADE_METRICSD_PORT", "PEAKTRADE_METRICS_PORT")

DEFAULT_MULTIPROC_DIR: Final = ".ops_local/prom_multiproc"
DEFAULT_PORT: Final = 9111
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound


class Mode(StrEnum):
    """A: the session serves its own metrics. B: metricsd serves everybody's."""

    A = "A"
    B = "B"


def parse_mode(environ: Mapping[str, str]) -> Mode:
    """Read the mode: B when the variable says so (blanks and case aside), else A."""
    return Mode.B if environ.get(MODE_VARIABLE, "").strip().upper() == "B" else Mode.A


def parse_multiproc_dir(environ: Mapping[str, str]) -> Path:
    """Read the shard directory as configured; a relative one is the caller's to resolve."""
    # Imported here: a session needs none, and waits for this module.
    from pathlib import Path  # noqa: PLC0415

    return Path(_find_text(environ, MULTIPROC_DIR_VARIABLE) or DEFAULT_MULTIPROC_DIR)


def parse_session_dir(environ: Mapping[str, str]) -> str:
    """Read where a session's shards go: as configured, or where the library alone was pointed."""
    variables = (MULTIPROC_DIR_VARIABLE, LIBRARY_DIR_VARIABLE)
    found = (_find_text(environ, name) for name in variables)
    return next(filter(None, found), DEFAULT_MULTIPROC_DIR)


def _find_text(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name, "").strip()


def parse_port(environ: Mapping[str, str]) -> int:
    """Read the metrics port, the first variable that is set deciding.

    Raises ValueError, naming the variable, when its value is not a port (1..65535).
    """
    for name in PORT_VARIABLES:
        text = _find_text(environ, name)
        if not text:
            continue
        # int() refuses thousands of digits with an error of its own.
        if text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535:
            return int(text)
        raise ValueError(f"{name} is {text!r}, not a port between 1 and 65535")
    return DEFAULT_PORT


def render_address(host: str, port: int) -> str:
    """Write an address and a port as one: `0.0.0.0:9111`, `[::1]:9111`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def find_probe_host(host: str) -> str:
    """Find the address to ask at: loopback for "any", never a name that may mean IPv6."""
    return _ANY_ADDRESS.get(host, host)
