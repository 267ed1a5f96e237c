// The formats that JavaScript has no typed array for, to and from numbers. The C library rounds, so that there is one implementation of it.
import { argumentError, checkChoice, describe } from "../arguments.ts";
import { resolveDevice } from "../device/device.ts";
import { hostArray, hostTensor } from "./create.ts";
import type { DType, Float8DType, HostArray } from "./dtype.ts";
import { denseGeometry } from "./geometry.ts";
import { numbersToFloat64 } from "./host.ts";
import { copy } from "./operations.ts";

function convert(operation: string, data: HostArray, from: DType, to: DType): HostArray {
  const state = resolveDevice(operation, "device", "cpu");
  const shape = [data.length];
  const result = hostArray(operation, to, data.length);
  const source = hostTensor(operation, "x", data, denseGeometry(from, shape), state);
  try {
    const target = hostTensor(operation, "x", result, denseGeometry(to, shape), state);
    try {
      copy(operation, source, target, state.defaultStream);
    } finally {
      target.dispose();
    }
  } finally {
    source.dispose();
  }
  return result;
}

function fromNumbers(operation: string, x: unknown, to: DType): HostArray {
  if (x instanceof Float32Array) return convert(operation, x, "float32", to);
  if (x instanceof Float64Array) return convert(operation, x, "float64", to);
  const arrayLike = typeof x === "object" && x !== null && "length" in x && Number.isSafeInteger(x.length) && Number(x.length) >= 0;
  if (!arrayLike) throw argumentError(operation, "x", "an array of numbers", describe(x));
  return convert(operation, numbersToFloat64(operation, "x", x as unknown as ArrayLike<unknown>), "float64", to);
}

function checkFloat8(operation: string, dtype: unknown): Float8DType {
  return checkChoice(operation, "dtype", dtype, ["float8_e4m3fn", "float8_e5m2"]);
}

/**
 * Numbers as the bits of bfloat16, rounded to nearest even.
 *
 * @example
 * ```ts
 * import { fromBfloat16, toBfloat16 } from "@librope/rope";
 *
 * const bits = toBfloat16([1, 3.14159]);
 * console.assert(bits[0] === 0x3f80 && fromBfloat16(bits)[1] === 3.140625);
 * ```
 */
export function toBfloat16(x: ArrayLike<number>): Uint16Array {
  return fromNumbers("toBfloat16", x, "bfloat16") as Uint16Array;
}

/**
 * The values of bfloat16 bits, all of which float32 holds exactly.
 *
 * @example
 * ```ts
 * import { fromBfloat16, Tensor } from "@librope/rope";
 *
 * using x = Tensor.full([2], -1.5, { dtype: "bfloat16", device: "cpu" });
 * console.assert(fromBfloat16(x.readBlocking()).join() === "-1.5,-1.5");
 * ```
 */
export function fromBfloat16(x: Uint16Array): Float32Array {
  const operation = "fromBfloat16";
  if (!(x instanceof Uint16Array)) throw argumentError(operation, "x", "a Uint16Array", describe(x));
  return convert(operation, x, "bfloat16", "float32") as Float32Array;
}

/**
 * Numbers as the bits of a float8, rounded to nearest even; what is out of range, infinities too, becomes the largest value; NaN stays NaN.
 *
 * @example
 * ```ts
 * import { fromFloat8, toFloat8 } from "@librope/rope";
 *
 * console.assert(fromFloat8(toFloat8([1e6]))[0] === 448);
 * console.assert(fromFloat8(toFloat8([1e6], "float8_e5m2"), "float8_e5m2")[0] === 57344);
 * ```
 */
export function toFloat8(x: ArrayLike<number>, dtype: Float8DType = "float8_e4m3fn"): Uint8Array {
  return fromNumbers("toFloat8", x, checkFloat8("toFloat8", dtype)) as Uint8Array;
}

/**
 * The values of float8 bits, all of which float32 holds exactly.
 *
 * @example
 * ```ts
 * import { fromFloat8, Tensor } from "@librope/rope";
 *
 * using x = Tensor.full([2], -1.5, { dtype: "float8_e5m2", device: "cpu" });
 * console.assert(fromFloat8(x.readBlocking(), "float8_e5m2").join() === "-1.5,-1.5");
 * ```
 */
export function fromFloat8(x: Uint8Array, dtype: Float8DType = "float8_e4m3fn"): Float32Array {
  const operation = "fromFloat8";
  if (!(x instanceof Uint8Array)) throw argumentError(operation, "x", "a Uint8Array", describe(x));
  return convert(operation, x, checkFloat8(operation, dtype), "float32") as Float32Array;
}
