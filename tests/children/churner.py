"""Disturbs a shard as fast as it can, in one way, until its stdin ends.

usage: churner.py (vanish|truncate|rewrite|replace) FILE

FILE is a sound shard at the start. `vanish` removes and restores it, `truncate` cuts it and lets
it grow again in place, `rewrite` writes it anew in place, `replace` renames another over it.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from pathlib import Path

way, path = sys.argv[1], Path(sys.argv[2])
sound = path.read_bytes()
beside = path.with_name("beside.tmp")
ended = threading.Event()


def wait_for_the_end() -> None:
    sys.stdin.read()
    ended.set()


threading.Thread(target=wait_for_the_end, daemon=True).start()
print("disturbing", flush=True)
number = 0
while not ended.is_set():
    number += 1
    match way:
        case "vanish":
            path.unlink()
            path.write_bytes(sound)
        case "truncate":
            os.truncate(path, random.randrange(len(sound)))
            os.truncate(path, len(sound) + random.randrange(1 << 20))
            with path.open("r+b") as file:
                file.write(sound)
        case "rewrite":
            path.write_bytes(sound)
        case _:
            beside.write_bytes(sound[: random.randrange(len(sound))] if number % 2 else sound)
            beside.rename(path)
path.write_bytes(sound)
os.truncate(path, len(sound))
print(number, flush=True)
