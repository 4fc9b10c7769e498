// How long to wait: exponential back-off with full jitter, cut short when much waits in the spool, and let out when
// nothing does. On a metered link nothing is cut short: each attempt costs bytes.

export class Invalid extends Error {}

// Reads {"urgent_readings": 10000}; throws Invalid with what is wrong.
export function parse(text) {
  let fields;
  try {
    fields = JSON.parse(text);
  } catch (error) {
    throw new Invalid(`not JSON: ${error.message}`);
  }
  if (typeof fields !== "object" || fields === null || Array.isArray(fields)) throw new Invalid("not an object");
  const unknown = Object.keys(fields).find((name) => name !== "urgent_readings");
  if (unknown !== undefined) throw new Invalid(`unknown field ${unknown}`);
  const { urgent_readings: urgentReadings = 10000 } = fields;
  if (!Number.isInteger(urgentReadings) || urgentReadings < 1) {
    throw new Invalid("urgent_readings: a whole number above 0 is needed");
  }
  return { urgentReadings };
}

// The next wait in ms. The seed is all the randomness there is: the same question gets the same answer.
export function wait({ urgentReadings }, { attempt, spoolDepth, metered, floorMs, ceilingMs, seed }) {
  const grown = floorMs * 2 ** Math.min(attempt, 20);
  const urgent = spoolDepth >= urgentReadings && !metered;
  const idle = spoolDepth === 0;
  const most = Math.min(ceilingMs, urgent ? grown / 4 : idle ? grown * 2 : grown);
  return most > floorMs ? Math.floor(floorMs + (most - floorMs) * mixed(seed)) : floorMs;
}

// 0 to 1, by mulberry32: seeds that follow each other must not give waits that do.
export function mixed(seed) {
  let t = (seed + 0x6d2b79f5) | 0;
  t = Math.imul(t ^ (t >>> 15), t | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}
