// Functions that rotate, perhaps quantise, and append to a paged cache, in one launch.
import { argumentError, describe } from "../arguments.ts";
import { resolveStream } from "../device/stream.ts";
import { type CachePages, cachePages, type PagedKVCache, type PagedMLACache } from "../kv/cache.ts";
import type { AppendTarget } from "../kv/target.ts";
import type { Float8DType } from "../tensor/dtype.ts";
import { allocate, checkTensor, geometryOf, stateOf } from "../tensor/operations.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { appendRotated, checkRows, checkValues, isFloat8 } from "./appending.ts";
import { runFused } from "./fused.ts";
import { checkCallOptions, checkQueryKey, checkQueryRank, checkRecord, quantizeKeys, type QuantizeOptions } from "./options.ts";
import { PipelineCall } from "./pipeline.ts";
import { checkFloat8, checkNope, checkScale, quantizeFp8Keys, type QuantizeFp8Options, withHeads } from "./quantize.ts";
import { resolveSource, sourceKeys, type SourceOptions } from "./source.ts";
import { useSource } from "./table.ts";

/** Options of {@linkcode applyRopeAppendPagedKVCache}. */
export interface ApplyRopeAppendOptions extends SourceOptions, QuantizeOptions {
  /** Write q here instead of into a new tensor: of q's dtype, which may be q itself, or with `quantizeQ` of the cache's. */
  readonly out?: Tensor | undefined;
}

/** Options of {@linkcode ropeQuantizeFp8AppendPagedKVCache}. */
export interface RopeQuantizeFp8AppendOptions extends QuantizeFp8Options {
  /** Further channels of q's heads, which do not turn: shaped as q but for the last dimension. */
  readonly qNope?: Tensor | null | undefined;
  /** The channels of the keys behind those of k, which do not turn; for a {@linkcode PagedMLACache} its ckv part. */
  readonly kNope?: Tensor | null | undefined;
  /** Write q, and qNope, here instead of into new tensors of the cache's dtype. */
  readonly out?: { readonly q?: Tensor | undefined; readonly qNope?: Tensor | null | undefined } | undefined;
}

const applyKeys: readonly string[] = [...sourceKeys, ...quantizeKeys, "out"];
const quantizingKeys: readonly string[] = [...quantizeFp8Keys, "qNope", "kNope", "out"];

/**
 * Rotates q, and k on its way into a paged cache; v goes there too: {@linkcode RotaryEmbedding.append} as a function. Angles come from an
 * embedding, a table or `ropeTheta` and `ropeScale`. Into a float8 cache go fp8(k * scaleK) and fp8(v * scaleV), rounded once.
 *
 * @param q [B, S, Hq, D], [nnz, Hq, D] or, with `headDim`, [nnz, Hq * D]; float32, float16 or bfloat16; any strides but the last, which is
 * 1.
 * @param k The same with the cache's Hk heads.
 * @param v The same with the cache's headDimV channels; null leaves the cache's values as they are.
 * @param where Where the tokens go. They are rotated by its `positions` unless the options say where they stand; with `slotMapping` they
 * must.
 * @returns The rotated q: a new tensor, or that of `options.out`.
 * @throws RopeArgumentError, RopeDisposedError, RopeDeviceError: nothing has been written. RopeFaultError: a position, request, page, place
 * or slot out of range; that token has not been written, the others have.
 * @example
 * ```ts
 * import { applyRopeAppendPagedKVCache, PagedKVCache, Tensor } from "@librope/rope";
 *
 * using cache = new PagedKVCache({ numPages: 8, pageSize: 16, numKVHeads: 2, headDim: 64, dtype: "float8_e4m3fn" });
 * using q = Tensor.random([3, 8, 64], { dtype: "bfloat16" });
 * using k = Tensor.random([3, 2, 64], { dtype: "bfloat16" });
 * using v = Tensor.random([3, 2, 64], { dtype: "bfloat16" });
 * const where = { slotMapping: [33, 34, -1] }; // page 2, places 1 and 2; the third token is not stored
 * using rotated = applyRopeAppendPagedKVCache(q, k, v, cache, where, { positions: [1, 2, 3], ropeTheta: 5e5, scaleK: 8, scaleV: 8 });
 * ```
 */
export function applyRopeAppendPagedKVCache(
  q: Tensor,
  k: Tensor,
  v: Tensor | null,
  cache: PagedKVCache,
  where: AppendTarget,
  options?: ApplyRopeAppendOptions,
): Tensor {
  const operation = "applyRopeAppendPagedKVCache";
  checkQueryKey(operation, q, k);
  checkCallOptions(operation, options, applyKeys);
  const source = resolveSource(operation, q, options, where, true);
  return appendRotated(operation, source, q, k, v, cache, where, options);
}

// ---- float8 -----------------------------------------------------------------------------------------------------------------------------

/** The channels of a head of keys. Heads that lie side by side are as many as the cache has. */
function widthOf(tensor: Tensor, heads: number): number {
  const { shape } = geometryOf(tensor);
  const last = shape[shape.length - 1] ?? 0;
  return shape.length > 2 ? last : Math.floor(last / heads);
}

/** Where k and kNope, seen with their heads, go: tensors of the cache's memory, to be disposed of. A row of the keys is [k | kNope]. */
function keyRows(operation: string, pages: CachePages, k: Tensor, kNope: Tensor | null): { k: Tensor; rest: Tensor | null } {
  const { heads } = pages;
  const rank = geometryOf(k).shape.length;
  const channels = geometryOf(pages.k).shape[3] ?? 0;
  if (pages.rest !== null) {
    if (kNope === null) throw argumentError(operation, "kNope", "given for a PagedMLACache, whose ckv part it is", "none");
    checkRows(operation, "k", k, rank, 1, channels);
    checkRows(operation, "kNope", kNope, rank, 1, geometryOf(pages.rest).shape[3] ?? 0);
    return { k: pages.k.slice(0, 0), rest: pages.rest.slice(0, 0) };
  }
  const width = kNope === null ? channels : widthOf(k, heads);
  if (width > channels) throw argumentError(operation, "k", `of at most ${channels} channels, as the cache has`, `${width} channels`);
  checkRows(operation, "k", k, rank, heads, width);
  if (kNope === null) return { k: pages.k.slice(0, 0), rest: null };
  if (widthOf(kNope, heads) !== channels - width) {
    const expected = `of ${channels - width} channels, which the ${width} of k leave of the cache's ${channels}`;
    throw argumentError(operation, "kNope", expected, `${widthOf(kNope, heads)} channels`, "A row of the keys is [k | kNope].");
  }
  checkRows(operation, "kNope", kNope, rank, heads, channels - width);
  return { k: pages.k.slice(3, 0, width), rest: pages.k.slice(3, width) };
}

/** A cache for float8, with what else can be told from the arguments before their shapes are compared. */
function checkFloat8Pages(
  operation: string,
  cache: unknown,
  v: Tensor | null,
  options: RopeQuantizeFp8AppendOptions | undefined,
): { pages: CachePages; dtype: Float8DType } {
  const pages = cachePages(operation, cache);
  const { dtype } = geometryOf(pages.k);
  if (!isFloat8(dtype)) throw argumentError(operation, "cache", "one of float8_e4m3fn or float8_e5m2", `one of ${dtype}`);
  if (pages.rest !== null && v !== null) {
    throw argumentError(operation, "v", "null for a PagedMLACache, which has no values apart", describe(v));
  }
  if (options?.quantizeDtype !== undefined && checkFloat8(operation, options.quantizeDtype) !== dtype) {
    throw argumentError(operation, "quantizeDtype", `${dtype} like the cache`, options.quantizeDtype);
  }
  return { pages, dtype };
}

function checkOut(operation: string, out: unknown, hasNope: boolean, dtype: Float8DType): { q: Tensor | null; qNope: Tensor | null } {
  if (out === undefined) return { q: null, qNope: null };
  const { q, qNope } = checkRecord(operation, "out", out, ["q", "qNope"], "an object with q and perhaps qNope");
  if (!hasNope && qNope !== undefined && qNope !== null) {
    throw argumentError(operation, "out.qNope", "absent, for there is no qNope", describe(qNope));
  }
  const given = { q: checkNope(operation, "out.q", q), qNope: checkNope(operation, "out.qNope", qNope) };
  for (const [name, tensor] of Object.entries(given)) {
    if (tensor === null || tensor.dtype === dtype) continue;
    throw argumentError(operation, `out.${name}`, `${dtype} like the cache`, tensor.dtype);
  }
  return given;
}

const call = new PipelineCall();

/**
 * {@linkcode ropeQuantizeFp8} with k, kNope and v on their way into a float8 paged cache (FlashInfer's
 * rope_quantize_fp8_append_paged_kv_cache): one launch. A row of the keys in a {@linkcode PagedKVCache} is [k | kNope]; of a {@linkcode
 * PagedMLACache} k is the kpe part, kNope the ckv part, and v null.
 *
 * @param q [nnz, Hq, R], [B, S, Hq, R] or, with `headDim`, [nnz, Hq * R]; float32, float16 or bfloat16; any strides but the last, which is
 * 1. As in ropeQuantizeFp8, it may be wider than what turns.
 * @param k The same with the cache's heads; of MLA also [nnz, R].
 * @param v The same with the cache's headDimV channels; null leaves the cache's values as they are.
 * @param where Where the tokens go. They are rotated by its `positions` unless the options say where they stand; with `slotMapping` they
 * must.
 * @param options Those of ropeQuantizeFp8. q is of the cache's dtype.
 * @returns q, and qNope where it was given: float8 tensors shaped as the inputs, or those of `options.out`.
 * @throws RopeArgumentError, RopeDisposedError, RopeDeviceError: nothing has been written. RopeFaultError: a position, request, page, place
 * or slot out of range; that token has not been written, the others have.
 * @example
 * ```ts
 * import { PagedMLACache, ropeQuantizeFp8AppendPagedKVCache, Tensor } from "@librope/rope";
 *
 * using cache = new PagedMLACache({ numPages: 8, pageSize: 32, dtype: "float8_e4m3fn" });
 * using q = Tensor.random([2, 16, 64], { dtype: "bfloat16" });
 * using qNope = Tensor.random([2, 16, 512], { dtype: "bfloat16" });
 * using k = Tensor.random([2, 64], { dtype: "bfloat16" });
 * using kNope = Tensor.random([2, 512], { dtype: "bfloat16" });
 * const where = { indptr: [0, 1], indices: [3], batchIndices: [0, 0], positions: [0, 1] };
 * const rotated = ropeQuantizeFp8AppendPagedKVCache(q, k, null, cache, where, { qNope, kNope, pairing: "interleaved" });
 * console.assert(rotated.q.dtype === "float8_e4m3fn");
 * rotated.q.dispose();
 * rotated.qNope?.dispose();
 * ```
 */
export function ropeQuantizeFp8AppendPagedKVCache(
  q: Tensor,
  k: Tensor,
  v: Tensor | null,
  cache: PagedKVCache | PagedMLACache,
  where: AppendTarget,
  options?: RopeQuantizeFp8AppendOptions,
): { q: Tensor; qNope?: Tensor } {
  const operation = "ropeQuantizeFp8AppendPagedKVCache";
  checkQueryRank(operation, checkTensor(operation, "q", q));
  checkTensor(operation, "k", k);
  checkValues(operation, v);
  checkCallOptions(operation, options, quantizingKeys);
  const { pages, dtype } = checkFloat8Pages(operation, cache, v, options);
  const qNope = checkNope(operation, "qNope", options?.qNope);
  const kNope = checkNope(operation, "kNope", options?.kNope);
  const outs = checkOut(operation, options?.out, qNope !== null, dtype);
  const qFactor = checkScale(operation, "quantScaleQ", options?.quantScaleQ);
  const kFactor = checkScale(operation, "quantScaleKv", options?.quantScaleKv);
  const source = resolveSource(operation, q, options, where);
  const stream = resolveStream(operation, options?.stream, stateOf(q));
  const views: Tensor[] = []; // given up in any case
  const made: Tensor[] = []; // results, given up where the call fails
  const rank = geometryOf(q).shape.length;
  const seen = (tensor: Tensor): Tensor => {
    const view = withHeads(tensor, rank);
    if (view !== tensor) views.push(view);
    return view;
  };
  const result = (like: Tensor, out: Tensor | null): Tensor => {
    if (out !== null) return out;
    const tensor = allocate(operation, geometryOf(like).as(dtype), stream);
    made.push(tensor);
    return tensor;
  };
  try {
    const keys = seen(k);
    const keysNope = kNope === null ? null : seen(kNope);
    const values = v === null ? null : seen(v);
    const rows = keyRows(operation, pages, keys, keysNope);
    views.push(rows.k);
    if (rows.rest !== null) views.push(rows.rest);
    if (values !== null && pages.v !== null) checkRows(operation, "v", values, rank, pages.heads, geometryOf(pages.v).shape[3] ?? 0);
    const qOut = result(q, outs.q);
    const qRestOut = qNope === null ? null : result(qNope, outs.qNope);
    useSource(call, source);
    [call.q, call.qRest, call.k, call.kRest, call.v] = [q, qNope, keys, keysNope, values];
    [call.qOut, call.qRestOut, call.kOut, call.kRestOut] = [qOut, qRestOut, rows.k, rows.rest];
    call.vOut = values === null ? null : pages.v;
    call.qFactor = qFactor;
    call.kFactor = call.vFactor = kFactor;
    runFused(operation, call, source.setting, options?.positions, options, stream, { where, pages });
    return qRestOut === null ? { q: qOut } : { q: qOut, qNope: qRestOut };
  } catch (error) {
    for (const tensor of made) tensor.dispose();
    throw error;
  } finally {
    for (const view of views) view.dispose();
  }
}
