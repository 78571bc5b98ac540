"""What a child sees: Mode B for a session, no shard directory for metricsd, no credentials."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from supervisor.config import SessionSpec
from supervisor.environ import (
    build_metricsd_environment,
    build_session_environment,
    build_starter,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

SHARDS: Final = Path("/desk/.ops_local/prom_multiproc")


def build(
    inherited: Mapping[str, str] | None = None, env: Mapping[str, str] | None = None
) -> dict[str, str]:
    return build_session_environment(
        SessionSpec(name="paper", command=("true",), cwd=Path("/"), env=env or {}),
        build_starter(inherited or {}),
        multiproc_dir=SHARDS,
        nonce="n0nce",
        fallback_path="/opt/ptsup/bin",
    )


def test_a_session_gets_mode_b_both_directories_and_its_name() -> None:
    assert build() == {
        "PATH": f"{os.defpath}:/opt/ptsup/bin",
        "PEAKTRADE_METRICS_MODE": "B",
        "PEAKTRADE_METRICS_MULTIPROC_DIR": str(SHARDS),
        "PROMETHEUS_MULTIPROC_DIR": str(SHARDS),
        "PTSUP_SESSION": "paper",
        "PTSUP_SPAWN": "n0nce",
        "PYTHONUNBUFFERED": "1",
    }


def test_a_session_inherits_what_it_does_not_configure() -> None:
    inherited = {"HOME": "/home/desk", "LANG": "C"}
    environment = build(inherited, {"LANG": "C.UTF-8", "PEAK_TRADE_SERVICE": "paper"})
    assert environment["HOME"] == "/home/desk"
    assert environment["LANG"] == "C.UTF-8"
    assert environment["PEAK_TRADE_SERVICE"] == "paper"
    assert inherited == {"HOME": "/home/desk", "LANG": "C"}


@pytest.mark.parametrize(
    "name",
    [
        "PEAKTRADE_METRICS_MODE",
        "PEAKTRADE_METRICS_MULTIPROC_DIR",
        "PROMETHEUS_MULTIPROC_DIR",
        "PTSUP_SESSION",
        "PTSUP_SPAWN",
    ],
)
def test_neither_the_caller_nor_the_config_can_change_the_plan(name: str) -> None:
    plan = build()[name]
    assert build({name: "other"})[name] == plan
    assert build(env={name: "other"})[name] == plan


def test_the_old_spelling_of_the_directory_is_not_inherited() -> None:
    assert "prometheus_multiproc_dir" not in build({"prometheus_multiproc_dir": "/elsewhere"})


def test_inherited_credentials_are_left_out() -> None:
    environment = build({"KRAKEN_API_KEY": "k", "KRAKEN_API_SECRET": "s", "KRAKEN_URL": "u"})
    assert environment.keys() & {"KRAKEN_API_KEY", "KRAKEN_API_SECRET"} == set()
    assert environment["KRAKEN_URL"] == "u"


def test_our_own_interpreter_comes_last_on_the_path() -> None:
    assert build({"PATH": "/venv/bin:/usr/bin"})["PATH"] == "/venv/bin:/usr/bin:/opt/ptsup/bin"
    assert build({}, {"PATH": "/x"})["PATH"] == "/x:/opt/ptsup/bin"
    assert build({"PATH": ""})["PATH"] == "/opt/ptsup/bin"


def test_a_python_session_is_unbuffered_unless_it_is_told_otherwise() -> None:
    assert build()["PYTHONUNBUFFERED"] == "1"
    assert build({"PYTHONUNBUFFERED": ""})["PYTHONUNBUFFERED"] == ""
    assert build(env={"PYTHONUNBUFFERED": "x"})["PYTHONUNBUFFERED"] == "x"


def build_metricsd(inherited: Mapping[str, str]) -> dict[str, str]:
    return build_metricsd_environment(inherited, package_root=Path("/opt/src"), nonce="n0nce")


def test_metricsd_never_writes_shards_of_its_own() -> None:
    inherited = {"PROMETHEUS_MULTIPROC_DIR": "/x", "prometheus_multiproc_dir": "/x", "HOME": "/h"}
    assert build_metricsd(inherited) == {
        "HOME": "/h",
        "PTSUP_SPAWN": "n0nce",
        "PYTHONPATH": "/opt/src",
    }
    assert len(inherited) == 3


def test_nothing_on_the_operators_path_shadows_our_packages() -> None:
    assert build_metricsd({"PYTHONPATH": "/a:/b"})["PYTHONPATH"] == "/opt/src:/a:/b"


def test_metricsd_gets_no_credentials() -> None:
    assert "KRAKEN_API_SECRET" not in build_metricsd({"KRAKEN_API_SECRET": "s"})
