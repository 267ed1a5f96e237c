// Rotations whose results are float8: FlashInfer's rope_quantize_fp8 and its form for multi-head latent attention.
import { argumentError, checkChoice, describe } from "../arguments.ts";
import { resolveStream } from "../device/stream.ts";
import type { StreamState } from "../device/stream_state.ts";
import type { Float8DType } from "../tensor/dtype.ts";
import { shapeText } from "../tensor/geometry.ts";
import { allocate, checkTensor, geometryOf, stateOf } from "../tensor/operations.ts";
import { Tensor } from "../tensor/tensor.ts";
import { isFloat8 } from "./appending.ts";
import { runFused } from "./fused.ts";
import { checkCallOptions, checkPositive, checkQueryKey, checkQueryRank } from "./options.ts";
import { PipelineCall } from "./pipeline.ts";
import { resolveSource, sourceKeys, type SourceOptions } from "./source.ts";
import { useSource } from "./table.ts";

/** What the float8 forms take beside the source of their angles. */
export interface QuantizeFp8Options extends SourceOptions {
  /** Default "float8_e4m3fn", or the dtype of `out`; of a cache its own. */
  readonly quantizeDtype?: Float8DType | undefined;
  /** q and qNope are multiplied by it before they are rounded. Default 1. */
  readonly quantScaleQ?: number | undefined;
  /** The same of k, kNope and v. Default 1. */
  readonly quantScaleKv?: number | undefined;
}

/**
 * Results of {@linkcode ropeQuantizeFp8} to write into: as it returns them, or in the order q, k, qNope, kNope. Those that are absent are
 * new tensors.
 */
export type QuantizeFp8Out =
  | readonly [q: Tensor, k: Tensor | null, qNope?: Tensor | null, kNope?: Tensor | null]
  | {
    readonly q?: Tensor | undefined;
    readonly k?: Tensor | null | undefined;
    readonly qNope?: Tensor | null | undefined;
    readonly kNope?: Tensor | null | undefined;
  };

/** Options of {@linkcode mlaRopeQuantizeFp8}. */
export interface MlaRopeQuantizeFp8Options extends QuantizeFp8Options {
  /** Write here instead of into new tensors; of a float8 dtype, shaped as the inputs. */
  readonly out?: QuantizeFp8Out | undefined;
}

/** Options of {@linkcode ropeQuantizeFp8}. */
export interface RopeQuantizeFp8Options extends MlaRopeQuantizeFp8Options {
  /** Further channels of q's heads, which do not turn: shaped as q but for the last dimension. */
  readonly qNope?: Tensor | null | undefined;
  /** The same of k's heads. */
  readonly kNope?: Tensor | null | undefined;
}

/** float8 results, shaped as what was given. */
export interface QuantizedRope {
  /** fp8(rotated q * quantScaleQ). */
  readonly q: Tensor;
  /** fp8(rotated k * quantScaleKv). */
  readonly k: Tensor;
  /** fp8(qNope * quantScaleQ). */
  readonly qNope?: Tensor;
  /** fp8(kNope * quantScaleKv). */
  readonly kNope?: Tensor;
}

/** The keys of {@linkcode QuantizeFp8Options}. */
export const quantizeFp8Keys: readonly string[] = [...sourceKeys, "quantizeDtype", "quantScaleQ", "quantScaleKv"];
const mlaKeys: readonly string[] = [...quantizeFp8Keys, "out"];
const keys: readonly string[] = [...mlaKeys, "qNope", "kNope"];
const parts = ["q", "k", "qNope", "kNope"] as const;
const float8: readonly Float8DType[] = ["float8_e4m3fn", "float8_e5m2"];

/** A further tensor of a call: live, or null where none is given. */
export function checkNope(operation: string, argument: string, value: unknown): Tensor | null {
  return value === undefined || value === null ? null : checkTensor(operation, argument, value);
}

/** A scale that is given, or 1. */
export function checkScale(operation: string, argument: string, value: unknown): number {
  return value === undefined ? 1 : checkPositive(operation, argument, value);
}

/** Checks a float8 dtype. */
export function checkFloat8(operation: string, value: unknown): Float8DType {
  return checkChoice(operation, "quantizeDtype", value, float8);
}

/**
 * Keys of one head, MLA's, may come without its axis: such a tensor seen with it, else itself. `tensor` is of a call whose q has `rank`
 * axes. What is not the tensor itself is a view to dispose of.
 */
export function withHeads(tensor: Tensor, rank: number): Tensor {
  const { shape } = geometryOf(tensor);
  if (rank < 3 || shape.length !== rank - 1) return tensor;
  return tensor.reshape([...shape.slice(0, -1), 1, shape[rank - 2] ?? 0]);
}

/** Results that the caller gave, in the order of `parts`, and what they are called. */
function checkOut(operation: string, out: unknown, given: readonly (Tensor | null)[]): readonly (Tensor | null)[] {
  if (typeof out !== "object" || out === null || out instanceof Tensor || ArrayBuffer.isView(out)) {
    throw argumentError(operation, "out", "an object with q, k, qNope, kNope, or an array of them", describe(out));
  }
  const isArray = Array.isArray(out);
  const values = isArray ? out : parts.map((part) => (out as Record<string, unknown>)[part]);
  const stray = isArray ? undefined : Object.keys(out).find((key) => !(parts as readonly string[]).includes(key));
  if (stray !== undefined || values.length > parts.length) {
    throw argumentError(
      operation,
      "out",
      `of ${parts.join(", ")}`,
      stray === undefined ? `an array of ${values.length}` : `the key ${stray}`,
    );
  }
  return parts.map((part, i) => {
    const name = isArray ? `out[${i}]` : `out.${part}`;
    const value: unknown = values[i];
    if (given[i] === null) {
      if (value !== undefined && value !== null) throw argumentError(operation, name, `absent, for there is no ${part}`, describe(value));
      return null;
    }
    // The pair of every other call: where it is given it is whole.
    if (value === undefined || value === null) return isArray && i < 2 ? checkTensor(operation, name, value) : null;
    return checkTensor(operation, name, value);
  });
}

function dtypeOf(operation: string, options: MlaRopeQuantizeFp8Options | undefined, outs: readonly (Tensor | null)[]): Float8DType {
  const first = outs.find((out) => out !== null)?.dtype;
  const dtype = options?.quantizeDtype === undefined
    ? first !== undefined && isFloat8(first) ? first : "float8_e4m3fn"
    : checkFloat8(operation, options.quantizeDtype);
  outs.forEach((out, i) => {
    if (out === null || out.dtype === dtype) return;
    const name = Array.isArray(options?.out) ? `out[${i}]` : `out.${parts[i]}`;
    throw argumentError(operation, name, options?.quantizeDtype === undefined && !isFloat8(out.dtype) ? "float8" : dtype, out.dtype);
  });
  return dtype;
}

const call = new PipelineCall();

function quantized(
  operation: string,
  q: Tensor,
  k: Tensor | null,
  qNope: Tensor | null,
  kNope: Tensor | null,
  options: MlaRopeQuantizeFp8Options | undefined,
): QuantizedRope {
  const inputs = [q, k, qNope, kNope];
  const source = resolveSource(operation, q, options, null);
  const qFactor = checkScale(operation, "quantScaleQ", options?.quantScaleQ);
  const kFactor = checkScale(operation, "quantScaleKv", options?.quantScaleKv);
  const outs = options?.out === undefined ? [null, null, null, null] : checkOut(operation, options.out, inputs);
  const dtype = dtypeOf(operation, options, outs);
  const stream = resolveStream(operation, options?.stream, stateOf(q));
  const rank = geometryOf(q).shape.length;
  const made: Tensor[] = []; // results, given up where the call fails
  const views: Tensor[] = []; // given up in any case
  const seen = (tensor: Tensor | null): Tensor | null => {
    if (tensor === null) return null;
    const view = withHeads(tensor, rank);
    if (view !== tensor) views.push(view);
    return view;
  };
  try {
    const results = inputs.map((input, i) => input === null ? null : outs[i] ?? fresh(operation, input, dtype, stream, made));
    useSource(call, source);
    [call.q, call.k, call.qRest, call.kRest] = [q, seen(k), qNope, seen(kNope)];
    const [qOut = null, kOut = null, qRestOut = null, kRestOut = null] = results;
    [call.qOut, call.kOut, call.qRestOut, call.kRestOut] = [qOut, seen(kOut), qRestOut, seen(kRestOut)];
    call.qFactor = qFactor;
    call.kFactor = kFactor;
    runFused(operation, call, source.setting, options?.positions, options, stream, null);
    return {
      q: qOut,
      k: kOut,
      ...qRestOut === null ? {} : { qNope: qRestOut },
      ...kRestOut === null ? {} : { kNope: kRestOut },
    } as QuantizedRope;
  } catch (error) {
    for (const tensor of made) tensor.dispose();
    throw error;
  } finally {
    for (const view of views) view.dispose();
  }
}

/** A new float8 tensor of the shape of another. */
function fresh(operation: string, like: Tensor, dtype: Float8DType, stream: StreamState, made: Tensor[]): Tensor {
  const tensor = allocate(operation, geometryOf(like).as(dtype), stream);
  made.push(tensor);
  return tensor;
}

/**
 * q and k rotated and stored as float8 (FlashInfer's rope_quantize_fp8): fp8(rotated * scale), rounded once, to nearest even, saturating;
 * NaN stays NaN. To use the results divide by the scale. Angles come from an embedding, a table or `ropeTheta` and `ropeScale`; a q wider
 * than R is rotated in R channels, by default its first, and quantised whole. Padding is quantised as it is.
 *
 * @param q [B, S, Hq, D], [nnz, Hq, D] or, with `headDim`, [nnz, Hq * D]; float64, float32, float16 or bfloat16; any strides but the last,
 * which is 1.
 * @param k The same with Hk heads; keys of one head also without its axis, [nnz, D]; or null.
 * @param options Without positions, 0 .. S-1 in every batch row. `qNope` and `kNope` are quantised beside q and k by the same scales.
 * @returns float8 tensors shaped as what was given, or those of `options.out`; qNope and kNope where they were given.
 * @throws RopeArgumentError, RopeDisposedError, RopeDeviceError: nothing has been written. RopeFaultError: a position out of range, or
 * without a row in the table; that token is not written, the others are.
 * @example
 * ```ts
 * import { fromFloat8, ropeQuantizeFp8, Tensor } from "@librope/rope";
 *
 * using q = Tensor.random([3, 8, 64], { device: "cpu" });
 * using k = Tensor.random([3, 2, 64], { device: "cpu" });
 * const rotated = ropeQuantizeFp8(q, k, { positions: [7, 8, 9], quantScaleQ: 16, quantScaleKv: 16 });
 * const first = (fromFloat8(rotated.q.data as Uint8Array)[0] ?? NaN) / 16;
 * console.assert(Number.isFinite(first) && rotated.k.dtype === "float8_e4m3fn");
 * rotated.q.dispose();
 * rotated.k.dispose();
 * ```
 */
export function ropeQuantizeFp8(q: Tensor, k: Tensor, options?: RopeQuantizeFp8Options): QuantizedRope;
/** The same with k absent, perhaps. */
export function ropeQuantizeFp8(
  q: Tensor,
  k: Tensor | null,
  options?: RopeQuantizeFp8Options,
): Omit<QuantizedRope, "k"> & { readonly k: Tensor | null };
export function ropeQuantizeFp8(
  q: Tensor,
  k: Tensor | null,
  options?: RopeQuantizeFp8Options,
): Omit<QuantizedRope, "k"> & { readonly k: Tensor | null } {
  const operation = "ropeQuantizeFp8";
  checkQueryKey(operation, q, k);
  checkCallOptions(operation, options, keys);
  const qNope = checkNope(operation, "qNope", options?.qNope);
  return quantized(operation, q, k, qNope, checkNope(operation, "kNope", options?.kNope), options);
}

/** Refuses keys of more heads than MLA has, one. */
function checkOneHead(operation: string, argument: string, key: Tensor, rank: number): void {
  const { shape } = geometryOf(key);
  if (rank < 3 || shape.length === rank - 1 || (shape.length === rank && shape[rank - 2] === 1)) return;
  const expected = rank === 4 ? "[B, S, D] or [B, S, 1, D]" : "[nnz, D] or [nnz, 1, D]";
  throw argumentError(operation, argument, `of shape ${expected}`, shapeText(shape), "All heads of q share one key.");
}

/**
 * {@linkcode ropeQuantizeFp8} for multi-head latent attention (FlashInfer's mla_rope_quantize_fp8): one key for all heads, in a part that
 * turns and one that does not.
 *
 * @param qRope [nnz, Hq, R] or [B, S, Hq, R].
 * @param kRope [nnz, R] or [nnz, 1, R]; [B, S, R] or [B, S, 1, R].
 * @param qNope [nnz, Hq, Dq]: the channels of q that do not turn.
 * @param kNope [nnz, Dk] or [nnz, 1, Dk]: the compressed keys and values.
 * @returns float8 tensors shaped as the inputs, or those of `options.out`.
 * @throws As ropeQuantizeFp8.
 * @example
 * ```ts
 * import { mlaRopeQuantizeFp8, Tensor } from "@librope/rope";
 *
 * using qRope = Tensor.random([3, 128, 64], { dtype: "bfloat16" });
 * using kRope = Tensor.random([3, 64], { dtype: "bfloat16" });
 * using qNope = Tensor.random([3, 128, 512], { dtype: "bfloat16" });
 * using kNope = Tensor.random([3, 512], { dtype: "bfloat16" });
 * const results = mlaRopeQuantizeFp8(qRope, kRope, qNope, kNope, { positions: [7, 8, 9], pairing: "interleaved" });
 * console.assert(results.k.shape.join() === "3,64" && results.qNope.shape.join() === "3,128,512");
 * for (const tensor of Object.values(results)) tensor.dispose();
 * ```
 */
export function mlaRopeQuantizeFp8(
  qRope: Tensor,
  kRope: Tensor,
  qNope: Tensor,
  kNope: Tensor,
  options?: MlaRopeQuantizeFp8Options,
): Required<QuantizedRope> {
  const operation = "mlaRopeQuantizeFp8";
  checkQueryRank(operation, checkTensor(operation, "qRope", qRope));
  checkTensor(operation, "kRope", kRope);
  checkTensor(operation, "qNope", qNope);
  checkTensor(operation, "kNope", kNope);
  checkCallOptions(operation, options, mlaKeys);
  const rank = geometryOf(qRope).shape.length;
  checkOneHead(operation, "kRope", kRope, rank);
  checkOneHead(operation, "kNope", kNope, rank);
  return quantized(operation, qRope, kRope, qNope, kNope, options) as Required<QuantizedRope>;
}
