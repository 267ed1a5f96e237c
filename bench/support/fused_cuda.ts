// bench/fused.ts: the time of a fused form over that of a device-to-device copy of half the bytes that it reads and writes, for a copy does both.
import {
  appendPagedKVCache,
  appendPagedMLAKVCache,
  applyRopeWithCosSinCache,
  type Device,
  type DType,
  PagedKVCache,
  PagedMLACache,
  ropeQuantizeFp8,
  ropeQuantizeFp8AppendPagedKVCache,
  RotaryEmbedding,
  Tensor,
} from "../../mod.ts";
import { buffersFor, type CudaTiming, measure } from "./cuda_timing.ts";

/** A form at a number of tokens. */
export interface FusedRow extends CudaTiming {
  readonly form: string;
  readonly tokens: number;
  /** The time over the copy that the form is meant to reach from 1024 tokens; below, microseconds at 1 and at 64 tokens. */
  readonly bar?: number;
}

const pageSize = 16;
const [heads, dim, ckvDim, kpeDim] = [32, 128, 512, 64];

/** One buffer's tensors. */
interface Buffer {
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
  readonly qOut: Tensor;
  readonly kOut: Tensor;
  readonly positions: Tensor;
  readonly where: { indptr: Tensor; indices: Tensor; batchIndices: Tensor; positions: Tensor };
}

interface Shared {
  readonly rope: RotaryEmbedding;
  readonly cache: PagedKVCache;
  readonly mla: PagedMLACache;
  readonly table: Tensor;
  readonly qWeight: Tensor;
  readonly kWeight: Tensor;
}

interface Form {
  readonly name: string;
  readonly kvHeads?: number;
  readonly cacheDtype?: DType;
  readonly mla?: true;
  /** Elements of two bytes, and of one, that are read and written for each token of 32 and Hk heads. */
  readonly halves: (kvHeads: number) => number;
  readonly bytes: (kvHeads: number) => number;
  readonly bar?: number;
  readonly run: (b: Buffer, s: Shared) => void;
}

const append = (b: Buffer, s: Shared, norms: object): void => {
  s.rope.append(b.q, b.k, b.v, s.cache, b.where, { positions: b.positions, out: b.qOut, ...norms });
};

const forms: readonly Form[] = [
  {
    name: "fp8 quantise",
    halves: (hk) => (heads + hk) * dim,
    bytes: (hk) => (heads + hk) * dim,
    bar: 1.10,
    run: (b, s) => void ropeQuantizeFp8(b.q, b.k, { positions: b.positions, embedding: s.rope, out: { q: b.qOut, k: b.kOut } }),
    cacheDtype: "float8_e4m3fn",
  },
  {
    name: "rotate + append",
    halves: (hk) => 2 * (heads + 2 * hk) * dim,
    bytes: () => 0,
    bar: 1.10,
    run: (b, s) => append(b, s, {}),
  },
  {
    name: "fp8 + append",
    halves: (hk) => (heads + 2 * hk) * dim,
    bytes: (hk) => (heads + 2 * hk) * dim,
    bar: 1.15,
    run: (b, s) =>
      void ropeQuantizeFp8AppendPagedKVCache(b.q, b.k, b.v, s.cache, b.where, {
        positions: b.positions,
        embedding: s.rope,
        out: { q: b.qOut },
      }),
    cacheDtype: "float8_e4m3fn",
  },
  {
    name: "norm + rotate + append",
    halves: (hk) => 2 * (heads + 2 * hk) * dim,
    bytes: () => 0,
    bar: 1.12,
    run: (b, s) => append(b, s, { qNorm: { weight: s.qWeight, eps: 1e-6 }, kNorm: { weight: s.kWeight, eps: 1e-6 } }),
  },
  {
    name: "append",
    halves: (hk) => 4 * hk * dim,
    bytes: () => 0,
    bar: 1.05,
    run: (b, s) => appendPagedKVCache(b.k, b.v, s.cache, b.where),
  },
  {
    name: "append, one kv head",
    kvHeads: 1,
    halves: (hk) => 4 * hk * dim,
    bytes: () => 0,
    bar: 1.05,
    run: (b, s) => appendPagedKVCache(b.k, b.v, s.cache, b.where),
  },
  {
    name: "append, MLA",
    mla: true,
    halves: () => 2 * (ckvDim + kpeDim),
    bytes: () => 0,
    bar: 1.05,
    run: (b, s) => appendPagedMLAKVCache(b.k, b.v, s.mla, b.where),
  },
  {
    name: "cos/sin cache",
    halves: (hk) => 2 * (heads + hk) * dim,
    bytes: () => 0,
    run: (b, s) => void applyRopeWithCosSinCache(b.q, b.k, b.positions, s.table, { out: [b.qOut, b.kOut] }),
  },
];

/** The names of what is measured. */
export const formNames: readonly string[] = forms.map((form) => form.name);
/** The numbers of tokens that are measured unless said otherwise. */
export const tokenCounts: readonly number[] = [1, 64, 256, 1024, 2048, 8192, 32768];

/** Measures a form at a number of tokens; undefined where it does not fit the GPU's memory. */
export async function measureFused(device: Device, name: string, tokens: number, rounds: number): Promise<FusedRow | undefined> {
  const form = forms.find((candidate) => candidate.name === name);
  if (form === undefined) throw new Error(`no form ${name}`);
  const { kvHeads = 8, cacheDtype = "bfloat16" } = form;
  const bytes = tokens * (2 * form.halves(kvHeads) + form.bytes(kvHeads));
  const buffers = buffersFor(bytes / 2);
  const half = Math.ceil(bytes / 2 / 256) * 256;
  // Decoding: a token for each request. Prefilling: requests of up to 1024 tokens.
  const requests = tokens <= 256 ? tokens : Math.ceil(tokens / 1024), each = Math.ceil(tokens / requests);
  const pages = requests * Math.ceil(each / pageSize);
  const poolBytes = buffers * pages * pageSize * 2 * kvHeads * dim * 2;
  if (4 * buffers * half + poolBytes > 0.8 * device.info.memoryBytes) return undefined;

  using made = new DisposableStack();
  const mine = <T extends Disposable>(value: T): T => made.use(value);
  const options = { dtype: "bfloat16", device } as const;
  const source = (shape: number[]): Tensor => mine(Tensor.random([buffers, ...shape], options));
  const target = (shape: number[], dtype: DType): Tensor => mine(Tensor.zeros([buffers, ...shape], { dtype, device }));
  const turns = form.name !== "append" && form.kvHeads === undefined && form.mla === undefined;
  const q = source(turns ? [tokens, heads, dim] : [1]);
  const k = source(form.mla === true ? [tokens, ckvDim] : [tokens, kvHeads, dim]);
  const v = source(form.mla === true ? [tokens, kpeDim] : [tokens, kvHeads, dim]);
  const qOut = target(turns ? [tokens, heads, dim] : [1], cacheDtype), kOut = target([tokens, kvHeads, dim], cacheDtype);
  const copies = mine(Tensor.zeros([2, buffers, half], { dtype: "uint8", device }));
  const ids = (count: number, value: (buffer: number, i: number) => number): Tensor => {
    const width = Math.ceil(count / 32) * 32;
    const all = Int32Array.from({ length: buffers * width }, (_, i) => value(Math.floor(i / width), Math.min(i % width, count - 1)));
    return mine(mine(Tensor.from(all, [buffers, width], { device })).slice(1, 0, count));
  };
  const positions = ids(tokens, (buffer, i) => 1000 + 7 * buffer + i);
  const indptr = ids(requests + 1, (_, i) => i * (pages / requests));
  const indices = ids(pages, (buffer, i) => buffer * pages + (i * 7919 + 13) % pages); // 7919 is prime: each page once
  const batchIndices = ids(tokens, (_, i) => Math.floor(i / each));
  const places = ids(tokens, (_, i) => i % each);
  const shape = { numPages: buffers * pages, pageSize, device };
  const shared: Shared = {
    rope: mine(new RotaryEmbedding({ dim, base: 5e5, device })),
    cache: mine(new PagedKVCache({ ...shape, numKVHeads: kvHeads, headDim: dim, dtype: cacheDtype })),
    mla: mine(new PagedMLACache(form.mla === true ? shape : { ...shape, numPages: 1 })),
    table: mine(mine(new RotaryEmbedding({ dim, base: 5e5, device })).cosSinCache(65536)),
    qWeight: mine(Tensor.random([dim], options)),
    kWeight: mine(Tensor.random([dim], options)),
  };
  const of = (tensor: Tensor, buffer: number): Tensor => mine(tensor.select(0, buffer));
  const all = Array.from({ length: buffers }, (_, r): Buffer => ({
    ...{ q: of(q, r), k: of(k, r), v: of(v, r), qOut: of(qOut, r), kOut: of(kOut, r), positions: of(positions, r) },
    where: { indptr: of(indptr, r), indices: of(indices, r), batchIndices: of(batchIndices, r), positions: of(places, r) },
  }));
  const timing = await measure(device, {
    bytes,
    buffers,
    work: (r) => {
      const buffer = all[r];
      if (buffer !== undefined) form.run(buffer, shared);
    },
    copy: (r) => {
      using from = copies.select(0, 0), to = copies.select(0, 1), a = from.select(0, r), b = to.select(0, r);
      b.copyFrom(a);
    },
  }, rounds);
  return { form: name, tokens, ...timing, ...(form.bar === undefined ? {} : { bar: form.bar }) };
}
