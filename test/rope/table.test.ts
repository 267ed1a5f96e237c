// Rotations by a table of cosines and sines: every form of table against the plain formula, the positions that have no row, and what the library's own
// tables give.
import { describe, expect, test } from "bun:test";
import {
  applyRopeWithCosSinCache,
  applyRopeWithCosSinCacheInplace,
  buildRopeCache,
  type Device,
  type Pairing,
  RotaryEmbedding,
  Tensor,
} from "../../mod.ts";
import { expectClose, launches } from "./fused_support.ts";
import {
  bytesOf,
  devices,
  dtypes,
  errorOf,
  Fenced,
  numbersOf,
  open,
  pairings,
  randomTensor,
  same,
  samples,
  tensorOf,
  uniform,
} from "./support.ts";

const tableDTypes = ["float32", "float16", "bfloat16"] as const;

/** What a table holds, [rows, R] of each in channel order as it is written; R/2 where `tied`. */
interface Numbers {
  readonly cos: Float64Array;
  readonly sin: Float64Array;
  readonly width: number;
}

/** Any numbers, not cosines and sines of an angle: nothing may depend on that. */
function numbersFor(rows: number, width: number, dtype: typeof tableDTypes[number], seed: number): Numbers {
  return { cos: samples(rows * width, dtype, seed), sin: samples(rows * width, dtype, seed + 1), width };
}

interface Rotation {
  readonly rotaryDim: number;
  readonly rotaryOffset: number;
  readonly pairing: Pairing;
  readonly inverse: boolean;
}

/** The forms of two tables, and what they hold. */
interface Tables {
  readonly half: Numbers;
  readonly untied: Numbers;
  readonly one: Tensor;
  readonly pair: readonly [Tensor, Tensor];
  readonly full: readonly [Tensor, Tensor];
  readonly free: readonly [Tensor, Tensor];
}

/**
 * x of [n, H, D] by the formula: in each row of the matrix two entries, (c, -s) for a pair's first channel, (s, c) for its second, those of the channel as
 * it is written. The inverse is the transposed matrix.
 */
function plainTable(x: Float64Array, shape: readonly number[], rows: readonly number[], table: Numbers, it: Rotation): Float64Array {
  const [tokens = 0, heads = 0, dim = 0] = shape;
  const pairs = it.rotaryDim / 2;
  const out = x.slice();
  for (let t = 0; t < tokens; ++t) {
    const row = rows[t] ?? NaN;
    if (row === -1) continue;
    for (let h = 0; h < heads; ++h) {
      const base = (t * heads + h) * dim + it.rotaryOffset;
      for (let j = 0; j < pairs; ++j) {
        const interleaved = [2 * j, 2 * j + 1] as const, half = [j, j + pairs] as const;
        const read = it.pairing === "half" ? half : interleaved;
        const written = it.pairing === "interleaved" ? interleaved : half;
        const at = table.width === pairs ? [j, j] as const : written;
        const [c0, c1] = at.map((channel) => table.cos[row * table.width + channel] ?? NaN) as [number, number];
        const [s0, s1] = at.map((channel) => table.sin[row * table.width + channel] ?? NaN) as [number, number];
        if (it.inverse) {
          const a = x[base + written[0]] ?? NaN, b = x[base + written[1]] ?? NaN;
          out[base + read[0]] = c0 * a + s1 * b;
          out[base + read[1]] = c1 * b - s0 * a;
        } else {
          const a = x[base + read[0]] ?? NaN, b = x[base + read[1]] ?? NaN;
          out[base + written[0]] = c0 * a - s0 * b;
          out[base + written[1]] = c1 * b + s1 * a;
        }
      }
    }
  }
  return out;
}

describe.each(devices)("tables on %s", (name) => {
  const device = open(name);

  /** A table as one tensor, as a pair, as a pair of full width that repeats the half, and of full width with a value for each channel. */
  function tables(rows: number, pairs: number, dtype: typeof tableDTypes[number], pairing: Pairing, of: Device): Tables {
    const half = numbersFor(rows, pairs, dtype, rows + pairs), untied = numbersFor(rows, 2 * pairs, dtype, rows);
    const channel = (c: number): number => pairing === "interleaved" ? Math.floor(c / 2) : c % pairs;
    const repeated = (from: Float64Array): Float64Array =>
      Float64Array.from(
        { length: 2 * pairs * rows },
        (_, i) => from[Math.floor(i / (2 * pairs)) * pairs + channel(i % (2 * pairs))] ?? NaN,
      );
    const make = (numbers: Float64Array, width: number): Tensor => tensorOf(numbers, [rows, width], dtype, of);
    const cos = make(half.cos, pairs), sin = make(half.sin, pairs);
    return {
      half,
      untied,
      one: Tensor.cat([cos, sin], 1),
      pair: [cos, sin] as const,
      full: [make(repeated(half.cos), 2 * pairs), make(repeated(half.sin), 2 * pairs)] as const,
      free: [make(untied.cos, 2 * pairs), make(untied.sin, 2 * pairs)] as const,
    };
  }

  describe.each(dtypes.map((dtype) => [dtype] as const))("%s", (dtype) => {
    test("every form of table, its dtypes, pairings, both ways and odd slices: the plain formula", () => {
      const slices: [number, number, number][] = [[64, 64, 0], [80, 80, 0], [112, 64, 48], [160, 160, 0], [192, 128, 0], [256, 64, 0], [
        35,
        18,
        5,
      ]];
      const rows = [0, 4, -1, 6, 2];
      let turn = 0;
      for (const [dim, rotaryDim, rotaryOffset] of slices) {
        for (const pairing of pairings) {
          const inverse = turn % 2 === 1;
          const type = tableDTypes[turn++ % 3] ?? "float32";
          const table = tables(7, rotaryDim / 2, type, pairing, device);
          const it: Rotation = { rotaryDim, rotaryOffset, pairing, inverse };
          const inputs = [3, 2].map((heads) => samples(5 * heads * dim, dtype, dim + heads));
          const [q, k] = inputs.map((x, i) => tensorOf(x, [5, 3 - i, dim], dtype, device)) as [Tensor, Tensor];
          const forms = [[table.one, table.half], [table.pair, table.half], [table.full, table.half], [table.free, table.untied]] as const;
          for (const [form, numbers] of forms) {
            using outQ = new Fenced([5, 3, dim], dtype, device);
            using outK = new Fenced([5, 2, dim], dtype, device);
            const wide = form === table.full || form === table.free;
            const options = { ...wide ? { rotaryDim } : {}, rotaryOffset, pairing, inverse };
            applyRopeWithCosSinCache(q, k, rows, form, { ...options, out: [outQ.tensor, outK.tensor] });
            expect(outQ.intact && outK.intact).toBe(true);
            const what = `${type}, dim ${dim}, R ${rotaryDim}, ${pairing}, ${inverse ? "inverse, " : ""}form ${
              forms.findIndex(([one]) => one === form)
            }`;
            expectClose(what, outQ.tensor, plainTable(inputs[0] ?? new Float64Array(), [5, 3, dim], rows, numbers, it), dim);
            expectClose(what, outK.tensor, plainTable(inputs[1] ?? new Float64Array(), [5, 2, dim], rows, numbers, it), dim);
          }
          for (const tensor of [q, k, table.one, ...table.pair, ...table.full, ...table.free]) tensor.dispose();
        }
      }
    });

    test("in place, from a packed qkv and from slices of a wider table: the same bits, and v as it was", () => {
      for (const pairing of pairings) {
        using wide = randomTensor([9, 200], "float32", device, 3);
        using cos = wide.slice(1, 3, 43), sin = wide.slice(1, 90, 130);
        using dense = Tensor.cat([cos, sin], 1);
        using packed = randomTensor([6, 5, 80], dtype, device, 4);
        using before = packed.clone();
        using q = packed.slice(1, 0, 3), k = packed.slice(1, 3, 4), v = packed.slice(1, 4);
        using qDense = q.contiguous(), kDense = k.contiguous();
        const rows = [8, 0, -1, 3, 3, 7];
        const [wantQ, wantK] = applyRopeWithCosSinCache(qDense, kDense, rows, dense, { pairing });
        const [gotQ, gotK] = applyRopeWithCosSinCache(q, k, rows, [cos, sin], { pairing });
        expect([same(gotQ, wantQ), same(gotK, wantK), same(packed, before)]).toEqual([true, true, true]);
        applyRopeWithCosSinCacheInplace(q, k, rows, [cos, sin], { pairing });
        using vBefore = before.slice(1, 4);
        expect([same(q, wantQ), same(k, wantK), same(v, vBefore)]).toEqual([true, true, true]);
        for (const tensor of [wantQ, wantK, gotQ, gotK]) tensor.dispose();
      }
    });
  });

  test("padding passes bit for bit, whatever its bits are", () => {
    using x = Tensor.empty([4, 1, 32], { dtype: "bfloat16", device });
    const next = uniform(2);
    x.write(Uint16Array.from({ length: 128 }, () => 65536 * next()));
    using table = randomTensor([3, 32], "float32", device, 1);
    const [out] = applyRopeWithCosSinCache(x, null, [-1, -1, -1, -1], table);
    expect(same(out, x)).toBe(true);
    out.dispose();
  });

  describe("positions", () => {
    test("null is the index in the sequence; [S] is shared, [B, S] is not; any integers on the host or the device", () => {
      using q = randomTensor([2, 3, 2, 16], "float32", device, 1);
      using k = randomTensor([2, 3, 1, 16], "float32", device, 2);
      using table = randomTensor([12, 16], "float32", device, 3);
      const rotate = (positions: Parameters<typeof applyRopeWithCosSinCache>[2]): Uint8Array[] => {
        const results = applyRopeWithCosSinCache(q, k, positions, table);
        const bytes = results.map((tensor) => bytesOf(tensor));
        for (const tensor of results) tensor.dispose();
        return bytes;
      };
      using six = Tensor.from([0, 1, 2, 0, 1, 2], [2, 3], { dtype: "int32", device });
      using wide = Tensor.from([0, 1, 2], [3], { dtype: "int64", device });
      const want = rotate(null);
      for (
        const same of [
          six,
          wide,
          [0, 1, 2],
          [0, 1, 2, 0, 1, 2],
          Int32Array.of(0, 1, 2),
          BigInt64Array.of(0n, 1n, 2n),
          Uint8Array.of(0, 1, 2),
        ]
      ) {
        expect(rotate(same)).toEqual(want);
      }
      const other = rotate([0, 1, 2, 9, 10, 11]);
      expect(other[0]?.subarray(0, 384)).toEqual(want[0]?.subarray(0, 384) ?? new Uint8Array());
      expect(other[0]?.subarray(384)).not.toEqual(want[0]?.subarray(384) ?? new Uint8Array());
      using flat = q.reshape([6, 2, 16]);
      const [ragged] = applyRopeWithCosSinCache(flat, null, null, table); // 0 .. 5
      const [numbered] = applyRopeWithCosSinCache(flat, null, [0, 1, 2, 3, 4, 5], table);
      expect(same(ragged, numbered)).toBe(true);
      ragged.dispose();
      numbered.dispose();
    });

    test("without a row: a fault, nothing of that token written, its neighbours and the others in order", () => {
      const bad: (number | bigint)[] = [7, -2, 2 ** 31 - 1, -(2 ** 31), 2n ** 62n, -(2n ** 62n), 2n ** 33n];
      for (const pairing of pairings) {
        for (const value of bad) {
          for (const at of [0, 2, 4]) {
            const rows = [1n, 6n, 0n, -1n, 5n];
            rows[at] = BigInt(value);
            using q = randomTensor([5, 2, 16], "float16", device, 1);
            using k = randomTensor([5, 1, 16], "float16", device, 2);
            using table = randomTensor([7, 16], "float32", device, 3);
            const good = rows.with(at, 0n);
            const want = applyRopeWithCosSinCache(q, k, BigInt64Array.from(good), table, { pairing });
            using outQ = new Fenced([5, 2, 16], "float16", device);
            using outK = new Fenced([5, 1, 16], "float16", device);
            const ids = typeof value === "bigint"
              ? Tensor.from(BigInt64Array.from(rows), [5], { device })
              : Tensor.from(Int32Array.from(rows, Number), [5], { device });
            const error = errorOf(() => {
              applyRopeWithCosSinCache(q, k, ids, table, { pairing, out: [outQ.tensor, outK.tensor] });
              device.stream.synchronizeBlocking();
            });
            expect(error).toMatchObject({ code: "ROPE_FAULT", fault: { code: "row", index: at, value: Number(value), limit: 7 } });
            expect((error as Error).message).toMatch(/7 rows/);
            expect(outQ.intact && outK.intact).toBe(true);
            [outQ, outK].forEach((out, which) => {
              for (let t = 0; t < 5; ++t) {
                using row = out.tensor.slice(0, t, t + 1);
                using expected = want[which]?.slice(0, t, t + 1) ?? row.clone();
                expect(t === at ? bytesOf(row).every((byte) => byte === 0xa5) : same(row, expected)).toBe(true);
              }
            });
            for (const tensor of [...want, ids]) tensor.dispose();
          }
        }
      }
      using q = randomTensor([5, 2, 16], "float32", device, 1);
      using short = randomTensor([4, 16], "float32", device, 2);
      const error = errorOf(() => {
        applyRopeWithCosSinCacheInplace(q, null, null, short);
        device.stream.synchronizeBlocking();
      });
      expect(error).toMatchObject({ code: "ROPE_FAULT", fault: { code: "row", index: 4, value: 4, limit: 4 } });
    });

    test("an empty table has no rows, and no tokens need none", () => {
      using none = Tensor.empty([0, 16], { device });
      using q = randomTensor([2, 1, 16], "float32", device, 1);
      using empty = Tensor.empty([0, 1, 16], { device });
      applyRopeWithCosSinCache(empty, null, null, none)[0].dispose();
      using padding = Tensor.from([-1, -1], [2], { dtype: "int32", device });
      const [out] = applyRopeWithCosSinCache(q, null, padding, none);
      expect(same(out, q)).toBe(true);
      out.dispose();
    });
  });

  describe("the library's own tables", () => {
    test("cosSinCache and buildRopeCache rotate as the embedding does, bit for bit in float32", () => {
      for (const pairing of pairings) {
        using rope = new RotaryEmbedding({ dim: 96, rotaryDim: 64, rotaryOffset: 8, pairing, base: 5e5, attentionFactor: 1.5, device });
        using cache = rope.cosSinCache(300);
        using q = randomTensor([4, 3, 96], "float32", device, 1);
        for (const inverse of [false, true]) {
          using want = rope.rotate(q, { positions: [0, 299, -1, 128], inverse });
          const [got] = applyRopeWithCosSinCache(q, null, [0, 299, -1, 128], cache, { rotaryOffset: 8, pairing, inverse });
          expect(same(got, want)).toBe(true);
          got.dispose();
        }
      }
      const { cos, sin } = buildRopeCache({ seqLen: 32, headDim: 64, device });
      using rope = new RotaryEmbedding({ dim: 64, device });
      using q = randomTensor([32, 3, 64], "float32", device, 1);
      using want = rope.rotate(q);
      const [got] = applyRopeWithCosSinCache(q, null, null, [cos, sin]);
      expect(same(got, want)).toBe(true);
      for (const tensor of [got, cos, sin]) tensor.dispose();
    });

    test("[nnz, H * D] with headDim, as vLLM has q and k", () => {
      using rope = new RotaryEmbedding({ dim: 64, rotaryDim: 32, device });
      using cache = rope.cosSinCache(128, { dtype: "bfloat16" });
      using qkv = randomTensor([5, 8 * 64], "bfloat16", device, 1);
      using q = qkv.slice(1, 0, 4 * 64), k = qkv.slice(1, 4 * 64, 6 * 64);
      using qHeads = q.reshape([5, 4, 64]), kHeads = k.reshape([5, 2, 64]);
      const want = applyRopeWithCosSinCache(qHeads, kHeads, [3, 4, 5, 6, 7], cache);
      const got = applyRopeWithCosSinCache(q, k, [3, 4, 5, 6, 7], cache, { headDim: 64 });
      expect(got.map((tensor) => tensor.shape)).toEqual([[5, 256], [5, 128]]);
      using flatQ = want[0].reshape([5, 256]), flatK = want[1].reshape([5, 128]);
      expect([same(got[0], flatQ), same(got[1], flatK)]).toEqual([true, true]);
      for (const tensor of [...want, ...got]) tensor.dispose();
    });
  });

  test("one launch; k may be absent; a pair as wide as R is full width only where rotaryDim says so", () => {
    using table = randomTensor([9, 32], "float32", device, 1);
    using sin = randomTensor([9, 32], "float32", device, 2);
    using q = randomTensor([4, 2, 64], "float32", device, 3);
    using rows = Tensor.arange(4, { device });
    using out = q.clone();
    expect(launches(device, () => applyRopeWithCosSinCache(q, null, rows, table, { out: [out, null] }))).toBe(1);
    const [half] = applyRopeWithCosSinCache(q, null, null, [table, sin]);
    const [full] = applyRopeWithCosSinCache(q, null, null, [table, sin], { rotaryDim: 32 });
    const [halfToo] = applyRopeWithCosSinCache(q, null, null, [table, sin], { rotaryDim: 64 });
    expect(same(half, halfToo)).toBe(true);
    const input = numbersOf(q), turned = numbersOf(full);
    expect(turned.subarray(32, 64)).toEqual(input.subarray(32, 64)); // R is 32: the rest passes
    expect(numbersOf(half).subarray(32, 64)).not.toEqual(input.subarray(32, 64));
    for (const tensor of [half, full, halfToo]) tensor.dispose();
  });

  test("errors name the argument; nothing is written, nothing left behind", () => {
    using stack = new DisposableStack();
    const zeros = (shape: number[], dtype: "float32" | "float64" | "float16" | "int32" | "float8_e4m3fn" = "float32"): Tensor =>
      stack.use(Tensor.zeros(shape, { dtype, device }));
    const q = zeros([4, 2, 16]), k = zeros([4, 1, 16]), table = zeros([8, 16]), half = zeros([8, 8]);
    const rows = [0, 1, 2, 3];
    using outQ = new Fenced([4, 2, 16], "float32", device);
    using outK = new Fenced([4, 1, 16], "float32", device);
    const gone = zeros([8, 16]);
    gone.dispose();
    type Call = [positions: unknown, table: unknown, options: object, argument: string, message: RegExp];
    const cases: Call[] = [
      [rows, undefined, {}, "cache", /a Tensor, or \[cos, sin\], got undefined/],
      [rows, null, {}, "cache", /or \[cos, sin\], got null/],
      [rows, { cos: half, sin: half }, {}, "cache", /Give \[cos, sin\]/], // as buildRopeCache returns them
      [rows, [half], {}, "cache", /\[cos, sin\], got an array of 1/],
      [rows, [half, 3], {}, "cache[1]", /a Tensor, got 3/],
      [rows, zeros([8, 16], "float64"), {}, "cache", /float32, float16 or bfloat16/],
      [rows, zeros([8, 16], "int32"), {}, "cache", /got int32/],
      [rows, zeros([8, 16, 1]), {}, "cache", /rank 2/],
      [rows, zeros([8, 15]), {}, "cache", /even/],
      [rows, zeros([8, 0]), {}, "cache", /even/],
      [rows, zeros([8, 18]), {}, "cache", /at most 16 channels, the 16 of a head/],
      [rows, [zeros([8, 9]), zeros([8, 9])], {}, "cache", /at most 16/],
      [rows, [zeros([8, 18]), zeros([8, 18])], { rotaryDim: 18 }, "rotaryDim", /at most 16/],
      [rows, [half, zeros([7, 8])], {}, "cache[1]", /like cache/],
      [rows, [half, zeros([8, 8], "float16")], {}, "cache[1]", /float32/],
      [rows, stack.use(table.transpose(0, 1)), {}, "cache", /last dimension/],
      [rows, table, { rotaryDim: 8 }, "rotaryDim", /16/],
      [rows, [half, half], { rotaryDim: 4 }, "rotaryDim", /twice the width/],
      [rows, table, { rotaryOffset: 2 }, "cache", /at most 14 .* less rotaryOffset/],
      [rows, table, { rotaryOffset: -1 }, "rotaryOffset", /at least 0/],
      [rows, table, { pairing: "neox" }, "pairing", /"half"/],
      [rows, table, { headDim: 8 }, "headDim", /16/],
      [undefined, table, {}, "positions", /null.*got undefined.*index in the sequence/],
      [[0, 1, 2], table, {}, "positions", /4 numbers/],
      [[0, 1, 2, 0.5], table, {}, "positions[3]", /an integer, a row of the table, got 0.5/],
      [[0, 1, 2, NaN], table, {}, "positions[3]", /an integer/],
      [new Float32Array(4), table, {}, "positions", /int32 or int64/],
      [zeros([4]), table, {}, "positions", /int32 or int64/],
      [zeros([2, 4], "int32"), table, {}, "positions", /rank 1, got \[2, 4\]\. A table has one row.*several axes/],
      [[...rows, ...rows, ...rows], table, {}, "positions", /4 numbers.* got 12\. A table has one row/],
      [zeros([5], "int32"), table, {}, "positions", /\[4\]/],
      [rows, table, { positions: rows }, "options", /the key "positions"/],
      [rows, table, { ropeTheta: 1e4 }, "options", /the key "ropeTheta"/],
    ];
    const before = device.memory();
    for (const [positions, given, options, argument, message] of cases) {
      for (const into of [{}, { out: [outQ.tensor, outK.tensor] as const }]) {
        const error = errorOf(() => {
          applyRopeWithCosSinCache(q, k, positions as number[], given as Tensor, { ...into, ...options });
        }) as { code: string; argument: string; message: string };
        expect([error.code, error.argument, error.message]).toEqual(["ROPE_ARGUMENT", argument, expect.stringMatching(message)]);
      }
    }
    expect(errorOf(() => applyRopeWithCosSinCache(q, k, rows, gone))).toMatchObject({ code: "ROPE_DISPOSED", argument: "cache" });
    expect(errorOf(() => applyRopeWithCosSinCacheInplace(q, k, rows, [gone, half]))).toMatchObject({ argument: "cache[0]" });
    expect(errorOf(() => applyRopeWithCosSinCache(q, k, rows, table, { out: [zeros([4, 2, 16], "float16"), null] as never })))
      .toMatchObject({
        argument: "out[1]",
      });
    const flat = zeros([4, 32]);
    expect(errorOf(() => applyRopeWithCosSinCache(flat, null, rows, table))).toMatchObject({ argument: "headDim" });
    expect(errorOf(() => device.capture(() => applyRopeWithCosSinCacheInplace(q, k, rows, table)))).toMatchObject({
      argument: "positions",
    });
    flat.dispose();
    const after = device.memory();
    expect(after.liveTensors).toBeLessThanOrEqual(before.liveTensors + 1);
    expect(outQ.untouched && outK.untouched).toBe(true);
  });
});
