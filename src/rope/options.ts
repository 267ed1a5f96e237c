// The options of every rotation: their types, and what the words among them are in the C ABI.
import { argumentError, checkBoolean, checkChoice, checkInteger, checkOptions, describe } from "../arguments.ts";
import type { Stream } from "../device/stream.ts";
import { publicName } from "../native/status.ts";
import { shapeText } from "../tensor/geometry.ts";
import { checkTensor, geometryOf } from "../tensor/operations.ts";
import { Tensor } from "../tensor/tensor.ts";

/**
 * Which two channels of a head form a pair, of R rotated ones: `half` (j, j + R/2), Hugging Face's Llama; `interleaved` (2j, 2j + 1),
 * GPT-J; `interleaved_to_half` reads (2j, 2j + 1) and writes (j, j + R/2), Hugging Face's DeepSeek V3.
 */
export type Pairing = "half" | "interleaved" | "interleaved_to_half";

/**
 * How angles are computed: `exact` from 64-bit fixed-point turns, within 2e-7 at every position; `hf` as the float32 product of position
 * and float32 frequency, which is what Python servers compute.
 */
export type Angles = "exact" | "hf";

/** Small integers or positions: a tensor, or numbers on the host that are uploaded for the call. */
export type Indices =
  | Tensor
  | readonly number[]
  | Int8Array
  | Uint8Array
  | Uint8ClampedArray
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array
  | Float16Array
  | Float32Array
  | Float64Array;

/**
 * Where each token stands. At most one of `positions`, `offset` and `indptr`/`offsets` may be given; without any, 0 .. S-1 in every batch
 * row.
 */
export interface PlacementOptions {
  /**
   * [nnz], [B, S] or [S] (shared by the rows); with several axes [axes, ...the same], flat numbers axis by axis. Tensors are int32, int64
   * or float32. A `number[]` becomes int32 where all are integers (int64 beyond 2^31), else float32; typed arrays of integers are integers,
   * those of floats float32 (a Float64Array of integers other than -1 stays exact). An integer -1 on one axis and a NaN leave their token
   * as it is; -1 among floats is a position.
   */
  readonly positions?: Indices | undefined;
  /** All rows start here. Default 0. */
  readonly offset?: number | undefined;
  /** int32 or int64 [requests + 1]: request b owns the tokens indptr[b] .. indptr[b + 1] - 1 of a ragged q. */
  readonly indptr?: Indices | undefined;
  /** int32 or int64: where each request of `indptr` starts, or without it each batch row. Default 0. */
  readonly offsets?: Indices | undefined;
}

/** What every rotation takes. */
export interface CallOptions {
  /** Rotate backwards: the transposed map, with the same attention factor. Default false. */
  readonly inverse?: boolean | undefined;
  /** D of a q and k of shape [nnz, H * D]. */
  readonly headDim?: number | undefined;
  /** The stream to run on. Default: the device's own, or the one that records. */
  readonly stream?: Stream | undefined;
}

/**
 * An RMS-norm of q's or k's heads in the same launch as the rotation: y = x / sqrt(mean(x^2) + eps) * weight, computed in float32 (of
 * float64 tensors in float64) and not rounded before the rotation. Padding is not normed. Zhang and Sennrich 2019; Qwen3 and Gemma 3 norm
 * each head before the rotation, OLMo 2 the whole width, HunYuan each head after it.
 *
 * @example
 * ```ts
 * import { RotaryEmbedding, Tensor } from "@librope/rope";
 *
 * using rope = new RotaryEmbedding({ dim: 256, base: 1_000_000 }); // Gemma 3's full layers
 * using q = Tensor.random([16, 4, 256], { dtype: "bfloat16" });
 * using k = Tensor.random([16, 1, 256], { dtype: "bfloat16" });
 * using weight = Tensor.zeros([256], { dtype: "bfloat16" });
 * rope.forwardInplace(q, k, { qNorm: { weight, eps: 1e-6, unitOffset: true }, kNorm: { weight, eps: 1e-6, unitOffset: true } });
 * ```
 */
export interface NormOptions {
  /** [D], or over the width [H * D]; float32 or the dtype of q and k. Default: none, as if it were 1. */
  readonly weight?: Tensor | undefined;
  /** Added to the mean of the squares. At least 0. */
  readonly eps: number;
  /** The rotation. Default "before". */
  readonly when?: "before" | "after" | undefined;
  /** Each head by itself, or all heads of a token together. Default "head". */
  readonly over?: "head" | "width" | undefined;
  /** Multiply by 1 + weight (Gemma). Default false. */
  readonly unitOffset?: boolean | undefined;
}

/** What else is done to q and k in the launch that rotates them. */
export interface FusedOptions {
  /** A norm of q. */
  readonly qNorm?: NormOptions | undefined;
  /** A norm of k. */
  readonly kNorm?: NormOptions | undefined;
  /**
   * A number for each token, by which the whole rows of q are multiplied after rotation and norm (Llama 4's temperature; the embedding's
   * `qScale` makes them): [nnz], [B, S] or [S], float32; padding is not scaled. Numbers on the host are uploaded for the call.
   */
  readonly qScale?: Tensor | readonly number[] | Float32Array | Float64Array | undefined;
  /** The leading tokens of each batch row, or request of `indptr`, that are left unrotated; positions are given for them too. Default 0. */
  readonly prefix?: number | undefined;
}

/**
 * How what goes to a float8 cache is quantised: stored = fp8(x * scale), to nearest even, saturating. For a cache of another dtype none may
 * be given.
 */
export interface QuantizeOptions {
  /** Of q, with `quantizeQ`. Default 1. */
  readonly scaleQ?: number | undefined;
  /** Of k. Default 1. */
  readonly scaleK?: number | undefined;
  /** Of v. Default 1. */
  readonly scaleV?: number | undefined;
  /** Return q in the cache's dtype too. Default false: in its own. */
  readonly quantizeQ?: boolean | undefined;
}

/** Options of {@linkcode RotaryEmbedding.forwardInplace}: those of {@linkcode RotaryEmbedding.forward} without `out`. */
export interface InplaceOptions extends PlacementOptions, CallOptions, FusedOptions {
  /**
   * The length of the longest sequence, for rules that depend on it ("dynamic", "longrope"): it decides the frequencies of the whole call.
   * A positive integer. Default: the largest position that the host knows + 1 (of a tensor only where it is on the CPU and no graph is
   * recorded), else maxSeqLen.
   */
  readonly contextLength?: number | undefined;
  /** Compared with q's S (or nnz); changes nothing. */
  readonly seqLen?: number | undefined;
}

/** Options of the methods of {@linkcode RotaryEmbedding} that rotate. */
export interface ForwardOptions extends InplaceOptions {
  /**
   * Write here instead of into new tensors, of the dtypes of q and k: two tensors (the second null where k is) for `forward`, one for
   * `rotate`; `forwardInplace` takes none. A tensor that is exactly the input is the in-place call.
   */
  readonly out?: Tensor | readonly [Tensor, Tensor | null] | undefined;
}

/** {@linkcode ForwardOptions} as {@linkcode RotaryEmbedding.rotate} takes them. */
export interface RotateOptions extends InplaceOptions {
  /** Write here instead of into a new tensor. */
  readonly out?: Tensor | undefined;
}

/** Options of {@linkcode RotaryEmbedding.append}. */
export interface AppendOptions extends InplaceOptions, QuantizeOptions {
  /** Write q here instead of into a new tensor: of q's dtype, which may be q itself, or with `quantizeQ` of the cache's. */
  readonly out?: Tensor | undefined;
}

/** Options of the functional rotations, in place. D is the head dimension. */
export interface RopeInplaceOptions extends CallOptions {
  /** R, the channels that rotate. Even. Default D - rotaryOffset. */
  readonly rotaryDim?: number | undefined;
  /** The first channel that rotates. Default 0. */
  readonly rotaryOffset?: number | undefined;
  /** Default "half". */
  readonly pairing?: Pairing | undefined;
  /** Positions are divided by it; of Llama 3.1, the factor of its rule instead. Default 1; of Llama 3.1, 8. */
  readonly ropeScale?: number | undefined;
  /** The base of the frequencies. Default 10000; of Llama 3.1, 500000. */
  readonly ropeTheta?: number | undefined;
  /** Default "exact". */
  readonly angles?: Angles | undefined;
}

/** Options of the functional rotations. */
export interface RopeOptions extends RopeInplaceOptions {
  /** Write here instead of into new tensors. */
  readonly out?: readonly [Tensor, Tensor | null] | undefined;
}

/** What the Llama 3.1 rule takes besides. */
export interface Llama31Options {
  /** Wavelengths beyond oldContextLen / lowFreqFactor are stretched by ropeScale. Default 1. */
  readonly lowFreqFactor?: number | undefined;
  /** Wavelengths below oldContextLen / highFreqFactor are kept. At least lowFreqFactor; equal to it is a hard step. Default 4. */
  readonly highFreqFactor?: number | undefined;
  /** The context length that the model was first trained with. Default 8192. */
  readonly oldContextLen?: number | undefined;
}

/** The keys of {@linkcode PlacementOptions}. */
export const placementKeys: readonly string[] = ["positions", "offset", "indptr", "offsets"];
/** The keys of {@linkcode CallOptions}. */
export const callKeys: readonly string[] = ["inverse", "headDim", "stream"];
/** The keys of {@linkcode NormOptions}. */
export const normKeys: readonly string[] = ["weight", "eps", "when", "over", "unitOffset"];
const fusedKeys: readonly string[] = ["qNorm", "kNorm", "qScale", "prefix"];
/** The keys of {@linkcode QuantizeOptions}. */
export const quantizeKeys: readonly string[] = ["scaleQ", "scaleK", "scaleV", "quantizeQ"];
/** The keys of {@linkcode InplaceOptions}. */
export const inplaceKeys: readonly string[] = [...placementKeys, ...callKeys, ...fusedKeys, "contextLength", "seqLen"];
/** The keys of {@linkcode ForwardOptions}. */
export const forwardKeys: readonly string[] = [...inplaceKeys, "out"];
/** The keys of {@linkcode AppendOptions}. */
export const appendKeys: readonly string[] = [...forwardKeys, ...quantizeKeys];
/** The keys of {@linkcode RopeInplaceOptions}. */
export const ropeInplaceKeys: readonly string[] = ["rotaryDim", "rotaryOffset", "pairing", "ropeScale", "ropeTheta", "angles", ...callKeys];

const pairings: readonly Pairing[] = ["half", "interleaved", "interleaved_to_half"]; // in the order of rope_pairing
const anglings: readonly Angles[] = ["exact", "hf"]; // in the order of rope_angles

/** Checks a pairing; undefined reads as "half". */
export function checkPairing(operation: string, argument: string, value: unknown): Pairing {
  return value === undefined ? "half" : checkChoice(operation, argument, value, pairings);
}

/** Checks an angle mode; undefined reads as "exact". */
export function checkAngles(operation: string, argument: string, value: unknown): Angles {
  return value === undefined ? "exact" : checkChoice(operation, argument, value, anglings);
}

/** The rope_pairing of a checked pairing. */
export function pairingCode(pairing: Pairing): number {
  return pairings.indexOf(pairing);
}

/** The rope_angles of a checked angle mode. */
export function anglesCode(angles: Angles): number {
  return anglings.indexOf(angles);
}

/** ROPE_INVERSE or 0. */
export function inverseFlag(operation: string, value: unknown): number {
  return checkBoolean(operation, "inverse", value) ? 1 : 0;
}

/** A positive finite number. */
export function checkPositive(operation: string, argument: string, value: unknown): number {
  if (typeof value === "number" && value > 0 && value < Infinity) return value;
  throw argumentError(operation, argument, "a positive number", describe(value));
}

/** A number of channels that rotate: even, at least 2. */
export function checkRotaryDim(operation: string, argument: string, value: unknown): number {
  const rotaryDim = checkInteger(operation, argument, value);
  if (rotaryDim >= 2 && rotaryDim % 2 === 0) return rotaryDim;
  throw argumentError(operation, argument, "even and at least 2", String(rotaryDim), "Channels rotate in pairs.");
}

/** An argument that has to be an object with known keys: a page table, a norm. A key whose value is undefined counts as not given. */
export function checkRecord(
  operation: string,
  argument: string,
  value: unknown,
  known: readonly string[],
  expected: string,
): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value) || ArrayBuffer.isView(value) || value instanceof Tensor) {
    throw argumentError(operation, argument, expected, describe(value));
  }
  checkOptions(operation, value, known, argument);
  return value as Record<string, unknown>;
}

/** Options of a call: an object with known keys. A Tensor among the objects is a mistake of places. */
export function checkCallOptions(operation: string, options: unknown, known: readonly string[]): void {
  if (options instanceof Tensor) {
    throw argumentError(operation, "options", "an object", "a Tensor", `Its keys are ${known.join(", ")}.`);
  }
  checkOptions(operation, options, known);
}

/** Refuses `out` where q and k themselves are overwritten. */
export function refuseOut(operation: string, options: unknown): void {
  const out: unknown = typeof options === "object" && options !== null && "out" in options ? options.out : undefined;
  if (out === undefined) return;
  throw argumentError(operation, "out", "absent, for an in-place call overwrites q and k", describe(out));
}

/** Refuses a q that has no tokens, heads and channels: everything else is told by its shape. */
export function checkQueryRank(operation: string, q: Tensor): void {
  const { shape } = geometryOf(q);
  if (shape.length >= 2 && shape.length <= 4) return;
  const name = publicName("q", operation);
  const advice = "It is [B, S, H, D], [nnz, H, D] or, with headDim, [nnz, H * D].";
  throw argumentError(operation, name, "a tensor of rank 2 to 4", `the shape ${shapeText(shape)}`, advice);
}

/** q and k of a call: live tensors. k may be null, but not forgotten. */
export function checkQueryKey(operation: string, q: unknown, k: unknown): void {
  checkQueryRank(operation, checkTensor(operation, "q", q));
  if (k === null) return;
  if (k === undefined) throw argumentError(operation, "k", "a Tensor", "undefined", "Give null to rotate q alone.");
  checkTensor(operation, "k", k);
}

/** `out` of a call with q and k: [Tensor, Tensor], or [Tensor, null] where k is null. */
export function checkOut(operation: string, out: unknown, k: Tensor | null): readonly [Tensor, Tensor | null] {
  const wanted = k === null ? "[a Tensor, null], for k is null" : "[a Tensor, a Tensor]";
  if (!Array.isArray(out) || out.length > 2) throw argumentError(operation, "out", wanted, describe(out));
  const qOut = checkTensor(operation, "out[0]", out[0]);
  const kOut: unknown = out[1];
  if (k !== null) return [qOut, checkTensor(operation, "out[1]", kOut)];
  if (kOut !== undefined && kOut !== null) throw argumentError(operation, "out[1]", "null, for k is null", describe(kOut));
  return [qOut, null];
}
