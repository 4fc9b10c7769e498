"""A Modbus TCP device by pymodbus, on a free loopback port. Says what it sees, one JSON object a line.

Unit 1, holding registers (shared with the other kinds):
  0-1   counter, 32 bit, high word first: every read that begins at 0 advances it
  2     1234
  3     65526 (-10 as int16)
  4-5   3.5 as float32
  10-29 memory, writable
"""

import asyncio
import json
import struct
import sys

from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

READS = (3, 4)
sessions = 0
counter = 0


def say(**what):
    print(json.dumps(what), flush=True)


def on_connect(connected):
    global sessions
    if connected:
        sessions += 1
    say(sessions=sessions, open=connected)


async def on_access(function, start, address, count, registers, values):
    global counter
    if function in READS and address == 0:
        counter += 1
        registers[0 - start] = counter >> 16
        registers[1 - start] = counter & 0xFFFF
    if values is not None:
        say(write=address, values=[int(value) for value in values])
    return None


async def main():
    high, low = struct.unpack(">HH", struct.pack(">f", 3.5))
    memory = [0, 0, 1234, 65526, high, low, 0, 0, 0, 0] + [0] * 20
    device = SimDevice(1, [SimData(0, values=memory, datatype=DataType.REGISTERS)], action=on_access)
    server = ModbusTcpServer(device, address=("127.0.0.1", 0), trace_connect=on_connect)
    await server.listen()
    say(listening=server.transport.sockets[0].getsockname()[1])
    await server.serving


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(0)
