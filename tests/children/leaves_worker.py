"""Ends as soon as its worker is there, which it leaves behind; deaf to TERM with --deaf."""

import os
import signal
import sys
import time

heard, told = os.pipe()
if os.fork() == 0:
    if "--deaf" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdout.write(f"worker {os.getpid()}\n")
    sys.stdout.flush()
    os.write(told, b"there")
    time.sleep(600)
os.read(heard, 5)
sys.exit(3)
