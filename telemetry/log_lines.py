"""How a line of our logs is written: a person reads it on a terminal, whatever is in it.

It formats, and decides nothing about where the line goes.
"""

from __future__ import annotations

import logging
from typing import Any

from telemetry.plain import escape


class Lines:
    """A message of some lines: what happened at once is one record, which takes as long as one."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def __str__(self) -> str:
        """All of it, as others of our handlers' formatters see it."""
        return "\n".join(self.lines)


def list_lines(record: logging.LogRecord) -> list[str]:
    """List what a record says, a line each."""
    return record.msg.lines if isinstance(record.msg, Lines) else [record.getMessage()]


class PlainFormatter(logging.Formatter):
    """Formats a record as one harmless line, or as the lines it has; and a traceback as some."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Format the line itself, or each."""
        formatted = []
        for line in list_lines(record):
            record.message = line
            formatted.append(escape(super().formatMessage(record)))
        return "\n".join(formatted)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """Format a traceback, whose error may say anything."""
        return "\n".join(map(escape, super().formatException(ei).split("\n")))
