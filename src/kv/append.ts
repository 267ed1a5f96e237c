// Appending to paged caches what is rotated already, or need not be: the pipeline with nothing that turns.
import { argumentError, describe } from "../arguments.ts";
import { resolveStream, type Stream } from "../device/stream.ts";
import { enums } from "../native/layouts.ts";
import { checkCallOptions, checkPositive, quantizeKeys, type QuantizeOptions } from "../rope/options.ts";
import { PipelineCall } from "../rope/pipeline.ts";
import { shapeText } from "../tensor/geometry.ts";
import { checkTensor, geometryOf, stateOf } from "../tensor/operations.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type CachePages, kvPages, mlaPages, type PagedKVCache, type PagedMLACache } from "./cache.ts";
import { type AppendTarget, TargetTables } from "./target.ts";

/** Options of {@linkcode appendPagedKVCache} and {@linkcode appendPagedMLAKVCache}. There is no q: scaleQ and quantizeQ are errors. */
export interface AppendPagedKVCacheOptions extends QuantizeOptions {
  /** The stream to run on. Default: the device's own, or the one that records. */
  readonly stream?: Stream | undefined;
}

const keys = [...quantizeKeys, "stream"];
const call = new PipelineCall();
const target = new TargetTables();

/**
 * Writes keys and values into a paged cache, each token to the place that `where` gives it, in one launch (FlashInfer's
 * append_paged_kv_cache). They are converted to the cache's dtype: to nearest even; into float8 x * scale, saturating. Nothing else of the
 * cache changes. Two tokens for one place leave some of each there.
 *
 * @param k [nnz, Hk, D], [B, S, Hk, D] (nnz = B * S) or [nnz, Hk * D]; float16, bfloat16 or float32; any strides but the last, which is 1.
 * @param v The same with the cache's headDimV for D.
 * @param where A page table with the request and the place of each token, or a slot for each.
 * @throws RopeArgumentError, RopeDisposedError, RopeDeviceError: nothing has been written. RopeFaultError: an entry of a tensor in `where`
 * is out of range; the other tokens have been written.
 * @example
 * ```ts
 * import { appendPagedKVCache, getBatchIndicesPositions, PagedKVCache, Tensor } from "@librope/rope";
 *
 * using cache = new PagedKVCache({ numPages: 8, pageSize: 4, numKVHeads: 2, headDim: 64 });
 * using k = Tensor.random([5, 2, 64]);
 * using v = Tensor.random([5, 2, 64]);
 *
 * // Two requests: 3 new tokens of one that has 6 then, in pages 5 and 2, and the first 2 of another, in page 7.
 * const { batchIndices, positions } = getBatchIndicesPositions([0, 3, 5], [6, 2], 5);
 * appendPagedKVCache(k, v, cache, { indptr: [0, 2, 3], indices: [5, 2, 7], batchIndices, positions });
 *
 * // The same by slots, page * pageSize + place.
 * appendPagedKVCache(k, v, cache, { slotMapping: [23, 8, 9, 28, 29] });
 * batchIndices.dispose();
 * positions.dispose();
 * ```
 */
export function appendPagedKVCache(
  k: Tensor,
  v: Tensor,
  cache: PagedKVCache,
  where: AppendTarget,
  options?: AppendPagedKVCacheOptions,
): void {
  const operation = "appendPagedKVCache";
  checkTensor(operation, "k", k);
  checkTensor(operation, "v", v);
  const pages = kvPages(operation, cache);
  checkHeads(operation, "k", k, cache.numKVHeads, cache.headDim);
  checkHeads(operation, "v", v, cache.numKVHeads, cache.headDimV);
  checkScales(operation, options);
  call.headDim = geometryOf(k).shape.length === 2 ? cache.headDim : 0;
  call.kFactor = options?.scaleK ?? 0;
  call.vFactor = options?.scaleV ?? 0;
  call.k = k;
  call.v = v;
  run(operation, pages, where, options);
}

/**
 * Writes the compressed keys and values and the rotated keys of multi-head latent attention into a paged cache, in one launch (FlashInfer's
 * append_paged_mla_kv_cache). Otherwise as {@linkcode appendPagedKVCache}.
 *
 * @param ckv [nnz, headDimCkv] or [nnz, 1, headDimCkv].
 * @param kpe [nnz, headDimKpe] or [nnz, 1, headDimKpe].
 * @param options `scaleK` is the scale of both; `scaleV` is an error, for there are no values apart.
 * @example
 * ```ts
 * import { appendPagedMLAKVCache, PagedMLACache, Tensor } from "@librope/rope";
 *
 * using cache = new PagedMLACache({ numPages: 8, pageSize: 64, dtype: "float8_e4m3fn" });
 * using ckv = Tensor.random([3, 512]);
 * using kpe = Tensor.random([3, 64]);
 * appendPagedMLAKVCache(ckv, kpe, cache, { slotMapping: [0, -1, 64] }, { scaleK: 16 }); // the second token is not stored
 * ```
 */
export function appendPagedMLAKVCache(
  ckv: Tensor,
  kpe: Tensor,
  cache: PagedMLACache,
  where: AppendTarget,
  options?: AppendPagedKVCacheOptions,
): void {
  const operation = "appendPagedMLAKVCache";
  checkTensor(operation, "ckv", ckv);
  checkTensor(operation, "kpe", kpe);
  const pages = mlaPages(operation, cache);
  checkLatent(operation, "ckv", ckv, cache.headDimCkv);
  checkLatent(operation, "kpe", kpe, cache.headDimKpe);
  checkScales(operation, options);
  if (options?.scaleV !== undefined) {
    throw argumentError(operation, "scaleV", "absent, for a PagedMLACache has no values apart", describe(options.scaleV));
  }
  call.kFactor = options?.scaleK ?? 0;
  using rest = oneHead(ckv, cache.headDimCkv);
  using k = oneHead(kpe, cache.headDimKpe);
  call.k = k;
  call.kRest = rest;
  run(operation, pages, where, options);
}

/** Runs the call, whose inputs are filled in, on its way into the pages. */
function run(operation: string, pages: CachePages, where: AppendTarget, options: AppendPagedKVCacheOptions | undefined): void {
  const state = stateOf(pages.k);
  const { current } = state;
  try {
    const stream = resolveStream(operation, options?.stream, state);
    state.current = stream; // what is made of host arrays is made on it
    target.resolve(operation, where, pages, tokensOf(call.k));
    call.flags = enums.STILL;
    call.kOut = pages.k;
    call.vOut = pages.v;
    call.kRestOut = pages.rest;
    call.target = target;
    call.run(operation, stream);
  } finally {
    state.current = current;
    call.clear();
    target.release();
  }
}

function tokensOf(tensor: Tensor | null): number {
  const shape = tensor === null ? [] : geometryOf(tensor).shape;
  return shape.length === 4 ? (shape[0] ?? 0) * (shape[1] ?? 0) : shape[0] ?? 0;
}

/** k or v of a cache: what else their shapes say is for the C library to compare. */
function checkHeads(operation: string, argument: string, tensor: Tensor, heads: number, channels: number): void {
  const { shape } = geometryOf(tensor);
  const rank = shape.length;
  const fits = rank === 2
    ? shape[1] === heads * channels
    : (rank === 3 || rank === 4) && shape[rank - 1] === channels && shape[rank - 2] === heads;
  if (fits) return;
  const row = `${heads}, ${channels}]`;
  const expected = `[nnz, ${row}, [B, S, ${row} or [nnz, ${heads * channels}], as the cache has ${heads} heads of ${channels}`;
  throw argumentError(operation, argument, expected, shapeText(shape));
}

function checkLatent(operation: string, argument: string, tensor: Tensor, channels: number): void {
  const { shape } = geometryOf(tensor);
  const fits = shape.length === 2 ? shape[1] === channels : shape.length === 3 && shape[1] === 1 && shape[2] === channels;
  if (!fits) throw argumentError(operation, argument, `[nnz, ${channels}] or [nnz, 1, ${channels}], as the cache has`, shapeText(shape));
}

/** [nnz, channels] or [nnz, 1, channels] as the latter. */
function oneHead(tensor: Tensor, channels: number): Tensor {
  return tensor.reshape([geometryOf(tensor).shape[0] ?? 0, 1, channels]);
}

function checkScales(operation: string, options: AppendPagedKVCacheOptions | undefined): void {
  if (options === undefined) return;
  checkCallOptions(operation, options, keys);
  for (const name of ["scaleQ", "quantizeQ"] as const) {
    if (options[name] !== undefined) throw argumentError(operation, name, "absent, for there is no q", describe(options[name]));
  }
  if (options.scaleK !== undefined) checkPositive(operation, "scaleK", options.scaleK);
  if (options.scaleV !== undefined) checkPositive(operation, "scaleV", options.scaleV);
}
