"""The NO-LIVE table of configuration files: what stands in them, and which words name one."""

from __future__ import annotations

import shlex
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.gates import Reason, Refusal, Where, build_unchecked, find_refusal_in_file
from supervisor.gates.files import ConfigName, find_config_names

PAPER = ConfigName("config/paper.toml", certain=True)


class Row(NamedTuple):
    """A file, and the key it is refused for."""

    text: str
    expected: str | None


ROWS = [
    # The five of the runbook's configuration.
    Row("enable_live_trading = true", "enable_live_trading"),
    Row("live_mode_armed = true", "live_mode_armed"),
    Row("bounded_pilot_mode = true", "bounded_pilot_mode"),
    Row('[environment]\nmode = "live"', "environment.mode"),
    Row("[live]\nenabled = true", "live.enabled"),
    # Wherever they stand, however they are written.
    Row("[environment]\nenable_live_trading = true", "environment.enable_live_trading"),
    Row("[environment]\nlive_mode_armed = true", "environment.live_mode_armed"),
    Row("[a.b.c.d]\nlive_mode_armed = true", "c.d.live_mode_armed"),
    Row("[environment]\nbounded_pilot_mode = true", "environment.bounded_pilot_mode"),
    Row("live.enabled = true", "live.enabled"),
    Row("live = { enabled = true }", "live.enabled"),
    Row("[profiles.live]\nenabled = true", "profiles.live.enabled"),
    Row("[[live]]\nenabled = false\n[[live]]\nenabled = true", "live.enabled"),
    Row("sessions = [{ mode = 'paper' }, { mode = 'live' }]", "sessions.mode"),
    Row('"enable_live_trading" = true', "enable_live_trading"),
    Row("enable-live-trading = true", "enable-live-trading"),
    Row("enableLiveTrading = true", "enableLiveTrading"),
    Row("ENABLE_LIVE_TRADING = 1", "ENABLE_LIVE_TRADING"),
    Row('enable_live_trading = "yes"', "enable_live_trading"),
    Row('enable_live_trading = "${ARMED}"', "enable_live_trading"),
    Row("enable_live_trading = 1979-05-27", "enable_live_trading"),
    Row("live = true", "live"),
    Row("armed = true", "armed"),
    Row("PEAK_TRADE_LIVE_ENABLED = true", "PEAK_TRADE_LIVE_ENABLED"),
    Row("[env]\nPT_CONFIRM_TOKEN = 'abc'", "env.PT_CONFIRM_TOKEN"),
    Row("[live]\narmed = true", "live.armed"),
    Row("[live]\nenable = true", "live.enable"),
    Row("[live]\norders = ['a']", "live.orders"),
    Row("[live.trading]\nenabled = true", "live.trading.enabled"),
    Row("[execution]\nenable = true", "execution.enable"),
    Row("mode = 'live'", "mode"),
    Row("mode = 'LIVE'", "mode"),
    Row("mode = ' live '", "mode"),
    Row("mode = 'bounded_pilot'", "mode"),
    Row("mode = 'bounded-pilot'", "mode"),
    Row("mode = 'shadow,live'", "mode"),
    Row("mode = ['shadow', 'live']", "mode"),
    Row("environment = 'live'", "environment"),
    Row("[live]\nmode = 'live'", "live.mode"),
    Row("[session]\ntrading_mode = 'live'", "session.trading_mode"),
    Row("live_mode = 'paper'", "live_mode"),  # as PEAK_TRADE_LIVE_MODE: off is off, no more
    Row("kraken_api_key = 'abc'", "kraken_api_key"),
    Row("[exchange.kraken]\napi_secret = 'abc'", "exchange.kraken.api_secret"),
    # After many that are off; after a byte order mark; with the line ends of another system.
    Row("mode = 'paper'\n[live]\nenabled = false\narmed = true", "live.armed"),
    Row("\ufefflive = true", "live"),
    Row("mode = 'paper'\r\nlive = true\r\n", "live"),
    # Look-alikes in names and values; the list's own spelling is shown.
    Row('"l\u0456ve" = true', "LIVE"),
    Row('"\uff4c\uff49\uff56\uff45" = true', "LIVE"),
    Row('"li\u200bve" = true', "LIVE"),
    Row('"enable_liv\u0435_trading" = true', "ENABLE_LIVE_TRADING"),
    Row("mode = 'l\u0456ve'", "mode"),
    Row("mode = '\uff4c\uff49\uff56\uff45'", "mode"),
    Row("mode = 'li\u200bve'", "mode"),
    Row("mode = 'live\u0301'", "mode"),
    Row('["l\u0456ve"]\nenabled = true', "LIVE_ENABLED"),
    # Paper and shadow.
    Row("", None),
    Row("enable_live_trading = false\nlive_mode_armed = false\nbounded_pilot_mode = false", None),
    Row('[environment]\nmode = "paper"\nenable_live_trading = false', None),
    Row('[environment]\nmode = "shadow"\nlive_mode_armed = false', None),
    Row('[live]\nenabled = false\nmode = "paper"\nstake = 10', None),
    Row("[live]\nenabled = 0", None),
    Row("[live]\nenabled = 0.0", None),
    Row('enable_live_trading = "off"', None),
    Row("live_orders = []\nlive = {}", None),
    Row("[live_risk]\nenabled = true\nmax_order_notional = 1000.0", None),
    Row("record = true\nrecord_path = 'ticks.jsonl'", None),
    Row("[strategy]\nname = 'live'\nalive = true\nlives = 9", None),
    Row("confirm_token = ''\nrequire_confirm_token = true", None),
    Row("[data]\nfeed = 'live'\nsource = 'live'", None),
    Row("kraken_api_key = ''\napi_key_file = '/run/key'", None),
    Row("[m]\nx = 1\n[mode]\nlive_plot = true", None),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: ascii(row.text))
def test_a_file_is_judged_by_the_table(row: Row) -> None:
    refusal = find_refusal_in_file(PAPER, row.text)
    assert (refusal and refusal.subject) == row.expected
    assert refusal is None or refusal.where is Where.FILE


@pytest.mark.parametrize("row", [row for row in ROWS if row.expected], ids=lambda row: row.text)
def test_a_file_that_does_not_end_in_toml_is_judged_alike(row: Row) -> None:
    assert find_refusal_in_file(ConfigName("paper.conf", certain=False), row.text)


@pytest.mark.parametrize(
    "text", ["live: true", "[live", "a = 1\na = 2", "x = " + "[" * 5000, "{}", "\x00", "a"]
)
def test_what_is_no_toml_cannot_be_checked_where_it_has_to_be(text: str) -> None:
    refusal = find_refusal_in_file(PAPER, text)
    assert refusal
    assert refusal.reason is Reason.UNCHECKED
    assert find_refusal_in_file(ConfigName("paper.yaml", certain=False), text) is None


def test_the_list_can_be_extended_for_files_too() -> None:
    assert find_refusal_in_file(PAPER, "acme_go = true") is None
    refusal = find_refusal_in_file(PAPER, "[x]\nacme_go = true", denied=["ACME_*"])
    assert refusal == Refusal("x.acme_go", Where.FILE, file="config/paper.toml")


def test_a_refusal_names_key_and_file_and_no_value() -> None:
    refusal = find_refusal_in_file(PAPER, "[live]\nenabled = 'hunter2'")
    assert refusal
    assert refusal.message == "live.enabled in config/paper.toml would enable live trading"
    assert "hunter2" not in f"{refusal!r}{refusal.hint}"
    refusal = find_refusal_in_file(PAPER, "a = 1\nb = hunter2")
    assert refusal
    assert refusal.message == (
        "config/paper.toml in the arguments cannot be checked: no TOML (line 2)"
    )
    assert "hunter2" not in f"{refusal!r}{refusal.hint}"


@pytest.mark.parametrize(
    "name", ["\x1b[31m.toml", "a\nb.toml", "x" * 65536 + ".toml", "{}'\".toml"]
)
def test_a_hostile_file_name_is_shown_escaped_and_cut(name: str) -> None:
    for refusal in (
        find_refusal_in_file(ConfigName(name, certain=True), "live = true"),
        build_unchecked(ConfigName(name, certain=True), "too long"),
    ):
        assert refusal
        assert refusal.message.isprintable()
        assert len(refusal.message) < 250


# --- which words name a file ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("python x.py --config paper.toml", ["paper.toml"]),
        ("python x.py --config=paper.toml", ["paper.toml"]),
        ("python x.py paper.toml", ["paper.toml"]),
        ("python x.py -cpaper.toml", ["paper.toml"]),
        ("python x.py @paper.toml", ["paper.toml"]),
        ("python x.py a.toml,b.toml", ["a.toml", "b.toml"]),
        ("python x.py --any-option=conf/PAPER.TOML", ["conf/PAPER.TOML"]),
        ("env CONFIG=/etc/paper.toml python x.py", ["/etc/paper.toml"]),
        ("sh -c 'exec python x.py --config paper.toml'", ["paper.toml"]),
        ("sh -c 'python x.py <paper.toml'", ["paper.toml"]),
        ('bash -lc "sh -c \'python x.py --config=\\"paper.toml\\"\'"', ["paper.toml"]),
        ("python x.py 'my paper.toml'", ["my paper.toml"]),
        ("python x.py --toml toml .tom paper.tomlx", []),
    ],
)
def test_a_word_that_names_a_toml_file_is_found(command: str, names: list[str]) -> None:
    found = find_config_names(shlex.split(command), inherited={}, configured={})
    assert set(names) <= {config.name for config in found if config.certain}
    assert bool(names) == any(config.certain for config in found)


@pytest.mark.parametrize(
    "command",
    [
        "python x.py --config paper.conf",
        "python x.py --config=paper.conf",
        "python x.py --config-file paper.conf",
        "python x.py --settings paper.conf",
        "python x.py -c paper.conf",
    ],
)
def test_what_a_configuration_option_is_given_may_be_one(command: str) -> None:
    found = find_config_names(command.split(), inherited={}, configured={})
    assert ConfigName("paper.conf", certain=False) in found


def test_variables_name_files_when_they_are_configured_or_the_projects() -> None:
    inherited = {"PEAK_TRADE_CONFIG_PATH": "live.toml", "STARSHIP_CONFIG": "starship.toml"}
    found = find_config_names([], inherited=inherited, configured={"ANY": "any.toml"})
    assert {config.name for config in found} == {"live.toml", "any.toml"}


@settings(max_examples=40)
@given(st.text(max_size=60), st.lists(st.text(max_size=20), max_size=4))
def test_no_text_makes_it_raise(text: str, command: list[str]) -> None:
    find_refusal_in_file(PAPER, text)
    find_config_names(command, inherited={"PT_X": text}, configured={text: text})


@pytest.mark.timeout(20)
def test_a_huge_file_is_read_to_its_end() -> None:
    for text in (
        "x = [" + "1," * 20_000 + "]\n",
        "".join(f"[a{i}]\nb = 1\n" for i in range(3_000)),
        ".".join("a" * 1_000) + " = 1\n",
        f"x = '{'y' * 250_000}'\n",
    ):
        assert find_refusal_in_file(PAPER, text) is None
        assert find_refusal_in_file(PAPER, f"live = true\n{text}")
