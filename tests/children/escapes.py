"""Leaves its session's group by a double fork and setsid; deaf to TERM with --deaf."""

import os
import signal
import sys
import time

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        if "--deaf" in sys.argv:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.stdout.write(f"escaped {os.getpid()}\n")
        sys.stdout.flush()
        time.sleep(600)
    os._exit(0)
time.sleep(600)
