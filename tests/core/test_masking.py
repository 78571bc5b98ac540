"""What looks like a secret is left out of a command, wherever it is shown or written down."""

from __future__ import annotations

from time import process_time

import pytest

from telemetry.masking import looks_secret, mask_secrets


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["python", "a.py", "--x=1", "-t", "5"], ["python", "a.py", "--x=1", "-t", "5"]),
        (["a", "--token", "hunter2", "b"], ["a", "--token", "***", "b"]),
        (["a", "--api-key=hunter2"], ["a", "--api-key=***"]),
        (["a", "--Password=hunter 2 hunter2"], ["a", "--Password=***"]),
        (["env", "KRAKEN_API_SECRET=hunter2", "b"], ["env", "KRAKEN_API_SECRET=***", "b"]),
        (["a", "--env=API_TOKEN=hunter2"], ["a", "--env=API_TOKEN=***"]),
        (
            ["sh", "-c", "cd /; A_TOKEN='hunter2 x' B_SECRET=\"hunter2\"'x y' run; C=1"],
            ["sh", "-c", "cd /; A_TOKEN=*** B_SECRET=*** run; C=1"],
        ),
        (["a", "http://u:hunter2@h:1/x?token=hunter2"], ["a", "http://u:***@h:1/x?token=***"]),
        (["a", "--db=postgres://u:hun@ter2@h/d"], ["a", "--db=postgres://u:***@h/d"]),
        (["a", "https://h:9111/metrics", "x@y:z"], ["a", "https://h:9111/metrics", "x@y:z"]),
        (["curl", "-H", "Authorization: Bearer hunter2"], ["curl", "-H", "Authorization: ***"]),
        (["curl", "-HX-Api-Key:hunter2"], ["curl", "-HX-Api-Key:***"]),
        (["a", '{"apiKey": "hunter2", "b": 1}'], ["a", '{"apiKey": ***, "b": 1}']),
        (["a", "{token: hunter2, b: 1}"], ["a", "{token: ***, b: 1}"]),
        (["sh", "-c", "run --token hunter2 --x 1"], ["sh", "-c", "run --token *** --x 1"]),
        (["sh", "-c", "the token is in a file"], ["sh", "-c", "the token is in a file"]),
        (["a", "--access-key", "hunter2"], ["a", "--access-key", "***"]),
        (["a", "--token", "--verbose"], ["a", "--token", "--verbose"]),
        (["a", "--token"], ["a", "--token"]),
        ([], []),
    ],
)
def test_a_secret_in_a_command_is_not_shown(command: list[str], shown: list[str]) -> None:
    assert mask_secrets(command) == shown


@pytest.mark.parametrize("name", ["X_TOKEN", "db_password", "apiKey", "AWS_SECRET_ACCESS_KEY"])
def test_a_name_tells_a_secret(name: str) -> None:
    assert looks_secret(name)
    assert not looks_secret("PEAK_TRADE_SERVICE")


def test_masking_twice_is_masking_once() -> None:
    once = mask_secrets(["a", "--token", "x", "K_SECRET=y", "http://u:p@h", "token: x"])
    assert mask_secrets(once) == once


@pytest.mark.parametrize(
    "part",
    [
        "x",
        "x-",
        "'",
        "\"'",
        "a='",
        "TOKEN=",
        "A_TOKEN='\"",
        "x TOKEN='",
        "x: ",
        "token: ",
        "--token ",
        "://u:p@",
    ],
)
def test_a_huge_argument_is_masked_in_no_time(part: str) -> None:
    word = part * ((1 << 14) // len(part))
    began = process_time()
    mask_secrets([word, f"--{word}", "x"])
    assert process_time() - began < 1
