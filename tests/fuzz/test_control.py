"""Messages that no client of ours would send, by the thousand: the supervisor still answers."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest

from waiting import wait_for

if TYPE_CHECKING:
    from stack import Stack

MESSAGES: Final = int(os.environ.get("PTSUP_FUZZ_CONTROL", "1000"))
ANSWER_SECONDS: Final = 20.0

ODD: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 1, 2**70, 1e308, -0.5, "", "a", "b", "\0", "\ud800", "é" * 9),
    *([], {}, [[]], [None], ["a"], ["a"] * 999, {"a": 1}, "x" * 5000, "../x", float("nan")),
)
VERBS: Final = ("status", "start", "stop", "restart", "wait", "reload", "drift", "", None, 7)
KEYS: Final = (
    *("v", "verb", "names", "sessions", "environ", "timeout_seconds", "drain_seconds"),
    *("keep_shards", "name", "command", "cwd", "env", "restart", "stop_timeout_seconds", "x"),
)
SPEC: Final = {"name": "b", "command": ["true"], "cwd": "/", "env": {}, "restart": "no"}


def build_document(rng: random.Random) -> dict[str, Any]:
    document: dict[str, Any] = {"v": 1, "verb": rng.choice(VERBS)}
    if document["verb"] in {"stop", "restart", "wait"}:
        document["names"] = rng.choice([["a"], ["nobody"], ["a", "nobody"], rng.choice(ODD)])
    if document["verb"] == "start":
        spec = SPEC | {rng.choice(KEYS): rng.choice(ODD) for _ in range(rng.randrange(3))}
        spec["command"] = ["true"] if rng.random() < 0.7 else rng.choice(ODD)
        document |= {"sessions": [spec], "environ": {}}
    for _ in range(rng.randrange(3)):
        document[rng.choice(KEYS)] = rng.choice(ODD)
    return document


def build_message(rng: random.Random) -> bytes:
    """Build a line: well-formed and wrong, damaged, or no JSON at all."""
    kind = rng.random()
    if kind < 0.1:
        return rng.randbytes(rng.randrange(300)) + b"\n"
    if kind < 0.15:
        return rng.choice([b"[", b'{"a":', b"9"]) * rng.randrange(5000) + b"\n"
    line = bytearray(json.dumps(build_document(rng)).encode())
    if kind < 0.5:
        for _ in range(rng.randrange(1, 4)):
            line[rng.randrange(len(line))] = rng.randrange(256)
    return bytes(line) + b"\n"


def ends_or_waits(line: bytes) -> bool:
    """Whether it is a sound request that ends everything, or is answered at an end."""
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(line.partition(b"\n")[0])
        if isinstance(document, dict):
            verb, names = document.get("verb"), document.get("names")
            return (verb == "stop" and not names) or (verb == "wait" and bool(names))
    return False


def send(path: str, line: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(path)
        with contextlib.suppress(BrokenPipeError):
            connection.sendall(line)
        return connection.makefile("rb").readline()


@pytest.mark.timeout(1200)
def test_whatever_is_sent_is_answered_and_the_supervisor_goes_on(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    before = stack.status()["supervisor"]["pid"]
    path, rng = str(stack.run_dir / "control.sock"), random.Random(7)
    answered: Counter[str] = Counter()
    for number in range(MESSAGES):
        line = build_message(rng)
        if ends_or_waits(line):
            continue
        answer = send(path, line)
        assert answer.endswith(b"\n"), (number, line[:300], answer[:100])
        document = json.loads(answer)
        answered["done" if document["ok"] else "refused"] += 1
        assert document["v"] == 1
    print(f"{MESSAGES} messages: {dict(answered)}")
    assert answered["done"] > MESSAGES / 100
    assert answered["refused"] > MESSAGES / 2
    assert stack.status()["supervisor"]["pid"] == before
    said = (stack.run_dir / "logs" / "supervisor.log").read_text()
    assert "Traceback" not in said, said[-3000:]
    stack.run("start", "-d", "-s", "last=sleep 600")  # and it still does its work
    wait_for(lambda: stack.session("last")["state"] == "running", what="the last to run")
