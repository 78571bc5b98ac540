"""The units that keep the supervisor itself running: each line that a promise hangs on."""

from __future__ import annotations

import plistlib
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path
from typing import Final

from supervisor.config import Policy, SessionSpec
from supervisor.units import Unit, find_stop_seconds, render_launchd, render_systemd

UNIT: Final = Unit(
    program="/opt/my venv/bin/ptsup",
    cwd="/srv/100%",
    run_dir='/srv/a "b"/$HOME/100%/run',
    log="/srv/<log>&",
    stop_seconds=111,
)


def build_session(stop_timeout_seconds: float) -> SessionSpec:
    policy = replace(Policy(), stop_timeout_seconds=stop_timeout_seconds)
    return SessionSpec(name="a", command=("x",), cwd=Path("/"), policy=policy)


def test_the_systemd_unit_lets_a_crash_adopt() -> None:
    parser = ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(render_systemd(UNIT))
    assert parser["Unit"]["StartLimitIntervalSec"] == "0"
    service = dict(parser["Service"])
    assert service == {
        "Type": "notify",
        "ExecReload": (
            '"/opt/my venv/bin/ptsup" reload --run-dir "/srv/a \\"b\\"/$$HOME/100%%/run"'
        ),
        "ExecStart": ('"/opt/my venv/bin/ptsup" start --run-dir "/srv/a \\"b\\"/$$HOME/100%%/run"'),
        "WorkingDirectory": "/srv/100%%",
        "KillMode": "process",
        "Restart": "always",
        "RestartSec": "1",
        "WatchdogSec": "30",
        "OOMPolicy": "continue",
        "TimeoutStopSec": "111",
    }


def test_the_launchd_list_lets_a_crash_adopt() -> None:
    found = plistlib.loads(render_launchd(UNIT).encode())
    assert found["ProgramArguments"] == [UNIT.program, "start", "--run-dir", UNIT.run_dir]
    assert (found["KeepAlive"], found["AbandonProcessGroup"]) == (True, True)
    assert (found["ExitTimeOut"], found["StandardErrorPath"]) == (111, UNIT.log)
    assert found["WorkingDirectory"] == UNIT.cwd


def test_a_stop_has_time_for_the_longest_session_and_the_drain() -> None:
    assert find_stop_seconds([]) > 75 + 20
    assert find_stop_seconds([build_session(5), build_session(300)]) > 300 + 20
