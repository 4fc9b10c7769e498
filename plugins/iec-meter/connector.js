// An electricity meter on a serial line, or behind a TCP converter, read out by IEC 62056-21.
//
// The host owns the line; a readout is two exchanges, each with its deadline.

import { emit } from "moorline:edge/telemetry";
import { connected } from "moorline:edge/devices";
import { exchange, open } from "moorline:edge/streams";
import { reply } from "moorline:edge/rpc";
import { write as log } from "moorline:edge/log";
import { bytes, identification, Invalid, parse, READOUT, readout, signOn, text } from "./iec62056.js";

const HAND_OVER_SCHEMA = 1;
const SCHEMA = JSON.stringify({
  type: "object",
  required: ["device", "values"],
  additionalProperties: false,
  properties: {
    device: { type: "string", minLength: 1 },
    address: { type: "string", maxLength: 32 },
    values: { type: "object", minProperties: 1, additionalProperties: { type: "string", minLength: 1 } },
    poll_ms: { type: "integer", minimum: 10, maximum: 86400000, default: 10000 },
    timeout_ms: { type: "integer", minimum: 1, maximum: 20000, default: 5000 },
    gap_ms: { type: "integer", minimum: 1, maximum: 5000, default: 200 },
  },
});

let configuration;
let streamName;
let announced = false;
let meter = null;
// Read and not yet taken, as [key, number].
let unsent = [];
let latest = {};

function start(setup) {
  try {
    configuration = parse(setup.configuration);
  } catch (error) {
    if (error instanceof Invalid) throw { tag: "configuration", val: error.message };
    throw error;
  }
  if (setup.grantedStreams.length !== 1) {
    throw { tag: "configuration", val: "one [[connector.connection]] with a stream is needed" };
  }
  streamName = setup.grantedStreams[0];
  unsent = handedOver(setup.handOver);
  open(streamName);
  return 0;
}

function handle(event) {
  switch (event.tag) {
    case "timer":
      return poll();
    case "stream-closed":
      open(streamName);
      return null;
    case "rpc":
      answer(event.val);
      return null;
    default:
      return null;
  }
}

function stop() {
  return { schema: HAND_OVER_SCHEMA, bytes: bytes(encodeURIComponent(JSON.stringify(unsent))) };
}

// What the generation before had read and nobody had taken.
function handedOver(handOver) {
  if (handOver === null) return [];
  const refuse = (why) => ({ tag: "hand-over", val: why });
  if (handOver.schema !== HAND_OVER_SCHEMA) throw refuse(`schema ${handOver.schema} is not ${HAND_OVER_SCHEMA}`);
  let entries;
  try {
    entries = JSON.parse(decodeURIComponent(text(handOver.bytes)));
  } catch (error) {
    throw refuse(error.message);
  }
  const isEntry = (entry) => Array.isArray(entry) && typeof entry[0] === "string" && Number.isFinite(entry[1]);
  if (!Array.isArray(entries) || !entries.every(isEntry)) throw refuse("not a list of readings");
  return entries;
}

function poll() {
  if (!announced) announced = taken(() => connected(configuration.device, ""));
  if (unsent.length === 0) unsent = read();
  const readings = unsent.map(([key, value]) => ({
    key,
    value: { tag: "double", val: value },
    quality: "good",
    timestamp: null,
  }));
  try {
    emit([{ device: configuration.device, readings }]);
  } catch (error) {
    // What the host throws is an Error around the contract's value.
    const refusal = error.payload;
    if (refusal?.tag === "back-pressure") return refusal.val; // the same batch again, then
    log("error", `the readings are refused: ${JSON.stringify(refusal ?? error.message)}`);
  }
  unsent = [];
  return configuration.pollMs;
}

function read() {
  const { address, timeoutMs, gapMs, values } = configuration;
  try {
    // A stream that is connected is returned as it is; a closed one is dialled again.
    const stream = open(streamName);
    meter = identification(exchange(stream, signOn(address), { tag: "delimited", val: bytes("\r\n") }, timeoutMs));
    const block = exchange(stream, READOUT, { tag: "idle-gap", val: gapMs }, timeoutMs);
    const found = readout(block, values);
    latest = Object.fromEntries(found);
    return found;
  } catch (error) {
    throw { tag: "device", val: `readout: ${error.payload ? JSON.stringify(error.payload) : error.message}` };
  }
}

function answer(request) {
  const body = request.method === "read" ? { meter, values: latest } : { error: `method ${request.method} is not read` };
  if (!taken(() => reply(request.id, JSON.stringify(body)))) log("warn", `the answer to ${request.method} is not taken`);
}

// Whether the host took it. What it did not take is said again or of no use any more.
function taken(call) {
  try {
    call();
    return true;
  } catch {
    return false;
  }
}

export const connectorGuest = {
  describe: () => ({
    name: "iec-meter",
    version: "0.1.0",
    configurationSchema: SCHEMA,
    handOverSchema: HAND_OVER_SCHEMA,
  }),
  start,
  handle,
  stop,
};
