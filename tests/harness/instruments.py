"""Two instruments on free loopback ports, by their own protocols. Says what it sees, one JSON object a line.

SCPI: *IDN?, MEAS:VOLT:DC? (the setpoint, after a noise that counts up), MEAS:CURR:DC?, VOLT <n>, SYST:ERR?
IEC 62056-21, mode C readout: energy that grows with every readout, a voltage.
"""

import asyncio
import json
import sys

ACK_READOUT = b"\x06000\r\n"
IDENTIFICATION = b"/ISk5ME172-0000\r\n"
setpoint = 5.0
queries = 0
readouts = 0


def say(**what):
    print(json.dumps(what), flush=True)


def scpi_answer(command, errors):
    global setpoint, queries
    name, _, argument = command.strip().partition(" ")
    name = name.lstrip(":").upper()
    if name == "*IDN?":
        return "MOORLINE,SIM-1,0,1.0"
    if name == "MEAS:VOLT:DC?":
        queries += 1
        return f"{setpoint:+.6E}"
    if name == "MEAS:CURR:DC?":
        return "+2.500000E-01"
    if name == "SYST:ERR?":
        return errors.pop(0) if errors else '+0,"No error"'
    if name == "VOLT" and argument:
        try:
            value = float(argument)
        except ValueError:
            errors.append('-104,"Data type error"')
            return None
        if not 0 <= value <= 30:
            errors.append('-222,"Data out of range"')
            return None
        setpoint = value
        say(setpoint=setpoint)
        return None
    errors.append('-113,"Undefined header"')
    return None


async def scpi(reader, writer):
    say(session="scpi")
    errors = []
    while line := await reader.readline():
        for command in line.decode("ascii", "replace").strip().split(";"):
            answer = scpi_answer(command, errors)
            if answer is not None:
                writer.write(f"{answer}\n".encode())
        await writer.drain()
    writer.close()


def data_block(readouts):
    block = f"0.0.0(12345678)\r\n1-0:1.8.0*255({readouts / 10:010.3f}*kWh)\r\n32.7.0(229.5*V)\r\n!\r\n\x03".encode()
    check = 0
    for byte in block:
        check ^= byte
    return b"\x02" + block + bytes([check])


async def meter(reader, writer):
    global readouts
    say(session="meter")
    while line := await reader.readline():
        if line.startswith(b"/?"):
            writer.write(IDENTIFICATION)
        elif line == ACK_READOUT:
            readouts += 1
            block = data_block(readouts)
            # In two pieces, as a converter of 9600 baud would have it.
            writer.write(block[:21])
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.write(block[21:])
        await writer.drain()
    writer.close()


async def main():
    servers = {}
    for name, serve in [("scpi", scpi), ("meter", meter)]:
        servers[name] = await asyncio.start_server(serve, "127.0.0.1", 0)
    say(**{name: server.sockets[0].getsockname()[1] for name, server in servers.items()})
    await asyncio.gather(*(server.serve_forever() for server in servers.values()))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(0)
