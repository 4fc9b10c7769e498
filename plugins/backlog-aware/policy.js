// The reconnect policy around backlog.js. It imports nothing of the host: all it may know is in the question.

import { Invalid, parse, wait } from "./backlog.js";

const SCHEMA = JSON.stringify({
  type: "object",
  additionalProperties: false,
  properties: { urgent_readings: { type: "integer", minimum: 1, default: 10000 } },
});

let configuration;

export const policyGuest = {
  describe: () => ({ name: "backlog-aware", version: "0.1.0", configurationSchema: SCHEMA }),
  configure(text) {
    try {
      configuration = parse(text);
    } catch (error) {
      throw error instanceof Invalid ? error.message : error;
    }
  },
  decide: (question) => ({ tag: "retry-after", val: wait(configuration, question) }),
};
