// Rotations whose k goes into a paged cache, and v with it: what the method and the function have in common.
import { argumentError, checkBoolean, describe } from "../arguments.ts";
import { resolveStream } from "../device/stream.ts";
import { kvPages } from "../kv/cache.ts";
import type { AppendTarget } from "../kv/target.ts";
import type { DType, Float8DType } from "../tensor/dtype.ts";
import { shapeText } from "../tensor/geometry.ts";
import { allocate, checkTensor, geometryOf, stateOf } from "../tensor/operations.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { runFused } from "./fused.ts";
import { type AppendOptions, checkPositive, quantizeKeys, type QuantizeOptions } from "./options.ts";
import { PipelineCall } from "./pipeline.ts";
import { type AngleSource, useSource } from "./table.ts";

const call = new PipelineCall();

/** Whether a dtype is one of 8 bits. */
export function isFloat8(dtype: DType): dtype is Float8DType {
  return dtype === "float8_e4m3fn" || dtype === "float8_e5m2";
}

/** Whether q is quantised too; refuses what only a float8 cache has a use for. */
function quantizesQ(operation: string, options: QuantizeOptions, dtype: DType): boolean {
  const quantize = checkBoolean(operation, "quantizeQ", options.quantizeQ);
  if (!isFloat8(dtype)) {
    for (const name of quantizeKeys as readonly (keyof QuantizeOptions)[]) {
      const value = options[name];
      if (value !== undefined && value !== false) throw argumentError(operation, name, `absent for a cache of ${dtype}`, describe(value));
    }
  }
  if (options.scaleQ !== undefined && !quantize) {
    throw argumentError(operation, "scaleQ", "absent without quantizeQ", describe(options.scaleQ), "It scales a q that is quantised.");
  }
  return quantize;
}

function factorOf(operation: string, argument: string, value: unknown, absent: number): number {
  return value === undefined ? absent : checkPositive(operation, argument, value);
}

/** v of a call: a live tensor or null, but not forgotten. */
export function checkValues(operation: string, v: unknown): Tensor | null {
  if (v === null) return null;
  if (v === undefined) throw argumentError(operation, "v", "a Tensor", "undefined", "Give null to leave the cache's values as they are.");
  return checkTensor(operation, "v", v);
}

/** Refuses rows that are not those of a cache. What else their shapes say is for the C library to compare. */
export function checkRows(operation: string, argument: string, tensor: Tensor, rank: number, heads: number, channels: number): void {
  const { shape } = geometryOf(tensor);
  if (shape.length !== rank) return;
  if (rank === 2 ? shape[1] === heads * channels : shape[rank - 1] === channels && shape[rank - 2] === heads) return;
  const expected = rank === 2 ? `[nnz, ${heads * channels}]` : `${rank === 3 ? "[nnz" : "[B, S"}, ${heads}, ${channels}]`;
  throw argumentError(operation, argument, `${expected}, as the cache has ${heads} heads of ${channels}`, shapeText(shape));
}

/** Rotated q. q and k have been checked to be tensors, the options to have no other keys. */
export function appendRotated(
  operation: string,
  source: AngleSource,
  q: Tensor,
  k: Tensor,
  givenV: Tensor | null,
  cache: unknown,
  where: AppendTarget,
  options: AppendOptions | undefined,
): Tensor {
  checkTensor(operation, "k", k); // null is no k to append
  const v = checkValues(operation, givenV);
  const pages = kvPages(operation, cache);
  const { dtype, shape } = geometryOf(pages.k);
  const rank = geometryOf(q).shape.length;
  checkRows(operation, "k", k, rank, pages.heads, shape[3] ?? 0);
  if (v !== null && pages.v !== null) checkRows(operation, "v", v, rank, pages.heads, geometryOf(pages.v).shape[3] ?? 0);
  let qFactor = 0, kFactor = 0, vFactor = 0;
  let out: Tensor | undefined;
  if (options !== undefined) {
    if (quantizesQ(operation, options, dtype)) qFactor = factorOf(operation, "scaleQ", options.scaleQ, 1);
    kFactor = factorOf(operation, "scaleK", options.scaleK, 0);
    vFactor = factorOf(operation, "scaleV", options.scaleV, 0);
    if (options.out !== undefined) out = checkTensor(operation, "out", options.out);
  }
  const geometry = qFactor === 0 ? geometryOf(q).dense : geometryOf(q).as(dtype);
  if (out !== undefined && out.dtype !== geometry.dtype) {
    throw argumentError(operation, "out", `${geometry.dtype} like ${qFactor === 0 ? "q" : "the cache"}`, out.dtype);
  }
  const stream = resolveStream(operation, options?.stream, stateOf(q));
  const qOut = out ?? allocate(operation, geometry, stream);
  useSource(call, source);
  call.q = q;
  call.qOut = qOut;
  call.k = k;
  call.kOut = pages.k;
  call.v = v;
  call.vOut = v === null ? null : pages.v;
  call.qFactor = qFactor;
  call.kFactor = kFactor;
  call.vFactor = vFactor;
  try {
    runFused(operation, call, source.setting, options?.positions, options, stream, { where, pages });
    return qOut;
  } catch (error) {
    if (out === undefined) qOut.dispose();
    throw error;
  }
}
