// Layers of models in one launch each: norm, rotate, scale, append. Against their steps one by one, which are the same bits in float32 and within one
// rounding where the steps round between.
import { describe, expect, test } from "bun:test";
import {
  appendPagedKVCache,
  appendPagedMLAKVCache,
  applyRopeAppendPagedKVCache,
  applyRopeWithCosSinCache,
  mlaRopeQuantizeFp8,
  type NormOptions,
  PagedKVCache,
  PagedMLACache,
  RopeError,
  ropeQuantizeFp8,
  ropeQuantizeFp8AppendPagedKVCache,
  RotaryEmbedding,
  Tensor,
} from "../../mod.ts";
import { integers, layouts } from "../kv/support.ts";
import { launches, valuesIn } from "./fused_support.ts";
import { bytesOf, devices, dtypes, open, randomTensor, type RotaryDType, same, ulp } from "./support.ts";

type Norm = Omit<NormOptions, "weight"> & { readonly weighted?: boolean };

interface Layer {
  readonly name: string;
  readonly heads: readonly [q: number, k: number];
  readonly embedding: ConstructorParameters<typeof RotaryEmbedding>[0];
  readonly qNorm?: Norm;
  readonly kNorm?: Norm;
  readonly temperature?: boolean;
  readonly launches: number;
}

/** What a layer works on. */
interface Parts {
  readonly rope: RotaryEmbedding;
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
  readonly qNorm: NormOptions | undefined;
  readonly kNorm: NormOptions | undefined;
  readonly qScale: Tensor | undefined;
}

const layers: readonly Layer[] = [
  { name: "Llama 3", heads: [8, 2], embedding: { dim: 128, base: 5e5 }, launches: 1 },
  {
    name: "Qwen3",
    heads: [4, 2],
    embedding: { dim: 128, base: 1e6 },
    qNorm: { eps: 1e-6, weighted: true },
    kNorm: { eps: 1e-6, weighted: true },
    launches: 1,
  },
  {
    name: "Gemma 3",
    heads: [4, 1],
    embedding: { dim: 256, base: 1e6, scaling: { ropeType: "linear", factor: 8 } },
    qNorm: { eps: 1e-6, weighted: true, unitOffset: true },
    kNorm: { eps: 1e-6, weighted: true, unitOffset: true },
    launches: 1,
  },
  {
    name: "OLMo 2",
    heads: [4, 4],
    embedding: { dim: 128, base: 5e5 },
    qNorm: { eps: 1e-6, weighted: true, over: "width" },
    kNorm: { eps: 1e-6, weighted: true, over: "width" },
    launches: 2,
  },
  {
    name: "GLM 4.5",
    heads: [6, 1],
    embedding: { dim: 128, rotaryDim: 64, base: 1e6 },
    qNorm: { eps: 1e-5, weighted: true },
    kNorm: { eps: 1e-5, weighted: true },
    launches: 1,
  },
  {
    name: "HunYuan",
    heads: [4, 2],
    embedding: { dim: 128 },
    qNorm: { eps: 1e-5, weighted: true, when: "after" },
    kNorm: { eps: 1e-5, weighted: true, when: "after" },
    launches: 1,
  },
  {
    name: "Llama 4",
    heads: [5, 1],
    embedding: { dim: 128, base: 5e5, pairing: "interleaved" },
    qNorm: { eps: 1e-5, when: "after" },
    kNorm: { eps: 1e-5, when: "after" },
    temperature: true,
    launches: 1,
  },
  { name: "q alone normed, odd dimensions", heads: [3, 2], embedding: { dim: 80, rotaryDim: 64 }, qNorm: { eps: 1e-6 }, launches: 1 },
];

describe.each(devices)("layers on %s", (name) => {
  const device = open(name);
  const tokens = 7;
  const table = { indptr: [0, 2, 3], indices: [4, 1, 0], batchIndices: [0, 0, 0, 1, 1, -1, 1], positions: [3, 4, 5, 0, 1, 2, 3] };
  const where = {
    indptr: integers(table.indptr, device),
    indices: integers(table.indices, device),
    batchIndices: integers(table.batchIndices, device),
    positions: integers(table.positions, device),
  };

  function setUp(layer: Layer, dtype: RotaryDType, stack: DisposableStack): Parts {
    const { dim } = layer.embedding;
    const [qHeads, kHeads] = layer.heads;
    const packed = stack.use(randomTensor([tokens, qHeads + 2 * kHeads, dim], dtype, device, 1));
    const norm = (of: Norm | undefined, heads: number, seed: number): NormOptions | undefined => {
      if (of === undefined) return undefined;
      const { weighted, ...rest } = of;
      const width = of.over === "width" ? heads * dim : dim;
      return weighted === true ? { ...rest, weight: stack.use(randomTensor([width], dtype, device, seed)) } : rest;
    };
    return {
      rope: stack.use(new RotaryEmbedding({ ...layer.embedding, device })),
      q: stack.use(packed.slice(1, 0, qHeads)),
      k: stack.use(packed.slice(1, qHeads, qHeads + kHeads)),
      v: stack.use(packed.slice(1, qHeads + kHeads)),
      qNorm: norm(layer.qNorm, qHeads, 2),
      kNorm: norm(layer.kNorm, kHeads, 3),
      qScale: layer.temperature === true ? stack.use(Tensor.from([1, 1, 1.1, 1.1, 1.2, 1.2, 1.3], [tokens], { device })) : undefined,
    };
  }

  /** One step at a time: norm, rotation, norm, scale; a norm alone is one of which all tokens are prefix. */
  function stepByStep(
    of: Parts,
    x: Tensor,
    norm: NormOptions | undefined,
    qScale: Tensor | undefined,
    stack: DisposableStack,
  ): Tensor[] {
    const steps = [x];
    const { positions } = where;
    const last = (): Tensor => steps.at(-1) ?? x;
    const step = (options: object): number => steps.push(stack.use(of.rope.rotate(last(), { positions, ...options })));
    if (norm !== undefined && norm.when !== "after") step({ qNorm: norm, prefix: tokens });
    step({});
    if (norm?.when === "after") step({ qNorm: norm, prefix: tokens });
    if (qScale !== undefined) step({ qScale, prefix: tokens });
    return steps;
  }

  describe.each(layers.map((layer) => [layer.name, layer] as const))("%s", (_name, layer) => {
    test.each(["float32", "bfloat16", "float16"] as const)("%s: the steps one by one", (dtype) => {
      using stack = new DisposableStack();
      const of = setUp(layer, dtype, stack);
      const { dim } = layer.embedding;
      const { q, k, v, qNorm, kNorm, qScale } = of;
      for (const layout of layouts) {
        const shape = { numPages: 5, pageSize: 4, numKVHeads: layer.heads[1], headDim: dim, dtype, layout, device } as const;
        using cache = new PagedKVCache(shape), plain = new PagedKVCache(shape);
        using turned = of.rope.append(q, k, v, cache, where, { qNorm, kNorm, qScale });
        const qSteps = stepByStep(of, q, qNorm, qScale, stack), kSteps = stepByStep(of, k, kNorm, undefined, stack);
        const wantQ = qSteps.at(-1) ?? q, wantK = kSteps.at(-1) ?? k;
        appendPagedKVCache(wantK, v, plain, where);
        expect(same(cache.v, plain.v)).toBe(true);
        if (dtype === "float32" || qSteps.length === 2) expect(same(turned, wantQ)).toBe(true);
        if (dtype === "float32" || kSteps.length === 2) expect(same(cache.k, plain.k)).toBe(true);
        // A step that rounds moves each channel by half an ulp, which a norm's weights, up to 3 here, and the next step's pair carry on.
        for (const [got, want] of [[turned, wantQ], [cache.k, plain.k]] as const) {
          const a = valuesIn(got), b = valuesIn(want);
          for (let start = 0; start < a.length; start += dim) {
            const largest = Math.max(...a.subarray(start, start + dim).map(Math.abs), ...b.subarray(start, start + dim).map(Math.abs));
            for (let i = start; i < start + dim; ++i) {
              if (Math.abs((a[i] ?? NaN) - (b[i] ?? NaN)) <= 4 * ulp(largest, dtype)) continue;
              throw new Error(`[${i}] is ${a[i]} at once, ${b[i]} step by step`);
            }
          }
        }
      }
    });

    test("is one launch, replayed as often as one likes", () => {
      using stack = new DisposableStack();
      const { rope, q, k, v, qNorm, kNorm, qScale } = setUp(layer, "bfloat16", stack);
      using cache = new PagedKVCache({ numPages: 5, pageSize: 4, numKVHeads: layer.heads[1], headDim: layer.embedding.dim, device });
      using out = q.clone();
      const options = { qNorm, kNorm, qScale, out };
      expect(launches(device, () => rope.append(q, k, v, cache, where, options))).toBeLessThanOrEqual(layer.launches);
      using graph = device.capture(() => rope.append(q, k, v, cache, where, options));
      const before = bytesOf(cache.k);
      graph.launch();
      graph.launch();
      expect(bytesOf(cache.k)).not.toEqual(before);
      using fresh = new PagedKVCache({ numPages: 5, pageSize: 4, numKVHeads: layer.heads[1], headDim: layer.embedding.dim, device });
      using want = rope.append(q, k, v, fresh, where, { qNorm, kNorm, qScale });
      expect([same(out, want), same(cache.k, fresh.k), same(cache.v, fresh.v)]).toEqual([true, true, true]);
    });
  });

  test("DeepSeek V3 in float8: one launch instead of two, the same bytes", () => {
    using stack = new DisposableStack();
    const rope = stack.use(new RotaryEmbedding({ dim: 64, pairing: "interleaved", device }));
    const random = (shape: number[], seed: number): Tensor => stack.use(randomTensor(shape, "float32", device, seed));
    const q = random([tokens, 8, 64], 1),
      qNope = random([tokens, 8, 512], 2),
      k = random([tokens, 64], 3),
      kNope = random([tokens, 512], 4);
    const made = (): PagedMLACache => stack.use(new PagedMLACache({ numPages: 5, pageSize: 4, dtype: "float8_e4m3fn", device }));
    const cache = made(), plain = made();
    const scales = { quantScaleQ: 5, quantScaleKv: 9 };
    const got = ropeQuantizeFp8AppendPagedKVCache(q, k, null, cache, where, { embedding: rope, qNope, kNope, ...scales });
    const want = mlaRopeQuantizeFp8(q, k, qNope, kNope, { embedding: rope, positions: where.positions, ...scales });
    expect([same(got.q, want.q), same(got.qNope ?? q, want.qNope)]).toEqual([true, true]);
    const heads = stack.use(k.reshape([tokens, 1, 64]));
    const turned = stack.use(rope.rotate(heads, { positions: where.positions }));
    appendPagedMLAKVCache(kNope, stack.use(turned.reshape([tokens, 64])), plain, where, { scaleK: 9 });
    expect([same(cache.kpe, plain.kpe), same(cache.ckv, plain.ckv)]).toEqual([true, true]);
    for (const tensor of [got.q, got.qNope, want.q, want.k, want.qNope, want.kNope]) tensor?.dispose();
  });

  test("no call leaves a tensor behind, whatever stands on the host, where it succeeds and where it meets a fault", () => {
    using stack = new DisposableStack();
    const rope = stack.use(new RotaryEmbedding({ dim: 64, device }));
    const random = (shape: number[]): Tensor => stack.use(randomTensor(shape, "bfloat16", device));
    const q = random([tokens, 4, 64]), k = random([tokens, 2, 64]), kpe = random([tokens, 64]), ckv = random([tokens, 128]);
    const nope = random([tokens, 2, 32]), qNope = random([tokens, 4, 32]);
    const cosSin = stack.use(rope.cosSinCache(6));
    const cache = stack.use(new PagedKVCache({ numPages: 5, pageSize: 4, numKVHeads: 2, headDim: 64, device }));
    const eight = { numPages: 5, pageSize: 4, dtype: "float8_e4m3fn", device } as const;
    const wide = stack.use(new PagedKVCache({ ...eight, numKVHeads: 2, headDim: 96, headDimV: 64 }));
    const mla = stack.use(new PagedMLACache({ ...eight, headDimCkv: 128 }));
    const far = integers([0, 99, 2, 3, 4, 5, 6], device);
    const numbers = [1, 2, 3, 4, 5, 6, 7];
    const weight = random([64]);
    const fused = { qNorm: { eps: 1e-6, weight }, kNorm: { eps: 1e-6 }, qScale: numbers, prefix: 1 };
    const free = (results: object): void => Object.values(results).forEach((one: Tensor | null) => one?.dispose());
    for (const where of [table, { ...table, positions: far }, { slotMapping: [3, 2, 1, 0, -1, 19, 18] }]) {
      for (const positions of [undefined, [5, 4, 3, 2, 1, 0, -1], far]) {
        const before = device.memory();
        const calls = [
          () => free(rope.forward(q, k, { ...fused, positions })),
          () => free([rope.rotate(q, { ...fused, kNorm: undefined, indptr: [0, 3, tokens], offsets: [1, 2] })]),
          () => free(applyRopeWithCosSinCache(q, k, positions ?? null, cosSin)),
          () => free(ropeQuantizeFp8(q, kpe, { positions, qNope, kNope: ckv })),
          () => free([rope.append(q, k, k, cache, where, { ...fused, positions })]),
          () => free([applyRopeAppendPagedKVCache(q, k, null, cache, where, { positions, cosSinCache: cosSin })]),
          () => free(ropeQuantizeFp8AppendPagedKVCache(q, k, k, wide, where, { positions, qNope, kNope: nope })),
          () => free(ropeQuantizeFp8AppendPagedKVCache(q, kpe, null, mla, where, { positions, kNope: ckv })),
        ];
        for (const call of calls) {
          try {
            call();
            device.stream.synchronizeBlocking();
          } catch (error) {
            expect(error).toBeInstanceOf(RopeError);
          }
        }
        const after = device.memory();
        expect([after.liveTensors, after.bytesInUse]).toEqual([before.liveTensors, before.bytesInUse]);
      }
    }
    far.dispose();
  });

  test("plain rotations keep the short way's bits: a prefix of 0 changes nothing", () => {
    for (const dtype of dtypes) {
      using rope = new RotaryEmbedding({ dim: 80, rotaryDim: 48, rotaryOffset: 16, attentionFactor: 1.3, device });
      using q = randomTensor([9, 3, 80], dtype, device, 1), k = randomTensor([9, 1, 80], dtype, device, 2);
      using scale = Tensor.full([9], 1, { device });
      const want = rope.forward(q, k, { offset: 1000 });
      for (const options of [{ prefix: 0 }, { qScale: scale }, { qScale: scale, prefix: 0 }]) {
        const got = rope.forward(q, k, { offset: 1000, ...options });
        expect([same(got[0], want[0]), same(got[1], want[1])]).toEqual([true, true]);
        for (const tensor of got) tensor.dispose();
      }
      for (const tensor of want) tensor.dispose();
    }
  });
});
