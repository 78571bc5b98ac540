"""Whom a signal was sent to is told once; who was born meanwhile twice, and never a third time."""

from __future__ import annotations

import signal

from supervisor.told import AGAIN_SECONDS, Told


def test_who_was_there_is_not_told_again() -> None:
    told = Told(signal.SIGTERM, {7: "a"})
    assert told.find_due({7: "a"}, 0.0) == {}
    assert told.find_due({7: "a"}, 100.0) == {}


def test_who_comes_later_is_told_at_once_and_once_more() -> None:
    told = Told(signal.SIGTERM, {7: "a"})
    both = {7: "a", 8: "b"}
    assert told.find_due(both, 5.0) == {8: "b"}
    assert told.find_due(both, 5.0 + 0.9 * AGAIN_SECONDS) == {}
    assert told.find_due(both, 5.0 + AGAIN_SECONDS) == {8: "b"}
    assert told.find_due(both, 5.0 + 2 * AGAIN_SECONDS) == {}
    assert told.find_due(both, 500.0) == {}


def test_another_of_the_same_pid_is_another() -> None:
    told = Told(signal.SIGTERM, {7: "a"})
    assert told.find_due({7: "b"}, 0.0) == {7: "b"}
    assert told.find_due({7: "c"}, 0.1) == {7: "c"}
    assert told.find_due({7: "c"}, 0.2) == {}


def test_a_kill_is_heard_by_the_youngest() -> None:
    told = Told(signal.SIGKILL, {})
    assert told.find_due({7: "a"}, 0.0) == {7: "a"}
    assert told.find_due({7: "a"}, 100.0) == {}
