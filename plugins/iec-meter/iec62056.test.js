// node --test
import assert from "node:assert/strict";
import { test } from "node:test";

import { bytes, identification, Invalid, parse, readout, signOn, text } from "./iec62056.js";

const VALUES = { "1.8.0": "energy_kwh", "32.7.0": "volt" };

function block(lines) {
  const inner = bytes(`${lines.join("\r\n")}\r\n!\r\n\x03`);
  const sum = inner.reduce((sum, byte) => sum ^ byte, 0);
  return Uint8Array.from([2, ...inner, sum]);
}

test("a readout gives the values that are wanted", () => {
  const whole = block(["1-0:1.8.0*255(000123.456*kWh)", "32.7.0(229.5*V)", "0.0.0(12345678)", "F.F(00)"]);
  assert.deepEqual(readout(whole, VALUES), [["energy_kwh", 123.456], ["volt", 229.5]]);
});

test("a block that is not whole is refused", () => {
  const whole = block(["1.8.0(1*kWh)"]);
  assert.throws(() => readout(whole.subarray(0, -1), VALUES), /cut off/);
  assert.throws(() => readout(new Uint8Array(), VALUES), /cut off/);
  whole[3] ^= 1;
  assert.throws(() => readout(whole, VALUES), /checksum/);
});

test("a meter says who it is", () => {
  assert.equal(identification(bytes("/ISk5ME172-0000\r\n")), "ISk ME172-0000");
  assert.throws(() => identification(bytes("\xff\r\n")), /no identification/);
  assert.equal(text(signOn("12")), "/?12!\r\n");
});

test("what is wrong with a configuration is named", () => {
  const good = { device: "meter-1", values: VALUES };
  assert.equal(parse(JSON.stringify(good)).pollMs, 10000);
  for (const [change, words] of [
    [{ devise: 1 }, /devise/],
    [{ device: "" }, /device/],
    [{ values: {} }, /values/],
    [{ values: { "1.8.0": 1 } }, /values\.1\.8\.0/],
    [{ address: "!\r\n" }, /address/],
    [{ gap_ms: 0 }, /gap_ms/],
  ]) {
    assert.throws(() => parse(JSON.stringify({ ...good, ...change })), (error) => error instanceof Invalid && words.test(error.message));
  }
  assert.throws(() => parse("{"), Invalid);
  assert.throws(() => parse("[]"), Invalid);
});
