// The public surface that other programs are written against: the types that calls take and give, the options they know, and defaults.
import { describe, expect, test } from "bun:test";
import * as rope from "../../mod.ts";
import {
  type AppendTarget,
  type Device,
  type DeviceLike,
  type DType,
  PagedKVCache,
  PagedMLACache,
  type PageTable,
  type Pairing,
  type RopeScaling,
  RotaryEmbedding,
  type Stream,
  Tensor,
} from "../../mod.ts";
import { bytesOf, devices, open } from "./support.ts";

type Table = Tensor | number[];

interface Norm {
  weight?: Tensor;
  eps: number;
  when?: "before" | "after";
  over?: "head" | "width";
  unitOffset?: boolean;
}
interface Forward {
  positions?: Table;
  offset?: number;
  indptr?: Table;
  offsets?: Table;
  contextLength?: number;
  seqLen?: number;
  inverse?: boolean;
  qNorm?: Norm;
  kNorm?: Norm;
  qScale?: Tensor;
  prefix?: number;
  headDim?: number;
  stream?: Stream;
}
interface Quantize {
  scaleQ?: number;
  scaleK?: number;
  scaleV?: number;
  quantizeQ?: boolean;
}
interface Shape {
  rotaryDim?: number;
  rotaryOffset?: number;
  pairing?: Pairing;
  inverse?: boolean;
  headDim?: number;
  stream?: Stream;
}
interface Plain extends Shape {
  ropeScale?: number;
  ropeTheta?: number;
  angles?: "exact" | "hf";
}
interface Ragged {
  offset?: number;
  indptr?: Table;
  offsets?: Table;
}
interface Llama31 {
  lowFreqFactor?: number;
  highFreqFactor?: number;
  oldContextLen?: number;
}
interface Out {
  out?: [Tensor, Tensor | null];
}
interface Source {
  positions?: Table;
  embedding?: RotaryEmbedding;
  cosSinCache?: Tensor;
}
interface Float8 {
  quantizeDtype?: "float8_e4m3fn" | "float8_e5m2";
  quantScaleQ?: number;
  quantScaleKv?: number;
}
type Rotates<O> = (q: Tensor, k: Tensor, o?: O) => [Tensor, Tensor];
type RotatesAlone<O> = (q: Tensor, k: null, o?: O) => [Tensor, Tensor | null];
type Overwrites<O> = (q: Tensor, k: Tensor | null, o?: O) => void;
type RotatesAt<O> = (q: Tensor, k: Tensor, positions: Table, o?: O) => [Tensor, Tensor];
type OverwritesAt<O> = (q: Tensor, k: Tensor | null, positions: Table, o?: O) => void;

/** What does not fit here does not compile. */
const functions: {
  applyRope: Rotates<Plain & Ragged & Out> & RotatesAlone<Plain & Ragged & Out>;
  applyRopeInplace: Overwrites<Plain & Ragged>;
  applyRopePosIds: RotatesAt<Plain & Out>;
  applyRopePosIdsInplace: OverwritesAt<Plain>;
  applyLlama31Rope: Rotates<Plain & Ragged & Llama31 & Out>;
  applyLlama31RopeInplace: Overwrites<Plain & Ragged & Llama31>;
  applyLlama31RopePosIds: RotatesAt<Plain & Llama31 & Out>;
  applyLlama31RopePosIdsInplace: OverwritesAt<Plain & Llama31>;
  applyRopeWithCosSinCache: (
    q: Tensor,
    k: Tensor,
    positions: Table | null,
    cache: Tensor | [Tensor, Tensor],
    o?: Shape & Out,
  ) => [Tensor, Tensor];
  applyRopeWithCosSinCacheInplace: (
    q: Tensor,
    k: Tensor | null,
    positions: Table | null,
    cache: Tensor | [Tensor, Tensor],
    o?: Shape,
  ) => void;
  buildRopeCache: (
    o: { seqLen: number; headDim: number; base?: number; scaling?: RopeScaling; dtype?: DType; device?: DeviceLike },
  ) => { cos: Tensor; sin: Tensor };
  ropeQuantizeFp8: (q: Tensor, k: Tensor, o?: Plain & Source & Float8 & { qNope?: Tensor; kNope?: Tensor }) => {
    readonly q: Tensor;
    readonly k: Tensor;
    readonly qNope?: Tensor;
    readonly kNope?: Tensor;
  };
  mlaRopeQuantizeFp8: (qRope: Tensor, kRope: Tensor, qNope: Tensor, kNope: Tensor, o?: Plain & Source & Float8) => {
    readonly q: Tensor;
    readonly k: Tensor;
    readonly qNope: Tensor;
    readonly kNope: Tensor;
  };
  ropeQuantizeFp8AppendPagedKVCache: (
    q: Tensor,
    k: Tensor,
    v: Tensor | null,
    cache: PagedKVCache | PagedMLACache,
    where: AppendTarget,
    o?: Plain & Source & Float8 & { qNope?: Tensor; kNope?: Tensor },
  ) => { q: Tensor; qNope?: Tensor };
  applyRopeAppendPagedKVCache: (
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: PagedKVCache,
    where: AppendTarget,
    o?: Plain & Quantize & Source & { out?: Tensor },
  ) => Tensor;
  shiftPagedKVCache: (
    cache: PagedKVCache | PagedMLACache,
    pageTable: PageTable,
    delta: number | Tensor,
    o: { embedding: RotaryEmbedding; stream?: Stream },
  ) => void;
  appendPagedKVCache: (k: Tensor, v: Tensor, cache: PagedKVCache, where: AppendTarget, o?: Quantize & { stream?: Stream }) => void;
  appendPagedMLAKVCache: (
    ckv: Tensor,
    kpe: Tensor,
    cache: PagedMLACache,
    where: AppendTarget,
    o?: Quantize & { stream?: Stream },
  ) => void;
  getSeqLens: (indptr: Table, lastPageLen: Table, pageSize: number) => Tensor;
  getBatchIndicesPositions: (indptr: Table, seqLens: Table, nnz: number) => { batchIndices: Tensor; positions: Tensor };
} = rope;

/** The methods and fields of the class, as they must be. */
interface Embedding {
  forward: Rotates<Forward & Out> & RotatesAlone<Forward & Out>;
  forwardInplace: Overwrites<Forward>;
  rotate: (x: Tensor, o?: Forward & { out?: Tensor }) => Tensor;
  append: (
    q: Tensor,
    k: Tensor,
    v: Tensor | null,
    cache: PagedKVCache,
    where: AppendTarget,
    o?: Forward & Quantize & { out?: Tensor },
  ) => Tensor;
  cosSin: (positions: Table, o?: { contextLength?: number }) => { cos: Tensor; sin: Tensor };
  cosSinCache: (maxPosition?: number, o?: { dtype?: DType }) => Tensor;
  readonly frequencies: Float64Array;
  readonly invFreq: Float32Array;
  readonly attentionFactor: number;
  readonly dim: number;
  readonly rotaryDim: number;
  readonly rotaryOffset: number;
  readonly pairing: Pairing;
  readonly axes: number;
  readonly device: Device;
  dispose(): void;
  [Symbol.dispose](): void;
}
const makeEmbedding: (o: {
  dim: number;
  maxSeqLen?: number;
  base?: number;
  scaling?: RopeScaling;
  rotaryDim?: number;
  rotaryOffset?: number;
  pairing?: Pairing;
  angles?: "exact" | "hf";
  frequencies?: ArrayLike<number>;
  axes?: number;
  axisOfPair?: number[];
  attentionFactor?: number;
  conjugate?: boolean;
  device?: DeviceLike;
}) => Embedding = (o) => new RotaryEmbedding(o);
const readEmbedding: (
  config: object,
  o?: { layerType?: string; device?: DeviceLike; angles?: "exact" | "hf"; dim?: number; pairing?: Pairing; rotaryOffset?: number },
) => Embedding = RotaryEmbedding.fromConfig;

interface Cache {
  readonly k: Tensor;
  readonly v: Tensor;
  readonly numPages: number;
  readonly pageSize: number;
  readonly numKVHeads: number;
  readonly headDim: number;
  readonly layout: "NHD" | "HND";
  readonly dtype: DType;
  dispose(): void;
  [Symbol.dispose](): void;
}
const makeCache: (o: {
  numPages: number;
  pageSize: number;
  numKVHeads: number;
  headDim: number;
  headDimV?: number;
  dtype?: DType;
  layout?: "NHD" | "HND";
  device?: DeviceLike;
}) => Cache = (o) => new PagedKVCache(o);
const makeLatent: (
  o: { numPages: number; pageSize: number; headDimCkv?: number; headDimKpe?: number; dtype?: DType; device?: DeviceLike },
) => {
  readonly ckv: Tensor;
  readonly kpe: Tensor;
  dispose(): void;
} = (o) => new PagedMLACache(o);
const wrap: { (k: Tensor, v: Tensor, o: { layout: "NHD" | "HND" }): Cache; (kv: Tensor, o: { layout: "NHD" | "HND" }): Cache } =
  PagedKVCache.from;

describe.each(devices)("the public surface on %s", (name) => {
  const device = open(name);
  const random = (shape: number[], seed: number, dtype: DType = "float32"): Tensor => Tensor.random(shape, { seed, dtype, device });

  test("names", () => {
    const names = ["", "Inplace", "PosIds", "PosIdsInplace", "WithCosSinCache", "WithCosSinCacheInplace"].map((end) => `applyRope${end}`);
    names.push(...["", "Inplace", "PosIds", "PosIdsInplace"].map((end) => `applyLlama31Rope${end}`));
    names.push(
      "buildRopeCache",
      "ropeQuantizeFp8",
      "mlaRopeQuantizeFp8",
      "ropeQuantizeFp8AppendPagedKVCache",
      "applyRopeAppendPagedKVCache",
    );
    names.push("shiftPagedKVCache", "appendPagedKVCache", "appendPagedMLAKVCache", "getSeqLens", "getBatchIndicesPositions");
    for (const key of names) expect([key, typeof (functions as unknown as Record<string, unknown>)[key]]).toEqual([key, "function"]);
    expect([makeEmbedding, readEmbedding, makeCache, makeLatent, wrap].every((make) => typeof make === "function")).toBe(true);
    for (const error of ["", "Argument", "Disposed", "Device", "Fault", "OutOfMemory", "Fatal", "Library"]) {
      expect(typeof (rope as Record<string, unknown>)[`Rope${error}Error`]).toBe("function");
    }
  });

  test("defaults of the embedding and the functions are what they are said to be", () => {
    using stack = new DisposableStack();
    const q = stack.use(random([3, 2, 8], 1)), k = stack.use(random([3, 1, 8], 2));
    const same = (a: Tensor, b: Tensor): void => expect([...bytesOf(stack.use(a))]).toEqual([...bytesOf(stack.use(b))]);
    const said = { maxSeqLen: 2048, base: 10000, scaling: { ropeType: "default" }, rotaryDim: 8, rotaryOffset: 0 } as const;
    using bare = makeEmbedding({ dim: 8, device });
    using full = makeEmbedding({
      dim: 8,
      ...said,
      pairing: "half",
      angles: "exact",
      axes: 1,
      attentionFactor: 1,
      conjugate: false,
      device,
    });
    same(bare.rotate(q), full.rotate(q, { offset: 0, inverse: false, prefix: 0, seqLen: 3 }));
    expect(stack.use(bare.cosSinCache()).shape).toEqual([2048, 8]);
    expect(stack.use(bare.cosSinCache(4)).dtype).toBe("float32");
    const shape = { rotaryDim: 8, rotaryOffset: 0, pairing: "half", inverse: false } as const;
    same(functions.applyRope(q, null)[0], functions.applyRope(q, null, { ...shape, ropeScale: 1, ropeTheta: 10000, angles: "exact" })[0]);
    same(functions.applyRope(q, null)[0], bare.rotate(q));
    const llama = { ropeScale: 8, ropeTheta: 5e5, lowFreqFactor: 1, highFreqFactor: 4, oldContextLen: 8192 };
    same(functions.applyLlama31Rope(q, null as never)[0], functions.applyLlama31Rope(q, null as never, { ...shape, ...llama })[0]);

    const table = stack.use(bare.cosSinCache(3));
    same(functions.applyRopeWithCosSinCache(q, k, null, table)[1], functions.applyRopeWithCosSinCache(q, k, [0, 1, 2], table, shape)[1]);
    const { cos } = functions.buildRopeCache({ seqLen: 3, headDim: 8, device });
    expect([stack.use(cos).shape, cos.dtype]).toEqual([[3, 4], "float32"]);
    const fp8 = functions.ropeQuantizeFp8(q, k);
    const spelt = functions.ropeQuantizeFp8(q, k, { quantizeDtype: "float8_e4m3fn", quantScaleQ: 1, quantScaleKv: 1, ...shape });
    same(fp8.q, spelt.q);
    same(fp8.k, spelt.k);
    expect(fp8.q.dtype).toBe("float8_e4m3fn");

    const norm = { eps: 1e-6 };
    same(bare.rotate(q, { qNorm: norm }), bare.rotate(q, { qNorm: { ...norm, when: "before", over: "head", unitOffset: false } }));
  });

  test("defaults of the caches", () => {
    const form = { numPages: 2, pageSize: 4, numKVHeads: 2, headDim: 8, device };
    using cache = makeCache(form);
    expect([cache.layout, cache.dtype, cache.k.shape, cache.v.shape]).toEqual(["NHD", "bfloat16", [2, 4, 2, 8], [2, 4, 2, 8]]);
    expect([cache.numPages, cache.pageSize, cache.numKVHeads, cache.headDim]).toEqual([2, 4, 2, 8]);
    expect(bytesOf(cache.k).every((byte) => byte === 0) && bytesOf(cache.v).every((byte) => byte === 0)).toBe(true);
    using turned = makeCache({ ...form, layout: "HND", headDimV: 6 });
    expect([turned.k.shape, turned.v.shape]).toEqual([[2, 2, 4, 8], [2, 2, 4, 6]]);
    const latent = makeLatent({ numPages: 2, pageSize: 4, device });
    expect([latent.ckv.shape, latent.kpe.shape, latent.ckv.dtype]).toEqual([[2, 4, 512], [2, 4, 64], "bfloat16"]);
    latent.dispose();
    using kv = Tensor.zeros([2, 2, 4, 3, 8], { dtype: "float16", device });
    using flat = wrap(kv, { layout: "NHD" });
    using heads = wrap(kv, { layout: "HND" });
    expect([flat.pageSize, flat.numKVHeads, heads.pageSize, heads.numKVHeads]).toEqual([4, 3, 3, 4]);
  });

  test("appending forms rotate by where.positions unless they are told; slots need positions", () => {
    using stack = new DisposableStack();
    const q = stack.use(random([3, 2, 8], 1)), k = stack.use(random([3, 1, 8], 2)), v = stack.use(random([3, 1, 8], 3));
    const form = { numPages: 2, pageSize: 4, numKVHeads: 1, headDim: 8, device };
    const plain = stack.use(new PagedKVCache({ ...form, dtype: "float32" })),
      small = stack.use(new PagedKVCache({ ...form, dtype: "float8_e5m2" }));
    const positions = [2, 3, 5], where = { indptr: [0, 2], indices: [1, 0], batchIndices: [0, 0, 0], positions };
    const slots = { slotMapping: new BigInt64Array([6n, 7n, 1n]) };
    using embedding = new RotaryEmbedding({ dim: 8, device });
    const want = [...bytesOf(stack.use(embedding.rotate(q, { positions })))];
    const forms = [
      embedding.append(q, k, v, plain, where),
      embedding.append(q, k, null, plain, slots, { positions }),
      functions.applyRopeAppendPagedKVCache(q, k, v, plain, where),
      functions.applyRopeAppendPagedKVCache(q, k, v, plain, slots, { positions, embedding }),
      functions.applyRopeAppendPagedKVCache(q, k, v, small, where, { scaleK: 2, scaleV: 4 }),
    ];
    for (const rotated of forms) expect([...bytesOf(stack.use(rotated))]).toEqual(want);
    expect(stack.use(embedding.append(q, k, v, small, where, { quantizeQ: true, scaleQ: 2 })).dtype).toBe("float8_e5m2");
    const fp8 = functions.ropeQuantizeFp8AppendPagedKVCache(q, k, v, small, where);
    const told = functions.ropeQuantizeFp8AppendPagedKVCache(q, k, v, small, slots, { positions, embedding, quantScaleQ: 1 });
    expect([...bytesOf(stack.use(fp8.q))]).toEqual([...bytesOf(stack.use(told.q))]);
  });
});
