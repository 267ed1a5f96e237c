// The reference itself, by hand: what every other test is measured with must be right on its own.
import { describe, expect, test } from "bun:test";
import { referenceRope } from "../../src/testing.ts";

const near = (got: Float64Array, want: number[]): void => {
  expect(got.length).toBe(want.length);
  want.forEach((value, i) => expect(Math.abs((got[i] ?? NaN) - value)).toBeLessThan(1e-15));
};
const { cos, sin } = Math;

describe("referenceRope", () => {
  const x = [1, 2, 3, 4];
  const options = { positions: [1], base: 100 }; // pairs turn by 1 and by 0.1

  test("half, interleaved, interleaved_to_half", () => {
    near(referenceRope(x, [1, 1, 4], options), [
      cos(1) - 3 * sin(1),
      2 * cos(0.1) - 4 * sin(0.1),
      sin(1) + 3 * cos(1),
      2 * sin(0.1) + 4 * cos(0.1),
    ]);
    const interleaved = [cos(1) - 2 * sin(1), sin(1) + 2 * cos(1), 3 * cos(0.1) - 4 * sin(0.1), 3 * sin(0.1) + 4 * cos(0.1)];
    near(referenceRope(x, [1, 1, 4], { ...options, pairing: "interleaved" }), interleaved);
    const [a = NaN, b = NaN, c = NaN, d = NaN] = interleaved;
    near(referenceRope(x, [1, 1, 4], { ...options, pairing: "interleaved_to_half" }), [a, c, b, d]);
  });

  test("inverse undoes, also the permutation", () => {
    for (const pairing of ["half", "interleaved", "interleaved_to_half"] as const) {
      const there = referenceRope(x, [1, 1, 4], { ...options, pairing });
      near(referenceRope(there, [1, 1, 4], { ...options, pairing, inverse: true }), x);
    }
  });

  test("slices, factors, conjugates", () => {
    near(referenceRope([9, 1, 2, 8], [1, 1, 4], { positions: [2], rotaryOffset: 1, rotaryDim: 2 }), [
      9,
      cos(2) - 2 * sin(2),
      sin(2) + 2 * cos(2),
      8,
    ]);
    near(referenceRope([1, 0], [1, 1, 2], { positions: [1], attentionFactor: 3 }), [3 * cos(1), 3 * sin(1)]);
    near(referenceRope([1, 0], [1, 1, 2], { positions: [1], conjugate: true }), [cos(1), -sin(1)]);
  });

  test("positions: none, an offset, rows, padding", () => {
    const ones = [1, 0, 1, 0, 1, 0, 1, 0];
    near(referenceRope(ones, [2, 2, 1, 2]), [1, 0, cos(1), sin(1), 1, 0, cos(1), sin(1)]);
    near(referenceRope(ones, [4, 1, 2], { offset: -1 }), [cos(-1), sin(-1), 1, 0, cos(1), sin(1), cos(2), sin(2)]);
    near(referenceRope(ones, [2, 2, 1, 2], { positions: [3, -1] }), [cos(3), sin(3), 1, 0, cos(3), sin(3), 1, 0]);
    near(referenceRope(ones, [2, 2, 1, 2], { positions: [1, 2, 3, 4] }), [cos(1), sin(1), cos(2), sin(2), cos(3), sin(3), cos(4), sin(4)]);
    near(referenceRope([1, 0], [1, 1, 2], { positions: Float32Array.of(-1) }), [cos(-1), sin(-1)]);
    near(referenceRope([1, 0], [1, 1, 2], { positions: BigInt64Array.of(5n) }), [cos(5), sin(5)]);
    near(referenceRope([1, 0], [1, 1, 2], { positions: [NaN] }), [1, 0]);
  });

  test("axes and heads", () => {
    const frequencies = [1, 0.5]; // [axes, 1]
    near(referenceRope([1, 0], [1, 1, 2], { axes: 2, frequencies, positions: [2, 3] }), [cos(3.5), sin(3.5)]);
    near(referenceRope([1, 0, 1, 0], [1, 2, 2], { frequencies: [1, 2], positions: [2] }), [cos(2), sin(2), cos(4), sin(4)]);
    const x4 = [1, 1, 0, 0];
    near(referenceRope(x4, [1, 1, 4], { axes: 2, axisOfPair: [1, 0], base: 100, positions: [5, 7] }), [cos(7), cos(0.5), sin(7), sin(0.5)]);
  });

  test("what does not fit", () => {
    expect(() => referenceRope([1, 2], [2])).toThrow(RangeError);
    expect(() => referenceRope([1, 2, 3], [1, 1, 2])).toThrow(RangeError);
    expect(() => referenceRope([1, 2], [1, 1, 2], { rotaryDim: 4 })).toThrow(RangeError);
    expect(() => referenceRope([1, 2], [1, 1, 2], { positions: [1, 2] })).toThrow(RangeError);
    expect(() => referenceRope([1, 2], [1, 1, 2], { frequencies: [1, 2, 3] })).toThrow(RangeError);
  });

  test("mistakes of the caller are not swallowed", () => {
    const call = (options: object, input: unknown = [1, 2, 3, 4], shape: unknown = [1, 1, 4]): unknown =>
      referenceRope(input as number[], shape as number[], options);
    const typeErrors: object[] = [
      { pairings: "half" },
      { position: [1] },
      { pairing: "neox" },
      { pairing: null },
      { positions: "1" },
      { positions: ["1"] },
      { positions: [undefined] },
      { positions: 1 },
      { offset: "1" },
      { base: "100" },
      { frequencies: ["1", 2] },
      { frequencies: [1n, 2n] },
      { axisOfPair: [null, 0] },
      { axes: "1" },
      { rotaryDim: "2" },
      { rotaryOffset: true },
      { inverse: 1 },
      { conjugate: "yes" },
      { attentionFactor: "2" },
      { base: 100, frequencies: [1, 2] },
      { offset: 1, positions: [1] },
    ];
    for (const options of typeErrors) expect(() => call(options)).toThrow(TypeError);
    for (const options of [null, 3, "half"]) expect(() => call(options as unknown as object)).toThrow(TypeError);
    for (const input of [null, 3, "1234", {}, ["1", 2, 3, 4], [1, 2, 3, 4n], BigInt64Array.of(1n, 2n, 3n, 4n)]) {
      expect(() => call({}, input)).toThrow(TypeError);
    }
    for (const shape of [null, 4, "114", [1, 1, "4"]]) expect(() => call({}, [1, 2, 3, 4], shape)).toThrow(TypeError);
    const rangeErrors: object[] = [
      { positions: [] },
      { positions: [Infinity] },
      { positions: [2 ** 38 + 1] },
      { offset: 0.5 },
      { offset: NaN },
      { base: 0 },
      { base: NaN },
      { attentionFactor: -1 },
      { frequencies: [1, NaN] },
      { frequencies: [1] },
      { rotaryDim: 3 },
      { rotaryDim: 0 },
      { rotaryDim: 6 },
      { rotaryOffset: -1 },
      { rotaryOffset: 1 },
      { rotaryOffset: 4 },
      { axes: 0 },
      { axes: 1.5 },
      { axes: 2, positions: [1, 2] },
      { axes: 2, frequencies: [1, 2, 3, 4] },
      { axisOfPair: [0] },
      { axisOfPair: [0, -1] },
      { axes: 2, axisOfPair: [0, 2], positions: [1, 2] },
      { axisOfPair: [0, 1], frequencies: [1, 2, 3, 4], positions: [1, 2] },
    ];
    for (const options of rangeErrors) expect(() => call(options)).toThrow(RangeError);
    for (const shape of [[], [4], [1, 4], [1, 1, 1, 1, 4], [1, 1, 2], [-1, -1, 4], [1, 0.5, 8]]) {
      expect(() => call({}, [1, 2, 3, 4], shape)).toThrow(RangeError);
    }
    expect(() => call({ pairing: undefined, positions: undefined, position: undefined })).not.toThrow();
  });

  test("positions of every kind of array", () => {
    const at = (positions: ArrayLike<number> | BigInt64Array): Float64Array => referenceRope([1, 0], [1, 1, 2], { positions });
    for (const positions of [[-1], Int8Array.of(-1), Int32Array.of(-1), BigInt64Array.of(-1n), { length: 1, 0: -1 }]) {
      near(at(positions), [1, 0]);
    }
    for (const positions of [Float16Array.of(-1), Float32Array.of(-1), Float64Array.of(-1)]) near(at(positions), [cos(-1), sin(-1)]);
    near(at(Float64Array.of(0.1)), [cos(Math.fround(0.1)), sin(Math.fround(0.1))]);
    const far = 2 ** 24 + 1;
    near(at(Float64Array.of(far)), [cos(far), sin(far)]);
    near(referenceRope([1, 0, 1, 0], [2, 1, 2], { positions: Float64Array.of(far, -1) }), [cos(far - 1), sin(far - 1), cos(-1), sin(-1)]);
  });

  test("axes are as many as axisOfPair names", () => {
    near(referenceRope([1, 1, 0, 0], [1, 1, 4], { axisOfPair: [1, 0], base: 100, positions: [5, 7] }), [
      cos(7),
      cos(0.5),
      sin(7),
      sin(0.5),
    ]);
  });
});
