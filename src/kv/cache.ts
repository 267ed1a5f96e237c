// Paged caches: keys and values in pages of a fixed number of places. A cache is two tensors and what their shapes mean; operations take it
// as CachePages, in which every layout looks alike.
import { argumentError, checkChoice, checkCount, checkInteger, checkOptions, describe } from "../arguments.ts";
import { type Device, type DeviceLike, resolveDevice } from "../device/device.ts";
import type { DeviceState } from "../device/state.ts";
import { RopeDeviceError, RopeDisposedError } from "../errors.ts";
import { type DType, dtypes as known } from "../tensor/dtype.ts";
import { denseGeometry, sameShape, shapeText } from "../tensor/geometry.ts";
import { allocateZeros, checkTensor, geometryOf } from "../tensor/operations.ts";
import { Tensor } from "../tensor/tensor.ts";

/** How a page lies: NHD [pageSize, heads, headDim], HND [heads, pageSize, headDim]. */
export type CacheLayout = "NHD" | "HND";

/** What a {@linkcode PagedKVCache} is made as. */
export interface PagedKVCacheOptions {
  /** P, the number of pages. */
  readonly numPages: number;
  /** The tokens that a page has place for; any number from 1 on. */
  readonly pageSize: number;
  /** Hk, the heads of keys and values. */
  readonly numKVHeads: number;
  /** D, the channels of a head of keys. */
  readonly headDim: number;
  /** Those of a head of values. Default headDim. */
  readonly headDimV?: number | undefined;
  /** "float16", "bfloat16", "float32", "float8_e4m3fn" or "float8_e5m2". Default "bfloat16". */
  readonly dtype?: DType | undefined;
  /** Default "NHD". */
  readonly layout?: CacheLayout | undefined;
  /** Default "auto". */
  readonly device?: DeviceLike | undefined;
}

/** What a {@linkcode PagedMLACache} is made as. */
export interface PagedMLACacheOptions {
  /** P, the number of pages. */
  readonly numPages: number;
  /** The tokens that a page has place for; any number from 1 on. */
  readonly pageSize: number;
  /** The channels of a token's compressed keys and values. Default 512. */
  readonly headDimCkv?: number | undefined;
  /** The channels of a token's rotated key. Default 64. */
  readonly headDimKpe?: number | undefined;
  /** "float16", "bfloat16", "float32", "float8_e4m3fn" or "float8_e5m2". Default "bfloat16". */
  readonly dtype?: DType | undefined;
  /** Default "auto". */
  readonly device?: DeviceLike | undefined;
}

/** A cache as operations see it: [P, pageSize, heads, channels] whatever the layout is. */
export interface CachePages {
  /** The keys; of MLA the kpe part. */
  readonly k: Tensor;
  /** The values; of MLA null. */
  readonly v: Tensor | null;
  /** Further channels of the keys: MLA's ckv part; else null. */
  readonly rest: Tensor | null;
  readonly numPages: number;
  readonly pageSize: number;
  readonly heads: number;
}

const dtypes: readonly DType[] = ["float16", "bfloat16", "float32", "float8_e4m3fn", "float8_e5m2"];
const layouts: readonly CacheLayout[] = ["NHD", "HND"];

/** What a cache is made of. It passes for options, so that `from` goes through the constructor too. */
class Parts implements PagedKVCacheOptions {
  readonly k: Tensor;
  readonly v: Tensor;
  readonly layout: CacheLayout;
  readonly numPages: number;
  readonly pageSize: number;
  readonly numKVHeads: number;
  readonly headDim: number;
  readonly headDimV: number;

  /** Of tensors whose shapes have been checked; they are the cache's from now on. */
  constructor(k: Tensor, v: Tensor, layout: CacheLayout) {
    const [pages = 0, second = 0, third = 0, channels = 0] = geometryOf(k).shape;
    this.k = k;
    this.v = v;
    this.layout = layout;
    this.numPages = pages;
    this.pageSize = layout === "NHD" ? second : third;
    this.numKVHeads = layout === "NHD" ? third : second;
    this.headDim = channels;
    this.headDimV = geometryOf(v).shape[3] ?? 0;
  }
}

/** The same of an MLA cache. */
class MLAParts implements PagedMLACacheOptions {
  readonly ckv: Tensor;
  readonly kpe: Tensor;
  readonly numPages: number;
  readonly pageSize: number;
  readonly headDimCkv: number;
  readonly headDimKpe: number;

  constructor(ckv: Tensor, kpe: Tensor) {
    const [pages = 0, places = 0, channels = 0] = geometryOf(ckv).shape;
    this.ckv = ckv;
    this.kpe = kpe;
    this.numPages = pages;
    this.pageSize = places;
    this.headDimCkv = channels;
    this.headDimKpe = geometryOf(kpe).shape[2] ?? 0;
  }
}

let pagesOfKV: (operation: string, value: unknown) => CachePages | null;
let pagesOfMLA: (operation: string, value: unknown) => CachePages | null;

/**
 * Keys and values of many sequences in pages: a sequence has the pages that a table gives it, and grows by one at a time. Operations write
 * into it by a page table or by slots; see {@linkcode appendPagedKVCache}.
 *
 * @example
 * ```ts
 * import { PagedKVCache } from "@librope/rope";
 *
 * using cache = new PagedKVCache({ numPages: 64, pageSize: 16, numKVHeads: 2, headDim: 64 });
 * console.assert(cache.k.shape.join() === "64,16,2,64" && cache.k.dtype === "bfloat16");
 * ```
 */
export class PagedKVCache {
  /** The keys: NHD [P, pageSize, Hk, D], HND [P, Hk, pageSize, D]. The cache's own: dispose of the cache instead. */
  readonly k: Tensor;
  /** The values: the same with headDimV channels. */
  readonly v: Tensor;
  /** P, the number of pages. */
  readonly numPages: number;
  /** The tokens that a page has place for. */
  readonly pageSize: number;
  /** Hk, the heads of keys and values. */
  readonly numKVHeads: number;
  /** D, the channels of a head of keys. */
  readonly headDim: number;
  /** Those of a head of values. */
  readonly headDimV: number;
  /** How a page lies. */
  readonly layout: CacheLayout;
  /** The type of keys and values. */
  readonly dtype: DType;
  /** Where it lies. */
  readonly device: Device;
  readonly #pages: CachePages;
  #disposed = false;

  static {
    pagesOfKV = (operation, value) => {
      if (typeof value !== "object" || value === null || !(#pages in value)) return null;
      if (value.#disposed) throw disposed(operation, "PagedKVCache");
      const { k, v } = value.#pages;
      checkTensor(operation, "cache.k", k);
      checkTensor(operation, "cache.v", v);
      return value.#pages;
    };
  }

  /**
   * A cache of zeros.
   *
   * @throws RopeArgumentError for an option that cannot be; RopeDeviceError; RopeOutOfMemoryError.
   */
  constructor(options: PagedKVCacheOptions) {
    const { k, v, layout, numPages, pageSize, numKVHeads, headDim, headDimV } = options instanceof Parts ? options : zeros(options);
    this.k = k;
    this.v = v;
    this.numPages = numPages;
    this.pageSize = pageSize;
    this.numKVHeads = numKVHeads;
    this.headDim = headDim;
    this.headDimV = headDimV;
    this.layout = layout;
    this.dtype = k.dtype;
    this.device = k.device;
    this.#pages = {
      k: layout === "NHD" ? k : k.transpose(1, 2),
      v: layout === "NHD" ? v : v.transpose(1, 2),
      rest: null,
      numPages,
      pageSize,
      heads: numKVHeads,
    };
  }

  /**
   * A cache over tensors that are there already: views of them, any strides but the last, which is 1. They stay the caller's, and the
   * memory stays until they and the cache are disposed of.
   *
   * @param k NHD [P, pageSize, Hk, D], HND [P, Hk, pageSize, D].
   * @param v The same, perhaps with another D.
   * @throws RopeArgumentError, RopeDisposedError, RopeDeviceError.
   * @example
   * ```ts
   * import { PagedKVCache, Tensor } from "@librope/rope";
   *
   * using kv = Tensor.zeros([64, 2, 8, 16, 128], { dtype: "float16" }); // [P, 2, Hk, pageSize, D], FlashInfer's and TensorRT-LLM's
   * using cache = PagedKVCache.from(kv, { layout: "HND" });
   * console.assert(cache.numKVHeads === 8 && cache.pageSize === 16 && !cache.k.isContiguous);
   * ```
   */
  static from(k: Tensor, v: Tensor, options: { readonly layout: CacheLayout }): PagedKVCache;
  /** A cache over one tensor of keys and values: NHD [P, 2, pageSize, Hk, D], HND [P, 2, Hk, pageSize, D]. */
  static from(kv: Tensor, options: { readonly layout: CacheLayout }): PagedKVCache;
  static from(first: Tensor, second: unknown, third?: unknown): PagedKVCache {
    const operation = "PagedKVCache.from";
    const packed = third === undefined && !(second instanceof Tensor);
    const k = checkTensor(operation, packed ? "kv" : "k", first);
    const v = packed ? k : checkTensor(operation, "v", second);
    const options = packed ? second : third;
    if (options === undefined) throw argumentError(operation, "options", "an object with the layout", "undefined");
    checkOptions(operation, options, ["layout"]);
    const layout = checkChoice(operation, "layout", (options as { layout?: unknown }).layout, layouts);
    const page = layout === "NHD" ? ["pageSize", "Hk", "D"] : ["Hk", "pageSize", "D"];
    checkStored(operation, packed ? "kv" : "k", k, packed ? ["P", "2", ...page] : ["P", ...page]);
    if (packed) return new PagedKVCache(new Parts(k.select(1, 0), k.select(1, 1), layout));
    checkPair(operation, "k", k, "v", v, ["P", ...page]);
    return new PagedKVCache(new Parts(k.slice(0, 0), v.slice(0, 0), layout));
  }

  /** Lets the memory go, unless it is another's too. Using the cache afterwards is a RopeDisposedError; harmless when repeated. */
  dispose(): void {
    this.#disposed = true;
    this.#pages.k.dispose();
    this.#pages.v?.dispose();
    this.k.dispose();
    this.v.dispose();
  }

  /** The same as dispose(), for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * What multi-head latent attention (DeepSeek) keeps of each token, in pages: the compressed keys and values, and the one rotated key that
 * its heads share.
 *
 * @example
 * ```ts
 * import { PagedMLACache } from "@librope/rope";
 *
 * using cache = new PagedMLACache({ numPages: 64, pageSize: 32, dtype: "float8_e4m3fn" });
 * console.assert(cache.ckv.shape.join() === "64,32,512" && cache.kpe.shape.join() === "64,32,64");
 * ```
 */
export class PagedMLACache {
  /** The compressed keys and values: [P, pageSize, headDimCkv]. The cache's own: dispose of the cache instead. */
  readonly ckv: Tensor;
  /** The rotated keys: [P, pageSize, headDimKpe]. */
  readonly kpe: Tensor;
  /** P, the number of pages. */
  readonly numPages: number;
  /** The tokens that a page has place for. */
  readonly pageSize: number;
  /** The channels of a token's compressed keys and values. */
  readonly headDimCkv: number;
  /** The channels of a token's rotated key. */
  readonly headDimKpe: number;
  /** The type of both. */
  readonly dtype: DType;
  /** Where it lies. */
  readonly device: Device;
  readonly #pages: CachePages;
  #disposed = false;

  static {
    pagesOfMLA = (operation, value) => {
      if (typeof value !== "object" || value === null || !(#pages in value)) return null;
      if (value.#disposed) throw disposed(operation, "PagedMLACache");
      const { k, rest } = value.#pages;
      checkTensor(operation, "cache.kpe", k);
      checkTensor(operation, "cache.ckv", rest);
      return value.#pages;
    };
  }

  /**
   * A cache of zeros.
   *
   * @throws RopeArgumentError for an option that cannot be; RopeDeviceError; RopeOutOfMemoryError.
   */
  constructor(options: PagedMLACacheOptions) {
    const { ckv, kpe, numPages, pageSize, headDimCkv, headDimKpe } = options instanceof MLAParts ? options : mlaZeros(options);
    this.ckv = ckv;
    this.kpe = kpe;
    this.numPages = numPages;
    this.pageSize = pageSize;
    this.headDimCkv = headDimCkv;
    this.headDimKpe = headDimKpe;
    this.dtype = ckv.dtype;
    this.device = ckv.device;
    this.#pages = {
      k: kpe.reshape([numPages, pageSize, 1, headDimKpe]),
      v: null,
      rest: ckv.reshape([numPages, pageSize, 1, headDimCkv]),
      numPages,
      pageSize,
      heads: 1,
    };
  }

  /**
   * A cache over tensors that are there already, as {@linkcode PagedKVCache.from}: also over the two slices of one [P, pageSize, 576].
   *
   * @param ckv [P, pageSize, headDimCkv].
   * @param kpe [P, pageSize, headDimKpe].
   * @throws RopeArgumentError, RopeDisposedError, RopeDeviceError.
   * @example
   * ```ts
   * import { PagedMLACache, Tensor } from "@librope/rope";
   *
   * using both = Tensor.zeros([8, 64, 576], { dtype: "bfloat16" });
   * using cache = PagedMLACache.from(both.slice(2, 0, 512), both.slice(2, 512));
   * console.assert(cache.headDimCkv === 512 && cache.headDimKpe === 64);
   * ```
   */
  static from(ckv: Tensor, kpe: Tensor): PagedMLACache {
    const operation = "PagedMLACache.from";
    checkTensor(operation, "ckv", ckv);
    checkTensor(operation, "kpe", kpe);
    const names = ["P", "pageSize", "channels"];
    checkStored(operation, "ckv", ckv, names);
    checkPair(operation, "ckv", ckv, "kpe", kpe, names);
    return new PagedMLACache(new MLAParts(ckv.slice(0, 0), kpe.slice(0, 0)));
  }

  /** Lets the memory go, unless it is another's too. Using the cache afterwards is a RopeDisposedError; harmless when repeated. */
  dispose(): void {
    this.#disposed = true;
    this.#pages.k.dispose();
    this.#pages.rest?.dispose();
    this.ckv.dispose();
    this.kpe.dispose();
  }

  /** The same as dispose(), for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

// ---- for operations ---------------------------------------------------------------------------------------------------------------------

/** The pages of an argument called `cache` that must be a live PagedKVCache. */
export function kvPages(operation: string, cache: unknown): CachePages {
  const pages = pagesOfKV(operation, cache);
  if (pages !== null) return pages;
  throw argumentError(operation, "cache", "a PagedKVCache", describe(cache));
}

/** The same of a PagedMLACache. */
export function mlaPages(operation: string, cache: unknown): CachePages {
  const pages = pagesOfMLA(operation, cache);
  if (pages !== null) return pages;
  throw argumentError(operation, "cache", "a PagedMLACache", describe(cache));
}

/** The same of either. */
export function cachePages(operation: string, cache: unknown): CachePages {
  const pages = pagesOfKV(operation, cache) ?? pagesOfMLA(operation, cache);
  if (pages !== null) return pages;
  throw argumentError(operation, "cache", "a PagedKVCache or a PagedMLACache", describe(cache));
}

function disposed(operation: string, kind: string): RopeDisposedError {
  return new RopeDisposedError({ operation, argument: "cache", expected: "live", actual: `a ${kind} that was disposed of` });
}

// ---- making them ------------------------------------------------------------------------------------------------------------------------

const pagedKeys = ["numPages", "pageSize", "numKVHeads", "headDim", "headDimV", "dtype", "layout", "device"];
const mlaKeys = ["numPages", "pageSize", "headDimCkv", "headDimKpe", "dtype", "device"];

function zeros(options: PagedKVCacheOptions): Parts {
  const operation = "PagedKVCache";
  if (options === undefined) {
    throw argumentError(operation, "options", "an object with numPages, pageSize, numKVHeads and headDim", "undefined");
  }
  checkOptions(operation, options, pagedKeys);
  const pages = checkCount(operation, "numPages", options.numPages);
  const places = checkInteger(operation, "pageSize", options.pageSize, 1);
  const heads = checkInteger(operation, "numKVHeads", options.numKVHeads, 1);
  const headDim = checkInteger(operation, "headDim", options.headDim, 1);
  const headDimV = options.headDimV === undefined ? headDim : checkInteger(operation, "headDimV", options.headDimV, 1);
  const layout = options.layout === undefined ? "NHD" : checkChoice(operation, "layout", options.layout, layouts);
  const dtype = checkCacheDType(operation, options.dtype);
  const state = resolveDevice(operation, "device", options.device);
  const page = layout === "NHD" ? [places, heads] : [heads, places];
  return both(
    (channels) => zeroed(operation, [pages, ...page, channels], dtype, state),
    headDim,
    headDimV,
    (k, v) => new Parts(k, v, layout),
  );
}

function mlaZeros(options: PagedMLACacheOptions): MLAParts {
  const operation = "PagedMLACache";
  if (options === undefined) throw argumentError(operation, "options", "an object with numPages and pageSize", "undefined");
  checkOptions(operation, options, mlaKeys);
  const pages = checkCount(operation, "numPages", options.numPages);
  const places = checkInteger(operation, "pageSize", options.pageSize, 1);
  const headDimCkv = options.headDimCkv === undefined ? 512 : checkInteger(operation, "headDimCkv", options.headDimCkv, 1);
  const headDimKpe = options.headDimKpe === undefined ? 64 : checkInteger(operation, "headDimKpe", options.headDimKpe, 1);
  const dtype = checkCacheDType(operation, options.dtype);
  const state = resolveDevice(operation, "device", options.device);
  const make = (channels: number): Tensor => zeroed(operation, [pages, places, channels], dtype, state);
  return both(make, headDimCkv, headDimKpe, (ckv, kpe) => new MLAParts(ckv, kpe));
}

/** One of a cache's tensors. */
function zeroed(operation: string, shape: readonly number[], dtype: DType, state: DeviceState): Tensor {
  const bytes = shape.reduce((product, length) => product * Math.max(length, 1), known[dtype].bytes);
  if (bytes > Number.MAX_SAFE_INTEGER) {
    throw argumentError(operation, "options", "a cache of fewer than 2^53 bytes", `tensors of the shape ${shapeText(shape)}`);
  }
  return allocateZeros(operation, denseGeometry(dtype, shape), state.current);
}

/** Two tensors, or none where there is no memory for the second. */
function both<Made>(make: (channels: number) => Tensor, first: number, second: number, of: (a: Tensor, b: Tensor) => Made): Made {
  const a = make(first);
  try {
    return of(a, make(second));
  } catch (error) {
    a.dispose();
    throw error;
  }
}

function checkCacheDType(operation: string, value: unknown): DType {
  return value === undefined ? "bfloat16" : checkChoice(operation, "dtype", value, dtypes);
}

/** A tensor that may be (part of) a cache. `names` says what its axes are; one called "2" is of length 2, pageSize is at least 1. */
function checkStored(operation: string, argument: string, tensor: Tensor, names: readonly string[]): void {
  const { dtype, shape, strides } = geometryOf(tensor);
  if (!dtypes.includes(dtype)) throw argumentError(operation, argument, `one of ${dtypes.join(", ")}`, dtype);
  if (shape.length !== names.length || names.some((name, axis) => name === "2" && shape[axis] !== 2)) {
    throw argumentError(operation, argument, `of shape [${names.join(", ")}]`, shapeText(shape));
  }
  if (shape[names.indexOf("pageSize")] === 0) {
    throw argumentError(operation, argument, `of shape [${names.join(", ")}] with a pageSize of at least 1`, shapeText(shape));
  }
  const last = shape.length - 1;
  if ((shape[last] ?? 0) > 1 && strides[last] !== 1) {
    throw argumentError(operation, argument, "contiguous in its last dimension", `a last stride of ${strides[last]}`);
  }
}

/** Two tensors that differ in their last dimension only. */
function checkPair(operation: string, first: string, a: Tensor, second: string, b: Tensor, names: readonly string[]): void {
  checkStored(operation, second, b, names);
  const [left, right] = [geometryOf(a), geometryOf(b)];
  if (right.dtype !== left.dtype) throw argumentError(operation, second, `${left.dtype} like ${first}`, right.dtype);
  if (!sameShape(left.shape.slice(0, -1), right.shape.slice(0, -1))) {
    const expected = `of the shape ${shapeText(left.shape)} of ${first} but for the last dimension`;
    throw argumentError(operation, second, expected, shapeText(right.shape));
  }
  if (b.device !== a.device) {
    const expected = `on ${a.device.name} like ${first}`;
    throw new RopeDeviceError({ operation, argument: second, expected, actual: `on ${b.device.name}` });
  }
}
