"""Trouble is told when it begins, and when it is another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.trouble import Trouble

if TYPE_CHECKING:
    import pytest

FULL = OSError(28, "No space left on device")


def test_the_same_trouble_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    trouble = Trouble("it failed")
    trouble.note(FULL)
    trouble.note(FULL)
    assert caplog.messages == ["it failed: [Errno 28] No space left on device"]
    trouble.note(OSError(24, "Too many open files"))
    assert caplog.messages[1:] == ["it failed: [Errno 24] Too many open files"]


def test_what_was_well_meanwhile_is_told_again(caplog: pytest.LogCaptureFixture) -> None:
    trouble = Trouble("it failed")
    trouble.say("no")
    trouble.clear()
    trouble.clear()
    trouble.say("no")
    assert caplog.messages == ["it failed: no", "it failed: no"]


def test_what_the_system_refused_takes_a_line_and_a_mistake_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trouble = Trouble("it failed")
    for error in (
        TimeoutError(),
        FULL,
        RuntimeError("can't start new thread"),
        KeyError("a"),
        RuntimeError("b"),
    ):
        trouble.note(error)
    assert [record.exc_info is None for record in caplog.records] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert caplog.messages[0] == "it failed: TimeoutError()"
    assert caplog.messages[3:] == ["it failed: KeyError('a')", "it failed: RuntimeError('b')"]
