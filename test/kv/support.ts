// What the tests of paged caches share: caches inside poisoned memory, and what that memory must hold afterwards, kept in plain TypeScript.
import { expect } from "bun:test";
import {
  type CacheLayout,
  type Device,
  type DType,
  type Indices,
  PagedKVCache,
  RopeArgumentError,
  type RopeDeviceError,
  type RopeDisposedError,
  Tensor,
} from "../../mod.ts";
import { poisoned } from "../support/fence.ts";
import { bitsOf, encode, exactly } from "../support/number_formats.ts";
import type { Random } from "../support/random.ts";
import { bytesOf, errorOf, numbersOf } from "../rope/support.ts";

export const cacheDTypes: readonly DType[] = ["float16", "bfloat16", "float32", "float8_e4m3fn", "float8_e5m2"];
export const layouts: readonly CacheLayout[] = ["NHD", "HND"];

const codes = new Map<DType, Map<number, number>>(cacheDTypes.map((dtype) => [dtype, new Map()]));

/** The bits of a finite number in a cache, after its float32 product with a scale. */
export function stored(x: number, dtype: DType, scale: number = 1): number {
  const product = Math.fround(x * Math.fround(scale));
  const known = product === 0 ? undefined : codes.get(dtype)?.get(product); // a Map takes -0 for 0
  if (known !== undefined) return known;
  const code = Number(encode(dtype, exactly(product)) ?? NaN);
  codes.get(dtype)?.set(product, code);
  return code;
}

/** The bits of numbers in a cache. */
export function storedRow(numbers: ArrayLike<number>, dtype: DType, scale: number = 1): number[] {
  return Array.from(numbers, (x) => stored(x, dtype, scale));
}

/** What a cache in poisoned memory is made as. */
export interface StoreOptions {
  readonly pages: number;
  readonly places: number;
  readonly heads: number;
  readonly dim: number;
  readonly dimV?: number;
  readonly dtype?: DType;
  readonly layout?: CacheLayout;
  /** Keys and values in one tensor, [P, 2, ...]; else apart. */
  readonly packed?: boolean;
}

/** A tensor of four axes inside poisoned memory, with gaps along each, and what that memory must hold. */
class Memory {
  readonly tensor: Tensor;
  readonly #base: Tensor;
  readonly #want: Uint8Array;
  readonly #first: number;
  readonly #bytes: number;

  constructor(random: Random, device: Device, dtype: DType, shape: readonly number[]) {
    const whole = shape.map((length) => length + random.integer(0, 2));
    const starts = shape.map((length, axis) => random.integer(0, (whole[axis] ?? 0) - length));
    const lead = random.integer(1, 9);
    const inside = whole.reduce((a, b) => a * b, 1);
    this.#base = poisoned(random, device, dtype, [lead + inside + random.integer(1, 9)]);
    let view: Tensor = this.#base.slice(0, lead, lead + inside).reshape(whole);
    shape.forEach((length, axis) => view = view.slice(axis, starts[axis] ?? 0, (starts[axis] ?? 0) + length));
    this.tensor = view;
    this.#want = bytesOf(this.#base);
    this.#bytes = bitsOf(dtype) / 8;
    this.#first = (view.pointer - this.#base.pointer) / this.#bytes;
  }

  /** From here on a row of the last axis must hold these bits. */
  put(index: readonly number[], row: readonly number[], from: number = 0): void {
    const { strides } = this.tensor;
    const at = index.reduce((sum, i, axis) => sum + i * (strides[axis] ?? 0), this.#first + from);
    row.forEach((code, i) => {
      for (let byte = 0; byte < this.#bytes; ++byte) {
        this.#want[(at + i) * this.#bytes + byte] = Math.floor(code / 256 ** byte) % 256;
      }
    });
  }

  /** Where the memory is not what it must be, in words; undefined where it is. */
  get wrong(): string | undefined {
    const got = bytesOf(this.#base);
    for (let i = 0; i < got.length; ++i) {
      if (got[i] === this.#want[i]) continue;
      return `element ${Math.floor(i / this.#bytes) - this.#first} behind the first one holds another byte than ${this.#want[i]}: ${
        got[i]
      }`;
    }
    return undefined;
  }

  /** What is there now is what must be there from here on. */
  accept(): void {
    this.#want.set(bytesOf(this.#base));
  }

  dispose(): void {
    this.tensor.dispose();
    this.#base.dispose();
  }
}

/** A cache over poisoned memory. */
export class Store {
  readonly cache: PagedKVCache;
  readonly dtype: DType;
  readonly #memories: readonly Memory[];
  readonly #packed: boolean;
  readonly #layout: CacheLayout;

  constructor(random: Random, device: Device, o: StoreOptions) {
    const { pages, places, heads, dim, dimV = dim, dtype = "float32", layout = "NHD", packed = false } = o;
    const page = layout === "NHD" ? [places, heads] : [heads, places];
    this.dtype = dtype;
    this.#layout = layout;
    this.#packed = packed;
    if (packed) {
      const memory = new Memory(random, device, dtype, [pages, 2, ...page, dim]);
      this.#memories = [memory];
      this.cache = PagedKVCache.from(memory.tensor, { layout });
    } else {
      const [k, v] = [dim, dimV].map((channels) => new Memory(random, device, dtype, [pages, ...page, channels])) as [Memory, Memory];
      this.#memories = [k, v];
      this.cache = PagedKVCache.from(k.tensor, v.tensor, { layout });
    }
  }

  /** From here on a head of a place must hold these bits: keys (0) or values (1), from a channel on. */
  put(what: 0 | 1, page: number, place: number, head: number, row: readonly number[], from: number = 0): void {
    const inside = this.#layout === "NHD" ? [place, head] : [head, place];
    this.#memories[this.#packed ? 0 : what]?.put(this.#packed ? [page, what, ...inside] : [page, ...inside], row, from);
  }

  /** The same of all heads of a slot, from the numbers of a token. */
  putToken(what: 0 | 1, slot: number, numbers: Float64Array, scale: number = 1): void {
    const { numKVHeads, pageSize, headDim, headDimV } = this.cache;
    const width = what === 0 ? headDim : headDimV;
    for (let head = 0; head < numKVHeads; ++head) {
      const row = storedRow(numbers.subarray(head * width, (head + 1) * width), this.dtype, scale);
      this.put(what, Math.floor(slot / pageSize), slot % pageSize, head, row);
    }
  }

  /** Fails where any byte is not what it must be, in the cache or around it. */
  check(): void {
    this.#memories.forEach((memory, i) => {
      const { wrong } = memory;
      if (wrong !== undefined) throw new Error(`${this.#packed ? "kv" : i === 0 ? "k" : "v"}: ${wrong}`);
    });
  }

  /** What is there now is what must be there from here on. */
  accept(): void {
    for (const memory of this.#memories) memory.accept();
  }

  [Symbol.dispose](): void {
    this.cache.dispose();
    for (const memory of this.#memories) memory.dispose();
  }
}

/** A page table of requests, and tokens that are appended at the end of each. */
export interface Plan {
  readonly indptr: number[];
  readonly indices: number[];
  readonly lastPageLen: number[];
  /** Of the tokens of each request, after the append. */
  readonly seqLens: number[];
  readonly batchIndices: number[];
  readonly positions: number[];
  /** The slot of each token, worked out here; -1 where it is skipped. */
  readonly slots: number[];
}

/** Random requests in random pages of a cache, none shared; some tokens are skipped. */
export function plan(random: Random, pages: number, places: number, requests: number, skips: boolean = true): Plan {
  const free = Array.from({ length: pages }, (_, page) => page);
  const made: Plan = { indptr: [0], indices: [], lastPageLen: [], seqLens: [], batchIndices: [], positions: [], slots: [] };
  for (let request = 0; request < requests; ++request) {
    const owned = Array.from({ length: random.integer(0, Math.min(3, free.length)) }, () => {
      return free.splice(random.integer(0, free.length - 1), 1)[0] ?? 0;
    });
    const last = owned.length === 0 ? 0 : random.integer(1, places);
    const length = owned.length === 0 ? 0 : (owned.length - 1) * places + last;
    const appended = random.integer(0, Math.min(length, 12));
    made.indices.push(...owned);
    made.indptr.push(made.indices.length);
    made.lastPageLen.push(last);
    made.seqLens.push(length);
    for (let place = length - appended; place < length; ++place) {
      const skipped = skips && random.next() < 0.15;
      made.batchIndices.push(skipped ? -1 : request);
      made.positions.push(skipped ? random.pick([place, -1, 10 ** 9]) : place);
      made.slots.push(skipped ? -1 : (owned[Math.floor(place / places)] ?? 0) * places + place % places);
    }
  }
  return made;
}

/** Integers as something that tables may be given as. */
export type AsIndices = (integers: number[], device: Device) => Indices;

/** The forms of a table of integers: on the host, and on the device. */
export const forms: readonly (readonly [string, AsIndices])[] = [
  ["number[]", (integers) => integers],
  ["Int32Array", (integers) => Int32Array.from(integers)],
  ["BigInt64Array", (integers) => BigInt64Array.from(integers, BigInt)],
  ["Float64Array", (integers) => Float64Array.from(integers)],
  ["int32", (integers, device) => Tensor.empty([integers.length], { dtype: "int32", device }).write(Int32Array.from(integers))],
  ["int64", (integers, device) => Tensor.empty([integers.length], { dtype: "int64", device }).write(BigInt64Array.from(integers, BigInt))],
  ["strided int32", (integers, device) => {
    const table = Tensor.full([integers.length, 3], -77, { dtype: "int32", device });
    return table.select(1, 1).write(Int32Array.from(integers));
  }],
];

/** A tensor of integers on a device. */
export function integers(values: number[], device: Device, dtype: "int32" | "int64" = "int32"): Tensor {
  const array = dtype === "int32" ? Int32Array.from(values) : BigInt64Array.from(values, BigInt);
  return Tensor.empty([values.length], { dtype, device }).write(array);
}

/** The numbers of a tensor of tokens, token by token. */
export function tokensOf(tensor: Tensor, count: number): Float64Array[] {
  const numbers = numbersOf(tensor);
  const each = count === 0 ? 0 : numbers.length / count;
  return Array.from({ length: count }, (_, token) => numbers.subarray(token * each, (token + 1) * each));
}

/** The call must throw an error of this kind that names operation and argument, and holds no address. */
export function refuse(
  call: () => unknown,
  operation: string,
  argument: string,
  kind: typeof RopeArgumentError | typeof RopeDisposedError | typeof RopeDeviceError = RopeArgumentError,
): void {
  const error = errorOf(call);
  if (!(error instanceof kind)) throw new Error(`${operation}, ${argument}: got ${error}`);
  expect([error.operation, error.argument]).toEqual([operation, argument]);
  expect(error.message.startsWith(`${operation}: `)).toBe(true);
  expect(error.message).not.toMatch(/0x[0-9a-f]{4}|undefined must|page_|_indices|_len/);
}
