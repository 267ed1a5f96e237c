// FlashInfer's functional rotations, in camelCase: the same rotation as RotaryEmbedding's, with the frequencies named by numbers in each
// call.
import { argumentError, describe } from "../arguments.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { ruleSetting } from "./functional.ts";
import {
  checkCallOptions,
  checkQueryKey,
  type Indices,
  type Llama31Options,
  type PlacementOptions,
  refuseOut,
  ropeInplaceKeys,
  type RopeInplaceOptions,
  type RopeOptions,
} from "./options.ts";
import { outOfPlace, rotateInto, type Setting } from "./rotate.ts";

/** Options of {@linkcode applyRope}: those of every rotation, and where the tokens stand. */
export type ApplyRopeOptions = RopeOptions & Omit<PlacementOptions, "positions">;
/** Options of {@linkcode applyRopeInplace}. */
export type ApplyRopeInplaceOptions = RopeInplaceOptions & Omit<PlacementOptions, "positions">;
/** Options of {@linkcode applyLlama31Rope}. */
export type ApplyLlama31RopeOptions = ApplyRopeOptions & Llama31Options;
/** Options of {@linkcode applyLlama31RopeInplace}. */
export type ApplyLlama31RopeInplaceOptions = ApplyRopeInplaceOptions & Llama31Options;
/** Options of {@linkcode applyRopePosIds}. */
export type ApplyRopePosIdsOptions = RopeOptions;
/** Options of {@linkcode applyRopePosIdsInplace}. */
export type ApplyRopePosIdsInplaceOptions = RopeInplaceOptions;
/** Options of {@linkcode applyLlama31RopePosIds}. */
export type ApplyLlama31RopePosIdsOptions = RopeOptions & Llama31Options;
/** Options of {@linkcode applyLlama31RopePosIdsInplace}. */
export type ApplyLlama31RopePosIdsInplaceOptions = RopeInplaceOptions & Llama31Options;

type AnyOptions = ApplyLlama31RopeOptions;

const ragged = ["offset", "indptr", "offsets"];
const llama31 = ["lowFreqFactor", "highFreqFactor", "oldContextLen"];
const keys = {
  applyRope: [...ropeInplaceKeys, ...ragged, "out"],
  applyRopeInplace: [...ropeInplaceKeys, ...ragged],
  applyRopePosIds: [...ropeInplaceKeys, "out"],
  applyRopePosIdsInplace: ropeInplaceKeys,
  applyLlama31Rope: [...ropeInplaceKeys, ...ragged, ...llama31, "out"],
  applyLlama31RopeInplace: [...ropeInplaceKeys, ...ragged, ...llama31],
  applyLlama31RopePosIds: [...ropeInplaceKeys, ...llama31, "out"],
  applyLlama31RopePosIdsInplace: [...ropeInplaceKeys, ...llama31],
} as const satisfies Record<string, readonly string[]>;

type Operation = keyof typeof keys;

/** Checks what all functions take. */
function prepare(operation: Operation, llama31: boolean, q: Tensor, k: Tensor | null, o: AnyOptions | undefined): Setting {
  checkQueryKey(operation, q, k);
  if (o !== undefined) checkCallOptions(operation, o, keys[operation]);
  return ruleSetting(operation, llama31, q, o);
}

function rotated(operation: Operation, llama31: boolean, q: Tensor, k: Tensor | null, o: AnyOptions | undefined): [Tensor, Tensor | null] {
  const setting = prepare(operation, llama31, q, k, o);
  return outOfPlace(operation, rotateInto, setting, q, k, undefined, o?.out, o);
}

function inplace(operation: Operation, llama31: boolean, q: Tensor, k: Tensor | null, o: AnyOptions | undefined): void {
  refuseOut(operation, o);
  const setting = prepare(operation, llama31, q, k, o);
  rotateInto(operation, setting, q, k, q, k, undefined, o);
}

function rotatedAt(
  operation: Operation,
  llama31: boolean,
  q: Tensor,
  k: Tensor | null,
  positions: Indices,
  o: AnyOptions | undefined,
): [Tensor, Tensor | null] {
  const setting = prepare(operation, llama31, q, k, o);
  return outOfPlace(operation, rotateInto, setting, q, k, present(operation, positions), o?.out, o);
}

function inplaceAt(
  operation: Operation,
  llama31: boolean,
  q: Tensor,
  k: Tensor | null,
  positions: Indices,
  o: AnyOptions | undefined,
): void {
  refuseOut(operation, o);
  const setting = prepare(operation, llama31, q, k, o);
  rotateInto(operation, setting, q, k, q, k, present(operation, positions), o);
}

function present(operation: string, positions: Indices): Indices {
  if (positions !== undefined) return positions;
  throw argumentError(operation, "positions", "a Tensor or an array of numbers", describe(positions));
}

/**
 * q and k with rotary position embeddings applied (FlashInfer's apply_rope).
 *
 * @param q [B, S, Hq, D], [nnz, Hq, D] or, with `headDim`, [nnz, Hq * D]; float64, float32, float16 or bfloat16; any strides but the last,
 * which is 1.
 * @param k The same with Hk heads, or null.
 * @param options Where the tokens stand (`offset`, or `indptr` and `offsets`; default 0 .. S-1 in every batch row) and how to rotate.
 * @returns The rotated q and k: new tensors, or those of `options.out`.
 * @throws RopeArgumentError, RopeDisposedError, RopeDeviceError: nothing has been written. RopeFaultError: a position beyond 2^38.
 * @example
 * ```ts
 * import { applyRope, Tensor } from "@librope/rope";
 *
 * using q = Tensor.random([5, 8, 64]); // two requests end to end: three tokens, then two
 * using k = Tensor.random([5, 2, 64]);
 * const [qRotated, kRotated] = applyRope(q, k, { indptr: [0, 3, 5], offsets: [100, 0] });
 * qRotated.dispose();
 * kRotated.dispose();
 * ```
 */
export function applyRope(q: Tensor, k: Tensor, options?: ApplyRopeOptions): [Tensor, Tensor];
/** The same with k absent, perhaps. */
export function applyRope(q: Tensor, k: Tensor | null, options?: ApplyRopeOptions): [Tensor, Tensor | null];
export function applyRope(q: Tensor, k: Tensor | null, options?: ApplyRopeOptions): [Tensor, Tensor | null] {
  return rotated("applyRope", false, q, k, options);
}

/**
 * {@linkcode applyRope} in place: q and k are overwritten.
 *
 * @example
 * ```ts
 * import { applyRopeInplace, Tensor } from "@librope/rope";
 *
 * using q = Tensor.random([1, 8, 64]); // one token of a decoder
 * using k = Tensor.random([1, 2, 64]);
 * applyRopeInplace(q, k, { offset: 4095 });
 * ```
 */
export function applyRopeInplace(q: Tensor, k: Tensor | null, options?: ApplyRopeInplaceOptions): void {
  inplace("applyRopeInplace", false, q, k, options);
}

/**
 * q and k rotated by position ids (FlashInfer's apply_rope_pos_ids). As {@linkcode applyRope}, with a position for each token.
 *
 * @param positions [nnz], [B, S] or [S]: int32, int64 or float32, or numbers on the host. An integer -1 (NaN among floats) leaves its token
 * as it is.
 * @example
 * ```ts
 * import { applyRopePosIds, Tensor } from "@librope/rope";
 *
 * using q = Tensor.random([3, 8, 64]);
 * const [rotated] = applyRopePosIds(q, null, [7, 8, -1]); // the last token is padding
 * rotated.dispose();
 * ```
 */
export function applyRopePosIds(q: Tensor, k: Tensor, positions: Indices, options?: ApplyRopePosIdsOptions): [Tensor, Tensor];
/** The same with k absent, perhaps. */
export function applyRopePosIds(q: Tensor, k: Tensor | null, positions: Indices, options?: ApplyRopePosIdsOptions): [Tensor, Tensor | null];
export function applyRopePosIds(
  q: Tensor,
  k: Tensor | null,
  positions: Indices,
  options?: ApplyRopePosIdsOptions,
): [Tensor, Tensor | null] {
  return rotatedAt("applyRopePosIds", false, q, k, positions, options);
}

/**
 * {@linkcode applyRopePosIds} in place: q and k are overwritten.
 *
 * @example
 * ```ts
 * import { applyRopePosIdsInplace, Tensor } from "@librope/rope";
 *
 * using q = Tensor.random([3, 8, 64]);
 * using k = Tensor.random([3, 2, 64]);
 * applyRopePosIdsInplace(q, k, [7, 8, 9]);
 * ```
 */
export function applyRopePosIdsInplace(q: Tensor, k: Tensor | null, positions: Indices, options?: ApplyRopePosIdsInplaceOptions): void {
  inplaceAt("applyRopePosIdsInplace", false, q, k, positions, options);
}

/**
 * q and k rotated with Llama 3.1's frequencies (FlashInfer's apply_llama31_rope): long wavelengths are stretched by `ropeScale`, short ones
 * kept, with a ramp between; `lowFreqFactor` equal to `highFreqFactor` is a hard step. Otherwise as {@linkcode applyRope}.
 *
 * @example
 * ```ts
 * import { applyLlama31Rope, Tensor } from "@librope/rope";
 *
 * using q = Tensor.random([1, 16, 32, 128], { dtype: "bfloat16" });
 * using k = Tensor.random([1, 16, 8, 128], { dtype: "bfloat16" });
 * const [qRotated, kRotated] = applyLlama31Rope(q, k, { offset: 100_000 });
 * qRotated.dispose();
 * kRotated.dispose();
 * ```
 */
export function applyLlama31Rope(q: Tensor, k: Tensor, options?: ApplyLlama31RopeOptions): [Tensor, Tensor];
/** The same with k absent, perhaps. */
export function applyLlama31Rope(q: Tensor, k: Tensor | null, options?: ApplyLlama31RopeOptions): [Tensor, Tensor | null];
export function applyLlama31Rope(q: Tensor, k: Tensor | null, options?: ApplyLlama31RopeOptions): [Tensor, Tensor | null] {
  return rotated("applyLlama31Rope", true, q, k, options);
}

/**
 * {@linkcode applyLlama31Rope} in place: q and k are overwritten.
 *
 * @example
 * ```ts
 * import { applyLlama31RopeInplace, Tensor } from "@librope/rope";
 *
 * using q = Tensor.random([1, 32, 128]);
 * using k = Tensor.random([1, 8, 128]);
 * applyLlama31RopeInplace(q, k, { offset: 4095 });
 * ```
 */
export function applyLlama31RopeInplace(q: Tensor, k: Tensor | null, options?: ApplyLlama31RopeInplaceOptions): void {
  inplace("applyLlama31RopeInplace", true, q, k, options);
}

/**
 * q and k rotated with Llama 3.1's frequencies by position ids (FlashInfer's apply_llama31_rope_pos_ids).
 *
 * @param positions [nnz], [B, S] or [S]: int32, int64 or float32, or numbers on the host. An integer -1 (NaN among floats) leaves its token
 * as it is.
 * @example
 * ```ts
 * import { applyLlama31RopePosIds, Tensor } from "@librope/rope";
 *
 * using q = Tensor.random([3, 32, 128]);
 * const [rotated] = applyLlama31RopePosIds(q, null, [7, 8, 9]);
 * rotated.dispose();
 * ```
 */
export function applyLlama31RopePosIds(q: Tensor, k: Tensor, positions: Indices, options?: ApplyLlama31RopePosIdsOptions): [Tensor, Tensor];
/** The same with k absent, perhaps. */
export function applyLlama31RopePosIds(
  q: Tensor,
  k: Tensor | null,
  positions: Indices,
  options?: ApplyLlama31RopePosIdsOptions,
): [Tensor, Tensor | null];
export function applyLlama31RopePosIds(
  q: Tensor,
  k: Tensor | null,
  positions: Indices,
  options?: ApplyLlama31RopePosIdsOptions,
): [Tensor, Tensor | null] {
  return rotatedAt("applyLlama31RopePosIds", true, q, k, positions, options);
}

/**
 * {@linkcode applyLlama31RopePosIds} in place: q and k are overwritten.
 *
 * @example
 * ```ts
 * import { applyLlama31RopePosIdsInplace, Tensor } from "@librope/rope";
 *
 * using q = Tensor.random([3, 32, 128]);
 * using k = Tensor.random([3, 8, 128]);
 * applyLlama31RopePosIdsInplace(q, k, [7, 8, 9]);
 * ```
 */
export function applyLlama31RopePosIdsInplace(
  q: Tensor,
  k: Tensor | null,
  positions: Indices,
  options?: ApplyLlama31RopePosIdsInplaceOptions,
): void {
  inplaceAt("applyLlama31RopePosIdsInplace", true, q, k, positions, options);
}
