"""What is wrong now, by subject: logged when it begins or changes, not each time it is met."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_logger = logging.getLogger(__name__)


class Complaints:
    """One text for each subject that is not well."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def note(self, subject: str, text: str) -> None:
        """Log what is wrong once; a subject that is well again may be complained of again."""
        if not text:
            self._texts.pop(subject, None)
        elif self._texts.get(subject) != text:
            _logger.warning("%s", text)
            self._texts[subject] = text

    def find(self, subject: str) -> str:
        """Find what is wrong with a subject; empty when it is well."""
        return self._texts.get(subject, "")

    def any_of(self, subjects: Iterable[str]) -> bool:
        """Whether any of these is not well."""
        return not self._texts.keys().isdisjoint(subjects)

    def attempt(self, what: str, action: Callable[[], object]) -> None:
        """Do what no total depends on, and say so when it fails."""
        try:
            action()
        except OSError as error:
            self.note(what, f"cannot {what}: {error}")
        else:
            self.note(what, "")
