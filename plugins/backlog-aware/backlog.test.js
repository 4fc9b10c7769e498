// node --test
import assert from "node:assert/strict";
import { test } from "node:test";

import { Invalid, parse, wait } from "./backlog.js";

function waits(change) {
  const question = { attempt: 4, spoolDepth: 10, metered: false, floorMs: 1000, ceilingMs: 120000, ...change };
  return Array.from({ length: 200 }, (_, seed) => wait({ urgentReadings: 1000 }, { ...question, seed }));
}
const mean = (list) => list.reduce((sum, wait) => sum + wait, 0) / list.length;

test("a backlog shortens the wait, an empty spool lengthens it, a metered link forbids haste", () => {
  const [usual, urgent, idle, metered] = [
    waits({}),
    waits({ spoolDepth: 5000 }),
    waits({ spoolDepth: 0 }),
    waits({ spoolDepth: 5000, metered: true }),
  ];
  assert.ok(mean(urgent) < mean(usual) / 2);
  assert.ok(mean(idle) > mean(usual) * 1.5);
  assert.equal(mean(metered), mean(usual));
  assert.ok(new Set(usual).size > 150, "gateways with different seeds spread");
});

test("every wait lies between floor and ceiling", () => {
  for (const attempt of [0, 1, 30, 2 ** 32 - 1]) {
    assert.ok(waits({ attempt }).every((wait) => wait >= 1000 && wait <= 120000 && Number.isInteger(wait)));
  }
  assert.ok(waits({ floorMs: 5000, ceilingMs: 5000 }).every((wait) => wait === 5000));
});

test("configuration", () => {
  assert.equal(parse("{}").urgentReadings, 10000);
  for (const text of ["", "[]", '{"urgent": 1}', '{"urgent_readings": 0}', '{"urgent_readings": "1"}']) {
    assert.throws(() => parse(text), Invalid);
  }
});
