"""Forks the given number of TERM-deaf workers of its own group, or escapees with --escape.

An escapee has a session of its own and no parent but the reaper. Says "ready" when all are there.
"""

import os
import signal
import sys
import time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
escape = "--escape" in sys.argv
for _ in range(int(sys.argv[1])):
    if os.fork():
        if escape:
            os.wait()
        continue
    if escape:
        os.setsid()
        if os.fork():
            os._exit(0)
    time.sleep(600)
    os._exit(0)
sys.stdout.write("ready\n")
sys.stdout.flush()
time.sleep(600)
