// A reconnect policy. It imports nothing of the host: all it may know is in the question.

import { Invalid, parse, wait } from "./waits.js";

const SCHEMA = JSON.stringify({
  type: "object",
  required: ["step_ms"],
  additionalProperties: false,
  properties: { step_ms: { type: "integer", minimum: 1 } },
});

let configuration;

export const policyGuest = {
  describe: () => ({ name: "{{name}}", version: "0.1.0", configurationSchema: SCHEMA }),
  configure(text) {
    try {
      configuration = parse(text);
    } catch (error) {
      throw error instanceof Invalid ? error.message : error;
    }
  },
  decide: (question) => ({ tag: "retry-after", val: wait(configuration, question) }),
};
