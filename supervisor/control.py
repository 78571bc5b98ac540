"""The control socket's language: one JSON object a line, a request and then its response.

Pure: text in, values out. Requests are versioned; a verb may be repeated without harm.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from supervisor.errors import PtsupError, build_error

VERSION: Final = 1
# A hand-over carries an environment; nothing sensible is larger.
LINE_LIMIT_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for."""

    verb: str
    parameters: dict[str, Any] = field(default_factory=dict)


def render_request(request: Request) -> bytes:
    """Write a request as a line."""
    return _render({"v": VERSION, "verb": request.verb, **request.parameters})


def parse_request(line: bytes) -> Request:
    """Read a request; raises PtsupError with what is wrong with it."""
    document = _parse(line)
    if document.pop("v", None) != VERSION:
        raise PtsupError(f"this supervisor speaks version {VERSION} of the control protocol")
    verb = document.pop("verb", None)
    if not isinstance(verb, str):
        raise PtsupError("a request needs a verb")
    return Request(verb, document)


def render_result(result: dict[str, Any]) -> bytes:
    """Write a response that carries a result."""
    return _render({"v": VERSION, "ok": True, "result": result})


def render_error(error: PtsupError) -> bytes:
    """Write a response that carries an error, exit code included."""
    document = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
    return _render({"v": VERSION, "ok": False, "error": document})


def parse_response(line: bytes) -> dict[str, Any]:
    """Read a response's result; raises the PtsupError it carries instead."""
    document = _parse(line)
    result, error = document.get("result"), document.get("error")
    if document.get("ok") is True and isinstance(result, dict):
        return result
    if not isinstance(error, dict):
        raise PtsupError("the supervisor's answer is neither a result nor an error")
    code = error.get("exit_code")
    raise build_error(
        code if isinstance(code, int) else PtsupError.exit_code,
        str(error.get("message", "")),
        str(error.get("hint", "")),
    )


def _render(document: dict[str, Any]) -> bytes:
    # ASCII only: a surrogate that stands for an undecodable byte survives the journey.
    return json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"


def _parse(line: bytes) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise PtsupError("not a line of JSON") from None
    if not isinstance(document, dict):
        raise PtsupError("not a JSON object")
    return document
