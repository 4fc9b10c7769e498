// node --test
import assert from "node:assert/strict";
import { test } from "node:test";

import { Invalid, parse, wait } from "./waits.js";

test("every wait lies between floor and ceiling", () => {
  for (const attempt of [1, 10, 2 ** 32 - 1]) {
    for (let seed = 0; seed < 2 ** 32; seed += 2 ** 27) {
      const ms = wait({ stepMs: 500 }, { attempt, floorMs: 1000, ceilingMs: 60000, seed });
      assert.ok(ms >= 1000 && ms <= 60000 && Number.isInteger(ms));
    }
  }
});

test("configuration", () => {
  assert.deepEqual(parse('{"step_ms": 500}'), { stepMs: 500 });
  for (const text of ["", "{}", "[]", '{"step_ms": 0}', '{"step_ms": 1, "more": 2}']) {
    assert.throws(() => parse(text), Invalid);
  }
});
