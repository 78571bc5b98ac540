"""The control socket's language: whatever comes over the line, a value or one PtsupError."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from supervisor import errors
from supervisor.control import (
    LINE_LIMIT_BYTES,
    Request,
    parse_request,
    parse_response,
    render_error,
    render_request,
    render_result,
)
from supervisor.errors import ERRORS_BY_EXIT_CODE, GateError, PtsupError, UsageError

HOSTILE: Final = (
    *(b"", b"\n", b"\xff\xfe", b"\x00", b"{", b"}", b"'a'", b"{'a': 1}", b"nul", b"[" * 100_000),
    *(b"null", b"true", b"7", b'"a"', b"[]", b'{"v": 1', b'{"v": ' + b"1" * 5000 + b"}"),
)


@pytest.mark.parametrize(
    "request_",
    [
        Request("status"),
        Request("stop", {"names": ["a", "b"], "timeout_seconds": 0.5}),
        Request("start", {"environ": {"A": "ä\n\udcff", "verb-": ""}, "sessions": []}),
    ],
)
def test_a_request_survives_the_journey(request_: Request) -> None:
    line = render_request(request_)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert parse_request(line) == request_


@pytest.mark.parametrize("result", [{}, {"drain": "ä\n\udcff"}, {"sessions": [{"pid": None}]}])
def test_a_result_survives_the_journey(result: dict[str, Any]) -> None:
    line = render_result(result)
    assert line.count(b"\n") == 1
    assert parse_response(line) == result


@pytest.mark.parametrize("kind", ERRORS_BY_EXIT_CODE.values())
def test_an_error_arrives_as_the_error_it_was(kind: type[PtsupError]) -> None:
    with pytest.raises(PtsupError) as caught:
        parse_response(render_error(kind("cannot start paper: ä\n", "look there")))
    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.hint) == ("cannot start paper: ä\n", "look there")


def test_only_a_result_is_said_to_be_ok() -> None:
    assert json.loads(render_result({}))["ok"] is True
    assert json.loads(render_error(PtsupError("no")))["ok"] is False


def test_each_error_has_the_exit_code_that_scripts_rely_on() -> None:
    codes = {kind.__name__: code for code, kind in ERRORS_BY_EXIT_CODE.items()}
    assert codes == {
        "PtsupError": 1,
        "UsageError": 2,
        "NothingRunsError": 3,
        "SupervisorDeadError": 4,
        "DriftError": 5,
        "GateError": 6,
        "PortHeldError": 7,
    }
    assert all(getattr(errors, name).exit_code == code for name, code in codes.items())


@pytest.mark.parametrize("line", HOSTILE)
def test_what_is_no_request_is_refused_in_one_line(line: bytes) -> None:
    with pytest.raises(PtsupError) as caught:
        parse_request(line)
    assert caught.value.exit_code == 1
    assert len(caught.value.message.splitlines()) == 1


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"verb": "status"},
        {"v": 2, "verb": "status"},
        {"v": "1", "verb": "status"},
        {"v": None, "verb": "status"},
        {"v": [1], "verb": "status"},
        {"v": 1},
        {"v": 1, "verb": 7},
        {"v": 1, "verb": ["status"]},
    ],
)
def test_a_request_of_another_version_or_without_a_verb_is_refused(
    document: dict[str, Any],
) -> None:
    with pytest.raises(PtsupError):
        parse_request(json.dumps(document).encode())


@pytest.mark.parametrize(
    "line",
    [
        *HOSTILE,
        *(
            json.dumps(document).encode()
            for document in (
                {},
                {"ok": True},
                {"ok": True, "result": []},
                {"ok": 1, "result": {}},
                {"ok": False},
                {"ok": False, "error": "no"},
                {"ok": False, "error": {}},
                {"ok": False, "error": {"exit_code": [1], "message": None, "hint": 7}},
                {"ok": False, "error": {"exit_code": "6"}},
                {"ok": False, "error": {"exit_code": 99}},
                {"ok": False, "error": {"exit_code": 0}},
            )
        ),
    ],
)
def test_an_answer_that_makes_no_sense_is_an_error_and_never_a_success(line: bytes) -> None:
    with pytest.raises(PtsupError) as caught:
        parse_response(line)
    assert caught.value.exit_code == 1


def test_an_error_beside_a_result_is_no_success() -> None:
    line = render_error(GateError("no")).replace(b'"ok":false', b'"ok":false,"result":{}')
    with pytest.raises(GateError):
        parse_response(line)


def test_the_largest_environment_fits_a_line() -> None:
    environ = {f"NAME_{number}": "x" * 1000 for number in range(2000)}
    line = render_request(Request("start", {"environ": environ}))
    assert len(line) < LINE_LIMIT_BYTES
    assert parse_request(line).parameters == {"environ": environ}


def test_an_error_carries_its_message_and_hint() -> None:
    error = UsageError("cannot start", "do this")
    assert (str(error), error.message, error.hint) == ("cannot start", "cannot start", "do this")
    assert PtsupError("x").hint == ""
