// QK-norm, row scales and prefix in the launch that rotates: against plain float64, and bit for bit against the steps one after another.
import { describe, expect, test } from "bun:test";
import { type NormOptions, RotaryEmbedding, Tensor } from "../../mod.ts";
import { expectClose, launches, type PlainNorm, plainPipeline } from "./fused_support.ts";
import {
  bytesOf,
  devices,
  dtypes,
  errorOf,
  Fenced,
  firstDifference,
  numbersOf,
  open,
  pairings,
  randomTensor,
  type RotaryDType,
  same,
  samples,
  tensorOf,
  typed,
  uniform,
} from "./support.ts";

const positions = [0, 3, -1, 1000, -7];
const plainPositions = positions.map((position) => position === -1 ? NaN : position);

/** The kinds of norm that models have: Qwen3 and Gemma 3, OLMo 2 and MiniMax M2, HunYuan and Llama 4; with weights of float32 and of the tensors' dtype. */
const kinds: readonly (Omit<NormOptions, "weight"> & { readonly weights: "none" | "float32" | "own" })[] = [
  { eps: 1e-6, weights: "own" },
  { eps: 1e-6, weights: "float32", unitOffset: true },
  { eps: 1e-5, weights: "own", over: "width" },
  { eps: 1e-5, weights: "float32", over: "width", when: "after", unitOffset: true },
  { eps: 1e-6, weights: "own", when: "after" },
  { eps: 0, weights: "none", when: "after" },
  { eps: 0.5, weights: "none" },
];

describe.each(devices)("norms on %s", (name) => {
  const device = open(name);

  /** A norm as the library takes it and in plain numbers, for `heads` of `dim`. */
  function normOf(kind: typeof kinds[number], heads: number, dim: number, dtype: RotaryDType, seed: number): [NormOptions, PlainNorm] {
    const { weights, ...rest } = kind;
    if (weights === "none") return [rest, rest as PlainNorm];
    const type = weights === "own" ? dtype : "float32";
    const numbers = samples(kind.over === "width" ? heads * dim : dim, type, seed);
    return [{ ...rest, weight: tensorOf(numbers, [numbers.length], type, device) }, { ...rest as PlainNorm, weight: numbers }];
  }

  describe("agree with plain arithmetic", () => {
    const slices: [number, number, number][] = [[64, 64, 0], [80, 80, 0], [112, 112, 0], [192, 160, 32], [256, 64, 0], [36, 20, 7]];
    test.each(dtypes.map((dtype) => [dtype] as const))("%s: every kind, pairing and odd shape, q and k apart", (dtype) => {
      let turn = 0;
      for (const [dim, rotaryDim, rotaryOffset] of slices) {
        for (const pairing of pairings) {
          using rope = new RotaryEmbedding({ dim, rotaryDim, rotaryOffset, pairing, base: 500, attentionFactor: 1.25, device });
          const inverse = turn % 2 === 1;
          const steps = { positions: plainPositions, rotaryDim, rotaryOffset, pairing, inverse, base: 500, attentionFactor: 1.25 };
          const inputs = [3, 2].map((heads) => samples(5 * heads * dim, dtype, dim + heads));
          const [q, k] = inputs.map((x, i) => tensorOf(x, [5, 3 - i, dim], dtype, device)) as [Tensor, Tensor];
          const [qNorm, plainQ] = normOf(kinds[turn % kinds.length] ?? { eps: 0, weights: "none" }, 3, dim, dtype, 5);
          const [kNorm, plainK] = normOf(kinds[(turn + 3) % kinds.length] ?? { eps: 0, weights: "none" }, 2, dim, dtype, 6);
          using outQ = new Fenced([5, 3, dim], dtype, device);
          using outK = new Fenced([5, 2, dim], dtype, device);
          rope.forward(q, k, { positions, inverse, qNorm, kNorm, out: [outQ.tensor, outK.tensor] });
          expect(outQ.intact && outK.intact).toBe(true);
          const what = `dim ${dim}, R ${rotaryDim}, ${pairing}, kind ${turn % kinds.length}`;
          expectClose(
            `q, ${what}`,
            outQ.tensor,
            plainPipeline(inputs[0] ?? q.data as Float64Array, [5, 3, dim], { ...steps, norm: plainQ }),
            dim,
          );
          expectClose(
            `k, ${what}`,
            outK.tensor,
            plainPipeline(inputs[1] ?? q.data as Float64Array, [5, 2, dim], { ...steps, norm: plainK }),
            dim,
          );
          for (const tensor of [q, k, qNorm.weight, kNorm.weight]) tensor?.dispose();
          ++turn;
        }
      }
    });

    test("frequencies of each head, and several axes", () => {
      const heads = 3, dim = 16, axes = 2;
      const frequencies = Float64Array.from({ length: axes * heads * 8 }, (_, i) => 1 / (1 + i % 11));
      using rope = new RotaryEmbedding({ dim, axes, frequencies, device });
      const x = samples(5 * heads * dim, "float32", 1);
      using q = tensorOf(x, [5, heads, dim], "float32", device);
      const two = [0, 1.5, 7, -3, 2, 4, 0, 0.25, 9, -1];
      const norm: PlainNorm = { eps: 1e-6 };
      using got = rope.rotate(q, { positions: two, qNorm: { eps: 1e-6 } });
      // Angles of several axes add: those of one axis at 1, by frequencies summed beforehand.
      for (let t = 0; t < 5; ++t) {
        const summed = Float64Array.from(
          { length: heads * 8 },
          (_, i) => (two[t] ?? NaN) * (frequencies[i] ?? NaN) + (two[5 + t] ?? NaN) * (frequencies[heads * 8 + i] ?? NaN),
        );
        const row = x.subarray(t * heads * dim, (t + 1) * heads * dim);
        using one = got.slice(0, t, t + 1);
        expectClose(`token ${t}`, one, plainPipeline(row, [1, heads, dim], { norm, positions: [1], frequencies: summed }), dim);
      }
    });

    test("rows of one channel, of huge and of tiny numbers, of zeros", () => {
      using rope = new RotaryEmbedding({ dim: 3, rotaryDim: 2, device });
      const x = Float64Array.of(1e18, -2e18, 5e17, 1e-18, 3e-18, -1e-18, 0, 0, 0, 4, 0, 0).map(Math.fround);
      using q = tensorOf(x, [4, 1, 3], "float32", device);
      using got = rope.rotate(q, { offset: 3, qNorm: { eps: 1e-30 } });
      expectClose("rows", got, plainPipeline(x, [4, 1, 3], { norm: { eps: 1e-30 }, positions: [3, 4, 5, 6], rotaryDim: 2 }), 3);
    });
  });

  describe.each(pairings.map((pairing) => [pairing] as const))("%s", (pairing) => {
    test("norm and rotation at once are the two after another, bit for bit in float32", () => {
      const dim = 80;
      using rope = new RotaryEmbedding({ dim, rotaryDim: 64, pairing, device });
      using alone = new RotaryEmbedding({ dim, rotaryDim: 64, pairing: pairing === "interleaved" ? "interleaved" : "half", device });
      using q = randomTensor([6, 3, dim], "float32", device, 1);
      using weight = randomTensor([dim], "float32", device, 2);
      using wide = randomTensor([3 * dim], "float32", device, 3);
      for (
        const norm of [{ eps: 1e-6, weight }, { eps: 1e-6, weight: wide, over: "width" }, { eps: 1e-6, weight, unitOffset: true }] as const
      ) {
        using normed = alone.rotate(q, { positions: [0, 0, 0, 0, 0, 0], qNorm: norm });
        using prefixed = alone.rotate(q, { offset: 40, qNorm: norm, prefix: 6 });
        expect(same(prefixed, normed)).toBe(true);
        using want = rope.rotate(normed, { offset: 40 });
        using got = rope.rotate(q, { offset: 40, qNorm: norm });
        expect(same(got, want)).toBe(true);
        using turned = rope.rotate(q, { offset: 40 });
        using wantAfter = alone.rotate(turned, { positions: [0, 0, 0, 0, 0, 0], qNorm: norm });
        using gotAfter = rope.rotate(q, { offset: 40, qNorm: { ...norm, when: "after" } });
        expect(same(gotAfter, wantAfter)).toBe(true);
      }
    });

    test("in place, out of place and from a packed qkv: the same bits, and v as it was", () => {
      for (const dtype of dtypes) {
        const dim = 48;
        using rope = new RotaryEmbedding({ dim, rotaryDim: 32, rotaryOffset: 5, pairing, device });
        using packed = randomTensor([7, 8, dim], dtype, device, 4);
        using before = packed.clone();
        using q = packed.slice(1, 0, 4), k = packed.slice(1, 4, 6), v = packed.slice(1, 6);
        using qDense = q.contiguous(), kDense = k.contiguous();
        using weight = randomTensor([dim], dtype, device, 5);
        using scale = Tensor.from([1, 2, 0.5, 3, -1, 0, 1.25], [7], { device });
        const options = { offset: 9, qNorm: { eps: 1e-6, weight }, kNorm: { eps: 1e-5, over: "width" }, qScale: scale, prefix: 2 } as const;
        const [wantQ, wantK] = rope.forward(qDense, kDense, options);
        const [gotQ, gotK] = rope.forward(q, k, options);
        expect([same(gotQ, wantQ), same(gotK, wantK), same(packed, before)]).toEqual([true, true, true]);
        rope.forwardInplace(q, k, options);
        using vBefore = before.slice(1, 6);
        expect([same(q, wantQ), same(k, wantK), same(v, vBefore)]).toEqual([true, true, true]);
        for (const tensor of [wantQ, wantK, gotQ, gotK]) tensor.dispose();
      }
    });
  });

  test("padding passes bit for bit, whatever its bits are: not normed, not scaled", () => {
    for (const dtype of dtypes) {
      const junk = typed(new Float64Array(3 * 2 * 16), dtype);
      const next = uniform(7);
      new Uint8Array(junk.buffer).forEach((_, i, bytes) => bytes[i] = 256 * next());
      using x = Tensor.empty([3, 2, 16], { dtype, device }).write(junk);
      using rope = new RotaryEmbedding({ dim: 16, attentionFactor: 3, device });
      for (const padding of [[-1, -1, -1], [NaN, NaN, NaN]]) {
        using out = rope.rotate(x, { positions: padding, qNorm: { eps: 1e-6 }, qScale: [2, 3, 4], prefix: 1 });
        expect(firstDifference(bytesOf(out), bytesOf(x))).toBe(-1);
      }
    }
  });

  describe("prefix", () => {
    test("counts in each batch row, or request; those tokens are normed and scaled but do not turn", () => {
      using rope = new RotaryEmbedding({ dim: 32, device });
      const x = samples(2 * 5 * 3 * 32, "float32", 1);
      using rows = tensorOf(x, [2, 5, 3, 32], "float32", device);
      using flat = rows.reshape([10, 3, 32]);
      const norm = { eps: 1e-6 };
      const scale = [1, 2, 3, 4, 5];
      using batched = rope.rotate(rows, { offset: 7, prefix: 2, qNorm: norm, qScale: scale });
      const exact = plainPipeline(x, [10, 3, 32], {
        norm,
        positions: [0, 1].flatMap(() => [7, 8, 9, 10, 11]),
        still: (t) => t % 5 < 2,
        scale: [...scale, ...scale],
      });
      expectClose("batched", batched, exact, 32);
      using ragged = rope.rotate(flat, { indptr: [1, 4, 4, 8], offsets: [7, 0, 20], prefix: 2, qNorm: norm });
      const starts = [NaN, 7, 8, 9, 20, 21, 22, 23, NaN, NaN].map((position) => Number.isNaN(position) ? 0 : position);
      const raggedExact = plainPipeline(x, [10, 3, 32], { norm, positions: starts, still: (t) => ![3, 6, 7].includes(t) });
      expectClose("ragged", ragged, raggedExact, 32); // tokens of no request: normed, not turned
      using none = rope.rotate(flat, { offset: 7, prefix: 0 });
      using plain = rope.rotate(flat, { offset: 7 });
      expect(same(none, plain)).toBe(true);
      using all = rope.rotate(flat, { offset: 7, prefix: 1000 });
      expect(same(all, flat)).toBe(true);
    });
  });

  describe("qScale", () => {
    test("[B, S], [S] and [nnz]: tensors and numbers, the rotation's float32 times the number, rounded once more", () => {
      using rope = new RotaryEmbedding({ dim: 32, device });
      using q = randomTensor([2, 3, 2, 32], "float32", device, 1);
      using k = randomTensor([2, 3, 1, 32], "float32", device, 2);
      const [plainQ, plainK] = rope.forward(q, k, { offset: 5 });
      const plain = numbersOf(plainQ);
      const six = [1, 0.1, -3, 1e-3, 7, 0];
      for (const scale of [six, six.slice(0, 3)]) {
        const want = plain.map((value, i) => Math.fround(value * Math.fround(scale[Math.floor(i / 64) % scale.length] ?? NaN)));
        using tensor = Tensor.from(scale, scale.length === 6 ? [2, 3] : [3], { device });
        for (const qScale of [scale, Float32Array.from(scale), Float64Array.from(scale), tensor]) {
          const [gotQ, gotK] = rope.forward(q, k, { offset: 5, qScale });
          expect(numbersOf(gotQ)).toEqual(want);
          expect(same(gotK, plainK)).toBe(true);
          gotQ.dispose();
          gotK.dispose();
        }
      }
      using flat = q.reshape([6, 2, 32]);
      using ragged = rope.rotate(flat, { indptr: [0, 6], qScale: six });
      using unscaled = rope.rotate(flat, { indptr: [0, 6] });
      expect(numbersOf(ragged)).toEqual(
        numbersOf(unscaled).map((value, i) => Math.fround(value * Math.fround(six[Math.floor(i / 64)] ?? NaN))),
      );
      plainQ.dispose();
      plainK.dispose();
    });
  });

  describe("errors", () => {
    test("name the argument, and nothing is left behind", () => {
      using rope = new RotaryEmbedding({ dim: 32, device });
      using q = randomTensor([4, 2, 32], "float16", device, 1);
      using k = randomTensor([4, 1, 32], "float16", device, 2);
      using out = new Fenced([4, 2, 32], "float16", device);
      using outK = new Fenced([4, 1, 32], "float16", device);
      using stack = new DisposableStack();
      const zeros = (shape: number[], dtype: "float16" | "float32" | "bfloat16" | "int32" = "float32"): Tensor =>
        stack.use(Tensor.zeros(shape, { dtype, device }));
      const gone = zeros([32]);
      gone.dispose();
      const eps = 1e-6;
      const cases: [object, string, RegExp][] = [
        [{ qNorm: { eps, weight: zeros([16]) } }, "qNorm.weight", /\[D\].*\[16\]/],
        [{ qNorm: { eps, weight: zeros([32]), over: "width" } }, "qNorm.weight", /\[H \* D\].*\[32\]/],
        [{ kNorm: { eps, weight: zeros([64]) } }, "kNorm.weight", /\[64\]/],
        [{ kNorm: { eps, weight: zeros([32], "bfloat16") } }, "kNorm.weight", /float32 or float16, got bfloat16/],
        [{ qNorm: { eps, weight: stack.use(zeros([64]).reshape([32, 2]).select(1, 0)) } }, "qNorm.weight", /stride/],
        [{ qNorm: {} }, "qNorm.eps", /at least 0, got undefined.*rms_norm_eps/],
        [{ qNorm: { eps: -1 } }, "qNorm.eps", /at least 0, got -1/],
        [{ qNorm: { eps, unitOffset: true } }, "qNorm.weight", /unitOffset/],
        [{ qNorm: { eps, when: "later" } }, "qNorm.when", /"before", "after"/],
        [{ kNorm: { eps, over: "rows" } }, "kNorm.over", /"head", "width"/],
        [{ kNorm: { eps, wieght: zeros([32]) } }, "kNorm", /the key "wieght"/],
        [{ qScale: zeros([3]) }, "qScale", /\[4\].*\[3\]/],
        [{ qScale: zeros([4], "float16") }, "qScale", /float32/],
        [{ qScale: [1, 2, 3] }, "qScale", /4 numbers, one for each token of q, got 3/],
        [{ prefix: -1 }, "prefix", /at least 0/],
        [{ prefix: 1.5 }, "prefix", /integer/],
        [{ prefix: 1, offset: 1, positions: [0, 1, 2, 3] }, "options", /only one of positions, offset/],
        [{ prefix: 1, positions: [0, 1, 2] }, "positions", /4 numbers/],
        [{ prefix: 1, seqLen: 3 }, "seqLen", /4, the length of q/],
      ];
      const before = device.memory();
      for (const [options, argument, message] of cases) {
        for (const into of [{}, { out: [out.tensor, outK.tensor] as const }]) {
          const error = errorOf(() => rope.forward(q, k, { ...into, ...options })) as { code: string; argument: string; message: string };
          expect([error.code, error.argument]).toEqual(["ROPE_ARGUMENT", argument]);
          expect(error.message).toMatch(message);
          expect(error.message).not.toMatch(/\b[qk]_|undefined must/); // C's names
        }
      }
      expect(errorOf(() => rope.forward(q, null, { kNorm: { eps } }))).toMatchObject({ code: "ROPE_ARGUMENT", argument: "kNorm" });
      expect(errorOf(() => rope.forward(q, k, { qNorm: { eps, weight: gone } }))).toMatchObject({
        code: "ROPE_DISPOSED",
        argument: "qNorm.weight",
      });
      const wrongOut = zeros([4, 2, 32], "float32");
      expect(errorOf(() => rope.forward(q, null, { qNorm: { eps }, out: [wrongOut, null] }))).toMatchObject({ argument: "out[0]" });
      expect(errorOf(() => rope.rotate(q, { qNorm: { eps }, out: wrongOut }))).toMatchObject({ argument: "out" });
      wrongOut.dispose();
      const after = device.memory();
      expect([after.liveTensors, after.bytesInUse]).toEqual([before.liveTensors, before.bytesInUse]);
      expect(out.untouched && outK.untouched).toBe(true);
    });

    test("positions out of range: a fault, that token unwritten, the others written", () => {
      using rope = new RotaryEmbedding({ dim: 32, device });
      using q = randomTensor([4, 2, 32], "float32", device, 1);
      using want = rope.rotate(q, { positions: [1, 2, 3, 4], qNorm: { eps: 1e-6 } });
      using out = new Fenced([4, 2, 32], "float32", device);
      using positions = Tensor.from(BigInt64Array.of(1n, 2n ** 40n, 3n, 4n), [4], { device });
      const fault = errorOf(() => {
        rope.rotate(q, { positions, qNorm: { eps: 1e-6 }, out: out.tensor });
        device.stream.synchronizeBlocking();
      });
      expect(fault).toMatchObject({ code: "ROPE_FAULT", fault: { code: "position", index: 1, value: 2 ** 40 } });
      expect(out.intact).toBe(true);
      for (const t of [0, 2, 3]) {
        using a = out.tensor.slice(0, t, t + 1), b = want.slice(0, t, t + 1);
        expect(same(a, b)).toBe(true);
      }
      using unwritten = out.tensor.slice(0, 1, 2);
      expect(bytesOf(unwritten).every((byte) => byte === 0xa5)).toBe(true);
    });
  });

  test("one launch over heads, at most two over the width; replayed on what the tensors hold then", () => {
    using rope = new RotaryEmbedding({ dim: 64, device });
    using q = randomTensor([5, 4, 64], "bfloat16", device, 1);
    using k = randomTensor([5, 2, 64], "bfloat16", device, 2);
    using weight = randomTensor([64], "bfloat16", device, 3);
    using scale = Tensor.from([1, 2, 3, 4, 5], [5], { device });
    const norm = { eps: 1e-6, weight };
    const [outQ, outK] = [q.clone(), k.clone()];
    const heads = { qNorm: norm, kNorm: norm, qScale: scale, prefix: 1, out: [outQ, outK] } as const;
    expect(launches(device, () => rope.forward(q, k, heads))).toBe(1);
    expect(launches(device, () => rope.forward(q, k, { qNorm: { ...norm, when: "after" }, out: [outQ, outK] }))).toBe(1);
    expect(launches(device, () => rope.forward(q, k, { qNorm: { eps: 1e-6, over: "width" }, out: [outQ, outK] }))).toBeLessThanOrEqual(2);
    using graph = device.capture(() => {
      expect(errorOf(() => rope.forward(q, k, { qScale: [1, 2, 3, 4, 5], out: [outQ, outK] }))).toMatchObject({ argument: "qScale" });
      rope.forward(q, k, heads);
    });
    q.write(typed(samples(5 * 4 * 64, "bfloat16", 9), "bfloat16"));
    graph.launch();
    const [wantQ, wantK] = rope.forward(q, k, { ...heads, out: undefined });
    expect([same(outQ, wantQ), same(outK, wantK)]).toEqual([true, true]);
    for (const tensor of [outQ, outK, wantQ, wantK]) tensor.dispose();
  });
});
