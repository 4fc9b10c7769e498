// Made anew by every `moorline plugin build`: stands between the host and ../policy.js. A policy imports nothing, so that
// what it throws can be told to nobody; a part that is missing is found here, and not at the first question.

import * as plugin from "../policy.js";

const guest = plugin.policyGuest;
const missing = ["describe", "configure", "decide"].filter((name) => typeof guest?.[name] !== "function");
if (missing.length > 0) {
  throw new Error(
    `policy.js must export policyGuest, an object with the functions describe, configure and decide; ` +
      `${guest === undefined ? "policyGuest" : missing.join(", ")} is missing, and it exports ` +
      `${Object.keys(plugin).join(", ") || "nothing"}`,
  );
}

export const policyGuest = {
  describe: () => guest.describe(),
  configure: (configuration) => guest.configure(configuration),
  decide: (question) => guest.decide(question),
};
