// What a tensor is apart from its memory: dtype, shape and strides. Never changed, so that tensors of one form share one object and the
// results of an operation cost no new arrays. Only the arrays that callers see are frozen: reading a frozen array is ten times slower in
// Bun.
import { argumentError, checkCount, describe } from "../arguments.ts";
import { RopeArgumentError } from "../errors.ts";
import { enums } from "../native/layouts.ts";
import { type DType, dtypes } from "./dtype.ts";

/** A tensor's form. Strides are in elements. */
export class Geometry {
  /** The type of the elements. */
  readonly dtype: DType;
  /** Not frozen, for use inside librope. */
  readonly shape: readonly number[];
  /** Not frozen, for use inside librope. */
  readonly strides: readonly number[];
  /** Elements. */
  readonly size: number;
  /** Bytes of all elements. */
  readonly byteLength: number;
  /** Bytes from the first element to behind the last; more than byteLength where there are gaps. */
  readonly span: number;
  /** Whether the elements lie in row-major order without gaps. */
  readonly isContiguous: boolean;
  #dense: Geometry | null = null;
  #frozenShape: readonly number[] | null = null;
  #frozenStrides: readonly number[] | null = null;

  /** The arrays are kept, must not be changed later, and are checked by checkShape or made from a checked one. */
  constructor(dtype: DType, shape: readonly number[], strides: readonly number[]) {
    const { bytes } = dtypes[dtype];
    let size = 1;
    let last = 0;
    let contiguous = true;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const length = shape[axis] ?? 1;
      const stride = strides[axis] ?? 0;
      if (length !== 1 && stride !== size) contiguous = false;
      last += (length - 1) * stride;
      size *= length;
    }
    this.dtype = dtype;
    this.shape = shape;
    this.strides = strides;
    this.size = size;
    this.byteLength = size * bytes;
    this.span = size === 0 ? 0 : (last + 1) * bytes;
    this.isContiguous = contiguous || size === 0;
  }

  /** The contiguous form of the same dtype and shape; itself where it is one. */
  get dense(): Geometry {
    return this.#dense ??= this.#hasNaturalStrides() ? this : denseGeometry(this.dtype, this.shape);
  }

  /** The contiguous form of the same shape with another dtype; itself where it is one. */
  as(dtype: DType): Geometry {
    return dtype === this.dtype ? this.dense : new Geometry(dtype, this.shape, this.dense.strides);
  }

  /** The shape as callers see it. */
  get frozenShape(): readonly number[] {
    return this.#frozenShape ??= Object.freeze(this.shape.slice());
  }

  /** The strides as callers see them. */
  get frozenStrides(): readonly number[] {
    return this.#frozenStrides ??= Object.freeze(this.strides.slice());
  }

  #hasNaturalStrides(): boolean {
    let stride = 1;
    for (let axis = this.shape.length - 1; axis >= 0; axis--) {
      if (this.strides[axis] !== stride) return false;
      stride *= this.shape[axis] ?? 1;
    }
    return true;
  }
}

/** The contiguous form of a checked shape. */
export function denseGeometry(dtype: DType, shape: readonly number[]): Geometry {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= shape[axis] ?? 1;
  }
  return new Geometry(dtype, shape, strides);
}

/** A copy of a caller's shape: rank 0 to 6, counts, and a number of bytes that a float64 holds exactly. */
export function checkShape(operation: string, value: unknown, bytesPerElement: number): readonly number[] {
  if (!Array.isArray(value)) throw notAShape(operation, "an array of counts", value);
  if (value.length > enums.MAX_RANK) {
    throw argumentError(operation, "shape", `an array of 0 to ${enums.MAX_RANK} counts`, `${value.length} of them`);
  }
  const shape = new Array<number>(value.length);
  let elements = 1;
  let empty = false;
  for (let axis = 0; axis < shape.length; axis++) {
    const length = checkCount(operation, `shape[${axis}]`, value[axis]);
    shape[axis] = length;
    if (length === 0) empty = true;
    else elements *= length;
  }
  // The lengths besides a 0 are limited too: strides are made from them.
  if (elements * bytesPerElement > Number.MAX_SAFE_INTEGER) {
    throw argumentError(operation, "shape", "of fewer than 2^53 bytes", `${shapeText(shape)}${empty ? ", whose strides are larger" : ""}`);
  }
  return shape;
}

/** The error of a shape that is no array. */
export function notAShape(operation: string, expected: string, value: unknown): RopeArgumentError {
  const advice = ArrayBuffer.isView(value) ? "Convert it: Array.from(shape)." : "A vector of 8 has the shape [8].";
  return argumentError(operation, "shape", expected, describe(value), advice);
}

/** "[2, 8, 64]" */
export function shapeText(shape: readonly number[]): string {
  return `[${shape.join(", ")}]`;
}

/** Whether two shapes are equal. */
export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  if (a === b) return true;
  if (a.length !== b.length) return false;
  for (let axis = 0; axis < a.length; axis++) if (a[axis] !== b[axis]) return false;
  return true;
}

/** An axis; negative ones count from the end. */
export function checkAxis(operation: string, argument: string, value: unknown, rank: number): number {
  if (typeof value === "number" && Number.isInteger(value) && value >= -rank && value < rank) return value < 0 ? value + rank : value + 0;
  if (rank === 0) throw new RopeArgumentError({ operation, argument, message: "a tensor of rank 0 has no axes" });
  throw argumentError(operation, argument, `an axis from ${-rank} to ${rank - 1} (negative ones count from the end)`, describe(value));
}
