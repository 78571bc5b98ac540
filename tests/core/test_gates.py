"""The NO-LIVE table: what is refused, under which name, and what starts."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.gates import Reason, Refusal, Where, find_refusal, strip_credentials
from supervisor.gates.names import (
    DENIED_VARIABLES,
    FALSE_LIKE,
    LIVE_VALUES,
    MODE_NAMES,
    PLAIN_SWITCHES,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROGRAM = ("python", "examples/shadow_session.py")
ARG, SH, TEXT = Where.ARGUMENTS, Where.SHELL, Where.TEXT
# The contract's list, kept here a second time: shortening it in the code must fail here.
CONTRACT = (
    "PEAK_TRADE_LIVE_ENABLED",
    "PEAK_TRADE_LIVE_ARMED",
    "PEAK_TRADE_LIVE_MODE",
    "PEAK_TRADE_ENABLE_LIVE_TRADING",
    "PEAK_TRADE_LIVE_AUTHORIZED",
    "PEAK_TRADE_LIVE_ORDERS",
    "PT_LIVE",
    "PT_LIVE_ANYTHING",
    "PT_LIVEX",
    "PT_ARMED",
    "PT_CONFIRM",
    "PT_CONFIRM_TOKEN",
    "PT_TRADE",
    "PT_ENABLED",
    "LIVE",
    "LIVE_ALLOWED",
    "RECORD",
    "TRADING_ENABLE",
    "EXECUTION_ENABLE",
    "ENABLE_LIVE_TRADING",
)


def refuse(
    command: Sequence[str] = PROGRAM,
    inherited: Mapping[str, str] | None = None,
    configured: Mapping[str, str] | None = None,
) -> Refusal | None:
    return find_refusal(command, inherited=inherited or {}, configured=configured or {})


class Row(NamedTuple):
    """A command as an operator would type it, `'` quoting each word, and what it is refused for."""

    command: str
    expected: str | None
    where: Where | None = None


class Environ(NamedTuple):
    variables: Mapping[str, str]
    expected: str | None


# --- the environment ----------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTRACT)
def test_a_denied_variable_that_is_not_off_is_refused_wherever_it_is_set(name: str) -> None:
    for value in ("1", "true", "True", "YES", "on", "enabled", "2", "armed"):
        for spelled in (name, name.lower()):
            assert refuse(inherited={spelled: value}) == Refusal(spelled, Where.ENVIRONMENT)
            assert refuse(configured={spelled: value}) == Refusal(spelled, Where.CONFIGURED)
            assert refuse(["env", f"{spelled}={value}", *PROGRAM]) == Refusal(spelled, ARG)
            assert refuse(["sh", "-c", f"{spelled}={value} python x.py"]) == Refusal(spelled, SH)


@pytest.mark.parametrize("name", [*CONTRACT, "KRAKEN_API_KEY"])
def test_an_off_value_starts_wherever_it_is_set(name: str) -> None:
    for value in ("", "0", "false", "no", "off", "FALSE", "No", "oFF", " 0 \n"):
        assert refuse(inherited={name: value}, configured={name.lower(): value}) is None
        assert refuse(["env", f"{name}={value}", *PROGRAM]) is None
        assert refuse(["sh", "-c", f"export {name}='{value.strip()}'; python x.py"]) is None


ENVIRONS = [
    # Only what is off is off.
    Environ({"LIVE": "00"}, "LIVE"),
    Environ({"LIVE": "0.0"}, "LIVE"),
    Environ({"LIVE": "none"}, "LIVE"),
    Environ({"LIVE": "disabled"}, "LIVE"),
    Environ({"LIVE": "f"}, "LIVE"),
    Environ({"LIVE": "fal\u017fe"}, "LIVE"),  # a long s
    Environ({"LIVE": "\uff10"}, "LIVE"),  # a full-width zero
    Environ({"LIVE": "0\x00"}, "LIVE"),
    Environ({"LIVE": "\xa00"}, "LIVE"),
    Environ({"LIVE": "$UNKNOWN"}, "LIVE"),
    Environ({"LIVE": "live"}, "LIVE"),
    Environ({"PEAK_TRADE_LIVE_MODE": "shadow"}, "PEAK_TRADE_LIVE_MODE"),
    # One variable off does not excuse another that is on.
    Environ({"LIVE": "0", "live": "1"}, "live"),
    # The same switches under their plain names, and the project's other spelling.
    Environ({"LIVE_ENABLED": "1"}, "LIVE_ENABLED"),
    Environ({"LIVE_TRADING": "true"}, "LIVE_TRADING"),
    Environ({"LIVE_TRADING_ENABLED": "true"}, "LIVE_TRADING_ENABLED"),
    Environ({"PEAKTRADE_LIVE_ENABLED": "1"}, "PEAKTRADE_LIVE_ENABLED"),
    Environ({"PEAK_TRADE_ARMED": "1"}, "PEAK_TRADE_ARMED"),
    Environ({"ENABLELIVETRADING": "1"}, "ENABLELIVETRADING"),
    # A mode is judged by what it chooses.
    Environ({"MODE": "live"}, "MODE"),
    Environ({"TRADING_MODE": "LIVE"}, "TRADING_MODE"),
    Environ({"PEAK_TRADE_MODE": "bounded_pilot"}, "PEAK_TRADE_MODE"),
    Environ({"PT_EXECUTION_MODE": "Bounded-Pilot"}, "PT_EXECUTION_MODE"),
    Environ({"ENVIRONMENT": " live "}, "ENVIRONMENT"),
    Environ({"MODE": "shadow,live"}, "MODE"),
    Environ({"MODE": "shadow"}, None),
    Environ({"MODE": "paper"}, None),
    Environ({"PEAKTRADE_METRICS_MODE": "B"}, None),
    Environ({"ENV": "/home/me/.shrc", "ENVIRONMENT": "staging"}, None),
    Environ({"TRADING_MODE": "futures"}, None),
    # Look-alikes; the list's own spelling is shown, as theirs cannot be told from it.
    Environ({"L\u0406VE": "1"}, "LIVE"),  # Cyrillic I
    Environ({"LIV\u0415": "1"}, "LIVE"),  # Cyrillic E
    Environ({"LIV\u0395": "1"}, "LIVE"),  # Greek E
    Environ({"l\u0131ve": "1"}, "LIVE"),  # dotless i
    Environ({"\uff2c\uff29\uff36\uff25": "1"}, "LIVE"),  # full width
    Environ({"\U0001d40b\U0001d408\U0001d415\U0001d404": "1"}, "LIVE"),  # mathematical bold
    Environ({"\u216c\u0399\u2164\u0395": "1"}, "LIVE"),  # Roman numerals, Greek
    Environ({"LI\u0301VE": "1"}, "LIVE"),  # a combining accent
    Environ({"\u0420\u0422_\u0410RMED": "1"}, "PT_ARMED"),
    Environ({"\u03a1\u03a4_LIVE_OTHERS": "1"}, "PT_LIVE*"),
    Environ({"PEAK_TRADE_LIVE_\u0415NABLED": "1"}, "PEAK_TRADE_LIVE_ENABLED"),
    Environ({"RE\u0421\u041eRD": "1"}, "RECORD"),
    Environ({"LI\u200bVE": "1"}, "LIVE"),  # zero width
    Environ({"\ufeffLIVE": "1"}, "LIVE"),
    Environ({"LI\xadVE": "1"}, "LIVE"),  # soft hyphen
    Environ({"LI\u3164VE": "1"}, "LIVE"),  # a letter without width
    Environ({"L\u20ddIVE": "1"}, "LIVE"),  # a mark around it
    Environ({"LI\ufe0fVE": "1"}, "LIVE"),  # a variation selector
    Environ({"LI\u202eVE": "1"}, "LIVE"),  # a change of direction
    Environ({"\u029f\u026a\u1d20\u1d07": "1"}, "LIVE"),  # small capitals
    Environ({"\u13de\u13a5\u13d9\u13ac": "1"}, "LIVE"),  # Cherokee
    Environ({"MODE": "l\u0456v\u0435"}, "MODE"),  # and in values
    Environ({"MODE": "\uff4c\uff49\uff56\uff45"}, "MODE"),
    Environ({"MODE": "li\u200bve"}, "MODE"),
    Environ({"MODE": "liv\u0301e"}, "MODE"),
    Environ({"TRADING_MODE": "bounded_\u0440ilot"}, "TRADING_MODE"),
    Environ({" LIVE\t": "1"}, "LIVE"),
    Environ({"LIVE\udcff": "1"}, "LIVE"),  # a byte that is no UTF-8
    Environ({"LIVE\x1b[31m": "1"}, None),  # other letters make another name
    # Exact means exact.
    Environ({"LIVENESS_PORT": "1", "LIVE_PLOT": "1", "ALIVE": "1", "LIVES": "9"}, None),
    Environ({"RECORDING": "1", "RECORDS": "1", "ASCIINEMA_RECORD_FILE": "1"}, None),
    Environ({"OPT_LIVE": "1", "SCRIPT_CONFIRM": "1", "PT_DRY_RUN": "1"}, None),
    Environ({"PEAK_TRADE_SERVICE": "paper", "PEAK_TRADE_PROMETHEUS_ENABLED": "1"}, None),
    Environ({"NO_LIVE": "1", "PEAK_TRADE_TESTNET_ONLY": "true"}, None),
    Environ({"_": "/usr/bin/python", "": "x", "PATH": "/opt/live/bin"}, None),
    Environ({"PS1": "--live", "HISTIGNORE": "LIVE=1 *"}, None),  # values are no words
    # A name in another script stays itself.
    Environ({"\u540d\u524d": "1", "\u0436\u0438\u0432": "1"}, None),
]


@pytest.mark.parametrize("row", ENVIRONS, ids=lambda row: ascii(dict(row.variables)))
def test_the_environment_is_judged_by_the_table(row: Environ) -> None:
    inherited, configured = refuse(inherited=row.variables), refuse(configured=row.variables)
    assert (inherited and inherited.subject) == row.expected
    assert (configured and configured.subject) == row.expected


# The letters of other alphabets that print like the Latin one.
LOOK_ALIKES = {
    "A": "\u0391\u03b1\u0410\u0430\u1d00\u13aa\u0251",
    "B": "\u0392\u0412\u0432\u0299\u13f4\u0180",
    "C": "\u0421\u0441\u03f9\u03f2\u1d04\u13df\u0188",
    "D": "\u0501\u1d05\u13a0\u0111\u0500",
    "E": "\u0395\u03b5\u0415\u0435\u1d07\u13ac\u04bd\u0247",
    "F": "\u0493\ua730\u03dc\u0192",
    "G": "\u050c\u0262\u0261\u13c0\u01e5",
    "H": "\u0397\u041d\u043d\u04bb\u029c\u13bb\u0570\u0127",
    "I": "\u0399\u03b9\u0406\u0456\u04c0\u0131\u026a\u0269\u13a5\u13c6\u0268",
    "K": "\u039a\u03ba\u041a\u043a\u1d0b\u13e6\u0199",
    "L": "\u04cf\u029f\u13de\u0142\u019a\u054c",
    "M": "\u039c\u041c\u043c\u1d0d\u13b7",
    "N": "\u039d\u0274\u0578\u057c",
    "O": "\u039f\u03bf\u041e\u043e\u1d0f\u0585\u0555\u00f8",
    "P": "\u03a1\u03c1\u0420\u0440\u1d18\u13e2",
    "R": "\u0433\u0280\u13a1\u13d2\u024d",
    "S": "\u0405\u0455\ua731\u13da\u054f",
    "T": "\u03a4\u03c4\u0422\u0442\u1d1b\u13a2\u0167",
    "U": "\u03c5\u1d1c\u057d\u054d",
    "V": "\u03bd\u0474\u0475\u1d20\u13d9",
    "W": "\u051d\u051c\u1d21\u13b3\u0461",
    "X": "\u03a7\u03c7\u0425\u0445",
    "Y": "\u03a5\u0423\u0443\u028f\u03b3\u04af\u04ae",
    "Z": "\u0396\u1d22\u13c3",
}


@pytest.mark.parametrize("letter", LOOK_ALIKES)
def test_a_letter_that_looks_like_a_latin_one_counts_as_it(letter: str) -> None:
    for other in LOOK_ALIKES[letter]:
        name = f"Q{other}Q"
        assert find_refusal([], inherited={name: "1"}, configured={}, denied=[f"Q{letter}Q"])
        assert not find_refusal([], inherited={name: "1"}, configured={}, denied=["QQ", "Q_Q"])


def test_the_list_is_the_contracts() -> None:
    patterns = {"PT_LIVE", "PT_LIVE_ANYTHING", "PT_LIVEX", "PT_CONFIRM", "PT_CONFIRM_TOKEN"}
    assert set(DENIED_VARIABLES) == {*CONTRACT, "PT_LIVE*", "PT_CONFIRM*"} - patterns


def test_off_in_the_config_does_not_excuse_on_in_the_environment() -> None:
    assert refuse(inherited={"LIVE": "1"}, configured={"LIVE": "0"}) == Refusal(
        "LIVE", Where.ENVIRONMENT
    )


# --- the command --------------------------------------------------------------------------

COMMANDS = [
    # Ordinary sessions.
    Row("python examples/shadow_session.py --strategy ma_crossover --duration 5", None),
    Row("python examples/shadow_session.py --ledger /tmp/live/a.jsonl --loop --speed 10", None),
    Row("python scripts/run_execution_session.py --mode shadow --strategy rsi --no-registry", None),
    Row("python scripts/run_execution_session.py --mode=paper --tags live_test v1", None),
    Row("python scripts/live_web_server.py --host 0.0.0.0 --port 8000", None),
    Row("python -m src.live.shadow --config config/live.toml", None),
    Row("python -u -X dev -m pytest -k live", None),
    Row("sh -c 'exec python x.py --mode shadow >>log 2>&1'", None),
    Row("bash -lc 'cd src/live && python x.py --strategy \"ma crossover\"'", None),
    Row("sh -c 'unset LIVE PEAK_TRADE_LIVE_ENABLED; exec python x.py'", None),
    Row("""sh -c '[ "$LIVE" = 1 ] && exit 1; [ -z "${PT_ARMED:-}" ] && python x.py'""", None),
    Row("env -u LIVE -u PT_ARMED python x.py", None),
    Row("env -i PATH=/usr/bin LIVE=0 python x.py", None),
    Row("nice -n 5 timeout 60 python x.py --duration 50", None),
    Row("python x.py --notes 'paper only, not live: see MODE table'", None),
    Row("python x.py --url https://example.org/?page=live --filter 'env=~\"(a|b)\"'", None),
    Row("bash run_shadow.sh --notes 'this is not live'", None),
    Row("python x.py --tags experiment live", None),
    Row("sh -c 'cd live && ls live; echo going live; exec python x.py'", None),
    Row("""python x.py --config '{"mode": "paper", "live": false, "name": "live"}'""", None),
    Row("""python -c 'import os; assert os.environ.get("LIVE", "0") == "0"'""", None),
    Row("sh -c 'exec python x.py --account $ACCOUNT --env ${APP_ENV:-test}'", None),
    Row("sh -c 'if [ ${LIVE:-0} = 0 ]; then python x.py; fi; : ${LIVE:=0}'", None),
    Row("python x.py 'mode=$x' --mode '$y' --alive=1 --notes 'see ./run live'", None),
    Row("sh -c '(export LIVE=\\\n0 RECORD=\\no; python x.py --live=0)'", None),
    # Flags that are near and are none.
    Row("python x.py --no-live", None),
    Row("python x.py --liveness-probe --live-plot --live-metrics 8000 --lives 3 --alive", None),
    Row("python x.py --feed live --data=live", None),
    Row("python x.py --record ticks.jsonl --trade-size 2 --enabled --confirm", None),
    Row("python x.py --enable metrics --trading spot --execution sim --go --allow x", None),
    Row("python x.py --env-name shadow_local --environment paper --mode testnet", None),
    Row("python x.py --mode live_dry_run", None),
    Row("python x.py --mode no-live", None),
    Row("python x.py --arm 3 --peak-trade /srv --m 5 -m 5 --li 1", None),
    Row("python x.py --live=false --live=0 --armed=no --live= --enable-live-trading=OFF", None),
    # The flags that turn it on.
    Row("python x.py --live", "--live", ARG),
    Row("python x.py --live=true", "--live", ARG),
    Row("python x.py --LIVE", "--LIVE", ARG),
    Row("python x.py -live", "-live", ARG),
    Row("python x.py --live false", "--live", ARG),  # a switch that is on, then a word
    Row("python x.py --enable-live", "--enable-live", ARG),
    Row("python x.py --enable-live-trading", "--enable-live-trading", ARG),
    Row("python x.py --enable_live_trading", "--enable_live_trading", ARG),
    Row("python x.py --enableLiveTrading", "--enableLiveTrading", ARG),
    Row("python x.py --live-trading", "--live-trading", ARG),
    Row("python x.py --live-enabled=1", "--live-enabled", ARG),
    Row("python x.py --live-armed", "--live-armed", ARG),
    Row("python x.py --live-mode=on", "--live-mode", ARG),
    Row("python x.py --live-orders", "--live-orders", ARG),
    Row("python x.py --live-authorized", "--live-authorized", ARG),
    Row("python x.py --live-allowed", "--live-allowed", ARG),
    Row("python x.py --trading-enable", "--trading-enable", ARG),
    Row("python x.py --execution-enable", "--execution-enable", ARG),
    Row("python x.py --armed", "--armed", ARG),
    Row("python x.py --allow-live --x", "--allow-live", ARG),
    Row("python x.py --confirm-live", "--confirm-live", ARG),
    Row("python x.py --bounded-pilot", "--bounded-pilot", ARG),
    Row("python x.py --real-money", "--real-money", ARG),
    Row("python x.py --peak-trade-live-enabled", "--peak-trade-live-enabled", ARG),
    Row("python x.py --peaktrade-live-enabled=1", "--peaktrade-live-enabled", ARG),
    Row("python x.py --pt-live-anything", "--pt-live-anything", ARG),
    Row("python x.py --pt-confirm-token=abc", "--pt-confirm-token", ARG),
    Row("python x.py --pt-trade", "--pt-trade", ARG),
    # What argparse completes.
    Row("python x.py --liv", "--liv", ARG),
    Row("python x.py --enable-l", "--enable-l", ARG),
    Row("python x.py --live-e", "--live-e", ARG),
    Row("python x.py --mo live", "--mo", ARG),
    Row("python x.py --trading-m=live", "--trading-m", ARG),
    # A mode that is live, in both spellings.
    Row("python x.py --mode live", "--mode", ARG),
    Row("python x.py --mode=live", "--mode", ARG),
    Row("python x.py --MODE=Live", "--MODE", ARG),
    Row("python x.py --mode bounded_pilot", "--mode", ARG),
    Row("python x.py --mode=bounded_pilot", "--mode", ARG),
    Row("python x.py --mode bounded-pilot", "--mode", ARG),
    Row("python x.py --mode=BOUNDED-PILOT", "--mode", ARG),
    Row("python x.py --mode 'bounded pilot'", "--mode", ARG),
    Row("python x.py --mode ' live'", "--mode", ARG),
    Row("python x.py --mode l\u0456ve", "--mode", ARG),
    Row("python x.py --mode shadow --mode live", "--mode", ARG),
    Row("python x.py --trading-mode live", "--trading-mode", ARG),
    Row("python x.py --trading_mode=live", "--trading_mode", ARG),
    Row("python x.py --tradingMode=live", "--tradingMode", ARG),
    Row("python x.py --execution-mode live", "--execution-mode", ARG),
    Row("python x.py --run-mode live_trading", "--run-mode", ARG),
    Row("python x.py --env live", "--env", ARG),
    Row("python x.py --env-name=live", "--env-name", ARG),
    Row("python x.py --environment=live", "--environment", ARG),
    Row("python x.py -mode live", "-mode", ARG),
    Row("python x.py -m live", "-m", ARG),
    Row("python x.py -mlive", "-m", ARG),
    Row("python x.py --mode real", "--mode", ARG),
    Row("python x.py --runtime live", "--runtime", ARG),
    Row("python x.py --account=live", "--account", ARG),
    # Order and -- hide nothing.
    Row("python x.py -- --live", "--live", ARG),
    Row("--live", "--live", ARG),
    Row("python x.py a b c --duration 5 -- -- --mode -- --mode live", "--mode", ARG),
    Row("timeout 5 nice -n 5 python x.py --live", "--live", ARG),
    # Dashes made long by an editor, and names that only look right.
    Row("python x.py \u2014live", "--live", ARG),
    Row("python x.py \u2013\u2013mode live", "--mode", ARG),
    Row("python x.py --l\u0456ve", "--live", ARG),
    Row("python x.py --li\u200bve=1", "--live", ARG),
    # Subcommands.
    Row("python main.py live", "live", ARG),
    Row("python main.py live-trade --x", "live-trade", ARG),
    Row("python main.py -- bounded_pilot", "bounded_pilot", ARG),
    Row("bot live", "live", ARG),
    Row("nice -n 5 ./bot live", "live", ARG),
    Row("nice python -m bot live", "live", ARG),
    Row("sh -c 'python main.py live'", "live", SH),
    Row("python main.py l\u0456ve", "live", ARG),
    Row("python main.py \uff4c\uff49\uff56\uff45", "live", ARG),
    Row("python main.py --mode \uff4c\uff49\uff56\uff45", "--mode", ARG),
    Row("python x.py --m\u03bfde=liv\u0435", "--mode", ARG),
    Row("sh -c 'python x.py --mode l\u0456ve'", "--mode", SH),
    # Documents in an argument.
    Row("""python x.py --config '{"mode": "live"}'""", "mode", TEXT),
    Row("""python x.py '--config={"a":1,"live":true}'""", "live", TEXT),
    Row("""python x.py --config 'live = true'""", "LIVE", ARG),
    Row("""python -c 'import os; os.environ["LIVE"]="1"'""", "LIVE", ARG),
    # NAME=VALUE, before a command or after it.
    Row("env LIVE=1 python x.py", "LIVE", ARG),
    Row("env A=1 PEAK_TRADE_LIVE_ENABLED=True python x.py", "PEAK_TRADE_LIVE_ENABLED", ARG),
    Row("/usr/bin/env -i -u X LIVE=1 python x.py", "LIVE", ARG),
    Row("env env env pt_armed=yes python x.py", "pt_armed", ARG),
    Row("nice -n 5 env RECORD=1 python x.py", "RECORD", ARG),
    Row("timeout 5 env PT_CONFIRM_TOKEN=abc python x.py", "PT_CONFIRM_TOKEN", ARG),
    Row("sudo LIVE=1 python x.py", "LIVE", ARG),
    Row("LIVE=1 python x.py", "LIVE", ARG),
    Row("env MODE=live python x.py", "MODE", ARG),
    Row("env 'LIVE=0 1' python x.py", "LIVE", ARG),
    Row("env LIVE==0 python x.py", "LIVE", ARG),
    Row("python x.py LIVE=1", "LIVE", ARG),
    Row("python x.py mode=live", "mode", ARG),
    Row("python x.py live.enabled=true", "live.enabled", ARG),
    Row("python x.py environment.enable_live_trading=true", "environment.enable_live_trading", ARG),
    Row("python x.py ++live_mode_armed=true", "LIVE_MODE_ARMED", ARG),
    Row("python x.py environment.mode=live", "environment.mode", ARG),
    Row("python x.py --set live=true", "live", ARG),
    Row("docker run -e LIVE=1 image", "LIVE", ARG),
    Row("docker run -eLIVE=1 image", "LIVE", ARG),
    Row("docker run --env=LIVE=1 image", "LIVE", ARG),
    Row("java -Dlive=true -jar x.jar", "LIVE", ARG),
    Row("systemd-run --setenv=PT_TRADE=1 python x.py", "PT_TRADE", ARG),
    Row("env OPTS=--live sh run.sh", "--live", ARG),
    Row("env 'OPTS=--strategy macd --mode live' sh run.sh", "--mode", TEXT),
    # env -S and its kin.
    Row("env -S 'LIVE=1 python x.py'", "LIVE", SH),
    Row("/usr/bin/env -S 'LIVE=1 python x.py'", "LIVE", SH),
    Row("env '-SLIVE=1 python x.py'", "LIVE", SH),
    Row("env '--split-string=A=1 LIVE=1 python x.py'", "LIVE", SH),
    Row(r"env -S 'A=1\_LIVE=1\_python'", "LIVE", SH),
    Row("ssh host 'LIVE=1 python x.py'", "LIVE", ARG),
    Row("xargs -I% python x.py '--mode live'", "--mode", TEXT),
    # sh -c, however it is called.
    Row("sh -c 'LIVE=1 python x.py'", "LIVE", SH),
    Row("bash -lc 'LIVE=1 python x.py'", "LIVE", SH),
    Row("dash -c 'LIVE=1 python x.py'", "LIVE", SH),
    Row("zsh -ic 'LIVE=1 python x.py'", "LIVE", SH),
    Row("/bin/sh -ec 'LIVE=1 python x.py'", "LIVE", SH),
    Row("bash -o pipefail -c 'LIVE=1 python x.py'", "LIVE", SH),
    Row("bash -c -o pipefail -- 'LIVE=1 python x.py'", "LIVE", SH),
    Row("env -i bash -c 'LIVE=1 python x.py'", "LIVE", SH),
    Row("busybox sh -c 'LIVE=1 python x.py'", "LIVE", SH),
    Row("su trader -c 'LIVE=1 python x.py'", "LIVE", SH),
    Row("fish -c 'set -gx LIVE 1; python x.py'", "LIVE", SH),
    Row("csh -c 'setenv PEAK_TRADE_LIVE_ARMED yes; python x.py'", "PEAK_TRADE_LIVE_ARMED", SH),
    Row("fish -c 'set -gx LIVE 0; python x.py'", None),
    # What such a text can hold.
    Row("sh -c 'export PEAK_TRADE_LIVE_ENABLED=1; python x.py'", "PEAK_TRADE_LIVE_ENABLED", SH),
    Row("sh -c 'set -a; LIVE=1; python x.py'", "LIVE", SH),
    Row("sh -c 'set -a;LIVE=1;python x.py'", "LIVE", SH),
    Row("sh -c 'true&&LIVE=1 python x.py'", "LIVE", SH),
    Row("sh -c 'true\nLIVE=1 python x.py'", "LIVE", SH),
    Row("sh -c 'set -ex\nLIVE=0 python x.py'", None),
    Row("sh -c '(LIVE=1 python x.py)'", "LIVE", SH),
    Row("sh -c '{ LIVE=1 python x.py; }'", "LIVE", SH),
    Row("sh -c 'LIVE=\"1\" python x.py'", "LIVE", SH),
    Row("sh -c 'LI\"VE\"=1 python x.py'", "LIVE", SH),
    Row("sh -c 'LIVE=\"0\" python x.py'", None),
    Row("sh -c 'LIVE= python x.py; LIVE=\"\" python x.py'", None),
    Row("sh -c 'LIVE=\"0 or so\" python x.py'", "LIVE", SH),
    Row("sh -c 'LIVE=$X python x.py'", "LIVE", SH),
    Row("sh -c 'LIVE=${X} python x.py'", "LIVE", SH),
    Row("sh -c 'LIVE=$(echo 1) python x.py'", "LIVE", SH),
    Row("sh -c 'LIVE=`echo 1` python x.py'", "LIVE", SH),
    Row("sh -c 'LIVE={1,} python x.py'", "LIVE", SH),
    Row("sh -c 'LIVE=}1 python x.py'", "LIVE", SH),
    Row("sh -c 'LIVE+=1; export LIVE; python x.py'", "LIVE", SH),
    Row("sh -c 'LIVE=0\\ 1 python x.py'", "LIVE", SH),
    Row("sh -c 'LIVE=\\) python x.py'", "LIVE", SH),
    Row("sh -c ': ${LIVE:=1}; export LIVE; python x.py'", "LIVE", SH),
    Row("sh -c 'env {A=2,LIVE=1} python x.py'", "LIVE", SH),
    Row("bash -c '$'\\''LIVE=1'\\'' python x.py'", "LIVE", SH),
    Row("sh -c 'L\\IVE=1 python x.py'", "LIVE", SH),
    Row("sh -c 'export PT_\\\nARMED=1; python x.py'", "PT_ARMED", SH),
    Row("sh -c 'env${IFS}LIVE=1${IFS}python${IFS}x.py'", "LIVE", SH),
    Row("sh -c 'LIVE=\xa01 python x.py'", "LIVE", SH),
    Row("sh -c 'LIVE=\r1 python x.py'", "LIVE", SH),
    Row("sh -c 'python x.py --live'", "--live", SH),
    Row("sh -c 'python x.py --live;'", "--live", SH),
    Row("sh -c 'python x.py \"--live\"'", "--live", SH),
    Row("sh -c 'python x.py --mode \"live\"'", "--mode", SH),
    Row("sh -c 'python x.py --mode=\"bounded_pilot\"&'", "--mode", SH),
    Row("sh -c 'python x.py --env \\\n live'", "--env", SH),
    Row("sh -c 'M=shadow; python x.py --mode $M'", "--mode", SH),
    Row("sh -c 'python x.py --mode \"$1\"' - shadow", "--mode", SH),
    Row("sh -c 'exec \"$@\"' - python x.py --live", "--live", ARG),
    Row("sh -c 'echo ready; LIVE=1", "LIVE", SH),
    Row('sh -c "echo it\'s; LIVE=1 python x.py"', "LIVE", SH),
    Row("sh -c \"cat <<E\nit's\nE\nLIVE=1 python x.py # it's\"", "LIVE", SH),
    Row("sh -c \"sh -c 'LIVE=1 python x.py'\"", "LIVE", SH),
    Row("sh -c \"sh -c 'LIVE=0 python x.py'\"", None),
    Row('sh -c "sh -c \\"sh -c \'python x.py --mode live\'\\""', "--mode", SH),
    Row("sh -c 'eval \"LIVE=1 python x.py\"'", "LIVE", SH),
    # Credentials.
    Row("env KRAKEN_API_KEY=abc python x.py", "KRAKEN_API_KEY", ARG),
    Row("env kraken_api_secret=abc python x.py", "kraken_api_secret", ARG),
    Row("sh -c 'export BINANCE_API_SECRET=$S; python x.py'", "BINANCE_API_SECRET", SH),
    Row("python x.py --api-key abc", "--api-key", ARG),
    Row("python x.py --kraken-api-secret=abc", "--kraken-api-secret", ARG),
    Row("python x.py --no-api-key --api-key-file /run/key --api-key ''", None),
]


def split(command: str) -> list[str]:
    """Split as the table is written; a row may leave its last quote open."""
    try:
        return shlex.split(command)
    except ValueError:
        return shlex.split(f"{command}'")


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: ascii(row.command))
def test_the_command_is_judged_by_the_table(row: Row) -> None:
    refusal = refuse(split(row.command))
    assert (refusal and refusal.subject) == row.expected
    assert (refusal and refusal.where) == row.where


# --- credentials --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["KRAKEN_API_KEY", "KRAKEN_API_SECRET", "kraken_api_key"])
def test_a_configured_credential_is_refused_and_an_inherited_one_is_not(name: str) -> None:
    assert refuse(configured={name: "abc"}) == Refusal(name, Where.CONFIGURED, Reason.CREDENTIAL)
    assert refuse(inherited={name: "abc"}) is None


def test_an_inherited_credential_hides_no_switch_that_follows_it() -> None:
    refusal = refuse(inherited={"KRAKEN_API_KEY": "abc", "LIVE": "1"})
    assert refusal == Refusal("LIVE", Where.ENVIRONMENT)


def test_inherited_credentials_are_stripped_and_named_in_order() -> None:
    inherited = {
        "PATH": "/bin",
        "x_api_secret": "s",
        "KRAKEN_API_KEY": "k",
        "API_KEY_FILE": "f",
        "B_API_SECRET": "",
    }
    kept, names = strip_credentials(inherited)
    assert kept == {"PATH": "/bin", "API_KEY_FILE": "f"}
    assert names == ("B_API_SECRET", "KRAKEN_API_KEY", "x_api_secret")
    assert len(inherited) == 5


# --- the operator's own additions ---------------------------------------------------------


@pytest.mark.parametrize(
    ("denied", "command", "subject"),
    [
        (["ACME_GO"], "env ACME_GO=1 python x.py", "ACME_GO"),
        (["ACME_GO"], "env acme_go=1 python x.py", "acme_go"),
        (["ACME_GO"], "python x.py --acme-go", "--acme-go"),
        (["ACME_GO"], "env ACME_GO=0 python x.py", None),
        (["ACME_GO"], "env ACME_GOOD=1 python x.py", None),
        (["ACME_*"], "env ACME_ANY=1 python x.py", "ACME_ANY"),
        (["RECORD"], "python x.py --record f", "--record"),
        (["", "-", "!LIVE"], "env LIVE=1 python x.py", "LIVE"),
        (["", "-"], "env _=1 python x.py", None),
    ],
)
def test_the_list_can_be_extended(denied: list[str], command: str, subject: str | None) -> None:
    refusal = find_refusal(split(command), inherited={}, configured={}, denied=denied)
    assert (refusal and refusal.subject) == subject


@pytest.mark.parametrize("name", CONTRACT)
@pytest.mark.parametrize("denied", [(), ("OTHER",), ("",), ("-LIVE", "!PT_LIVE*")])
def test_no_addition_shortens_the_list(name: str, denied: tuple[str, ...]) -> None:
    assert find_refusal(PROGRAM, inherited={name: "1"}, configured={}, denied=denied)


# --- what is said -------------------------------------------------------------------------


def test_a_refusal_says_what_where_why_and_what_to_do() -> None:
    inherited = refuse(inherited={"LIVE": "1"})
    assert inherited
    assert inherited.message == "LIVE in the environment would enable live trading"
    assert inherited.hint == (
        "unset LIVE; only shadow and paper sessions start, this gate has no off switch"
    )
    configured = refuse(configured={"X_API_KEY": "1"})
    assert configured
    assert configured.message == "X_API_KEY in the configured environment is an exchange credential"
    assert configured.hint == (
        "take X_API_KEY out of the session's env in the config;"
        " shadow and paper sessions run without exchange credentials"
    )
    argument = refuse(["sh", "-c", "x --mode live"])
    assert argument
    assert argument.message == "--mode inside sh -c would enable live trading"
    assert argument.hint == (
        "leave --mode out, write a plain off or paper value, or rename it if it means something"
        " else; only shadow and paper sessions start, this gate has no off switch"
    )


@pytest.mark.parametrize(
    "name", ["PT_LIVE\x1b[31m", "PT_LIVE\nX", "PT_LIVE{0}", "PT_LIVE'X", "PT_LIVE" + "X" * 65536]
)
def test_a_hostile_name_is_shown_as_the_list_spells_it(name: str) -> None:
    refusal = refuse(inherited={name: "1"})
    assert refusal
    assert refusal.subject == "PT_LIVE*"
    assert refuse([f"--{name}"]) == Refusal("--pt-live*", Where.ARGUMENTS)


def test_a_name_inside_another_value_is_not_shown() -> None:
    refusal = refuse(["python", "--token=hunter2_api_key=1"])
    assert refusal == Refusal("*_API_KEY", Where.ARGUMENTS, Reason.CREDENTIAL)


# --- whatever the text --------------------------------------------------------------------

NAMES = st.one_of(
    st.sampled_from([*CONTRACT, *PLAIN_SWITCHES, *MODE_NAMES, "X_API_KEY"]), st.text(max_size=12)
)
WORDS = st.one_of(
    st.text(max_size=20),
    st.builds("{}{}{}{}".format, st.sampled_from(["", "-", "--"]), NAMES, st.just("="), st.text()),
    st.sampled_from(["sh", "-c", "env", "-S", "--", "", "=", "'", '"', "\\", *LIVE_VALUES]),
    st.text("LIVE=1 '\"\\$`;&|(){}<>\n-", max_size=40),
)
ANY_TEXT = st.text(st.characters(), max_size=8)
FALSE = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", " ", "\t", "\n "]),
    st.sampled_from(sorted(FALSE_LIKE)).flatmap(
        lambda word: st.sampled_from([word, word.upper(), word.title()])
    ),
    st.sampled_from(["", " ", "\r\n"]),
)


@settings(max_examples=40)
@given(st.lists(WORDS, max_size=6), st.dictionaries(ANY_TEXT, ANY_TEXT), st.lists(NAMES))
def test_no_text_makes_it_raise(
    command: list[str], environ: dict[str, str], denied: list[str]
) -> None:
    refusal = find_refusal(command, inherited=environ, configured=environ, denied=denied)
    assert refusal is None or (refusal.message and refusal.hint)
    strip_credentials(environ)


@settings(max_examples=40)
@given(st.dictionaries(NAMES, FALSE))
def test_an_environment_that_is_off_never_refuses(environ: dict[str, str]) -> None:
    assert refuse(inherited=environ, configured=environ) is None


@settings(max_examples=40)
@given(
    st.sampled_from([*CONTRACT, *PLAIN_SWITCHES, "X_API_KEY"]),
    st.text("\u2603 '\"\\$;=", max_size=6).map(lambda text: f"\u2603{text}\u2603"),
)
def test_the_value_is_never_shown(name: str, value: str) -> None:
    option = "--" + name.lower().replace("_", "-")
    for refusal in (
        refuse(configured={name: value}),
        refuse([f"{name}={value}"]),
        refuse([f"{option}={value}"]),
        refuse(["sh", "-c", f"{name}={value} x"]),
        refuse(["x", f"--env={name}={value}"]),
    ):
        assert refusal or option == "--record"
        shown = f"{refusal!r} {refusal and refusal.message} {refusal and refusal.hint}"
        assert "\u2603" not in shown


@pytest.mark.parametrize(
    "text",
    [
        "x" * 2**20,
        "'" * 2**17,
        '"\\' * 2**16,
        "-" * 2**17,
        "\u0300\u0327" * 2**18 + "=1",
        "a=b " * 2**10,
    ],
    ids=["one word", "quotes", "escapes", "dashes", "marks", "settings"],
)
@pytest.mark.timeout(20)  # a quadratic reading of the marks takes a minute
def test_a_huge_argument_is_read_to_its_end(text: str) -> None:
    assert refuse(["sh", "-c", text]) is None
    assert refuse(["sh", "-c", f"{text} ;LIVE=1"])


@pytest.mark.parametrize(
    "command", [[], [""], ["", "", ""], ["\x00"], ["\udcff=\udcff"], ["=", "--"]]
)
def test_a_command_that_is_none_is_not_refused(command: list[str]) -> None:
    assert refuse(command) is None


# --- the tables ---------------------------------------------------------------------------

SWITCHES = """
    allow-live allow-live-trading arm-live armed bounded-pilot bounded-pilot-mode confirm-live
    enable-execution enable-live enable-live-trading enable-trading execute-live execution-enable
    execution-enabled force-live go-live is-live live live-allowed live-armed live-authorized
    live-enable live-enabled live-execution live-mode live-mode-armed live-orders live-trade
    live-trading live-trading-enable live-trading-enabled real-money run-live trade-live
    trading-enable
    trading-enabled peak-trade-live peak-trade-live-enabled pt-confirm-x pt-enabled pt-live-x
    pt-trade environment-enable-live-trading environment-live-mode-armed
"""
MODES = """
    m mode run-mode session-mode trade-mode trading trading-mode trading-environment exec-mode
    execution execution-mode env env-name environment environment-mode peak-trade-mode pt-mode
    runtime profile account account-type
"""
VALUES = """
    live live-armed live-trade live_trading trade-live bounded-pilot bounded_pilot real real-money
"""


@pytest.mark.parametrize("switch", SWITCHES.split())
def test_each_switch_is_one_as_an_option_and_as_a_variable(switch: str) -> None:
    variable = switch.upper().replace("-", "_")
    assert refuse(["x.py", f"--{switch}"]) == Refusal(f"--{switch}", ARG)
    assert refuse(["x.py", f"--{switch}=yes"]) == Refusal(f"--{switch}", ARG)
    assert refuse(inherited={variable: "yes"}) == Refusal(variable, Where.ENVIRONMENT)
    assert refuse(["x.py", f"--{switch}=no", f"--no-{switch}", f"--x-{switch}"]) is None


@pytest.mark.parametrize("mode", MODES.split())
def test_each_mode_is_judged_by_its_value(mode: str) -> None:
    variable = mode.upper().replace("-", "_")
    for value in VALUES.split():
        assert refuse(["x.py", f"--{mode}", value]) == Refusal(f"--{mode}", ARG)
        assert refuse(["x.py", f"--{mode}={value.upper()}"]) == Refusal(f"--{mode}", ARG)
        assert refuse(configured={variable: value}) == Refusal(variable, Where.CONFIGURED)
    for value in ("paper", "shadow", "testnet", "live-data", "alive", "realtime", ""):
        assert refuse(["x.py", f"--{mode}", value, f"--{mode}={value}"]) is None
