"""How a line of our logs is written: a person reads it on a terminal, whatever is in it.

It formats, and decides nothing about where the line goes.
"""

from __future__ import annotations

import logging
from typing import Any

from telemetry.plain import escape


class PlainFormatter(logging.Formatter):
    """Formats a record as one harmless line, and a traceback as some."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Format the line itself."""
        return escape(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """Format a traceback, whose error may say anything."""
        return "\n".join(map(escape, super().formatException(ei).split("\n")))
