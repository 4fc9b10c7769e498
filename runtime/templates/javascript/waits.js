// How long to wait: one step more with each attempt, drawn from the lower half up.

export class Invalid extends Error {}

// The step. Throws Invalid with what is wrong.
export function parse(text) {
  let fields;
  try {
    fields = JSON.parse(text);
  } catch (error) {
    throw new Invalid(error.message);
  }
  const names = typeof fields === "object" && fields !== null ? Object.keys(fields).join() : "";
  if (names !== "step_ms") throw new Invalid('"step_ms" is needed, and nothing else');
  const stepMs = fields.step_ms;
  if (!Number.isInteger(stepMs) || stepMs < 1) throw new Invalid("step_ms: a whole number from 1 is needed");
  return { stepMs };
}

// The seed is all the randomness there is: the same question gets the same answer.
export function wait({ stepMs }, { attempt, floorMs, ceilingMs, seed }) {
  const most = Math.min(floorMs + stepMs * attempt, ceilingMs);
  const least = Math.max(floorMs, Math.floor(most / 2));
  // Knuth's multiplier: seeds that follow each other must not give waits that do.
  const share = (Math.imul(seed, 2654435761) >>> 0) / 2 ** 32;
  return most > least ? Math.floor(least + (most - least) * share) : floorMs;
}
