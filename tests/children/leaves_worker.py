"""Ends at once and leaves a worker of its group behind, deaf to TERM with --deaf."""

import os
import signal
import sys
import time

if os.fork() == 0:
    if "--deaf" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdout.write(f"worker {os.getpid()}\n")
    sys.stdout.flush()
    time.sleep(600)
time.sleep(0.3)
sys.exit(3)
