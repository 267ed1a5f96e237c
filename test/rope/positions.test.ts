// Where tokens stand: every way to say it, what is padding, and what happens to positions that cannot be.
import { describe, expect, test } from "bun:test";
import { type Indices, RopeArgumentError, RopeFaultError, RotaryEmbedding, Tensor } from "../../mod.ts";
import { referenceRope } from "../../src/testing.ts";
import { bytesOf, devices, distance, errorOf, Fenced, firstDifference, numbersOf, open, randomTensor, same } from "./support.ts";

/** The same integers in an array of every kind. */
function typedArrays(integers: number[]): Exclude<Indices, Tensor>[] {
  const kinds = [Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array];
  const floats = [Float16Array, Float32Array, Float64Array];
  return [
    ...[...kinds, ...floats].map((kind) => kind.from(integers)),
    BigInt64Array.from(integers, BigInt),
    BigUint64Array.from(integers, BigInt),
  ];
}

describe.each(devices)("positions on %s", (name) => {
  const device = open(name);
  const make = (): [Tensor, RotaryEmbedding] => [randomTensor([6, 2, 32], "float32", device), new RotaryEmbedding({ dim: 32, device })];

  test("by int32, int64, float32, numbers, offset and none are the same bits", () => {
    const [x, rope] = make();
    using want = rope.rotate(x);
    const forms = [
      { offset: 0 },
      { positions: [0, 1, 2, 3, 4, 5] },
      { positions: Int32Array.of(0, 1, 2, 3, 4, 5) },
      { positions: BigInt64Array.of(0n, 1n, 2n, 3n, 4n, 5n) },
      { positions: Float32Array.of(0, 1, 2, 3, 4, 5) },
      ...typedArrays([0, 1, 2, 3, 4, 5]).map((positions) => ({ positions })),
      ...typedArrays([0, 6]).map((indptr) => ({ indptr })),
      ...typedArrays([0]).map((offsets) => ({ offsets })),
      ...typedArrays([0, 0]).map((offsets) => ({ indptr: [0, 0, 6], offsets })),
      { indptr: [0, 6] },
      { indptr: Int32Array.of(0, 6), offsets: [0] },
      { indptr: BigInt64Array.of(0n, 6n), offsets: BigInt64Array.of(0n) },
      { indptr: [0, 2, 2, 6], offsets: [0, 99, 2] },
      { offsets: [0] },
      { seqLen: 6, contextLength: 4096 },
    ];
    for (const form of forms) {
      using got = rope.rotate(x, form);
      expect(same(got, want)).toBe(true);
    }
    for (const dtype of ["int32", "int64", "float32"] as const) {
      using ids = Tensor.arange(6, { dtype, device });
      using got = rope.rotate(x, { positions: ids });
      expect(same(got, want)).toBe(true);
      using table = Tensor.zeros([6, 3], { dtype, device });
      using column = table.select(1, 1).copyFrom(ids);
      using strided = rope.rotate(x, { positions: column });
      expect(same(strided, want)).toBe(true);
    }
    x.dispose();
    rope.dispose();
  });

  test("of several rows: [S] shared by all, [B, S], an offset for each", () => {
    using rope = new RotaryEmbedding({ dim: 32, device });
    using x = randomTensor([2, 3, 2, 32], "float32", device);
    using flat = x.reshape([6, 2, 32]);
    const at = (positions: number[]): Tensor => rope.rotate(flat, { positions });
    const cases: [object, number[]][] = [
      [{}, [0, 1, 2, 0, 1, 2]],
      [{ offset: 10 }, [10, 11, 12, 10, 11, 12]],
      [{ offset: -2 }, [-2, NaN, 0, -2, NaN, 0]], // a derived -1 is a position: checked below
      [{ positions: [5, 3, -1] }, [5, 3, -1, 5, 3, -1]],
      [{ positions: [1, 2, 3, 4, 5, 6] }, [1, 2, 3, 4, 5, 6]],
      [{ offsets: [7, -50] }, [7, 8, 9, -50, -49, -48]],
      [{ offsets: Int32Array.of(7, 8) }, [7, 8, 9, 8, 9, 10]],
      [{ seqLen: 3 }, [0, 1, 2, 0, 1, 2]],
    ];
    for (const [options, positions] of cases) {
      using got = rope.rotate(x, options);
      using want = at(positions.map((p) => Number.isNaN(p) ? 0 : p));
      const [a, b] = [numbersOf(got), numbersOf(want)];
      positions.forEach((position, token) => {
        if (Number.isNaN(position)) return;
        expect(distance(a.subarray(token * 64, token * 64 + 64), b.subarray(token * 64, token * 64 + 64))).toBe(0);
      });
    }
    using minusOne = rope.rotate(x, { offset: -2 });
    using float = rope.rotate(flat, { positions: Float32Array.of(-2, -1, 0, -2, -1, 0) });
    expect(same(minusOne, float)).toBe(true);
  });

  test("-1 is padding among integers, a position among floats, and on several axes", () => {
    using rope = new RotaryEmbedding({ dim: 8, device });
    using x = randomTensor([2, 1, 8], "float32", device);
    using ints = rope.rotate(x, { positions: [-1, 3] });
    expect(distance(numbersOf(ints).subarray(0, 8), numbersOf(x).subarray(0, 8))).toBe(0);
    using floats = rope.rotate(x, { positions: Float32Array.of(-1, 3) });
    expect(distance(numbersOf(floats), referenceRope(numbersOf(x), [2, 1, 8], { positions: Float32Array.of(-1, 3) }))).toBeLessThan(
      1e-6,
    );
    using two = new RotaryEmbedding({ dim: 8, axes: 2, axisOfPair: [0, 1, 0, 1], device });
    using axes = two.rotate(x, { positions: [-1, 3, -1, 4] });
    const want = referenceRope(numbersOf(x), [2, 1, 8], { positions: [-1, 3, -1, 4], axes: 2, axisOfPair: [0, 1, 0, 1] });
    expect(distance(numbersOf(axes), want)).toBeLessThan(1e-6);
    using half = two.rotate(x, { positions: [NaN, 3, 5, 4] });
    expect(distance(numbersOf(half).subarray(0, 8), numbersOf(x).subarray(0, 8))).toBe(0);
  });

  test("-1 in every kind of array, and the reference reads each alike", () => {
    using rope = new RotaryEmbedding({ dim: 8, device });
    using x = randomTensor([2, 1, 8], "float32", device);
    const cases: [Exclude<Indices, Tensor>, boolean][] = [
      [[-1, 3], true],
      [Int8Array.of(-1, 3), true],
      [Int16Array.of(-1, 3), true],
      [Int32Array.of(-1, 3), true],
      [BigInt64Array.of(-1n, 3n), true],
      [[-1, 3.5], false],
      [[-1, NaN], false],
      [Float16Array.of(-1, 3), false],
      [Float32Array.of(-1, 3), false],
      [Float64Array.of(-1, 3), false],
      [Float64Array.of(-1, 3.5), false],
      [Float16Array.of(NaN, 3), true],
      [Float64Array.of(NaN, 3), true],
    ];
    for (const [positions, isPadding] of cases) {
      using got = rope.rotate(x, { positions });
      const numbers = numbersOf(got);
      expect(distance(numbers.subarray(0, 8), numbersOf(x).subarray(0, 8)) === 0).toBe(isPadding);
      expect(distance(numbers, referenceRope(numbersOf(x), [2, 1, 8], { positions }))).toBeLessThan(1e-6);
    }
  });

  test("a Float64Array of integers is exact, other floats are rounded to float32", () => {
    using rope = new RotaryEmbedding({ dim: 8, device });
    using x = randomTensor([2, 1, 8], "float64", device);
    const big = 2 ** 31 + 1;
    const cases: [Exclude<Indices, Tensor>, number[]][] = [
      [Float64Array.of(big, 3), [big, 3]],
      [[big, 3], [big, 3]],
      [Uint32Array.of(big, 3), [big, 3]],
      [BigUint64Array.of(BigInt(big), 3n), [big, 3]],
      [Float64Array.of(big, 0.1), [2 ** 31, Math.fround(0.1)]],
      [[2 ** 24 + 1, 0.1], [2 ** 24, Math.fround(0.1)]],
    ];
    for (const [positions, means] of cases) {
      using got = rope.rotate(x, { positions });
      expect(distance(numbersOf(got), referenceRope(numbersOf(x), [2, 1, 8], { positions }))).toBeLessThan(2e-6);
      const each = means.map((position, token) =>
        referenceRope(numbersOf(x).subarray(8 * token, 8 * token + 8), [1, 1, 8], {
          frequencies: [1, 0.1, 0.01, 0.001].map((frequency) => frequency * position),
          positions: [1],
        })
      );
      expect(distance(numbersOf(got), each.flatMap((numbers) => [...numbers]))).toBeLessThan(2e-6);
    }
  });

  test("64-bit integers that no position reaches are faults", () => {
    const [x, rope] = make();
    const far: (BigInt64Array | BigUint64Array)[] = [
      BigInt64Array.of(2n ** 60n),
      BigInt64Array.of(-(2n ** 60n)),
      BigInt64Array.of(2n ** 63n - 1n),
      BigUint64Array.of(2n ** 60n),
      BigUint64Array.of(2n ** 64n - 1n),
    ];
    for (const offsets of far) {
      for (const options of [{ offsets }, { offsets, indptr: [0, 6] }]) {
        const error = errorOf(() => rope.rotate(x, options)) as RopeFaultError;
        expect(error).toBeInstanceOf(RopeFaultError);
        expect(error.fault.code).toBe("position");
      }
      using one = randomTensor([1, 2, 32], "float32", device);
      expect(errorOf(() => rope.rotate(one, { positions: offsets }))).toBeInstanceOf(RopeFaultError);
      expect(errorOf(() => rope.rotate(x, { indptr: offsets }))).toBeInstanceOf(RopeArgumentError);
    }
    x.dispose();
    rope.dispose();
  });

  test("fractions turn by parts, and the mixture of both is right", () => {
    using rope = new RotaryEmbedding({ dim: 32, base: 100, device });
    using x = randomTensor([5, 2, 32], "float32", device);
    const positions = [0.25, -3.5, 7, 1000.125, NaN];
    using got = rope.rotate(x, { positions });
    expect(distance(numbersOf(got), referenceRope(numbersOf(x), [5, 2, 32], { positions, base: 100 }))).toBeLessThan(2e-6);
  });

  test("tokens of no request pass; requests may be empty", () => {
    const [x, rope] = make();
    using got = rope.rotate(x, { indptr: [1, 1, 3, 5, 5], offsets: [500, 40, -3, 7] });
    using want = rope.rotate(x, { positions: Float32Array.of(NaN, 40, 41, -3, -2, NaN) });
    expect(same(got, want)).toBe(true);
    x.dispose();
    rope.dispose();
  });

  test("beyond 2^38 are faults: that row is not written, all others are", () => {
    const [x, rope] = make();
    for (
      const [positions, value] of [
        [[3, 2 ** 38 + 1, 5, 6, 7, 8], 2 ** 38 + 1],
        [Float32Array.of(3, Infinity, 5, 6, 7, 8), 2 ** 63],
        [Float32Array.of(3, -Infinity, 5, 6, 7, 8), -(2 ** 63)],
        [[3, 1e300, 5, 6, 7, 8], 2 ** 63],
      ] as const
    ) {
      using out = new Fenced([6, 2, 32], "float32", device);
      const error = errorOf(() => rope.rotate(x, { positions, out: out.tensor })) as RopeFaultError;
      expect(error).toBeInstanceOf(RopeFaultError);
      expect([error.code, error.operation, error.fault.code]).toEqual(["ROPE_FAULT", "RotaryEmbedding.rotate", "position"]);
      expect([error.fault.index, error.fault.limit]).toEqual([1, 2 ** 38]);
      expect(error.fault.value).toBe(value);
      expect(out.intact).toBe(true);
      using want = rope.rotate(x, { positions: [3, 4, 5, 6, 7, 8] });
      const [a, b] = [bytesOf(out.tensor), bytesOf(want)];
      const row = a.length / 6;
      for (let t = 0; t < 6; ++t) {
        const got = a.subarray(t * row, (t + 1) * row);
        if (t === 1) expect(got.every((byte) => byte === 0xa5)).toBe(true);
        else expect(firstDifference(got, b.subarray(t * row, (t + 1) * row))).toBe(-1);
      }
      // In place the row keeps what it had.
      using copy = x.clone();
      expect(errorOf(() => rope.forwardInplace(copy, null, { positions }))).toBeInstanceOf(RopeFaultError);
      expect(firstDifference(bytesOf(copy).subarray(row, 2 * row), bytesOf(x).subarray(row, 2 * row))).toBe(-1);
    }
    x.dispose();
    rope.dispose();
  });

  test("an indptr tensor that is wrong is a fault: rows of its sound requests are written", () => {
    const [x, rope] = make();
    using want = rope.rotate(x);
    const cases: [number[], number][] = [[[-1, 6], 0], [[0, 7], 0], [[0, 2, 1, 1], 2], [[0, 2, 9, 9], 2], [[0, 3, -5, -5], 3]];
    for (const [entries, sound] of cases) {
      using indptr = Tensor.from(Int32Array.from(entries), [entries.length], { device });
      using out = new Fenced([6, 2, 32], "float32", device);
      const error = errorOf(() => rope.rotate(x, { indptr, out: out.tensor })) as RopeFaultError;
      expect(error).toBeInstanceOf(RopeFaultError);
      expect(error.fault.code).toBe("indptr");
      expect(out.intact).toBe(true);
      const [got, all] = [bytesOf(out.tensor), bytesOf(want)];
      const written = sound * all.length / 6;
      expect(firstDifference(got.subarray(0, written), all.subarray(0, written))).toBe(-1);
      expect(got.subarray(written).every((byte) => byte === 0xa5)).toBe(true);
    }
    x.dispose();
    rope.dispose();
  });
});
