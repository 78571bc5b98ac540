from __future__ import annotations

from pathlib import Path

import pytest

from telemetry.mode import (
    Mode,
    parse_mode,
    parse_multiproc_dir,
    parse_port,
    parse_session_dir,
)


@pytest.mark.parametrize("text", ["B", "b", " B ", "\tb\n"])
def test_mode_b_is_asked_for_by_its_letter(text: str) -> None:
    assert parse_mode({"PEAKTRADE_METRICS_MODE": text}) is Mode.B


@pytest.mark.parametrize("text", ["", " ", "A", "a", "BB", "C", "1", "true"])
def test_anything_else_is_mode_a(text: str) -> None:
    assert parse_mode({"PEAKTRADE_METRICS_MODE": text}) is Mode.A


def test_the_default_is_mode_a() -> None:
    assert parse_mode({}) is Mode.A


@pytest.mark.parametrize("parse", [parse_multiproc_dir, parse_session_dir])
def test_the_configured_directory_decides(parse: object) -> None:
    assert callable(parse)
    default = Path(".ops_local/prom_multiproc")
    assert Path(parse({})) == default
    assert Path(parse({"PEAKTRADE_METRICS_MULTIPROC_DIR": "  "})) == default
    environ = {"PEAKTRADE_METRICS_MULTIPROC_DIR": " /shards ", "PROMETHEUS_MULTIPROC_DIR": "/other"}
    assert Path(parse(environ)) == Path("/shards")


def test_only_a_session_follows_the_variable_of_the_library() -> None:
    environ = {"PROMETHEUS_MULTIPROC_DIR": "/library"}
    assert parse_session_dir(environ) == "/library"
    assert parse_multiproc_dir(environ) == Path(".ops_local/prom_multiproc")


def test_the_new_port_variable_goes_before_the_legacy_one() -> None:
    legacy = {"PEAKTRADE_METRICS_PORT": "9222"}
    assert parse_port({}) == 9111
    assert parse_port(legacy) == 9222
    assert parse_port(legacy | {"PEAK_TRADE_METRICSD_PORT": " 9333 "}) == 9333
    assert parse_port(legacy | {"PEAK_TRADE_METRICSD_PORT": " "}) == 9222


@pytest.mark.parametrize(
    "text", ["0", "-1", "65536", "9111.0", "http", "+80", "8_0", "٩", "9" * 5000]
)
def test_what_is_no_port_is_named_with_its_variable(text: str) -> None:
    with pytest.raises(ValueError, match="PEAK_TRADE_METRICSD_PORT"):
        parse_port({"PEAK_TRADE_METRICSD_PORT": text})
