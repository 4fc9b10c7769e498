"""For benches: emits on demand, as fast as it can. Does what `burst-connector` does, in Python."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.connector_guest import (
    Description,
    Event,
    Event_Rpc,
    Event_Timer,
    HandOver,
    RpcRequest,
    Setup,
)
from wit_world.imports import clock, devices, rpc, telemetry
from wit_world.imports.telemetry import EmitError_BackPressure
from wit_world.imports.types import DeviceReadings, Fault_Internal, Quality, Reading, Value_Double

CALLS_A_TURN = 100

device = ""
# What a flood has still to emit: readings of a batch, batches.
size, left = 0, 0


class ConnectorGuest(exports.ConnectorGuest):
    def describe(self) -> Description:
        return Description("burst-python", "0.1.0", "{}", 1)

    def start(self, setup: Setup) -> int | None:
        global device
        device = setup.instance
        try:
            devices.connected(device, "")
        except Err:
            pass  # on a workbench there is nobody to tell
        return None

    def handle(self, event: Event) -> int | None:
        match event:
            case Event_Timer():
                return flood()
            case Event_Rpc(request) if request.method == "flood":
                global size, left
                size, left = json.loads(request.params)
                return 0
            case Event_Rpc(request):
                burst(request)
        return None

    def stop(self) -> HandOver:
        return HandOver(1, b"")


def batch(count: int) -> list[DeviceReadings]:
    readings = [Reading(f"key-{n}", Value_Double(float(n)), Quality.GOOD, None) for n in range(count)]
    return [DeviceReadings(device, readings)]


def burst(request: RpcRequest) -> None:
    count, calls = json.loads(request.params)
    readings = batch(count)
    taken, refused = 0, 0
    start = clock.monotonic_ms()
    for _ in range(calls):
        try:
            telemetry.emit(readings)
            taken += 1
        except Err:
            refused += 1
    took_us = (clock.monotonic_ms() - start) * 1000.0
    try:
        rpc.reply(request.id, f"[{taken},{refused},{took_us:.0f}]")
    except Err as refusal:
        raise Err(Fault_Internal(str(refusal.value))) from None


def flood() -> int | None:
    global left
    for _ in range(min(left, CALLS_A_TURN)):
        try:
            telemetry.emit(batch(size))
        except Err as refusal:
            if isinstance(refusal.value, EmitError_BackPressure):
                return refusal.value.value
            raise Err(Fault_Internal(str(refusal.value))) from None
        left -= 1
    return 0 if left else None
