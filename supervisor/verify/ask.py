"""Asks over HTTP: many questions at once, each answered within its time or given up.

It sends credentials only to where they were meant for: no redirect is followed.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from supervisor.verify.snapshot import Answer

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping
    from typing import TypeVar

    Key = TypeVar("Key", bound=Hashable)

_BODY_LIMIT_BYTES: Final = 32 << 20


@dataclass(frozen=True, slots=True)
class Question:
    """A URL to get, and the headers that go with it; these are never shown."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_arguments: Any) -> None:
        """Follow nothing: the answer is then the 3xx itself."""


# No proxy either: what is asked runs here, or where the operator said.
_OPENER: Final = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))


def ask_all(questions: Mapping[Key, Question], timeout_seconds: float) -> dict[Key, Answer]:
    """Ask all at once; who has not answered wholly in time is an Answer that says so."""
    answers: dict[Key, Answer] = {}

    def ask(key: Key, question: Question) -> None:
        answers[key] = _get(question, timeout_seconds)

    # A thread that is still waiting after the deadline is left to its own, and ends with us: a
    # server that sends a byte now and then would hold it for ever.
    threads = [threading.Thread(target=ask, args=item, daemon=True) for item in questions.items()]
    deadline = time.monotonic() + timeout_seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = Answer(error=f"did not answer within {timeout_seconds:g} s")
    return {key: answers.get(key, late) for key in questions}


def _get(question: Question, timeout_seconds: float) -> Answer:
    request = urllib.request.Request(question.url, headers=dict(question.headers))  # noqa: S310  http or https, as the options were checked
    try:
        with _OPENER.open(request, timeout=timeout_seconds) as answer:
            return Answer(answer.status, _parse(answer.read(_BODY_LIMIT_BYTES)))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code)
    except TimeoutError:
        return Answer(error=f"did not answer within {timeout_seconds:g} s")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(error=f"cannot be reached: {_describe(error, timeout_seconds)}")


def _describe(error: Exception, timeout_seconds: float) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return f"no answer within {timeout_seconds:g} s"
    text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return text or type(error).__name__


def _parse(body: bytes) -> Any:
    """Read JSON; None for a body that is none, such as a page of metrics."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
