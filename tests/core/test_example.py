"""The file that `ptsup init` writes: it starts as it stands, and shows every key."""

from __future__ import annotations

import re
from pathlib import Path

from supervisor.config.example import EXAMPLE
from supervisor.config.keys import EXPORTER_KEYS, SESSION_KEYS
from supervisor.config.toml import GATES_KEYS, TOP_KEYS, find_env_files, parse_toml

FILE = Path("/desk/ptsup.toml")


def test_it_is_read_as_it_stands() -> None:
    found = parse_toml(EXAMPLE, FILE)
    assert [spec.name for spec in found.sessions] == ["paper"]
    assert found.exporters == ()


def test_what_is_a_comment_is_right_too() -> None:
    lines = [line.removeprefix("# ") if " = " in line else line for line in EXAMPLE.splitlines()]
    lines = [line.removeprefix("# ") if line.startswith("# [") else line for line in lines]
    text = "\n".join(line for line in lines if not line.startswith('command = ["sleep"'))
    found = parse_toml(text, FILE, dict.fromkeys(find_env_files(text, FILE), ""))
    assert [spec.name for spec in (*found.exporters, *found.sessions)] == [
        "ai_live",
        "paper-1",
        "paper-2",
        "paper-3",
        "legacy",
    ]


def test_it_shows_every_key() -> None:
    shown = set(re.findall(r"^(?:# )?(\w+) = ", EXAMPLE, re.MULTILINE))
    tables = {"gates", "session", "exporter"}
    hidden = {"missing_shard_seconds", "stale_values_seconds"}
    assert shown == {*TOP_KEYS, *GATES_KEYS, *SESSION_KEYS, *EXPORTER_KEYS} - tables - hidden
