"""PID 1 of a namespace, where a pid is given away again at once. Prints what became of shards.

usage: reuses_pid.py DIR
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from supervisor import kernel
from telemetry.claim import claim, find_unowned
from telemetry.shards import list_shards, read_shard

WRITER = Path(__file__).with_name("metricsd_writer.py")
DIRECTORY = Path(sys.argv[1])


def start_at(pid: int) -> subprocess.Popen[bytes]:
    """Start a writer of this pid, and wait until it has written."""
    for _ in range(1000):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        started = subprocess.Popen(
            [sys.executable, WRITER, DIRECTORY, "2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        if started.pid == pid:
            assert started.stdout is not None
            started.stdout.readline()
            return started
        end(started)
    raise SystemExit(f"never got pid {pid}")


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def read_sales(directory: Path) -> float:
    return sum(
        value
        for path in directory.rglob("counter_*.db")
        for key, value, _ in read_shard(path)[0]
        if b"shop_sales_total" in key
    )


def list_names() -> list[str]:
    return [shard.path.name for shard in list_shards(DIRECTORY)]


first = start_at(200)
identity = kernel.read_identity(200)
assert identity is not None
end(first)  # reaped at once, and claimed by nobody
second = start_at(200)
names = list_names()
found: dict[str, object] = {"names": len(names), "same identity": False}
found["same identity"] = kernel.read_identity(200) == identity

# Asked of the pid, nobody may take it for the dead one.
found["unowned"] = sorted(find_unowned(DIRECTORY, ()))
# Somebody who had asked a moment earlier, before it was given away, takes it all the same.
done = claim(DIRECTORY, 200, pinned=False)
found["claimed"], found["returned"] = done.shards, len(done.returned)
found["all there"] = list_names() == names
# And a signal that was meant for the first one.
kernel.signal_process(200, identity, signal.SIGKILL)
with contextlib.suppress(subprocess.TimeoutExpired):
    second.wait(0.2)
found["lives"] = second.poll() is None

end(second)
found["unowned at last"] = sorted(find_unowned(DIRECTORY, ()))
found["number"] = claim(DIRECTORY, 200, pinned=False).number
found["left"] = list_names()
found["sales"] = read_sales(DIRECTORY)
third = start_at(200)
found["unowned after all"] = sorted(find_unowned(DIRECTORY, ()))
found["sales after all"] = read_sales(DIRECTORY)
end(third)
sys.stdout.write(json.dumps(found))
sys.stdout.flush()
os._exit(0)
