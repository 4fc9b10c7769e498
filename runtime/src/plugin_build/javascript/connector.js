// Made anew by every `moorline plugin build`: stands between the host and ../connector.js, so that an exception that ends
// the instance is in the log. The engine itself would only say that it stopped.

import { write } from "moorline:edge/log";
import * as plugin from "../connector.js";

const FAULTS = ["configuration", "device", "hand-over", "internal"];
const FRAMES_SHOWN = 6;

const guest = plugin.connectorGuest;
const missing = ["describe", "start", "handle", "stop"].filter((name) => typeof guest?.[name] !== "function");
if (missing.length > 0) {
  throw new Error(
    `connector.js must export connectorGuest, an object with the functions describe, start, handle and stop; ` +
      `${guest === undefined ? "connectorGuest" : missing.join(", ")} is missing, and it exports ` +
      `${Object.keys(plugin).join(", ") || "nothing"}`,
  );
}

const isFault = (value) => FAULTS.includes(value?.tag) && typeof value.val === "string";

// The engine takes an error's own payload for what is thrown.
const isAnswer = (thrown) => isFault(thrown instanceof Error ? thrown.payload : thrown);

function shown(value) {
  try {
    return JSON.stringify(value) ?? String(value);
  } catch {
    return String(value);
  }
}

function words(name, thrown) {
  if (!(thrown instanceof Error)) return `${name}() threw what is no fault of the contract: ${shown(thrown)}`;
  const payload = thrown.payload === undefined ? "" : `: ${shown(thrown.payload)}`;
  const frames = String(thrown.stack ?? "").trimEnd().split("\n");
  return [`${thrown}${payload}`, ...frames.slice(0, FRAMES_SHOWN)].join("\n");
}

function guarded(name, mayFail) {
  return (...given) => {
    try {
      const answer = guest[name](...given);
      if (answer instanceof Promise) throw new TypeError(`${name}() returned a promise: it must return the answer itself`);
      return answer;
    } catch (thrown) {
      if (!mayFail || !isAnswer(thrown)) write("error", words(name, thrown));
      throw thrown;
    }
  };
}

export const connectorGuest = {
  describe: guarded("describe", false),
  start: guarded("start", true),
  handle: guarded("handle", true),
  stop: guarded("stop", false),
};
