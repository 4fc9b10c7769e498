// A device behind TCP that is asked by a line and answers with one: polls it, emits what it says.

import { connected } from "moorline:edge/devices";
import { reply } from "moorline:edge/rpc";
import { exchange, open } from "moorline:edge/streams";
import { emit } from "moorline:edge/telemetry";
import { bytes, Invalid, LINE_END, number, parse, REQUEST, text } from "./device.js";

const SCHEMA = JSON.stringify({
  type: "object",
  required: ["device", "poll_ms"],
  additionalProperties: false,
  properties: { device: { type: "string", minLength: 1 }, poll_ms: { type: "integer", minimum: 10 } },
});
const HAND_OVER_SCHEMA = 1;
const TIMEOUT_MS = 1000;

let configuration;
let stream;
// Read, and not yet taken by the host.
let unsent = null;
// What was read last.
let last = null;

function start(setup) {
  try {
    configuration = parse(setup.configuration);
  } catch (error) {
    throw error instanceof Invalid ? { tag: "configuration", val: error.message } : error;
  }
  if (setup.grantedStreams.length === 0) {
    throw { tag: "configuration", val: "a [[connector.connection]] with a stream is needed" };
  }
  stream = setup.grantedStreams[0];
  unsent = last = takenOver(setup.handOver);
  open(stream);
  connected(configuration.device, "");
  return 0; // the first timer comes at once
}

function handle(event) {
  if (event.tag === "timer") return poll();
  if (event.tag === "rpc") reply(event.val.id, JSON.stringify({ last }));
  return null; // leaves the timer as it is
}

function stop() {
  return { schema: HAND_OVER_SCHEMA, bytes: bytes(JSON.stringify(unsent)) };
}

function poll() {
  unsent ??= last = read();
  const reading = { key: "value", value: { tag: "double", val: unsent }, quality: "good", timestamp: null };
  try {
    emit([{ device: configuration.device, readings: [reading] }]);
  } catch (error) {
    // What the host throws is an Error around the contract's value.
    if (error.payload?.tag === "back-pressure") return error.payload.val; // the same reading again, then
    unsent = null; // it will never be taken: a mistake of this plugin, and its operator reads why
    throw { tag: "internal", val: `refused: ${JSON.stringify(error.payload)}` };
  }
  unsent = null;
  return configuration.pollMs;
}

function read() {
  try {
    // A closed stream is dialled again.
    return number(exchange(open(stream), REQUEST, { tag: "delimited", val: LINE_END }, TIMEOUT_MS));
  } catch (error) {
    throw { tag: "device", val: error.payload ? JSON.stringify(error.payload) : error.message };
  }
}

// The reading that the generation before could not get rid of.
function takenOver(handOver) {
  if (handOver === null) return null;
  try {
    if (handOver.schema !== HAND_OVER_SCHEMA) throw new Error(`schema ${handOver.schema} is not ${HAND_OVER_SCHEMA}`);
    const unsent = JSON.parse(text(handOver.bytes));
    if (unsent !== null && !Number.isFinite(unsent)) throw new Error("not a reading");
    return unsent;
  } catch (error) {
    throw { tag: "hand-over", val: error.message };
  }
}

export const connectorGuest = {
  describe: () => ({
    name: "{{name}}",
    version: "0.1.0",
    configurationSchema: SCHEMA,
    handOverSchema: HAND_OVER_SCHEMA,
  }),
  start,
  handle,
  stop,
};
