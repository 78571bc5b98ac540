"""What fails for a while and is tried again: told when it begins, not each time it is met."""

from __future__ import annotations

import logging
from dataclasses import dataclass

log = logging.getLogger("ptsup")

# What `threading` raises, in this class for want of a better one, when the system refuses.
_NO_THREAD = "can't start new thread"


@dataclass(slots=True)
class Trouble:
    """One matter that may be in trouble. `what` says so, and what is done about it."""

    what: str
    _cause: str = ""

    def note(self, error: Exception) -> None:
        """Say it once for each cause.

        A line is enough where the system refused; anything else is told with its traceback.
        """
        if isinstance(error, OSError) or str(error) == _NO_THREAD:
            self.say(str(error) or repr(error))  # a timeout has no words
        else:
            self.say(repr(error), error)

    def say(self, cause: str, error: Exception | None = None) -> None:
        """Say it if it is not said."""
        if cause != self._cause:
            log.warning("%s: %s", self.what, cause, exc_info=error)
        self._cause = cause

    def clear(self) -> None:
        """It is well again: what comes now is told anew."""
        self._cause = ""
