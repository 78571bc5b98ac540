"""Writes numbered lines of 128 bytes at a rate (bytes/s) until so many bytes; torn at any place."""

import os
import sys
import time

rate, total = float(sys.argv[1]), int(sys.argv[2])
begun, number, sent = time.monotonic(), 0, 0
while number < total // 128:
    many = min(1000, total // 128 - number)
    block = b"".join(b"%012d %s\n" % (number + n, b"x" * 114) for n in range(many))
    number += many
    cut = number % len(block)
    os.write(1, block[:cut])
    os.write(1, block[cut:])
    sent += len(block)
    time.sleep(max(0, sent / rate - (time.monotonic() - begun)))
