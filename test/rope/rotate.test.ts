// The laws of the rotation, on every device: what holds bit for bit, what the shapes and strides mean, and what is left alone.
import { describe, expect, test } from "bun:test";
import { applyRope, applyRopeInplace, applyRopePosIds, RotaryEmbedding, Tensor } from "../../mod.ts";
import { referenceRope } from "../../src/testing.ts";
import {
  bytesOf,
  devices,
  distance,
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
  tolerance,
  typed,
  uniform,
} from "./support.ts";

/** Rounding of a result of size 3 or so, and the angles. */
const closeness: Record<RotaryDType, number> = { float64: 1e-12, float32: 2e-6, float16: 4e-3, bfloat16: 3e-2 };

describe.each(devices)("rotate on %s", (name) => {
  const device = open(name);

  describe("agrees with the reference", () => {
    const slices: [number, number, number][] = [
      ...[64, 80, 96, 112, 128, 192, 256, 576].map((dim): [number, number, number] => [dim, dim, 0]),
      [96, 20, 14],
      [80, 2, 78],
      [64, 62, 1],
      [576, 64, 512],
      [192, 34, 77],
      [7, 4, 2],
      [2, 2, 0],
    ];
    test.each(dtypes.map((dtype) => [dtype] as const))("%s: head dimensions and odd slices, every pairing, Hq != Hk", (dtype) => {
      for (const [dim, rotaryDim, rotaryOffset] of slices) {
        for (const pairing of pairings) {
          const positions = Int32Array.of(0, 3, -1, 1000, -7);
          const inputs = [3, 2].map((heads) => samples(5 * heads * dim, dtype, dim + heads));
          const [q, k] = inputs.map((x, i) => tensorOf(x, [5, 3 - i, dim], dtype, device)) as [Tensor, Tensor];
          using outQ = new Fenced([5, 3, dim], dtype, device);
          using outK = new Fenced([5, 2, dim], dtype, device);
          using ids = Tensor.from(positions, [5], { device });
          applyRopePosIds(q, k, ids, { rotaryDim, rotaryOffset, pairing, out: [outQ.tensor, outK.tensor] });
          expect(outQ.intact && outK.intact).toBe(true);
          [outQ, outK].forEach((out, i) => {
            const x = inputs[i] ?? new Float64Array();
            const want = referenceRope(x, [5, 3 - i, dim], { positions, rotaryDim, rotaryOffset, pairing });
            const got = numbersOf(out.tensor);
            for (let at = 0; at < want.length; ++at) {
              const channel = at % dim;
              const passes = channel < rotaryOffset || channel >= rotaryOffset + rotaryDim || Math.floor(at / dim / (3 - i)) === 2;
              const allowed = passes ? 0 : tolerance(want[at] ?? NaN, 2, 2, dtype, dtype === "float64" ? 1e-12 : undefined);
              if (!(Math.abs((got[at] ?? NaN) - (want[at] ?? NaN)) <= allowed)) {
                throw new Error(`dim ${dim}, R ${rotaryDim}, ${pairing}: [${at}] is ${got[at]}, the reference ${want[at]}`);
              }
            }
          });
          q.dispose();
          k.dispose();
        }
      }
    });
  });

  describe.each(dtypes.map((dtype) => [dtype] as const))("%s", (dtype) => {
    const near = closeness[dtype];

    test.each(pairings.map((pairing) => [pairing] as const))("%s: lengths are kept, inverse undoes, angles add", (pairing) => {
      using rope = new RotaryEmbedding({ dim: 64, pairing, device });
      using x = randomTensor([4, 2, 64], dtype, device);
      using turned = rope.rotate(x, { offset: 123 });
      const before = numbersOf(x), after = numbersOf(turned);
      for (let row = 0; row < 8; ++row) {
        const length = (of: Float64Array): number => Math.hypot(...of.subarray(row * 64, (row + 1) * 64));
        expect(Math.abs(length(after) - length(before))).toBeLessThan(near * 8);
      }
      using back = rope.rotate(turned, { offset: 123, inverse: true });
      expect(distance(numbersOf(back), before)).toBeLessThan(2 * near);
      if (pairing === "interleaved_to_half") return; // a second one would permute again
      using twice = rope.rotate(turned, { positions: [10, 20, 30, 40] });
      using once = rope.rotate(x, { positions: [133, 144, 155, 166] });
      expect(distance(numbersOf(twice), numbersOf(once))).toBeLessThan(2 * near);
    });

    test("dot products depend on the distance of positions alone", () => {
      using rope = new RotaryEmbedding({ dim: 128, base: 5e5, device });
      using q = randomTensor([1, 1, 128], dtype, device, 1);
      using k = randomTensor([1, 1, 128], dtype, device, 2);
      const dot = (at: number): number => {
        using a = rope.rotate(q, { offset: at + 37 });
        using b = rope.rotate(k, { offset: at });
        const [u, v] = [numbersOf(a), numbersOf(b)];
        return u.reduce((sum, value, i) => sum + value * (v[i] ?? NaN), 0);
      };
      const first = dot(0);
      for (const at of [1, 1000, 131072, 10_000_000, 2_000_000_000, -5_000_000]) expect(Math.abs(dot(at) - first)).toBeLessThan(near * 32);
    });

    test.each(pairings.map((pairing) => [pairing] as const))(
      "%s: slices of one packed qkv, in place, bit for bit the contiguous result",
      (pairing) => {
        const heads = [6, 2, 2];
        const sum = 10;
        for (const [dim, rotaryDim, rotaryOffset] of [[64, 64, 0], [80, 34, 7]] as const) {
          const packed = samples(9 * sum * dim, dtype, 3);
          using qkv = tensorOf(packed, [9, sum, dim], dtype, device);
          using q = qkv.slice(1, 0, 6);
          using k = qkv.slice(1, 6, 8);
          using denseQ = q.contiguous();
          using denseK = k.contiguous();
          const [wantQ, wantK] = applyRope(denseQ, denseK, { rotaryDim, rotaryOffset, pairing, offset: 77 });
          const bytes = device.memory().bytesInUse;
          applyRopeInplace(q, k, { rotaryDim, rotaryOffset, pairing, offset: 77 });
          expect(device.memory().bytesInUse).toBe(bytes); // nothing was copied
          expect(same(q, wantQ) && same(k, wantK)).toBe(true);
          const after = numbersOf(qkv);
          for (let i = 0; i < after.length; ++i) {
            if (Math.floor(i / dim) % sum >= (heads[0] ?? 0) + (heads[1] ?? 0)) expect(after[i]).toBe(packed[i] ?? NaN);
          }
          wantQ.dispose();
          wantK.dispose();
        }
      },
    );

    test("many tokens at once, over all cores, are the same bits as one at a time", () => {
      using rope = new RotaryEmbedding({ dim: 128, device });
      using q = randomTensor([3000, 4, 128], dtype, device);
      using all = rope.rotate(q, { offset: 5 });
      for (const t of [0, 1, 999, 1500, 2999]) {
        using token = q.slice(0, t, t + 1);
        using alone = rope.rotate(token, { offset: 5 + t });
        using row = all.slice(0, t, t + 1);
        expect(same(alone, row)).toBe(true);
      }
    });

    test("padding and pairs that stand still pass bit for bit, whatever their bits are", () => {
      const dim = 16;
      const junk = typed(new Float64Array(4 * 2 * dim), dtype);
      const bytes = new Uint8Array(junk.buffer);
      const next = uniform(5);
      bytes.forEach((_, i) => bytes[i] = 256 * next()); // NaNs with payloads, infinities, denormals
      using x = Tensor.empty([4, 2, dim], { dtype, device }).write(junk);
      for (const pairing of ["half", "interleaved"] as const) {
        using padded = new RotaryEmbedding({ dim, pairing, attentionFactor: 3, device });
        using out = padded.rotate(x, { positions: [-1, -1, -1, -1] });
        expect(same(out, x)).toBe(true);
        using nan = padded.rotate(x, { positions: [NaN, NaN, NaN, NaN] });
        expect(same(nan, x)).toBe(true);
        using still = new RotaryEmbedding({ dim, pairing, frequencies: new Float64Array(8), device });
        using rotated = still.rotate(x, { offset: 12345 });
        expect(same(rotated, x)).toBe(true);
      }
      // Permuted where the pairing permutes, still bit for bit: there and back.
      using permuting = new RotaryEmbedding({ dim, pairing: "interleaved_to_half", frequencies: new Float64Array(8), device });
      using there = permuting.rotate(x);
      using back = permuting.rotate(there, { inverse: true });
      expect(same(back, x)).toBe(true);
      // With frequencies on some pairs only, the others pass.
      using some = new RotaryEmbedding({ dim, frequencies: [0, 1, 0, 0, 0.5, 0, 0, 0], device });
      using moved = some.rotate(x, { offset: 9 });
      const [a, b] = [bytesOf(moved), bytesOf(x)];
      const width = a.length / (4 * 2 * dim);
      for (let i = 0; i < 4 * 2 * dim; ++i) {
        if ([1, 4].includes(i % 8)) continue;
        expect(firstDifference(a.subarray(i * width, (i + 1) * width), b.subarray(i * width, (i + 1) * width))).toBe(-1);
      }
    });
  });

  describe("shapes", () => {
    test("[nnz, H * D] with headDim is [nnz, H, D]", () => {
      using q = randomTensor([5, 3 * 64], "bfloat16", device, 1);
      using k = randomTensor([5, 64], "bfloat16", device, 2);
      using q3 = q.reshape([5, 3, 64]);
      using k3 = k.reshape([5, 1, 64]);
      const want = applyRope(q3, k3, { offset: 9, pairing: "interleaved" });
      const got = applyRope(q, k, { offset: 9, pairing: "interleaved", headDim: 64 });
      expect(got.map((tensor) => tensor.shape)).toEqual([[5, 192], [5, 64]]);
      expect(got.every((tensor, i) => firstDifference(bytesOf(tensor), bytesOf(want[i] ?? tensor)) === -1)).toBe(true);
      using rope = new RotaryEmbedding({ dim: 64, pairing: "interleaved", device });
      using own = rope.rotate(q, { offset: 9 }); // the embedding knows D
      expect(same(own, want[0])).toBe(true);
      for (const tensor of [...got, ...want]) tensor.dispose();
    });

    test("k absent: null back, q the same bits", () => {
      using q = randomTensor([5, 3, 64], "float32", device, 1);
      using k = randomTensor([5, 1, 64], "float32", device, 2);
      const [both, other] = applyRope(q, k);
      const [alone, none] = applyRope(q, null);
      expect(none).toBeNull();
      expect(same(both, alone)).toBe(true);
      for (const tensor of [both, other, alone]) tensor.dispose();
    });

    test("nothing to rotate is no error", () => {
      using rope = new RotaryEmbedding({ dim: 64, device });
      for (
        const [shape, kShape] of [[[0, 3, 64], [0, 1, 64]], [[0, 5, 3, 64], [0, 5, 1, 64]], [[2, 0, 3, 64], [2, 0, 1, 64]], [[4, 0, 64], [
          4,
          0,
          64,
        ]]] as const
      ) {
        using q = Tensor.empty(shape, { device });
        using k = Tensor.empty(kShape, { device });
        const [a, b] = rope.forward(q, k);
        expect([a.shape, b.shape]).toEqual([[...shape], [...kShape]]);
        rope.forwardInplace(q, k, { offset: 3 });
        a.dispose();
        b.dispose();
      }
      using q = Tensor.empty([0, 3, 64], { device });
      for (const options of [{ positions: [] }, { indptr: [0] }, { indptr: [0, 0, 0], offsets: [1, 2] }]) rope.rotate(q, options).dispose();
      using q2 = Tensor.empty([0, 3 * 64], { device });
      rope.rotate(q2).dispose();
      const { cos, sin } = rope.cosSin([]);
      expect([cos.shape, sin.shape]).toEqual([[0, 32], [0, 32]]);
      cos.dispose();
      sin.dispose();
    });

    test("out that is exactly the input is the in-place call", () => {
      using rope = new RotaryEmbedding({ dim: 64, pairing: "interleaved_to_half", device });
      using q = randomTensor([5, 3, 64], "float16", device, 1);
      using copy = q.clone();
      using want = rope.rotate(q, { offset: 3 });
      expect(rope.rotate(copy, { offset: 3, out: copy })).toBe(copy);
      expect(same(copy, want)).toBe(true);
    });
  });

  describe("graphs", () => {
    test("record rotations and replay them on what the tensors hold then", () => {
      using rope = new RotaryEmbedding({ dim: 64, device });
      using q = randomTensor([3, 2, 64], "float32", device, 1);
      using positions = Tensor.from([1, 2, 3], [3], { dtype: "int32", device });
      let made: Tensor | null = null;
      using graph = device.capture(() => {
        rope.forwardInplace(q, null, { positions });
        made = rope.rotate(q, { positions });
        for (const host of [{ positions: [1, 2, 3] }, { indptr: [0, 3] }, { offsets: [1] }]) {
          expect(errorOf(() => rope.forward(q, null, host))).toMatchObject({ code: "ROPE_ARGUMENT", argument: Object.keys(host)[0] ?? "" });
        }
      });
      using before = q.clone();
      for (const at of [[5, 6, 7], [100, -4, 12]]) {
        q.copyFrom(before);
        positions.write(Int32Array.from(at));
        using once = rope.rotate(before, { positions: at });
        using twice = rope.rotate(once, { positions: at });
        graph.launch();
        expect(same(q, once)).toBe(true);
        expect(same(made ?? q, twice)).toBe(true);
      }
    });

    test("keep frequencies that were given up meanwhile", () => {
      const rope = new RotaryEmbedding({ dim: 64, base: 777, device });
      using q = randomTensor([3, 2, 64], "float32", device, 1);
      using want = rope.rotate(q, { offset: 4 });
      using graph = device.capture(() => rope.forwardInplace(q, null, { offset: 4 }));
      rope.dispose();
      graph.launch();
      expect(same(q, want)).toBe(true);
    });
  });
});
