"""An SCPI instrument behind TCP: polls its readings, sets what the platform asks for.

One request and one line of answer at a time, by `exchange`; the host owns the socket and its deadlines.
"""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.connector_guest import (
    Description,
    Event,
    Event_Rpc,
    Event_StreamClosed,
    Event_Timer,
    HandOver,
    RpcRequest,
    Setup,
)
from wit_world.imports import devices, rpc, streams, telemetry
from wit_world.imports.log import Level, write as log
from wit_world.imports.streams import FrameRule_Delimited
from wit_world.imports.telemetry import EmitError_BackPressure
from wit_world.imports.types import (
    DeviceReadings,
    Fault_Configuration,
    Fault_Device,
    Fault_HandOver,
    Quality,
    Reading,
    Value_Double,
)

import scpi

SCHEMA = """{
  "type": "object",
  "required": ["device", "readings"],
  "additionalProperties": false,
  "properties": {
    "device": {"type": "string", "minLength": 1},
    "readings": {
      "type": "array", "minItems": 1,
      "items": {
        "type": "object", "required": ["key", "query"], "additionalProperties": false,
        "properties": {"key": {"type": "string", "minLength": 1}, "query": {"type": "string", "pattern": "^[ -~]*[?]$"}}
      }
    },
    "settings": {"type": "object", "additionalProperties": {"type": "string"}},
    "poll_ms": {"type": "integer", "minimum": 10, "maximum": 3600000, "default": 1000},
    "timeout_ms": {"type": "integer", "minimum": 1, "maximum": 10000, "default": 1000}
  }
}"""
HAND_OVER_SCHEMA = 1
LINE = FrameRule_Delimited(b"\n")


class ConnectorGuest(exports.ConnectorGuest):
    """The host's way in. There is a new one for every call: what lasts is `instrument`."""

    def describe(self) -> Description:
        return Description("scpi-multimeter", "0.1.0", SCHEMA, HAND_OVER_SCHEMA)

    def start(self, setup: Setup) -> int | None:
        global instrument
        instrument = Instrument(setup)
        return 0

    def handle(self, event: Event) -> int | None:
        return instrument.handle(event)

    def stop(self) -> HandOver:
        return HandOver(HAND_OVER_SCHEMA, json.dumps(instrument.unsent).encode())


instrument: "Instrument | None" = None


class Instrument:
    def __init__(self, setup: Setup):
        try:
            self.configuration = scpi.Configuration.parse(setup.configuration)
        except scpi.Invalid as why:
            raise Err(Fault_Configuration(str(why))) from None
        if len(setup.granted_streams) != 1:
            raise Err(Fault_Configuration("one [[connector.connection]] with a stream is needed"))
        self.stream_name = setup.granted_streams[0]
        self.unsent = unsent(setup.hand_over)
        self.stream = streams.open(self.stream_name)
        self.announced = False

    def handle(self, event: Event) -> int | None:
        match event:
            case Event_Timer():
                return self.poll()
            case Event_StreamClosed():
                self.stream = streams.open(self.stream_name)
            case Event_Rpc(request):
                self.answer(request)
        return None

    def poll(self) -> int | None:
        """Asks, unless what was read before still waits to be taken."""
        if not self.announced:
            # Refused or behind: the next poll says it again.
            try:
                devices.connected(self.configuration.device, "")
                self.announced = True
            except Err:
                pass
        if not self.unsent:
            self.unsent = self.read()
        readings = [Reading(key, Value_Double(value), Quality.GOOD, None) for key, value in self.unsent]
        try:
            telemetry.emit([DeviceReadings(self.configuration.device, readings)])
        except Err as refusal:
            if isinstance(refusal.value, EmitError_BackPressure):
                # The same batch again, when the host says.
                return refusal.value.value
            log(Level.ERROR, f"the readings are refused: {refusal.value.value}")
        self.unsent = []
        return self.configuration.poll_ms

    def read(self) -> list[tuple[str, float]]:
        values = []
        for reading in self.configuration.readings:
            answer = self.ask(reading.query)
            try:
                values.append((reading.key, scpi.number(answer)))
            except ValueError as why:
                raise Err(Fault_Device(f"{reading.query} was answered by no number: {why}")) from None
        return values

    def ask(self, query: str) -> bytes:
        # A stream that is connected is returned as it is; a closed one is dialled again.
        self.stream = streams.open(self.stream_name)
        try:
            return streams.exchange(self.stream, f"{query}\n".encode(), LINE, self.configuration.timeout_ms)
        except Err as error:
            raise Err(Fault_Device(f"{query}: {error.value}")) from None

    def answer(self, request: RpcRequest) -> None:
        if request.method != "set":
            body = {"error": f"method {request.method!r} is not set"}
        else:
            try:
                line = scpi.command(self.configuration, request.params)
                # The instrument does not answer a command; its error queue does.
                error = self.ask(f"{line};:SYST:ERR?").decode("ascii", "replace").strip()
                body = {"success": True} if error.startswith(("0,", "+0,")) else {"error": error}
            except ValueError as why:
                body = {"error": str(why)}
            except Err as fault:
                body = {"error": fault.value.value}
        try:
            rpc.reply(request.id, json.dumps(body))
        except Err as refusal:
            log(Level.WARN, f"the answer to {request.method} is not taken: {refusal.value}")


def unsent(hand_over: HandOver | None) -> list[tuple[str, float]]:
    """Readings the generation before had read and nobody had taken."""
    if hand_over is None:
        return []
    try:
        if hand_over.schema != HAND_OVER_SCHEMA:
            raise ValueError(f"schema {hand_over.schema} is not {HAND_OVER_SCHEMA}")
        return [(str(key), float(value)) for key, value in json.loads(hand_over.bytes.decode())]
    except (ValueError, TypeError) as why:
        raise Err(Fault_HandOver(str(why))) from None
