// Rotations into float8: codes against exact arithmetic rounded by the formats' definitions, and against the rotation followed by toFloat8.
import { describe, expect, test } from "bun:test";
import { mlaRopeQuantizeFp8, ropeQuantizeFp8, type RopeQuantizeFp8Options, RotaryEmbedding, Tensor, toFloat8 } from "../../mod.ts";
import { expectClose, filled, float8s, launches, plainPipeline } from "./fused_support.ts";
import { bytesOf, devices, dtypes, errorOf, numbersOf, open, pairings, randomTensor, same, samples, tensorOf } from "./support.ts";

describe.each(devices)("float8 on %s", (name) => {
  const device = open(name);

  test.each(dtypes.map((dtype) => [dtype] as const))("%s: every pairing, odd shapes and scales, q, k and their nopes", (dtype) => {
    let turn = 0;
    for (
      const [dim, rotaryDim, rotaryOffset] of [[64, 64, 0], [80, 80, 0], [112, 64, 32], [160, 96, 0], [192, 64, 128], [33, 18, 3]] as const
    ) {
      for (const pairing of pairings) {
        const quantizeDtype = float8s[turn % 2] ?? "float8_e4m3fn";
        const [quantScaleQ, quantScaleKv] = [[1, 1], [20, 0.5], [1000, 1e-4], [0.3, 77]][turn % 4] as [number, number];
        const inverse = turn++ % 3 === 2;
        const positions = [0, 5, 200, -1, -9];
        const steps = { positions: positions.map((p) => p === -1 ? NaN : p), rotaryDim, rotaryOffset, pairing, inverse, base: 5e5 };
        const numbers = [
          samples(5 * 3 * dim, dtype, 1),
          samples(5 * 2 * dim, dtype, 2),
          samples(5 * 3 * 48, dtype, 3),
          samples(5 * 2 * 7, dtype, 4),
        ];
        const shapes = [[5, 3, dim], [5, 2, dim], [5, 3, 48], [5, 2, 7]] as const;
        const [q, k, qNope, kNope] = numbers.map((x, i) => tensorOf(x, [...shapes[i] ?? []], dtype, device)) as [
          Tensor,
          Tensor,
          Tensor,
          Tensor,
        ];
        const results = ropeQuantizeFp8(q, k, {
          ...{
            positions,
            rotaryDim,
            rotaryOffset,
            pairing,
            inverse,
            ropeTheta: 5e5,
            qNope,
            kNope,
            quantizeDtype,
            quantScaleQ,
            quantScaleKv,
          },
        });
        (["q", "k", "qNope", "kNope"] as const).forEach((part, i) => {
          const got = results[part];
          if (got === undefined) throw new Error(`${part} is missing`);
          expect([got.shape, got.dtype]).toEqual([[...shapes[i] ?? []], quantizeDtype]);
          const exact = i < 2
            ? plainPipeline(numbers[i] ?? new Float64Array(), shapes[i] ?? [0, 0, 0], steps)
            : numbers[i] ?? new Float64Array();
          const what = `${part}, dim ${dim}, R ${rotaryDim}, ${pairing}, ${quantizeDtype}`;
          // A scale is a float32 on its way.
          expectClose(what, got, exact, shapes[i]?.[2] ?? 1, Math.fround(i % 2 === 0 ? quantScaleQ : quantScaleKv));
          got.dispose();
        });
        for (const tensor of [q, k, qNope, kNope]) tensor.dispose();
      }
    }
  });

  test.each(pairings.map((pairing) => [pairing] as const))(
    "%s: of float32 it is rotate, times the scale, toFloat8, bit for bit",
    (pairing) => {
      using rope = new RotaryEmbedding({
        dim: 112,
        rotaryDim: 64,
        rotaryOffset: 16,
        pairing,
        attentionFactor: 1.2,
        conjugate: true,
        device,
      });
      using cache = rope.cosSinCache(100);
      using q = randomTensor([6, 3, 112], "float32", device, 1);
      using k = randomTensor([6, 1, 112], "float32", device, 2);
      const positions = [0, 99, -1, 3, 4, 50];
      const [qTurned, kTurned] = rope.forward(q, k, { positions });
      for (const quantizeDtype of float8s) {
        for (const scale of [1, 0.75, 300]) {
          const want = [qTurned, kTurned].map((x) => toFloat8(numbersOf(x).map((value) => Math.fround(value * scale)), quantizeDtype));
          const options = { positions, quantizeDtype, quantScaleQ: scale, quantScaleKv: scale };
          const results = ropeQuantizeFp8(q, k, { ...options, embedding: rope });
          expect([bytesOf(results.q), bytesOf(results.k)]).toEqual(want);
          results.q.dispose();
          results.k.dispose();
        }
      }
      // A table of cosines and sines has the sign and the attention factor in it, the offset and the pairing it has not.
      const byTable = ropeQuantizeFp8(q, k, { positions, cosSinCache: cache, rotaryOffset: 16, pairing });
      const byEmbedding = ropeQuantizeFp8(q, k, { positions, embedding: rope });
      expect([same(byTable.q, byEmbedding.q), same(byTable.k, byEmbedding.k)]).toEqual([true, true]);
      for (const tensor of [qTurned, kTurned, byTable.q, byTable.k, byEmbedding.q, byEmbedding.k]) tensor.dispose();
    },
  );

  test("saturates, infinities too; NaN stays NaN; negative zero keeps its sign", () => {
    const x = Float32Array.of(Infinity, -Infinity, NaN, 1e30, -1e30, -0, 449, 60000);
    using q = Tensor.from(x, [1, 1, 8], { device });
    for (const quantizeDtype of float8s) {
      const { q: padded } = ropeQuantizeFp8(q, null, { positions: [-1], quantizeDtype });
      const { q: scaled } = ropeQuantizeFp8(q, null, { positions: [-1], quantizeDtype, quantScaleQ: 1e30 });
      expect(bytesOf(padded)).toEqual(toFloat8(x, quantizeDtype));
      expect(bytesOf(scaled)).toEqual(toFloat8(x.map((value) => value * 1e30), quantizeDtype));
      padded.dispose();
      scaled.dispose();
    }
  });

  test("where the tokens stand, and rules by numbers: as the rotation takes them", () => {
    using q = randomTensor([2, 3, 2, 64], "bfloat16", device, 1);
    using flat = q.reshape([6, 2, 64]);
    const cases: [Tensor, RopeQuantizeFp8Options, number[]][] = [
      [q, {}, [0, 1, 2, 0, 1, 2]],
      [q, { offset: 7 }, [7, 8, 9, 7, 8, 9]],
      [q, { offsets: [3, -2] }, [3, 4, 5, -2, -1, 0]],
      [q, { positions: [4, 5, 6] }, [4, 5, 6, 4, 5, 6]],
      [flat, {}, [0, 1, 2, 3, 4, 5]],
      [flat, { indptr: [0, 2, 6], offsets: [10, 20] }, [10, 11, 20, 21, 22, 23]],
    ];
    for (const [x, options, positions] of cases) {
      const { q: got } = ropeQuantizeFp8(x, null, { ...options, ropeScale: 4, ropeTheta: 777, quantScaleQ: 3 });
      // Derived positions are never padding; a float32 -1 is none either.
      const { q: want } = ropeQuantizeFp8(flat, null, {
        positions: Float32Array.from(positions),
        ropeScale: 4,
        ropeTheta: 777,
        quantScaleQ: 3,
      });
      using rows = want.reshape([...x.shape]);
      expect(same(got, rows)).toBe(true);
      got.dispose();
      want.dispose();
    }
    using axes = new RotaryEmbedding({ dim: 64, axisOfPair: Array.from({ length: 32 }, (_, i) => i % 3), device });
    const three = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 2, 4, 6, 8, 10, 12, 14, 16];
    using exact = flat.to("float32");
    const { q: got } = ropeQuantizeFp8(exact, null, { embedding: axes, positions: three });
    using turned = axes.rotate(exact, { positions: three });
    expect(bytesOf(got)).toEqual(toFloat8(numbersOf(turned)));
    got.dispose();
  });

  test("rules that depend on the length take the context's", () => {
    const scaling = { ropeType: "dynamic", factor: 2, originalMaxPositionEmbeddings: 16 } as const;
    using rope = new RotaryEmbedding({ dim: 32, maxSeqLen: 16, scaling, device });
    using q = randomTensor([1, 2, 32], "float32", device, 1);
    for (const options of [{ positions: [60] }, { positions: [5] }, { positions: [5], contextLength: 64 }, { offset: 60 }]) {
      using turned = rope.rotate(q, options);
      const { q: got } = ropeQuantizeFp8(q, null, { embedding: rope, ...options });
      expect(bytesOf(got)).toEqual(toFloat8(numbersOf(turned)));
      got.dispose();
    }
  });

  describe("multi-head latent attention", () => {
    test("keys of one head with and without its axis, strided too; results are shaped as the inputs", () => {
      using wide = randomTensor([5, 600], "bfloat16", device, 1);
      using kNope = wide.slice(1, 0, 512), kRope = wide.slice(1, 512, 576);
      using kNope3 = kNope.reshape([5, 1, 512]), kRope3 = kRope.reshape([5, 1, 64]);
      using heads = randomTensor([5, 4, 192], "bfloat16", device, 2);
      using qNope = heads.slice(2, 0, 128), qRope = heads.slice(2, 128);
      const options = { positions: [1, 2, 3, 4, 1000], pairing: "interleaved", quantScaleQ: 8, quantScaleKv: 16 } as const;
      const flat = mlaRopeQuantizeFp8(qRope, kRope, qNope, kNope, options);
      const full = mlaRopeQuantizeFp8(qRope, kRope3, qNope, kNope3, options);
      const mixed = ropeQuantizeFp8(qRope, kRope, { ...options, qNope, kNope: kNope3 });
      expect([flat.q, flat.k, flat.qNope, flat.kNope].map((one) => one.shape)).toEqual([[5, 4, 64], [5, 64], [5, 4, 128], [5, 512]]);
      expect([full.k.shape, full.kNope.shape, mixed.k.shape, mixed.kNope?.shape]).toEqual([[5, 1, 64], [5, 1, 512], [5, 64], [5, 1, 512]]);
      for (const part of ["q", "k", "qNope", "kNope"] as const) {
        expect(bytesOf(full[part])).toEqual(bytesOf(flat[part]));
        expect(bytesOf(mixed[part] ?? flat.q)).toEqual(bytesOf(flat[part]));
      }
      const exact = plainPipeline(numbersOf(kRope), [5, 1, 64], { positions: options.positions, pairing: "interleaved" });
      expectClose("k", flat.k, exact, 64, 16);
      expectClose("kNope", flat.kNope, numbersOf(kNope), 512, 16);
      for (const results of [flat, full, mixed]) {
        for (const part of ["q", "k", "qNope", "kNope"] as const) results[part]?.dispose();
      }
      using batched = randomTensor([2, 3, 4, 64], "bfloat16", device, 3);
      using batchedKey = randomTensor([2, 3, 64], "bfloat16", device, 4);
      const rows = ropeQuantizeFp8(batched, batchedKey);
      expect(rows.k.shape).toEqual([2, 3, 64]);
      rows.q.dispose();
      rows.k.dispose();
    });
  });

  describe("out", () => {
    test("as the results or in their order, strided; what is not given is new; the dtype is theirs", () => {
      using q = randomTensor([3, 2, 32], "float16", device, 1);
      using k = randomTensor([3, 1, 32], "float16", device, 2);
      using qNope = randomTensor([3, 2, 8], "float16", device, 3);
      const want = ropeQuantizeFp8(q, k, { qNope, quantizeDtype: "float8_e5m2" });
      using rows = filled([3, 3, 40], "float8_e5m2", device);
      using qOut = rows.slice(1, 0, 2).slice(2, 0, 32),
        qNopeOut = rows.slice(1, 0, 2).slice(2, 32),
        kOut = rows.slice(1, 2).slice(2, 0, 32);
      for (
        const out of [{ q: qOut, k: kOut, qNope: qNopeOut }, [qOut, kOut, qNopeOut], { qNope: qNopeOut, k: null }, [qOut, kOut]] as const
      ) {
        const got = ropeQuantizeFp8(q, k, { qNope, out });
        for (const part of ["q", "k", "qNope"] as const) expect(bytesOf(got[part] ?? q)).toEqual(bytesOf(want[part] ?? q));
        if (!Array.isArray(out) || out.length === 3) expect(got.qNope).toBe(qNopeOut);
        for (const part of ["q", "k", "qNope"] as const) {
          if (![qOut, kOut, qNopeOut].includes(got[part] ?? qOut)) got[part]?.dispose();
        }
      }
      using gap = rows.slice(1, 2).slice(2, 32);
      expect(bytesOf(gap).every((byte) => byte === 0xa5)).toBe(true);
      for (const tensor of [want.q, want.k, want.qNope]) tensor?.dispose();
    });
  });

  test("a token without a position or a row in the table: a fault, and its codes are as they were", () => {
    using q = randomTensor([3, 2, 32], "float16", device, 1);
    using out = filled([3, 2, 32], "float8_e4m3fn", device);
    using cache = randomTensor([9, 32], "float32", device, 2);
    using far = Tensor.from(BigInt64Array.of(1n, 2n ** 50n, 2n), [3], { device });
    using beyond = Tensor.from([1, 9, 2], [3], { dtype: "int32", device });
    for (const [options, code] of [[{ positions: far }, "position"], [{ positions: beyond, cosSinCache: cache }, "row"]] as const) {
      out.write(new Uint8Array(3 * 2 * 32).fill(0xa5));
      const error = errorOf(() => {
        ropeQuantizeFp8(q, null, { ...options, out: { q: out } });
        device.stream.synchronizeBlocking();
      });
      expect(error).toMatchObject({ code: "ROPE_FAULT", fault: { code, index: 1 } });
      const written = [0, 1, 2].map((t) => bytesOf(out).subarray(64 * t, 64 * (t + 1)).some((byte) => byte !== 0xa5));
      expect(written).toEqual([true, false, true]);
    }
  });

  test("one launch, with nopes and all", () => {
    using q = randomTensor([3, 4, 64], "bfloat16", device, 1);
    using k = randomTensor([3, 64], "bfloat16", device, 2);
    using qNope = randomTensor([3, 4, 128], "bfloat16", device, 3);
    using kNope = randomTensor([3, 128], "bfloat16", device, 4);
    using positions = Tensor.arange(3, { device });
    using rope = new RotaryEmbedding({ dim: 64, device });
    using cosSinCache = rope.cosSinCache(8);
    expect(launches(device, () => mlaRopeQuantizeFp8(q, k, qNope, kNope, { positions }))).toBe(1);
    expect(launches(device, () => ropeQuantizeFp8(q, k, { positions, qNope, kNope, embedding: rope }))).toBe(1);
    expect(launches(device, () => ropeQuantizeFp8(q, k, { positions, cosSinCache }))).toBe(1);
    using graph = device.capture(() => ropeQuantizeFp8(q, k, { positions }));
    graph.launch(); // what it made is its own
  });

  test("errors name the argument; nothing is left behind", () => {
    using stack = new DisposableStack();
    const zeros = (shape: number[], dtype: "float32" | "float16" | "int32" | "float8_e4m3fn" | "float8_e5m2" = "float16"): Tensor =>
      stack.use(Tensor.zeros(shape, { dtype, device }));
    const q = zeros([4, 2, 16]), k = zeros([4, 1, 16]), nope = zeros([4, 2, 8]), table = zeros([8, 16], "float32");
    const rope = stack.use(new RotaryEmbedding({ dim: 16, device })), ended = new RotaryEmbedding({ dim: 16, device });
    ended.dispose();
    const e4 = zeros([4, 2, 16], "float8_e4m3fn"), e5 = zeros([4, 1, 16], "float8_e5m2");
    const cases: [object, string, RegExp][] = [
      [{ quantizeDtype: "float8" }, "quantizeDtype", /"float8_e4m3fn", "float8_e5m2"/],
      [{ quantizeDtype: null }, "quantizeDtype", /got null/],
      [{ quantScaleQ: 0 }, "quantScaleQ", /positive/],
      [{ quantScaleKv: NaN }, "quantScaleKv", /positive/],
      [{ quantScaleQ: 1e-50 }, "quantScaleQ", /positive float32, got 1e-50/],
      [{ quantScaleKv: 1e39 }, "quantScaleKv", /positive float32/],
      [{ embedding: rope, cosSinCache: table }, "cosSinCache", /absent where an embedding/],
      [{ embedding: rope, ropeTheta: 1e4 }, "ropeTheta", /absent where an embedding/],
      [{ embedding: rope, pairing: "half" }, "pairing", /absent where an embedding/],
      [{ embedding: rope, rotaryDim: 16 }, "rotaryDim", /its own/],
      [{ cosSinCache: table, ropeScale: 2 }, "ropeScale", /absent where a cosSinCache/],
      [{ cosSinCache: table, angles: "hf" }, "angles", /absent where a cosSinCache/],
      [{ cosSinCache: zeros([8, 18], "float32") }, "cosSinCache", /at most 16/],
      [{ cosSinCache: [table] }, "cosSinCache", /array of 1/],
      [{ embedding: 3 }, "embedding", /a RotaryEmbedding, got 3/],
      [{ contextLength: 3 }, "contextLength", /without an embedding/],
      [{ embedding: rope, contextLength: 0 }, "contextLength", /at least 1/],
      [{ embedding: stack.use(new RotaryEmbedding({ dim: 16, axisOfPair: [0, 1, 0, 1, 0, 1, 0, 1], device })) }, "positions", /2 axes/],
      [{ embedding: stack.use(new RotaryEmbedding({ dim: 24, device })) }, "embedding", /the 16 channels/],
      [{ rotaryDim: 18 }, "rotaryDim", /at most 16/],
      [{ qNope: zeros([4, 1, 8]) }, "qNope", /like|as q/],
      [{ qNope: zeros([3, 2, 8]) }, "qNope", /as q/],
      [{ qNope: zeros([4, 2, 8], "float32") }, "qNope", /float16/],
      [{ qNope: 3 }, "qNope", /a Tensor, got 3/],
      [{ kNope: nope }, "kNope", /as k/],
      [{ out: e4 }, "out", /got a Tensor/],
      [{ out: [e4] }, "out[1]", /undefined/],
      [{ out: [e4, null] }, "out[1]", /null/],
      [{ out: { q: e4, v: e4 } }, "out", /the key v/],
      [{ out: { q: e4, k: e5 } }, "out.k", /float8_e4m3fn, got float8_e5m2/],
      [{ out: { q: q } }, "out.q", /float8, got float16/],
      [{ out: [e4, e5], quantizeDtype: "float8_e5m2" }, "out[0]", /float8_e5m2, got float8_e4m3fn/],
      [{ out: { qNope: e4 } }, "out.qNope", /no qNope/],
      [{ out: { q: zeros([4, 3, 16], "float8_e4m3fn") } }, "out.q", /\[4, 2, 16\]/],
      [{ out: { k: zeros([4, 2, 16], "float8_e4m3fn") } }, "out.k", /\[4, 1, 16\]/],
      [{ qNorm: { eps: 1 } }, "options", /the key "qNorm"/],
      [{ offset: 1, positions: [0, 1, 2, 3] }, "options", /only one of/],
    ];
    for (const [options, argument, message] of cases) {
      const before = device.memory();
      const error = errorOf(() => ropeQuantizeFp8(q, k, options)) as { code: string; argument: string; message: string };
      const after = device.memory();
      expect([after.liveTensors, after.bytesInUse]).toEqual([before.liveTensors, before.bytesInUse]);
      expect([error.code, error.argument, error.message]).toEqual(["ROPE_ARGUMENT", argument, expect.stringMatching(message)]);
    }
    expect(errorOf(() => ropeQuantizeFp8(q, k, { embedding: ended }))).toMatchObject({ code: "ROPE_DISPOSED", argument: "embedding" });
    expect(errorOf(() => ropeQuantizeFp8(q, undefined as never))).toMatchObject({ argument: "k" });
    expect(errorOf(() => ropeQuantizeFp8(q, null, { kNope: nope }))).toMatchObject({ argument: "kNope" });
    expect(errorOf(() => ropeQuantizeFp8(zeros([4, 2, 16], "float8_e4m3fn"), null))).toMatchObject({ argument: "q" });
    expect(errorOf(() => ropeQuantizeFp8(zeros([4, 32]), null))).toMatchObject({ argument: "headDim" });
    const two = zeros([4, 2, 16]), key = zeros([4, 16]);
    expect(errorOf(() => mlaRopeQuantizeFp8(q, two, nope, key))).toMatchObject({ argument: "kRope" });
    expect(errorOf(() => mlaRopeQuantizeFp8(q, key, nope, two))).toMatchObject({ argument: "kNope" });
    expect(errorOf(() => mlaRopeQuantizeFp8(q, zeros([4, 8]), nope, key))).toMatchObject({ argument: "kRope" });
    expect(errorOf(() => mlaRopeQuantizeFp8(q, key, null as never, key))).toMatchObject({ argument: "qNope" });
    expect(errorOf(() => mlaRopeQuantizeFp8(q, key, nope, key, { qNope: nope } as object))).toMatchObject({ argument: "options" });
  });
});
