// For benches: emits on demand, as fast as it can. Does what `burst-connector` does, in JavaScript.

import { monotonicMs } from "moorline:edge/clock";
import { connected } from "moorline:edge/devices";
import { reply } from "moorline:edge/rpc";
import { emit } from "moorline:edge/telemetry";

const CALLS_A_TURN = 100;

let device = "";
// What a flood has still to emit: readings of a batch, batches.
let size = 0;
let left = 0;

function batch(count) {
  const readings = [];
  for (let n = 0; n < count; n += 1) {
    readings.push({ key: `key-${n}`, value: { tag: "double", val: n }, quality: "good", timestamp: null });
  }
  return [{ device, readings }];
}

function burst(request) {
  const [count, calls] = JSON.parse(request.params);
  const readings = batch(count);
  let taken = 0;
  let refused = 0;
  const start = monotonicMs();
  for (let call = 0; call < calls; call += 1) {
    try {
      emit(readings);
      taken += 1;
    } catch {
      refused += 1;
    }
  }
  const tookUs = (monotonicMs() - start) * 1000;
  try {
    reply(request.id, `[${taken},${refused},${tookUs.toFixed(0)}]`);
  } catch (error) {
    throw { tag: "internal", val: JSON.stringify(error.payload) };
  }
}

function flood() {
  for (let call = 0; call < CALLS_A_TURN && left > 0; call += 1) {
    try {
      emit(batch(size));
    } catch (error) {
      const refusal = error.payload;
      if (refusal?.tag === "back-pressure") return refusal.val;
      throw { tag: "internal", val: JSON.stringify(refusal ?? error.message) };
    }
    left -= 1;
  }
  return left > 0 ? 0 : null;
}

export const connectorGuest = {
  describe: () => ({ name: "burst-javascript", version: "0.1.0", configurationSchema: "{}", handOverSchema: 1 }),
  start(setup) {
    device = setup.instance;
    try {
      connected(device, "");
    } catch {
      // On a workbench there is nobody to tell.
    }
    return null;
  },
  handle(event) {
    if (event.tag === "timer") return flood();
    if (event.tag !== "rpc") return null;
    if (event.val.method === "flood") {
      [size, left] = JSON.parse(event.val.params);
      return 0;
    }
    burst(event.val);
    return null;
  },
  stop: () => ({ schema: 1, bytes: new Uint8Array() }),
};
