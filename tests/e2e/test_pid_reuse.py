"""A whole stack in a pid namespace, where a session's pid is given to a bystander at once."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from pid_namespace import NEEDS_PIDS, UNSHARE

if TYPE_CHECKING:
    from stack import Stack

# Runs as PID 1 of the namespace, and so reaps whatever a dead supervisor leaves.
SCRIPT = r"""
set -e
take() {  # start a bystander of this pid
    for try in $(seq 1000); do
        echo $(($1 - 1)) > /proc/sys/kernel/ns_last_pid
        sleep 600 & bystander=$!
        [ $bystander = $1 ] && return
        kill -9 $bystander
    done
    echo "never got pid $1"; exit 1
}
wait_gone() {
    for try in $(seq 500); do
        kill -0 $1 2>/dev/null || return 0
        sleep 0.02
    done
    exit 1
}
pid_of() { ptsup status --json | grep -o '"pid": [0-9]*, "incarnation"' | grep -o '[0-9]*'; }

ptsup start -d --port $PORT -s 'a=sleep 600'
pid=$(pid_of)
touch $DIR/counter_$pid.db
# The session ends; its pid is a bystander's at once; whatever is asked of it is asked of nobody.
kill -9 $pid
wait_gone $pid
take $pid
ptsup stop a
kill -0 $bystander && echo spared by stop
ls $DIR/*.db 2>/dev/null && echo unclaimed
kill -9 $bystander; wait $bystander || true

ptsup restart a
pid=$(pid_of)
touch $DIR/counter_$pid.db
supervisor=$(ptsup status | sed -n 's/^supervisor.* pid \([0-9]*\),.*/\1/p')
# The same with nobody to see it: the supervisor dies, then the session.
kill -9 $supervisor; wait_gone $supervisor
kill -9 $pid; wait_gone $pid
take $pid
ptsup status > status.txt || true
grep -E '^ *a ' status.txt
ptsup stop --timeout 1
kill -0 $bystander && echo spared by the stop of orphans
"""


@NEEDS_PIDS
def test_a_bystander_of_a_sessions_pid_is_neither_stopped_nor_taken_for_it(stack: Stack) -> None:
    done = subprocess.run(
        [*UNSHARE, "bash", "-c", SCRIPT],
        cwd=stack.cwd,
        env={**stack.env, "PORT": str(stack.port), "DIR": str(stack.multiproc_dir)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done
    assert "spared by stop" in done.stdout
    assert "spared by the stop of orphans" in done.stdout
    assert "unclaimed" not in done.stdout
    assert " running " not in next(line for line in done.stdout.splitlines() if " a " in f" {line}")
