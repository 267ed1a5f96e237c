// What toBfloat16, fromBfloat16, toFloat8 and fromFloat8 take and refuse. That they round as the formats are defined: convert.test.ts.
import { describe, expect, test } from "bun:test";
import { Device, fromBfloat16, fromFloat8, RopeArgumentError, toBfloat16, toFloat8 } from "../../mod.ts";
import { notNumbers, notObjects } from "../support/coercion.ts";
import { liveChange } from "../support/devices.ts";

// deno-lint-ignore no-explicit-any
type Loose = any;
const device = Device.open("cpu");

describe("numbers in", () => {
  test("arrays of any kind of number", () => {
    const expected = new Uint16Array([0x3f80, 0x4000, 0xc040]);
    for (
      const x of [
        [1, 2, -3],
        new Float64Array([1, 2, -3]),
        new Float32Array([1, 2, -3]),
        new Float16Array([1, 2, -3]),
        new Int32Array([1, 2, -3]),
        new Int8Array([1, 2, -3]),
        { length: 3, 0: 1, 1: 2, 2: -3 },
        new Float32Array([0, 1, 2, -3, 0]).subarray(1, 4),
      ]
    ) {
      expect(toBfloat16(x)).toEqual(expected);
      expect(toFloat8(x)).toEqual(new Uint8Array([0x38, 0x40, 0xc4]));
      expect(toFloat8(x, "float8_e5m2")).toEqual(new Uint8Array([0x3c, 0x40, 0xc2]));
    }
    expect([toBfloat16([]).length, toFloat8(new Float32Array(0)).length, fromBfloat16(new Uint16Array(0)).length]).toEqual([0, 0, 0]);
  });

  test("what is no array of numbers is refused", () => {
    for (
      const { value } of notObjects.filter(({ value }) =>
        !Array.isArray(value) && !ArrayBuffer.isView(value) && typeof value !== "function"
      )
    ) {
      for (const convert of [toBfloat16, toFloat8]) expect(() => convert(value as Loose)).toThrow(/x must be an array of numbers/);
    }
    for (const { value } of notNumbers) expect(() => toBfloat16([1, value] as Loose)).toThrow(/x\[1\] must be a number/);
    expect(() => toBfloat16(new BigInt64Array(1) as Loose)).toThrow(/x\[0\] must be a number/);
    expect(() => toBfloat16({ length: -1 } as Loose)).toThrow(RopeArgumentError);
    expect(() => toBfloat16({ length: 1.5 } as Loose)).toThrow(RopeArgumentError);
  });
});

describe("bits in", () => {
  test("sub-arrays", () => {
    expect(fromBfloat16(new Uint16Array([0, 0x3f80, 0xc040]).subarray(1))).toEqual(new Float32Array([1, -3]));
    expect(fromFloat8(new Uint8Array([0, 0x38]).subarray(1))).toEqual(new Float32Array([1]));
  });

  test("other arrays are refused, and other dtypes", () => {
    for (const { value } of [...notObjects, { value: new Float32Array(1) }]) {
      expect(() => fromBfloat16(value as Loose)).toThrow(/x must be a Uint16Array/);
      expect(() => fromFloat8(value as Loose)).toThrow(/x must be a Uint8Array/);
    }
    for (const dtype of ["float16", "", null, 8, "e4m3"]) {
      expect(() => toFloat8([1], dtype as Loose)).toThrow(/dtype must be one of "float8_e4m3fn", "float8_e5m2"/);
      expect(() => fromFloat8(new Uint8Array(1), dtype as Loose)).toThrow(RopeArgumentError);
    }
  });
});

test("results are the caller's own, and nothing leaks", () => {
  expect(liveChange(device, () => {
    const bits = toBfloat16(Array.from({ length: 100_000 }, (_, i) => i % 256));
    const back = fromBfloat16(bits);
    bits.fill(0);
    expect(back.every((value, i) => value === i % 256)).toBe(true);
    expect(() => toBfloat16([1, "2"] as Loose)).toThrow();
  })).toEqual({ bytesInUse: 0, liveTensors: 0 });
});
