"""Who gets the page, what it is sent, and what its charts draw."""

from __future__ import annotations

import json

import pytest

from supervisor.web.guard import find_refusal
from supervisor.web.history import Sample, Series, build_charts, find_exposures, find_signals
from supervisor.web.view import build_public, build_view, render_event

OWN = frozenset({"trading-box", "trading-box.lan"})


def total(signal: str, strategy: str = "macd") -> Series:
    return (
        "peaktrade_strategy_signals_total",
        (("signal", signal), ("strategy_id", strategy)),
    )


@pytest.mark.parametrize(
    ("peer", "host", "public", "allowed"),
    [
        ("127.0.0.1", "127.0.0.1:8000", False, True),
        ("127.0.0.1", "localhost:8000", False, True),
        ("127.0.0.1", "LOCALHOST.:8000", False, True),
        ("::1", "[::1]:8000", False, True),
        ("::ffff:127.0.0.1", "127.0.0.1", False, True),
        ("127.0.0.1", "evil.example:8000", False, False),
        ("127.0.0.1", "127.0.0.1.evil.example", False, False),
        ("127.0.0.1", "localhost.evil.example", False, False),
        ("127.0.0.1", "192.168.0.7:8000", False, False),
        ("127.0.0.1", "", False, False),
        ("127.0.0.1", "[::1", False, True),
        ("192.168.0.9", "127.0.0.1:8000", False, False),
        ("::ffff:192.168.0.9", "127.0.0.1:8000", False, False),
        ("", "127.0.0.1:8000", False, False),
        ("192.168.0.9", "192.168.0.7:8000", True, True),
        ("192.168.0.9", "trading-box:8000", True, True),
        ("192.168.0.9", "evil.example:8000", True, False),
        ("127.0.0.1", "", True, False),
    ],
)
def test_the_page_is_for_whom_it_is_for(peer: str, host: str, public: bool, allowed: bool) -> None:
    refusal = find_refusal(peer, host, public=public, names=OWN)
    assert (refusal is None) == allowed, refusal


def test_a_refusal_shows_no_control_character() -> None:
    refusal = find_refusal("127.0.0.1", "\x1b[31mevil", public=False, names=OWN)
    assert refusal is not None
    assert refusal.isprintable()


def test_a_chart_shows_the_increase_per_minute_of_all_strategies() -> None:
    samples = [
        Sample(0.0, {total("long"): 5.0}),
        Sample(30.0, {total("long"): 7.0, total("long", "rsi"): 1.0, total("flat"): 0.0}),
    ]
    chart = build_charts(samples, now=30.0)[0]
    assert chart["ages"] == [-30.0, 0.0]
    # What appeared meanwhile began at 0; the first sample has nothing to be compared with.
    assert chart["lines"] == [
        {"name": "flat", "values": [None, 0.0]},
        {"name": "long", "values": [None, 6.0]},
    ]


def test_what_was_not_seen_is_a_gap_and_so_is_a_total_that_fell() -> None:
    samples = [
        Sample(0.0, {total("long"): 5.0}),
        Sample(5.0, None),
        Sample(10.0, {total("long"): 9.0}),
        Sample(15.0, {total("long"): 1.0}),
        Sample(20.0, {total("long"): 2.0}),
    ]
    assert build_charts(samples, now=20.0)[0]["lines"][0]["values"] == [None, None, None, None, 12]


def test_a_limit_is_shown_at_its_largest() -> None:
    family = "peaktrade_risk_limit_utilization"
    values: dict[Series, float] = {
        (family, (("limit_id", "max_daily_loss_abs"), ("pid", "1"))): 0.2,
        (family, (("limit_id", "max_daily_loss_abs"), ("pid", "2"))): 0.9,
    }
    chart = build_charts([Sample(0.0, values)], now=0.0)[3]
    assert chart["lines"] == [{"name": "max_daily_loss_abs", "values": [0.9]}]


def test_the_signal_that_grew_most_was_the_last() -> None:
    before = Sample(0.0, {total("long"): 1.0, total("flat", "rsi"): 4.0})
    after = Sample(5.0, {total("long"): 2.0, total("short"): 3.0, total("flat", "rsi"): 4.0})
    found = find_signals(before, after)
    assert {name: (last.signal, last.at) for name, last in found.items()} == {
        "macd": ("short", 5.0)
    }
    assert find_signals(None, after) == find_signals(Sample(0.0, None), after) == {}


def test_exposures_are_those_of_the_strategy() -> None:
    family = "peaktrade_strategy_position_gross_exposure"
    values: dict[Series, float] = {
        (family, (("ccy", "USD"), ("strategy_id", "macd"))): 12.5,
        (family, (("ccy", "EUR"), ("strategy_id", "macd"))): 3.0,
        (family, (("ccy", "USD"), ("strategy_id", "rsi"))): 1.0,
    }
    assert find_exposures(values, "macd") == {"USD": 12.5, "EUR": 3.0}


DOCUMENT = {
    "schema": "ptsup.status/1",
    "supervisor": {"pid": 1, "state": "running", "uptime_seconds": 1.0, "run_dir": "/secret/run"},
    "port": {"host": "0.0.0.0", "port": 9111, "holder_pid": 1},
    "metricsd": {"state": "running", "pid": 2, "restarts": 0, "log": "/secret/metricsd.log"},
    "shards": {"dir": "/secret/prom_multiproc", "live": 2, "retired": 0, "bytes": 1},
    "sessions": [
        {
            "name": "paper",
            "state": "fatal",
            "command": ["/secret/bin/python", "secret.py", "--account", "secret"],
            "reason": "its last words: secret",
            "last_lines": ["secret"],
            "log": "/secret/paper.log",
        }
    ],
    "exporters": [{"name": "ai_live", "state": "running", "command": ["secret"]}],
    "drift": [
        {"kind": "env-mismatch", "subject": "paper", "expected": "secret", "actual": "secret"},
        {"kind": "directory-missing", "subject": "/secret", "expected": "…", "actual": "…"},
        {"kind": "label-violation", "subject": "a of pid 1 (secret)", "expected": "", "actual": ""},
    ],
}


def test_a_public_page_is_sent_no_argument_no_path_and_no_words_of_a_log() -> None:
    shown = build_public(DOCUMENT)
    assert "secret" not in json.dumps(shown)
    assert shown["sessions"] == [{"name": "paper", "state": "fatal", "command": ["python"]}]
    assert shown["drift"] == [
        {"kind": "env-mismatch", "subject": "paper"},
        {"kind": "directory-missing", "subject": ""},
        {"kind": "label-violation", "subject": ""},
    ]


def test_the_operators_own_page_is_sent_the_whole_document() -> None:
    strategies = {"paper": frozenset({"macd"})}
    view = build_view(DOCUMENT, strategies, None, {}, 0.0, public=False)
    assert view["status"] == DOCUMENT
    assert view["strategies"]["paper"] == [
        {"id": "macd", "signal": None, "signal_age_seconds": None, "exposures": {}}
    ]


def test_an_event_is_one_line_whatever_it_says() -> None:
    kind, data, end, rest = render_event("status", {"text": "a\nb\r\u2028</script>"}).split(b"\n")
    assert (kind, end, rest) == (b"event: status", b"", b"")
    assert json.loads(data.removeprefix(b"data: ")) == {"text": "a\nb\r\u2028</script>"}
