// What the tests of the pipeline share: the exact result of norm, rotation and scales in plain float64, how far off a stored one may be, and float8 by
// its definition.
import { type Device, type DType, type Graph, type Pairing, Tensor } from "../../mod.ts";
import { nodesOf } from "../../src/device/graph.ts";
import { referenceRope } from "../../src/testing.ts";
import { decode } from "../support/number_formats.ts";
import { numbersOf, type RotaryDType, ulp } from "./support.ts";

/** An RMS-norm in plain numbers: [D] or, over the width, [H * D] weights. */
export interface PlainNorm {
  readonly weight?: ArrayLike<number>;
  readonly eps: number;
  readonly when?: "before" | "after";
  readonly over?: "head" | "width";
  readonly unitOffset?: boolean;
}

/** What is done to x of [n, H, D]. */
export interface PlainSteps {
  readonly norm?: PlainNorm;
  /** A position for each token, NaN for padding; absent: nothing turns. */
  readonly positions?: ArrayLike<number>;
  /** Tokens that do not turn, besides padding. */
  readonly still?: (token: number) => boolean;
  readonly rotaryDim?: number;
  readonly rotaryOffset?: number;
  readonly pairing?: Pairing;
  readonly inverse?: boolean;
  readonly base?: number;
  /** In place of base: [R/2] or [heads, R/2]. */
  readonly frequencies?: ArrayLike<number>;
  readonly attentionFactor?: number;
  /** By which each token's rows are multiplied. */
  readonly scale?: ArrayLike<number>;
}

/** x / sqrt(mean(x^2) + eps) * weight, of rows [n, H, D]. */
export function plainNorm(x: Float64Array, heads: number, dim: number, norm: PlainNorm): Float64Array {
  const { weight, eps, over = "head", unitOffset = false } = norm;
  const group = over === "head" ? dim : heads * dim;
  const out = new Float64Array(x.length);
  for (let start = 0; start < x.length; start += group) {
    let sum = 0;
    for (let i = start; i < start + group; ++i) sum += (x[i] ?? NaN) ** 2;
    const root = Math.sqrt(sum / group + eps);
    for (let i = 0; i < group; ++i) {
      const w = weight === undefined ? 1 : (weight[i] ?? NaN) + (unitOffset ? 1 : 0);
      out[start + i] = (x[start + i] ?? NaN) / root * w;
    }
  }
  return out;
}

/** The exact result of the steps. Padding is as it was. */
export function plainPipeline(x: Float64Array, shape: readonly [number, number, number], steps: PlainSteps): Float64Array {
  const [tokens, heads, dim] = shape;
  const { norm, positions, still, scale, ...rotation } = steps;
  const rotate = (from: Float64Array): Float64Array => {
    if (positions === undefined) return from;
    const moved = referenceRope(from, shape, { ...rotation, positions: Float32Array.from(positions) });
    for (let t = 0; t < tokens; ++t) {
      if (still?.(t)) moved.set(from.subarray(t * heads * dim, (t + 1) * heads * dim), t * heads * dim);
    }
    return moved;
  };
  let y = x;
  if (norm !== undefined && norm.when !== "after") y = plainNorm(y, heads, dim, norm);
  y = rotate(y);
  if (norm?.when === "after") y = plainNorm(y, heads, dim, norm);
  const out = y.slice();
  for (let t = 0; t < tokens; ++t) {
    const row = out.subarray(t * heads * dim, (t + 1) * heads * dim);
    if (positions !== undefined && Number.isNaN(positions[t])) row.set(x.subarray(t * heads * dim, (t + 1) * heads * dim));
    else if (scale !== undefined) row.forEach((value, i) => row[i] = value * (scale[t] ?? NaN));
  }
  return out;
}

/** What float32 arithmetic between load and store may add, relative to the largest number of a row: angles, products and sums. */
const slack: Record<"float64" | "float32", number> = { float64: 1e-12, float32: 2 * 2e-7 + 8 * 2 ** -24 };

// ---- float8 ------------------------------------------------------------------------------------------------------------------------------

export type Float8 = "float8_e4m3fn" | "float8_e5m2";
export const float8s: readonly Float8[] = ["float8_e4m3fn", "float8_e5m2"];

function valuesOf(dtype: Float8): Float64Array {
  return Float64Array.from({ length: 256 }, (_, code) => {
    const { kind, negative, mantissa, exponent } = decode(dtype, BigInt(code));
    const size = kind === "nan" ? NaN : kind === "infinite" ? Infinity : Number(mantissa) * 2 ** exponent;
    return negative ? -size : size;
  });
}
const values: Record<Float8, Float64Array> = { float8_e4m3fn: valuesOf("float8_e4m3fn"), float8_e5m2: valuesOf("float8_e5m2") };
const ladder = {
  float8_e4m3fn: values.float8_e4m3fn.subarray(0, 128).filter(Number.isFinite),
  float8_e5m2: values.float8_e5m2.subarray(0, 128).filter(Number.isFinite),
};

/** The numbers that codes stand for. */
export function fromCodes(codes: Uint8Array, dtype: Float8): Float64Array {
  return Float64Array.from(codes, (code) => values[dtype][code] ?? NaN);
}

/** The float8 number nearest to x, of two the one of even code; what is beyond the largest is the largest. */
export function nearest(x: number, dtype: Float8): number {
  const steps = ladder[dtype];
  const size = Math.abs(x);
  let low = 0, high = steps.length - 1;
  if (size >= (steps[high] ?? NaN)) return Math.sign(x) * (steps[high] ?? NaN);
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if ((steps[middle] ?? NaN) <= size) low = middle;
    else high = middle;
  }
  const below = steps[low] ?? NaN, above = steps[high] ?? NaN;
  const up = size - below > above - size || (size - below === above - size && low % 2 === 1);
  return Math.sign(x) * (up ? above : below);
}

/** The numbers of a tensor of any float dtype, in row-major order. */
export function valuesIn(tensor: Tensor): Float64Array {
  const { dtype } = tensor;
  return dtype === "float8_e4m3fn" || dtype === "float8_e5m2" ? fromCodes(tensor.readBlocking() as Uint8Array, dtype) : numbersOf(tensor);
}

/**
 * Throws where an element is not what exact * factor, give or take what the arithmetic may add, rounds to: within half an ulp of the dtype and that. Rows
 * are of `width`.
 */
export function expectNear(
  what: string,
  got: Float64Array,
  dtype: RotaryDType | Float8,
  exact: Float64Array,
  width: number,
  factor: number = 1,
): void {
  if (got.length !== exact.length || got.length % width !== 0) throw new Error(`${what}: ${got.length} elements for ${exact.length}`);
  for (let start = 0; start < got.length; start += width) {
    let largest = 0;
    for (let i = start; i < start + width; ++i) largest = Math.max(largest, Math.abs((exact[i] ?? NaN) * factor));
    const error = 2 * largest * slack[dtype === "float64" ? "float64" : "float32"];
    for (let i = start; i < start + width; ++i) {
      const want = (exact[i] ?? NaN) * factor, found = got[i] ?? NaN;
      const near = dtype === "float8_e4m3fn" || dtype === "float8_e5m2"
        ? found >= nearest(want - error, dtype) && found <= nearest(want + error, dtype)
        : Math.abs(found - want) <= 0.5001 * ulp(Math.abs(want) + error, dtype) + error;
      if (!near) throw new Error(`${what}: [${i}] is ${found}, the reference ${want}`);
    }
  }
}

/** The same of a tensor. */
export function expectClose(what: string, tensor: Tensor, exact: Float64Array, width: number, factor: number = 1): void {
  expectNear(what, valuesIn(tensor), tensor.dtype as RotaryDType | Float8, exact, width, factor);
}

/** What a graph of these calls holds, in operations: a fused form is one. */
export function launches(device: Device, record: () => void): number {
  using graph: Graph = device.capture(record);
  return nodesOf(graph);
}

/** A tensor of the dtype filled with a byte, so that what was not written shows. */
export function filled(shape: readonly number[], dtype: DType, device: Device, byte: number = 0xa5): Tensor {
  const tensor = Tensor.empty(shape, { dtype, device });
  const data = tensor.readBlocking();
  new Uint8Array(data.buffer, data.byteOffset, data.byteLength).fill(byte);
  return tensor.write(data);
}
