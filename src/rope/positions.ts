// Positions, indptr and offsets: a live tensor is taken as it is, what stands on the host becomes a temporary tensor, checked entry by
// entry.
import { argumentError, describe } from "../arguments.ts";
import type { DeviceState } from "../device/state.ts";
import { shapeText } from "../tensor/geometry.ts";
import { checkTensor, geometryOf, stateOf } from "../tensor/operations.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { Indices } from "./options.ts";

/** Indices that stand on the host. */
export type HostIndices = Exclude<Indices, Tensor>;

/** Whether a value is an array of any kind; a tensor is none. */
export function isHostArray(value: unknown): value is HostIndices {
  return Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView));
}

/** A value that is no tensor: it must be an array, and no graph be recorded. */
export function checkHostArray(operation: string, argument: string, value: unknown, state: DeviceState): HostIndices {
  if (!isHostArray(value)) throw argumentError(operation, argument, "a Tensor or an array of numbers", describe(value));
  if (state.recording !== null) {
    throw argumentError(
      operation,
      argument,
      "a Tensor while a graph is recorded",
      describe(value),
      "A graph cannot read host memory: make the tensor before recording, and write() to it between launches.",
    );
  }
  return value;
}

/** Checked numbers: int32 if all are integers (int64 if some need it), else float32. */
function upload(numbers: readonly number[], shape: number[], state: DeviceState): Tensor {
  const { device } = state;
  const narrow = new Int32Array(new ArrayBuffer(4 * numbers.length));
  let fits = true;
  for (let i = 0; i < narrow.length; ++i) {
    const value = numbers[i] ?? 0;
    narrow[i] = value;
    if (narrow[i] !== value) fits = false;
  }
  if (fits) return Tensor.from(narrow, shape, { device });
  return Tensor.from(numbers, shape, { dtype: numbers.every(Number.isInteger) ? "int64" : "float32", device });
}

/** 64-bit integers as they are; unsigned ones beyond the largest int64, which no position reaches, saturate. */
function uploadBigIntegers(values: BigInt64Array | BigUint64Array, shape: number[], state: DeviceState): Tensor {
  const most = 2n ** 63n - 1n;
  const signed = values instanceof BigInt64Array ? values : BigInt64Array.from(values, (value) => value > most ? most : value);
  return Tensor.from(signed, shape, { device: state.device });
}

/**
 * Positions on the host. Typed arrays of a dtype that positions have are taken as they are. Those of other floats become float32, in which
 * -1 is a position; a Float64Array of integers stays exact unless it holds a -1, which would be padding among integers.
 */
function uploadPositions(operation: string, values: HostIndices, shape: number[], state: DeviceState): Tensor {
  if (values instanceof Int32Array || values instanceof Float32Array) return Tensor.from(values, shape, { device: state.device });
  if (values instanceof BigInt64Array || values instanceof BigUint64Array) return uploadBigIntegers(values, shape, state);
  if (
    values instanceof Float16Array || (values instanceof Float64Array && !values.every((value) => Number.isInteger(value) && value !== -1))
  ) {
    return Tensor.from(Float32Array.from(values), shape, { device: state.device });
  }
  const numbers: readonly number[] = Array.isArray(values) ? values : Array.from(values);
  for (let i = 0; i < numbers.length; ++i) {
    const value: unknown = numbers[i];
    if (typeof value !== "number") throw argumentError(operation, `positions[${i}]`, "a number", describe(value));
  }
  return upload(numbers, shape, state);
}

/** Positions for the tokens of q: [nnz], [B, S] or [S], behind `axes` where there are several. */
export function resolvePositions(operation: string, given: unknown, q: Tensor, axes: number): Tensor {
  if (given instanceof Tensor) return checkTensor(operation, "positions", given);
  const values = checkHostArray(operation, "positions", given, stateOf(q));
  const form = geometryOf(q).shape;
  const batched = form.length === 4;
  const rows = batched ? form[0] ?? 0 : 1;
  const tokens = (batched ? form[1] : form[0]) ?? 0;
  const each = values.length / axes;
  const shape = each === tokens ? [tokens] : batched && each === rows * tokens ? [rows, tokens] : undefined;
  if (shape === undefined) {
    const counts = !batched || rows === 1 ? `${tokens}` : `${tokens} (for all rows) or ${rows * tokens}`;
    const expected = axes === 1 ? `${counts} numbers, one for each token` : `${axes} times ${counts} numbers, axis by axis`;
    throw argumentError(operation, "positions", expected, `${values.length}`);
  }
  if (axes > 1) shape.unshift(axes);
  return uploadPositions(operation, values, shape, stateOf(q));
}

/** Refuses positions that are no rows of a table, where the caller can be told more than their dtype or shape. */
export function checkTableRows(operation: string, given: unknown, q: Tensor): void {
  const { shape } = geometryOf(q);
  const tokens = shape.length === 4 ? (shape[0] ?? 0) * (shape[1] ?? 0) : shape[0] ?? 0;
  const advice = "A table has one row for each position: tokens that stand on several axes need an embedding with axes.";
  if (given instanceof Tensor) {
    const form = geometryOf(checkTensor(operation, "positions", given)).shape;
    const rank = shape.length === 4 ? 2 : 1;
    if (form.length === rank + 1) throw argumentError(operation, "positions", `of rank ${rank}`, shapeText(form), advice);
    return;
  }
  if (!isHostArray(given)) return;
  const axes = given.length / tokens;
  if (axes > 1 && axes <= 16 && Number.isInteger(axes)) {
    throw argumentError(operation, "positions", `${tokens} numbers, one for each token`, `${given.length}`, advice);
  }
  if (!Array.isArray(given)) return;
  for (let i = 0; i < given.length; ++i) {
    const value: unknown = given[i];
    if (typeof value !== "number" || Number.isInteger(value)) continue;
    throw argumentError(operation, `positions[${i}]`, "an integer, a row of the table", describe(value));
  }
}

/** Positions without a q: [n], with several axes [axes, n]. */
export function resolvePositionList(operation: string, given: unknown, axes: number, state: DeviceState): Tensor {
  if (given instanceof Tensor) {
    const { shape } = geometryOf(checkTensor(operation, "positions", given));
    if (axes === 1 ? shape.length === 1 : shape.length === 2 && shape[0] === axes) return given;
    throw argumentError(operation, "positions", `of shape ${axes === 1 ? "[n]" : `[${axes}, n], a row for each axis`}`, shapeText(shape));
  }
  const values = checkHostArray(operation, "positions", given, state);
  const each = values.length / axes;
  if (!Number.isInteger(each)) {
    throw argumentError(operation, "positions", `a multiple of ${axes} numbers, axis by axis`, `${values.length}`);
  }
  return uploadPositions(operation, values, axes === 1 ? [each] : [axes, each], state);
}

/** Integers on the host, of any kind of array, as an int32 or int64 tensor. `check` says of an entry that cannot be what it must be. */
export function uploadIntegers(
  operation: string,
  argument: string,
  values: HostIndices,
  state: DeviceState,
  check: (value: number, index: number) => string | undefined,
): Tensor {
  const numbers = new Array<number>(values.length);
  for (let i = 0; i < numbers.length; ++i) {
    const entry: unknown = values[i];
    const value = typeof entry === "bigint" ? Number(entry) : entry;
    if (typeof value !== "number" || !Number.isSafeInteger(value)) {
      throw argumentError(operation, `${argument}[${i}]`, typeof entry === "bigint" ? "below 2^53 in size" : "an integer", describe(entry));
    }
    const wrong = check(value, i);
    if (wrong !== undefined) throw argumentError(operation, `${argument}[${i}]`, wrong, String(value));
    numbers[i] = value;
  }
  return upload(numbers, [numbers.length], state);
}

/** An indptr; on the host from 0 or more, never decreasing, at most the number of tokens. */
export function resolveIndptr(operation: string, given: unknown, q: Tensor): Tensor {
  if (given instanceof Tensor) return checkTensor(operation, "indptr", given);
  const { shape } = geometryOf(q);
  if (shape.length === 4) {
    throw argumentError(operation, "indptr", "absent for a q of rank 4", describe(given), "Ragged requests lie end to end: q [nnz, H, D].");
  }
  const tokens = shape[0] ?? 0;
  let previous = 0;
  const values = checkHostArray(operation, "indptr", given, stateOf(q));
  const tensor = uploadIntegers(operation, "indptr", values, stateOf(q), (value, index) => {
    if (value < previous) return index === 0 ? "at least 0" : `at least the entry before it, ${previous}`;
    if (value > tokens) return `at most the number of tokens, ${tokens}`;
    previous = value;
    return undefined;
  });
  if (tensor.size > 0) return tensor;
  tensor.dispose();
  throw argumentError(operation, "indptr", "one entry more than there are requests", "none");
}

/** Offsets; on the host any integers, of which too large ones are faults of the call. */
export function resolveOffsets(operation: string, given: unknown, q: Tensor): Tensor {
  if (given instanceof Tensor) return checkTensor(operation, "offsets", given);
  const state = stateOf(q);
  const values = checkHostArray(operation, "offsets", given, state);
  if (values instanceof BigInt64Array || values instanceof BigUint64Array) return uploadBigIntegers(values, [values.length], state);
  return uploadIntegers(operation, "offsets", values, state, () => undefined);
}
