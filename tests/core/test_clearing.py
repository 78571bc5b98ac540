"""Which directories may be cleared at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from telemetry.clearing import find_clear_refusal


@pytest.mark.parametrize("name", ["prom_multiproc", "prometheus_multiproc"])
def test_a_directory_of_the_right_name_may_be_cleared(name: str) -> None:
    assert find_clear_refusal(Path("/nowhere/at/all") / name) is None


@pytest.mark.parametrize(
    "name",
    ["data", "prom_multiproc2", "Prom_Multiproc", "prom_multiproc/below", "prom_multiproc/.."],
)
def test_a_directory_of_another_name_is_refused_with_its_name(name: str) -> None:
    refusal = find_clear_refusal(Path("/nowhere/at/all") / name)
    assert refusal is not None
    assert "prom_multiproc or prometheus_multiproc" in refusal


def test_the_root_directory_is_refused() -> None:
    assert find_clear_refusal(Path("/")) == "it is the root directory"


def test_the_home_directory_is_refused_whatever_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nowhere/prom_multiproc")
    assert find_clear_refusal(Path("/nowhere/prom_multiproc")) == "it is the home directory"


def test_a_reason_is_one_line_whatever_the_name() -> None:
    refusal = find_clear_refusal(Path("/nowhere/a\nb\x1b[2J"))
    assert refusal is not None
    assert refusal.isprintable()
