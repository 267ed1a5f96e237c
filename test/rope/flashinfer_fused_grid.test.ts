// FlashInfer's grids for tables (10), float8 (1248), float8 and append (4992), append in decoding (1536) and with padding (4), all of them.
//
// A token's result depends on its position and heads alone, so each configuration has one tile: every position that its combinations meet, once, compared
// element by element with the float64 reference. Every combination must then reproduce the tile byte for byte, in the results and in the cache, and
// leave all else of the cache as it was. What FlashInfer varies and librope does not have stands for something else: programmatic launch for slots in
// place of a page table, or for results of the caller; the backend for the source of angles. Calls here take at most `most` of a combination's tokens,
// its first and last among them; ROPE_FULL_GRID=1 cuts nothing, which takes a quarter of an hour and 6 GB on one core.
import { Buffer } from "node:buffer";
import process from "node:process";
import { describe, expect, test } from "bun:test";
import {
  type AppendTarget,
  applyRopeWithCosSinCacheInplace,
  type Device,
  PagedKVCache,
  PagedMLACache,
  ropeQuantizeFp8,
  ropeQuantizeFp8AppendPagedKVCache,
  RotaryEmbedding,
  Tensor,
  toFloat8,
} from "../../mod.ts";
import { referenceRope } from "../../src/testing.ts";
import { expectClose, expectNear, filled, type Float8, float8s, fromCodes } from "./fused_support.ts";
import { bytesOf, devices, open, samples, tensorOf, typed } from "./support.ts";

const most = process.env["ROPE_FULL_GRID"] === "1" ? Infinity : 3;
const counts = [1, 19, 128, 199, 899, 2047];
const inputs = ["float16", "bfloat16"] as const;
const idTypes = ["int32", "int64"] as const;
const layouts = ["NHD", "HND"] as const;
const pageSizes = [16, 32];
const poison = 0xa5;

type Input = typeof inputs[number];

interface Config {
  readonly kind: "mla" | "gqa" | "mha";
  readonly qHeads: number;
  readonly kHeads: number;
  readonly rope: number;
  readonly nope: number;
}
const configs: readonly Config[] = ([
  ...[["mla", 128, 1, 64, 512], ["mla", 64, 1, 128, 256], ["mla", 128, 1, 64, 128], ["mla", 32, 1, 32, 96]],
  ...[["gqa", 32, 8, 64, 64], ["gqa", 64, 16, 128, 128], ["gqa", 24, 6, 32, 96], ["gqa", 32, 8, 128, 0], ["gqa", 64, 8, 128, 0], [
    "gqa",
    64,
    8,
    64,
    0,
  ]],
  ...[["mha", 32, 32, 64, 64], ["mha", 16, 16, 128, 128], ["mha", 8, 8, 32, 96]],
] as const).map(([kind, qHeads, kHeads, rope, nope]) => ({ kind, qHeads, kHeads, rope, nope }));
const decoding = configs.filter((_, i) => [0, 1, 4, 5, 10, 11].includes(i)); // two of each kind

const parts = ["q", "k", "qNope", "kNope", "v"] as const;
type Part = typeof parts[number];

/** Heads and channels of a part; none of what a configuration does not have. */
function formOf({ kind, qHeads, kHeads, rope, nope }: Config, part: Part): [heads: number, width: number] {
  switch (part) {
    case "q":
      return [qHeads, rope];
    case "k":
      return [kHeads, rope];
    case "qNope":
      return [qHeads, nope];
    case "kNope":
      return [kHeads, nope];
    case "v":
      return [kHeads, kind === "mla" ? 0 : rope + nope];
  }
}

/** As many of a combination's tokens as are run: evenly among them, the first and the last too. */
function cut(tokens: number): number[] {
  const run = Math.min(tokens, most);
  return Array.from({ length: run }, (_, i) => run === 1 ? tokens - 1 : Math.round(i * (tokens - 1) / (run - 1)));
}

/** Tokens of up to four requests, as even as may be, and where each stands in its own. */
function requestsOf(tokens: number): { lengths: number[]; batchIndices: number[]; positions: number[] } {
  const requests = Math.min(tokens, 4);
  const lengths = Array.from({ length: requests }, (_, b) => Math.floor(tokens / requests) + (b < tokens % requests ? 1 : 0));
  const batchIndices: number[] = [], positions: number[] = [];
  lengths.forEach((length, b) => {
    for (let place = 0; place < length; ++place) {
      batchIndices.push(b);
      positions.push(place);
    }
  });
  return { lengths, batchIndices, positions };
}

/** Inputs of some tokens and what must become of them. */
interface Rows {
  readonly inputs: ReadonlyMap<Part, Tensor>;
  readonly codes: ReadonlyMap<Part, Uint8Array>;
}

/** A token's inputs and what they are after the rotation, exactly. The same for both float8 types. */
interface Exact {
  readonly numbers: ReadonlyMap<Part, Float64Array>;
  readonly turned: ReadonlyMap<Part, Float64Array>;
}

const exactTokens = new Map<string, Exact>(); // of one configuration

function exactToken(config: Config, input: Input, position: number): Exact {
  const key = `${Object.values(config).join()} ${input} ${position}`;
  const known = exactTokens.get(key);
  if (known !== undefined) return known;
  const numbers = new Map<Part, Float64Array>(), turned = new Map<Part, Float64Array>();
  parts.forEach((part, i) => {
    const [heads, width] = formOf(config, part);
    if (width === 0) return;
    const x = samples(heads * width, input, 5 * position + i);
    numbers.set(part, x);
    const turns = part === "q" || part === "k";
    turned.set(part, turns ? referenceRope(x, [1, heads, width], { positions: [position], pairing: "interleaved" }) : x);
  });
  const made = { numbers, turned };
  if (most < Infinity) exactTokens.set(key, made);
  return made;
}

/** Every position that a configuration's combinations meet. */
class Tile {
  readonly config: Config;
  readonly input: Input;
  readonly dtype: Float8;
  readonly device: Device;
  readonly embedding: RotaryEmbedding;
  readonly table: Tensor;
  readonly #tokens = new Map<number, { bits: Map<Part, Uint16Array>; codes: Map<Part, Uint8Array> }>();
  readonly #rows = new Map<string, Rows>();

  constructor(config: Config, input: Input, dtype: Float8, device: Device) {
    this.config = config;
    this.input = input;
    this.dtype = dtype;
    this.device = device;
    this.embedding = new RotaryEmbedding({ dim: config.rope, pairing: "interleaved", device });
    this.table = this.embedding.cosSinCache(2048);
  }

  /** The tokens at these positions. */
  rows(positions: readonly number[]): Rows {
    const key = positions.join();
    const known = this.#rows.get(key);
    if (known !== undefined) return known;
    const tokens = positions.map((position) => this.#token(position));
    const made = { inputs: new Map<Part, Tensor>(), codes: new Map<Part, Uint8Array>() };
    for (const part of parts) {
      const [heads, width] = formOf(this.config, part);
      if (width === 0) continue;
      const each = heads * width;
      const bits = new Uint16Array(tokens.length * each), codes = new Uint8Array(tokens.length * each);
      tokens.forEach((token, i) => {
        bits.set(token.bits.get(part) ?? [], i * each);
        codes.set(token.codes.get(part) ?? [], i * each);
      });
      const shape = this.config.kind === "mla" && part.startsWith("k") ? [tokens.length, width] : [tokens.length, heads, width];
      const tensor = Tensor.empty(shape, { dtype: this.input, device: this.device });
      made.inputs.set(part, tensor.write(this.input === "float16" ? new Float16Array(bits.buffer) : bits));
      made.codes.set(part, codes);
    }
    this.#rows.set(key, made);
    return made;
  }

  #token(position: number): { bits: Map<Part, Uint16Array>; codes: Map<Part, Uint8Array> } {
    const known = this.#tokens.get(position);
    if (known !== undefined) return known;
    const { config, input, dtype, device } = this;
    const made = { bits: new Map<Part, Uint16Array>(), codes: new Map<Part, Uint8Array>() };
    const { numbers, turned } = exactToken(config, input, position);
    const tensors = new Map<Part, Tensor>();
    for (const [part, x] of numbers) {
      const [heads, width] = formOf(config, part);
      const array = typed(x, input);
      made.bits.set(part, new Uint16Array(array.buffer, 0, array.length));
      if (part !== "v") tensors.set(part, tensorOf(x, [1, heads, width], input, device));
    }
    const [q, k, qNope, kNope] = [tensors.get("q"), tensors.get("k"), tensors.get("qNope"), tensors.get("kNope")];
    if (q === undefined || k === undefined) throw new Error("no q or k");
    const results = ropeQuantizeFp8(q, k, {
      positions: [position],
      cosSinCache: this.table,
      pairing: "interleaved",
      quantizeDtype: dtype,
      qNope,
      kNope,
    });
    for (const [part, want] of turned) {
      const [, width] = formOf(config, part);
      const got = part === "v" ? undefined : results[part];
      const codes = got === undefined ? toFloat8(want, dtype) : bytesOf(got);
      expectNear(`${part} at ${position}`, fromCodes(codes, dtype), dtype, want, width);
      made.codes.set(part, codes);
      got?.dispose();
    }
    for (const tensor of tensors.values()) tensor.dispose();
    this.#tokens.set(position, made);
    return made;
  }

  [Symbol.dispose](): void {
    for (const { inputs: made } of this.#rows.values()) {
      for (const tensor of made.values()) tensor.dispose();
    }
    this.table.dispose();
    this.embedding.dispose();
  }
}

function equal(what: string, got: Uint8Array, want: Uint8Array | undefined): void {
  if (want === undefined || Buffer.compare(got, want) !== 0) throw new Error(`${what} is wrong`);
}

/** The memory of a tensor, contiguous, without a copy where that can be. */
function memoryOf(tensor: Tensor): Uint8Array {
  return tensor.device.kind === "cpu" ? tensor.data as Uint8Array : bytesOf(tensor);
}

function idsOf(ids: readonly number[], dtype: "int32" | "int64", device: Device): Tensor {
  return Tensor.from([...ids], [ids.length], { dtype, device });
}

/** A cache of one configuration, all poison, with what it must hold. */
class Pool {
  readonly cache: PagedKVCache | PagedMLACache;
  readonly pageSize: number;
  readonly #config: Config;
  readonly #layout: "NHD" | "HND";
  readonly #memory: readonly [Tensor, Tensor];
  readonly #poison: readonly [Tensor, Tensor];
  #want: [Uint8Array, Uint8Array] = [new Uint8Array(), new Uint8Array()];

  constructor(config: Config, numPages: number, pageSize: number, layout: "NHD" | "HND", dtype: Float8, device: Device) {
    const { kHeads, rope, nope } = config;
    this.#config = config;
    this.#layout = layout;
    this.pageSize = pageSize;
    if (config.kind === "mla") {
      const cache = new PagedMLACache({ numPages, pageSize, headDimCkv: nope, headDimKpe: rope, dtype, device });
      this.cache = cache;
      this.#memory = [cache.kpe, cache.ckv];
    } else {
      const cache = new PagedKVCache({ numPages, pageSize, numKVHeads: kHeads, headDim: rope + nope, dtype, layout, device });
      this.cache = cache;
      this.#memory = [cache.k, cache.v];
    }
    this.#poison = this.#memory.map((tensor) => filled(tensor.shape, dtype, device, poison)) as [Tensor, Tensor];
  }

  /** Everything is poison again. */
  clear(): void {
    this.#memory.forEach((tensor, i) => tensor.copyFrom(this.#poison[i] ?? tensor));
    this.#want = this.#memory.map((tensor) => new Uint8Array(tensor.byteLength).fill(poison)) as [Uint8Array, Uint8Array];
  }

  /** From here on a slot must hold a token. */
  put(slot: number, rows: Rows, token: number): void {
    const { kind, kHeads } = this.#config;
    const [page, place] = [Math.floor(slot / this.pageSize), slot % this.pageSize];
    const write = (which: 0 | 1, part: Part, whole: number, from: number): void => {
      const [heads, width] = formOf(this.#config, part);
      const codes = rows.codes.get(part);
      if (codes === undefined) return;
      for (let head = 0; head < heads; ++head) {
        const row = this.#layout === "HND" && kind !== "mla"
          ? (page * kHeads + head) * this.pageSize + place
          : (page * this.pageSize + place) * kHeads + head;
        const first = (token * heads + head) * width;
        this.#want[which].set(codes.subarray(first, first + width), row * whole + from);
      }
    };
    const { rope, nope } = this.#config;
    if (kind === "mla") {
      write(0, "k", rope, 0);
      write(1, "kNope", nope, 0);
    } else {
      write(0, "k", rope + nope, 0);
      write(0, "kNope", rope + nope, rope);
      write(1, "v", rope + nope, 0);
    }
  }

  check(): void {
    this.#memory.forEach((tensor, i) => equal(`the cache's ${i === 0 ? "keys" : "values"}`, memoryOf(tensor), this.#want[i]));
  }

  [Symbol.dispose](): void {
    this.cache.dispose();
    for (const tensor of this.#poison) tensor.dispose();
  }
}

/** A page table of requests of these lengths, and the slot of any place that is used; the pages of others are one that is nobody's, the last. */
function pageTable(
  lengths: readonly number[],
  pageSize: number,
  used: readonly (readonly [request: number, place: number])[],
): { indptr: number[]; indices: number[]; slotOf(request: number, place: number): number; pages: number } {
  const indptr = [0];
  for (const length of lengths) indptr.push((indptr.at(-1) ?? 0) + Math.ceil(length / pageSize));
  const entryOf = (request: number, place: number): number => (indptr[request] ?? 0) + Math.floor(place / pageSize);
  const entries = [...new Set(used.map(([request, place]) => entryOf(request, place)))].reverse(); // pages in a mixed order
  const indices = Array.from(
    { length: indptr.at(-1) ?? 0 },
    (_, entry) => entries.includes(entry) ? entries.indexOf(entry) : entries.length,
  );
  const slotOf = (request: number, place: number): number => (indices[entryOf(request, place)] ?? 0) * pageSize + place % pageSize;
  return { indptr, indices, slotOf, pages: entries.length + 1 };
}

function append(tile: Tile, pool: Pool, rows: Rows, where: AppendTarget, positions: Tensor): void {
  const { inputs: given, codes } = rows;
  const [q, k, v = null] = [given.get("q"), given.get("k"), given.get("v")];
  if (q === undefined || k === undefined) throw new Error("no q or k");
  const options = {
    positions,
    cosSinCache: tile.table,
    pairing: "interleaved",
    qNope: given.get("qNope"),
    kNope: given.get("kNope"),
  } as const;
  const got = ropeQuantizeFp8AppendPagedKVCache(q, k, v, pool.cache, where, options);
  equal("q", memoryOf(got.q), codes.get("q"));
  if (got.qNope !== undefined) equal("qNope", memoryOf(got.qNope), codes.get("qNope"));
  got.q.dispose();
  got.qNope?.dispose();
}

describe.each(devices)("FlashInfer's grids of the pipeline on %s", (name) => {
  const device = open(name);
  const titled = (list: readonly Config[]) =>
    list.map((config) => [`${config.kind} ${config.qHeads}/${config.kHeads}, ${config.rope} + ${config.nope}`, config] as const);

  test.each(
    [
      [64, 64, 32, 8000, true, 32, 32, 1, 1],
      [256, 128, 4096, 10000, true, 2, 512, 4, 2],
      [64, 32, 2048, 8432, true, 2, 199, 4, 1],
      [64, 64, 32, 8000, false, 32, 32, 1, 1],
      [64, 64, 32, 8000, false, 32, 32, 1, 1],
      [256, 128, 4096, 9231, false, 3, 231, 4, 2],
      [192, 128, 4096, 9231, true, 3, 231, 3, 2],
      [80, 64, 1024, 10000, false, 4, 64, 2, 2],
      [112, 64, 2048, 12000, true, 5, 77, 2, 1],
      [160, 96, 8192, 10000, false, 2, 128, 6, 3],
    ] as const,
  )(
    "cos_sin_cache: head %d, rotary %d, %d rows, base %d, neox %p, %d x %d tokens, %d/%d heads",
    (dim, rotaryDim, rows, base, neox, batch, length, qHeads, kHeads) => {
      const pairing = neox ? "half" : "interleaved";
      using rope = new RotaryEmbedding({ dim: rotaryDim, base, device });
      using cache = rope.cosSinCache(rows);
      const tokens = batch * length;
      const positions = Int32Array.from({ length: tokens }, (_, i) => i % length);
      const numbers = [qHeads, kHeads].map((heads, i) => samples(tokens * heads * dim, "bfloat16", i));
      using q = tensorOf(numbers[0] ?? [], [tokens, qHeads * dim], "bfloat16", device);
      using k = tensorOf(numbers[1] ?? [], [tokens, kHeads * dim], "bfloat16", device);
      using ids = Tensor.from(positions, [tokens], { device });
      applyRopeWithCosSinCacheInplace(q, k, ids, cache, { headDim: dim, pairing });
      [q, k].forEach((tensor, i) => {
        const heads = i === 0 ? qHeads : kHeads;
        const want = referenceRope(numbers[i] ?? [], [tokens, heads, dim], { positions, rotaryDim, base, pairing });
        expectClose(i === 0 ? "q" : "k", tensor, want, dim);
      });
    },
  );

  test.each(titled(configs))("rope_quantize_fp8: %s", (_title, config) => {
    exactTokens.clear();
    let combinations = 0;
    for (const input of inputs) {
      for (const dtype of float8s) {
        using tile = new Tile(config, input, dtype, device);
        for (const tokens of counts) {
          const at = cut(tokens);
          const rows = tile.rows(at);
          using positions = idsOf(at, "int32", device);
          const [q, k] = [rows.inputs.get("q"), rows.inputs.get("k")];
          if (q === undefined || k === undefined) throw new Error("no q or k");
          const nopes = { qNope: rows.inputs.get("qNope"), kNope: rows.inputs.get("kNope") };
          for (const byTable of [true, false]) {
            for (const into of [true, false]) {
              const source = byTable ? { cosSinCache: tile.table, pairing: "interleaved" } as const : { embedding: tile.embedding };
              const out = into ? { q: filled(q.shape, dtype, device), k: filled(k.shape, dtype, device) } : undefined;
              const got = ropeQuantizeFp8(q, k, { positions, ...source, ...nopes, quantizeDtype: dtype, out });
              for (const part of ["q", "k", "qNope", "kNope"] as const) {
                const result = got[part];
                if (result === undefined) continue;
                equal(part, memoryOf(result), rows.codes.get(part));
                result.dispose();
              }
              ++combinations;
            }
          }
        }
      }
    }
    expect(combinations).toBe(1248 / 13);
  });

  test.each(titled(configs))("rope_quantize_fp8_append_paged_kv_cache: %s", (_title, config) => {
    exactTokens.clear();
    let combinations = 0;
    for (const dtype of float8s) {
      using first = new Tile(config, "float16", dtype, device), second = new Tile(config, "bfloat16", dtype, device);
      for (const layout of layouts) {
        for (const pageSize of pageSizes) {
          for (const tokens of counts) {
            const { lengths, batchIndices, positions } = requestsOf(tokens);
            const run = cut(tokens);
            const places = run.map((t) => positions[t] ?? 0), owners = run.map((t) => batchIndices[t] ?? 0);
            const { indptr, indices, slotOf, pages } = pageTable(lengths, pageSize, places.map((place, i) => [owners[i] ?? 0, place]));
            using pool = new Pool(config, pages, pageSize, layout, dtype, device);
            const slots = run.map((_, i) => slotOf(owners[i] ?? 0, places[i] ?? 0));
            for (const tile of [first, second]) {
              const rows = tile.rows(places);
              for (const idType of idTypes) {
                using ids = idsOf(places, idType, device);
                for (const bySlot of [true, false]) {
                  pool.clear();
                  slots.forEach((slot, i) => pool.put(slot, rows, i));
                  append(
                    tile,
                    pool,
                    rows,
                    bySlot ? { slotMapping: slots } : { indptr, indices, batchIndices: owners, positions: places },
                    ids,
                  );
                  pool.check();
                  ++combinations;
                }
              }
            }
          }
        }
      }
    }
    expect(combinations).toBe(4992 / 13);
  });

  test.each(titled(decoding))("append in decoding, after what is there already: %s", (_title, config) => {
    exactTokens.clear();
    let combinations = 0;
    for (const dtype of float8s) {
      using first = new Tile(config, "float16", dtype, device), second = new Tile(config, "bfloat16", dtype, device);
      for (const layout of layouts) {
        for (const pageSize of pageSizes) {
          for (const existing of [10, 50]) {
            for (const fresh of [1, 8]) {
              const lengths = [existing + fresh];
              const batches = [cut(existing), cut(fresh).map((t) => existing + t)];
              const { indptr, indices, slotOf, pages } = pageTable(lengths, pageSize, batches.flat().map((place) => [0, place]));
              using pool = new Pool(config, pages, pageSize, layout, dtype, device);
              for (const tile of [first, second]) {
                for (const idType of idTypes) {
                  for (const bySlot of [true, false]) {
                    pool.clear();
                    for (const places of batches) {
                      const rows = tile.rows(places);
                      const slots = places.map((place) => slotOf(0, place));
                      slots.forEach((slot, i) => pool.put(slot, rows, i));
                      using ids = idsOf(places, idType, device);
                      const table = { indptr, indices, batchIndices: places.map(() => 0), positions: places };
                      append(tile, pool, rows, bySlot ? { slotMapping: slots } : table, ids);
                      pool.check();
                    }
                    ++combinations;
                  }
                }
              }
            }
          }
        }
      }
    }
    expect(combinations).toBe(1536 / 6);
  });

  test.each(
    ([["mla", "NHD"], ["mla", "HND"], ["gqa", "NHD"], ["gqa", "HND"]] as const).map(([kind, layout]) => [kind, layout] as const),
  )("three tokens and two of padding: %s, %s", (kind, layout) => {
    const config = configs.find((one) => one.kind === kind && one.nope > 0) ?? configs[0] as Config;
    using tile = new Tile(config, "bfloat16", "float8_e4m3fn", device);
    const places = [0, 1, 2, 0, 0];
    const rows = tile.rows(places);
    const { indptr, indices, slotOf } = pageTable([3], 16, [[0, 0]]);
    using pool = new Pool(config, 2, 16, layout, "float8_e4m3fn", device);
    using ids = idsOf(places, "int32", device);
    const forms = [{ indptr, indices, batchIndices: [0, 0, 0, -1, -1], positions: places }, {
      slotMapping: [0, 1, 2].map((t) => slotOf(0, t)).concat(-1, -1),
    }];
    for (const where of forms) {
      pool.clear();
      for (const t of [0, 1, 2]) pool.put(slotOf(0, t), rows, t);
      append(tile, pool, rows, where, ids); // q of padding is rotated as any
      pool.check();
    }
    pool.clear();
    append(tile, pool, rows, { indptr, indices, batchIndices: [-1, -1, -1, -1, -1], positions: places }, ids);
    pool.check(); // nothing but padding: not a byte
  });
});
