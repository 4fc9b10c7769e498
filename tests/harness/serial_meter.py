"""The electricity meter of instruments.py at the end of a serial line: a pseudo-terminal, whose file PATH is made to lead to.
Says what it sees, one JSON object a line, each with all counts:

readouts  answered
flushes   times the other end threw waiting bytes away, as it does when it opens or closes the port
hang_ups  times nobody had the port open any more
"""

import fcntl
import json
import os
import select
import struct
import sys
import termios
import time

from instruments import ACK_READOUT, IDENTIFICATION, data_block

BAUD = 2400
BITS = 10
PIECE = 16
seen = {"readouts": 0, "flushes": 0, "hang_ups": 0}


def count(what):
    seen[what] += 1
    print(json.dumps(seen), flush=True)


def say(line, answer):
    for start in range(0, len(answer), PIECE):
        piece = answer[start : start + PIECE]
        os.write(line, piece)
        time.sleep(len(piece) * BITS / BAUD)


def answer(line, request):
    if request.startswith(b"/?"):
        say(line, IDENTIFICATION)
    elif request == ACK_READOUT:
        say(line, data_block(seen["readouts"] + 1))
        count("readouts")


def main(path):
    line, port = os.openpty()
    # Each read begins with a byte that is 0 before data, and else says what the other end did.
    fcntl.ioctl(line, termios.TIOCPKT, struct.pack("i", 1))
    os.symlink(os.ttyname(port), path)
    os.close(port)
    print(json.dumps(seen), flush=True)
    watch = select.poll()
    watch.register(line, select.POLLIN)
    in_use = False
    requests = b""
    while True:
        [(_, events)] = watch.poll()
        if not events & select.POLLIN:
            # Closed. The kernel does not wake who waits for somebody to open it.
            if in_use:
                in_use = False
                count("hang_ups")
            time.sleep(0.01)
            continue
        try:
            got = os.read(line, 4096)
        except OSError:
            continue
        in_use = True
        if got[0] & (termios.TIOCPKT_FLUSHREAD | termios.TIOCPKT_FLUSHWRITE):
            requests = b""
            count("flushes")
        if got[0]:
            continue
        requests += got[1:]
        while b"\n" in requests:
            request, _, requests = requests.partition(b"\n")
            answer(line, request + b"\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        sys.exit(0)
