// IEC 62056-21, the readout of mode C: what a meter says and what we ask it. No host, so `node --test` runs it.
//
//   we      /?<address>!<CR><LF>
//   meter   /XXX5<type><CR><LF>
//   we      <ACK>000<CR><LF>                      (data readout, at the speed the converter has)
//   meter   <STX><lines>!<CR><LF><ETX><BCC>       lines: <code>(<value>*<unit>)<CR><LF>

const STX = 0x02;
const ETX = 0x03;

export class Invalid extends Error {}

const FIELDS = ["device", "address", "values", "poll_ms", "timeout_ms", "gap_ms"];

// Reads the configuration; throws Invalid with what is wrong and where.
//   device      the device's name on the platform
//   address     the meter's, where several share a line; default none
//   values      {"1.8.0": "energy_kwh"}: which codes are reported, and as what
//   poll_ms     time between readouts, default 10000
//   timeout_ms  an answer must be complete by then, default 5000
//   gap_ms      silence that ends an answer, default 200
export function parse(text) {
  let fields;
  try {
    fields = JSON.parse(text);
  } catch (error) {
    throw new Invalid(`not JSON: ${error.message}`);
  }
  if (!isObject(fields)) throw new Invalid("not an object");
  const unknown = Object.keys(fields).find((name) => !FIELDS.includes(name));
  if (unknown !== undefined) throw new Invalid(`unknown field ${unknown}`);
  const { device, address = "", values } = fields;
  if (typeof device !== "string" || device === "") throw new Invalid("device: a name is needed");
  if (typeof address !== "string" || !/^[0-9A-Za-z ]{0,32}$/.test(address)) {
    throw new Invalid("address: up to 32 letters and digits are needed");
  }
  if (!isObject(values) || Object.keys(values).length === 0) {
    throw new Invalid('values: at least one code and its key are needed, as in {"1.8.0": "energy_kwh"}');
  }
  for (const [code, key] of Object.entries(values)) {
    if (typeof key !== "string" || key === "") throw new Invalid(`values.${code}: a key is needed`);
  }
  return {
    device,
    address,
    values,
    pollMs: whole(fields, "poll_ms", 10000, 10, 86400000),
    timeoutMs: whole(fields, "timeout_ms", 5000, 1, 20000),
    gapMs: whole(fields, "gap_ms", 200, 1, 5000),
  };
}

function whole(fields, name, otherwise, least, most) {
  const value = fields[name] ?? otherwise;
  if (!Number.isInteger(value) || value < least || value > most) {
    throw new Invalid(`${name}: a whole number from ${least} to ${most} is needed`);
  }
  return value;
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export const signOn = (address) => bytes(`/?${address}!\r\n`);
export const READOUT = bytes("\x06000\r\n");

// The meter's name out of `/XXX5<type>`; throws if it does not answer by the protocol.
export function identification(answer) {
  const line = text(answer);
  const match = /^\/([A-Za-z]{3})([0-9A-Ia-z])([^\r\n]{0,64})\r\n$/.exec(line);
  if (!match) throw new Error(`no identification: ${JSON.stringify(line.slice(0, 40))}`);
  return `${match[1]} ${match[3]}`.trim();
}

// The wanted values out of a readout, as [key, number]; throws if the block is not whole.
export function readout(block, values) {
  const end = block.lastIndexOf(ETX);
  if (block[0] !== STX || end < 1 || end !== block.length - 2) throw new Error("the data block is cut off");
  const sum = block.subarray(1, end + 1).reduce((sum, byte) => sum ^ byte, 0);
  if (sum !== block[end + 1]) throw new Error(`checksum ${block[end + 1]} is not ${sum}`);
  const found = [];
  for (const line of text(block.subarray(1, end)).split("\r\n")) {
    const match = /^(?:\d+-\d+:)?([0-9A-Z.]+)(?:\*\d+)?\(([-+0-9.]+)(?:\*[^)]*)?\)$/.exec(line);
    if (!match || !Object.hasOwn(values, match[1])) continue;
    const value = Number(match[2]);
    if (!Number.isFinite(value)) throw new Error(`${match[1]} is no number: ${match[2]}`);
    found.push([values[match[1]], value]);
  }
  return found;
}

export function bytes(text) {
  return Uint8Array.from(text, (char) => char.charCodeAt(0));
}

export function text(bytes) {
  // The protocol has seven bits; whatever else a disturbed line brings becomes no valid line.
  return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
}
