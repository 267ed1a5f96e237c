// Rotations by a table of cosines and sines, FlashInfer's and vLLM's: the caller's values in place of frequencies.
import { argumentError, checkInteger, describe } from "../arguments.ts";
import { resolveStream } from "../device/stream.ts";
import { checkTensor, geometryOf, stateOf } from "../tensor/operations.ts";
import { Tensor } from "../tensor/tensor.ts";
import { runFused } from "./fused.ts";
import {
  callKeys,
  type CallOptions,
  checkCallOptions,
  checkPairing,
  checkQueryKey,
  checkRotaryDim,
  type Indices,
  type Pairing,
  pairingCode,
  refuseOut,
} from "./options.ts";
import { PipelineCall } from "./pipeline.ts";
import { outOfPlace, type Setting } from "./rotate.ts";

/**
 * Cosines and sines, a row for each position: one tensor [max, R], in whose rows the R/2 cosines stand before the R/2 sines; or two, [max,
 * R/2] each, or with a value for each channel [max, R] each. float32, float16 or bfloat16.
 */
export type CosSinTable = Tensor | readonly [Tensor, Tensor];

/** Options of {@linkcode applyRopeWithCosSinCacheInplace}. */
export interface ApplyRopeWithCosSinCacheInplaceOptions extends CallOptions {
  /** R. Default: that of the table, a pair of which counts as half width; a pair as wide as R is full width. */
  readonly rotaryDim?: number | undefined;
  /** The first channel that rotates. Default 0. */
  readonly rotaryOffset?: number | undefined;
  /** Default "half". */
  readonly pairing?: Pairing | undefined;
}

/** Options of {@linkcode applyRopeWithCosSinCache}. */
export interface ApplyRopeWithCosSinCacheOptions extends ApplyRopeWithCosSinCacheInplaceOptions {
  /** Write here instead of into new tensors. */
  readonly out?: readonly [Tensor, Tensor | null] | undefined;
}

/** What angles a call of the pipeline has: frequencies in the setting, or a table. */
export interface AngleSource {
  readonly setting: Setting;
  readonly cos: Tensor | null;
  readonly sin: Tensor | null;
  /** R of the table; 0: from its width. */
  readonly rotaryDim: number;
}

const inplaceKeys: readonly string[] = [...callKeys, "rotaryDim", "rotaryOffset", "pairing"];
const keys: readonly string[] = [...inplaceKeys, "out"];

/** The cosines, and the sines where they are a tensor of their own. */
function partsOf(operation: string, argument: string, table: unknown): [Tensor, Tensor | null] {
  if (table instanceof Tensor) return [checkTensor(operation, argument, table), null];
  if (!Array.isArray(table) || table.length !== 2) {
    const advice = typeof table === "object" && table !== null && "cos" in table ? "Give [cos, sin]." : undefined;
    throw argumentError(operation, argument, "a Tensor, or [cos, sin]", describe(table), advice);
  }
  return [checkTensor(operation, `${argument}[0]`, table[0]), checkTensor(operation, `${argument}[1]`, table[1])];
}

/** Checks a table and how it is applied to q. What else the shapes mean together the C library checks. */
export function tableSource(
  operation: string,
  argument: string,
  q: Tensor,
  table: unknown,
  options: ApplyRopeWithCosSinCacheInplaceOptions | undefined,
): AngleSource {
  const [cos, sin] = partsOf(operation, argument, table);
  const pairing = pairingCode(checkPairing(operation, "pairing", options?.pairing));
  const rotaryOffset = options?.rotaryOffset === undefined ? 0 : checkInteger(operation, "rotaryOffset", options.rotaryOffset, 0);
  const rotaryDim = options?.rotaryDim === undefined ? 0 : checkRotaryDim(operation, "rotaryDim", options.rotaryDim);
  const { shape } = geometryOf(q);
  const dim = shape.length === 2 ? options?.headDim : shape[shape.length - 1];
  const width = rotaryDim || (geometryOf(cos).shape[1] ?? 0) * (sin === null ? 1 : 2);
  if (typeof dim === "number" && width > dim - rotaryOffset) {
    const name = rotaryDim > 0 ? "rotaryDim" : argument;
    const expected = `${rotaryDim > 0 ? "" : "for "}at most ${dim - rotaryOffset} channels, the ${dim} of a head less rotaryOffset`;
    throw argumentError(operation, name, expected, rotaryDim > 0 ? String(width) : `one for ${width}`);
  }
  return { setting: { frequencies: 0, pairing, angles: 0, rotaryOffset, axes: 1, flags: 0, headDim: 0 }, cos, sin, rotaryDim };
}

/** Puts a source into a call. */
export function useSource(call: PipelineCall, source: AngleSource): void {
  call.cos = source.cos;
  call.sin = source.sin;
  call.rotaryDim = source.rotaryDim;
}

const call = new PipelineCall();

function rotateByTable(
  operation: string,
  source: AngleSource,
  q: Tensor,
  k: Tensor | null,
  qOut: Tensor,
  kOut: Tensor | null,
  positions: Indices | undefined,
  options: CallOptions | undefined,
): void {
  const stream = resolveStream(operation, options?.stream, stateOf(q));
  useSource(call, source);
  call.q = q;
  call.k = k;
  call.qOut = qOut;
  call.kOut = kOut;
  runFused(operation, call, source.setting, positions, options, stream, null);
}

function checked(
  operation: string,
  q: Tensor,
  k: Tensor | null,
  positions: Indices | null,
  table: CosSinTable,
  options: ApplyRopeWithCosSinCacheOptions | undefined,
  known: readonly string[],
): AngleSource {
  checkQueryKey(operation, q, k);
  if (positions === undefined) {
    const advice = "With null a token's row is its index in the sequence.";
    throw argumentError(operation, "positions", "null, a Tensor or an array of numbers", describe(positions), advice);
  }
  checkCallOptions(operation, options, known);
  return tableSource(operation, "cache", q, table, options);
}

/**
 * q and k rotated by a table of cosines and sines (FlashInfer's and vLLM's apply_rope_with_cos_sin_cache; the arguments in the order of the
 * other functions). Each pair (a, b) becomes (a cos - b sin, a sin + b cos). A table of full width has a value for each channel as it is
 * written, which also serves pairs whose channels turn by different angles: out[c] = x[c] cos[c] -/+ x[partner of c] sin[c].
 *
 * @param q [B, S, Hq, D], [nnz, Hq, D] or, with `headDim`, [nnz, Hq * D]; float64, float32, float16 or bfloat16; any strides but the last,
 * which is 1.
 * @param k The same with Hk heads, or null.
 * @param positions The row of each token: int32 or int64, [nnz], [B, S] or [S], or integers on the host; -1 leaves its token as it is.
 * null: the index in the sequence.
 * @param cache [max, R], or [cos, sin] of [max, R/2] or [max, R] each. {@linkcode RotaryEmbedding.cosSinCache} and {@linkcode
 * buildRopeCache} make them.
 * @returns The rotated q and k: new tensors, or those of `options.out`.
 * @throws RopeArgumentError, RopeDisposedError, RopeDeviceError: nothing has been written. RopeFaultError: a position that has no row; that
 * token is not written, the others are.
 * @example
 * ```ts
 * import { applyRopeWithCosSinCache, RotaryEmbedding, Tensor } from "@librope/rope";
 *
 * using rope = new RotaryEmbedding({ dim: 64 });
 * using cache = rope.cosSinCache(128);
 * using q = Tensor.random([3, 8 * 64]); // as vLLM has them
 * using k = Tensor.random([3, 2 * 64]);
 * const [qRotated, kRotated] = applyRopeWithCosSinCache(q, k, [7, 8, 9], cache, { headDim: 64 });
 * qRotated.dispose();
 * kRotated.dispose();
 * ```
 */
export function applyRopeWithCosSinCache(
  q: Tensor,
  k: Tensor,
  positions: Indices | null,
  cache: CosSinTable,
  options?: ApplyRopeWithCosSinCacheOptions,
): [Tensor, Tensor];
/** The same with k absent, perhaps. */
export function applyRopeWithCosSinCache(
  q: Tensor,
  k: Tensor | null,
  positions: Indices | null,
  cache: CosSinTable,
  options?: ApplyRopeWithCosSinCacheOptions,
): [Tensor, Tensor | null];
export function applyRopeWithCosSinCache(
  q: Tensor,
  k: Tensor | null,
  positions: Indices | null,
  cache: CosSinTable,
  options?: ApplyRopeWithCosSinCacheOptions,
): [Tensor, Tensor | null] {
  const operation = "applyRopeWithCosSinCache";
  const source = checked(operation, q, k, positions, cache, options, keys);
  return outOfPlace(operation, rotateByTable, source, q, k, positions ?? undefined, options?.out, options);
}

/**
 * {@linkcode applyRopeWithCosSinCache} in place: q and k are overwritten.
 *
 * @example
 * ```ts
 * import { applyRopeWithCosSinCacheInplace, buildRopeCache, Tensor } from "@librope/rope";
 *
 * const { cos, sin } = buildRopeCache({ seqLen: 16, headDim: 64, dtype: "bfloat16" });
 * using q = Tensor.random([2, 16, 8, 64], { dtype: "bfloat16" });
 * applyRopeWithCosSinCacheInplace(q, null, null, [cos, sin]); // every token by the row of its index
 * cos.dispose();
 * sin.dispose();
 * ```
 */
export function applyRopeWithCosSinCacheInplace(
  q: Tensor,
  k: Tensor | null,
  positions: Indices | null,
  cache: CosSinTable,
  options?: ApplyRopeWithCosSinCacheInplaceOptions,
): void {
  const operation = "applyRopeWithCosSinCacheInplace";
  refuseOut(operation, options);
  const source = checked(operation, q, k, positions, cache, options, inplaceKeys);
  rotateByTable(operation, source, q, k, q, k, positions ?? undefined, options);
}
