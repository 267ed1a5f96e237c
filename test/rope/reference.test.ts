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
});
