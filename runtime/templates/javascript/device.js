// What the device says, and the configuration: no host, so `node --test` can test it.

export class Invalid extends Error {}

// Device and pollMs. Throws Invalid with what is wrong.
export function parse(text) {
  let fields;
  try {
    fields = JSON.parse(text);
  } catch (error) {
    throw new Invalid(error.message);
  }
  const names = typeof fields === "object" && fields !== null ? Object.keys(fields).sort().join() : "";
  if (names !== "device,poll_ms") throw new Invalid('"device" and "poll_ms" are needed, and nothing else');
  const { device, poll_ms: pollMs } = fields;
  if (typeof device !== "string" || device === "") throw new Invalid("device: a name is needed");
  if (!Number.isInteger(pollMs) || pollMs < 10 || pollMs >= 2 ** 32) {
    throw new Invalid("poll_ms: a whole number from 10 is needed");
  }
  return { device, pollMs };
}

export const bytes = (text) => Uint8Array.from(text, (char) => char.charCodeAt(0));
export const text = (bytes) => String.fromCharCode(...bytes);

export const REQUEST = bytes("READ?\n");
export const LINE_END = bytes("\n");

// Throws for anything that is no finite number.
export function number(answer) {
  const line = text(answer.subarray(0, 64)).trim();
  const value = Number(line);
  if (line === "" || !Number.isFinite(value)) throw new Error(`no number: ${JSON.stringify(line)}`);
  return value;
}
