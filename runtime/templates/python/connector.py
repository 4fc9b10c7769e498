"""A device behind TCP that is asked by a line and answers with one: polls it, emits what it says."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.connector_guest import Description, Event, Event_Rpc, Event_Timer, HandOver, Setup
from wit_world.imports import devices, rpc, streams, telemetry
from wit_world.imports.streams import FrameRule_Delimited
from wit_world.imports.telemetry import EmitError_BackPressure
from wit_world.imports.types import (
    DeviceReadings,
    Fault_Configuration,
    Fault_Device,
    Fault_HandOver,
    Fault_Internal,
    Quality,
    Reading,
    Value_Double,
)

import device

SCHEMA = """{
  "type": "object", "required": ["device", "poll_ms"], "additionalProperties": false,
  "properties": {"device": {"type": "string", "minLength": 1}, "poll_ms": {"type": "integer", "minimum": 10}}
}"""
HAND_OVER_SCHEMA = 1
TIMEOUT_MS = 1000


class ConnectorGuest(exports.ConnectorGuest):
    """The host's way in. There is a new one for every call: what lasts is `line`."""

    def describe(self) -> Description:
        return Description("{{name}}", "0.1.0", SCHEMA, HAND_OVER_SCHEMA)

    def start(self, setup: Setup) -> int | None:
        global line
        line = Line(setup)
        return 0  # the first timer comes at once

    def handle(self, event: Event) -> int | None:
        match event:
            case Event_Timer():
                return line.poll()
            case Event_Rpc(request):
                rpc.reply(request.id, json.dumps({"last": line.last}))
        return None  # leaves the timer as it is

    def stop(self) -> HandOver:
        return HandOver(HAND_OVER_SCHEMA, json.dumps(line.unsent).encode())


line: "Line | None" = None


class Line:
    def __init__(self, setup: Setup):
        try:
            self.device, self.poll_ms = device.parse(setup.configuration)
        except ValueError as why:
            raise Err(Fault_Configuration(str(why))) from None
        if not setup.granted_streams:
            raise Err(Fault_Configuration("a [[connector.connection]] with a stream is needed"))
        self.stream = setup.granted_streams[0]
        self.unsent = self.last = taken_over(setup.hand_over)
        streams.open(self.stream)
        devices.connected(self.device, "")

    def poll(self) -> int:
        if self.unsent is None:
            self.unsent = self.last = self.read()
        reading = Reading("value", Value_Double(self.unsent), Quality.GOOD, None)
        try:
            telemetry.emit([DeviceReadings(self.device, [reading])])
        except Err as refusal:
            if isinstance(refusal.value, EmitError_BackPressure):
                return refusal.value.value  # the same reading again, then
            self.unsent = None  # it will never be taken: a mistake of this plugin, and its operator reads why
            raise Err(Fault_Internal(f"refused: {refusal.value.value}")) from None
        self.unsent = None
        return self.poll_ms

    def read(self) -> float:
        stream = streams.open(self.stream)  # dials again if it was closed
        try:
            answer = streams.exchange(stream, device.REQUEST, FrameRule_Delimited(b"\n"), TIMEOUT_MS)
            return device.number(answer)
        except (Err, ValueError) as why:
            raise Err(Fault_Device(str(why))) from None


def taken_over(hand_over: HandOver | None) -> float | None:
    """The reading that the generation before could not get rid of."""
    if hand_over is None:
        return None
    try:
        if hand_over.schema != HAND_OVER_SCHEMA:
            raise ValueError(f"schema {hand_over.schema} is not {HAND_OVER_SCHEMA}")
        unsent = json.loads(hand_over.bytes.decode())
        return None if unsent is None else float(unsent)
    except (ValueError, TypeError) as why:
        raise Err(Fault_HandOver(str(why))) from None
