"""Ignores TERM and says so once it does."""

import signal
import sys
import time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.stdout.write("deaf\n")
sys.stdout.flush()
time.sleep(600)
