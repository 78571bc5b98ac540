"""What is otherwise in a file read anew: names and keys, no values, and whom it restarts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from supervisor.config.diff import diff_specs, render_difference
from supervisor.config.keys import SETTINGS
from supervisor.config.marks import build_marks, diff_marks
from supervisor.config.toml import parse_toml

if TYPE_CHECKING:
    from supervisor.config import SessionSpec

FILE: Final = Path("/desk/ptsup.toml")
A: Final = "[session.a]\ncommand = 'x'\n"
# For each key, a value that is not its default, and what has to stand beside it.
OTHERWISE: Final = {
    "mode": "mode = 'A'\nport = 1",
    "limits": "limits = { nofile = 1 }",
    "start_after": "start_after = ['b']",
    "ready": "ready = { port = 1 }",
    "log": "log = { backups = 1 }",
    "restart": "restart = 'always'",
    "success_exit_codes": "success_exit_codes = [1]",
    "stop_signal": "stop_signal = 'INT'",
    "stop_timeout_seconds": "stop_timeout_seconds = 1",
    "stable_seconds": "stable_seconds = 1",
    "backoff_seconds": "backoff_seconds = 1",
    "backoff_limit_seconds": "backoff_limit_seconds = 1",
    "failure_limit": "failure_limit = 1",
    "failure_window_seconds": "failure_window_seconds = 1",
}


def read(text: str) -> tuple[SessionSpec, ...]:
    found = parse_toml(text + "[session.b]\ncommand = 'x'\n", FILE)
    return (*found.exporters, *found.sessions)


def test_nothing_is_otherwise_in_the_same_file() -> None:
    found = diff_specs(read(A), read(A))
    assert (found.added, found.removed, found.changed, found.unchanged) == ((), (), (), 2)
    assert render_difference(found.to_document()) == ["unchanged  2"]


@pytest.mark.parametrize("key", OTHERWISE)
def test_a_changed_setting_is_named_and_restarts_whom_it_concerns(key: str) -> None:
    changes = diff_specs(read(A), read(A + OTHERWISE[key] + "\n")).changed
    assert [(change.spec.name, change.restarts) for change in changes] == [
        ("a", not SETTINGS[key].live)
    ]
    assert key in changes[0].keys


def test_every_setting_is_compared() -> None:
    assert OTHERWISE.keys() | {"port", "path"} == SETTINGS.keys()


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        ("cwd = '/'", ("cwd",)),
        ("env = { TOKEN = 'hunter2', B = '1' }", ("env.B", "env.TOKEN")),
    ],
)
def test_what_it_is_spawned_by_restarts_it(line: str, keys: tuple[str, ...]) -> None:
    found = diff_specs(read(A), read(f"{A}{line}\n"))
    assert [(change.keys, change.restarts) for change in found.changed] == [(keys, True)]
    assert "hunter2" not in json.dumps(found.to_document())


def test_a_changed_value_of_a_variable_is_a_change_and_a_command_too() -> None:
    before = "[session.a]\ncommand = 'x'\nenv = { A = '1' }\n"
    after = "[session.a]\ncommand = 'y'\nenv = { A = '2' }\n"
    (change,) = diff_specs(read(before), read(after)).changed
    assert change.keys == ("command", "env.A")


def test_who_came_and_who_went_is_named() -> None:
    exporter = "[exporter.e]\ncommand = 'x'\nport = 1\n"
    found = diff_specs(read(A), read(exporter))
    assert ([spec.name for spec in found.added], found.removed) == (["e"], ("a",))
    assert render_difference(found.to_document()) == [
        "added      e",
        "removed    a",
        "unchanged  1",
    ]


def test_what_one_was_spawned_by_is_told_from_anything_else_without_being_said() -> None:
    spawned, *_ = read(A + "cwd = 'x'\nenv = { TOKEN = 'hunter2', B = '1' }\n")
    marks = build_marks(spawned, "n0nce")
    assert diff_marks(marks, build_marks(spawned, "n0nce")) == ()
    told, *_ = read(A + "cwd = 'x'\nmode = 'A'\nport = 9300\nlimits = { core = 0 }\n")
    full = build_marks(told, "n0nce")
    assert {key for key, setting in SETTINGS.items() if not setting.live} <= full.keys()
    assert diff_marks({}, marks) == ()  # nobody knows
    assert diff_marks(dict.fromkeys(marks, "e1f1aed8"), marks) == ()  # as a former ptsup made them
    for text, keys in (
        ("cwd = './y/../x'\nenv = { TOKEN = 'hunter2', B = '1' }", ()),
        ("cwd = 'x'\nenv = { TOKEN = 'hunter3', C = '1' }", ("env.TOKEN", "env.C", "env.B")),
        ("cwd = 'y'\nrestart = 'always'\nenv = { TOKEN = 'hunter2', B = '1' }", ("cwd",)),
        ("cwd = 'x'\nlimits = { core = 0 }\nenv = { TOKEN = 'hunter2', B = '1' }", ("limits",)),
    ):
        wanted, *_ = read(f"{A}{text}\n")
        assert diff_marks(marks, build_marks(wanted, "n0nce")) == keys
    # Of what nothing is said: that is a change, too.
    silent, *_ = read(A + "cwd = 'x'\n")
    assert set(diff_marks(full, build_marks(silent, "n0nce"))) == {"mode", "port", "limits"}
    assert set(diff_marks(build_marks(silent, "n0nce"), full)) == {"mode", "port", "limits"}
    # What is alike in two incarnations has not the same marks: they say nothing of one another.
    assert not set(marks.values()) & set(build_marks(spawned, "n0nce2").values())
    assert "hunter" not in json.dumps(marks)
