"""Tries to listen on a port in every way there is, says what came of it, and goes on."""

import socket
import sys
import time

for address in ("127.0.0.1", "0.0.0.0", "127.0.0.9"):
    for option in (0, socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        listener = socket.socket()
        if option:
            listener.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            listener.bind((address, int(sys.argv[1])))
            listener.listen()
            sys.stdout.write(f"took {address} with option {option}\n")
        except OSError:
            sys.stdout.write(f"refused {address}\n")
sys.stdout.write("done\n")
sys.stdout.flush()
time.sleep(600)
