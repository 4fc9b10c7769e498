// node --test
import assert from "node:assert/strict";
import { test } from "node:test";

import { bytes, Invalid, number, parse } from "./device.js";

test("numbers", () => {
  assert.equal(number(bytes("21.5\n")), 21.5);
  for (const garbage of ["\n", "nan\n", "\xff\n"]) assert.throws(() => number(bytes(garbage)));
});

test("configuration", () => {
  assert.deepEqual(parse('{"device": "d", "poll_ms": 10}'), { device: "d", pollMs: 10 });
  for (const text of ["", "[]", "{}", '{"device": "", "poll_ms": 10}', '{"device": "d", "poll_ms": 1}']) {
    assert.throws(() => parse(text), Invalid);
  }
});
