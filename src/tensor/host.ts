// Typed arrays and numbers of the caller: which dtype they are, and as memory that a tensor may view.
import { argumentError, describe } from "../arguments.ts";
import type { DeviceState } from "../device/state.ts";
import { Storage } from "../device/storage.ts";
import { library } from "../native/library.ts";
import { type DType, dtypes, type HostArray } from "./dtype.ts";

const accepted = "a Float64Array, Float32Array, Float16Array, Uint16Array (bfloat16), Uint8Array, Int32Array, BigInt64Array or number[]";
const inferred: Readonly<Record<string, DType>> = {
  Float64Array: "float64",
  Float32Array: "float32",
  Float16Array: "float16",
  Uint8Array: "uint8",
  Int32Array: "int32",
  BigInt64Array: "int64",
};

/** The dtype of the elements that `data` holds as they lie there; null for a number[], which any dtype can be made of. */
export function hostDType(operation: string, data: unknown, wanted: DType | undefined): DType | null {
  if (Array.isArray(data)) return null;
  if (!ArrayBuffer.isView(data)) throw argumentError(operation, "data", accepted, describe(data));
  const kind = (data as Partial<HostArray>)[Symbol.toStringTag] ?? "DataView";
  if (wanted !== undefined && dtypes[wanted].array === kind) return wanted;
  const own = inferred[kind];
  if (kind === "Uint16Array" && wanted === undefined) {
    throw argumentError(
      operation,
      "dtype",
      '"bfloat16" where data is a Uint16Array',
      "none",
      'Say so: { dtype: "bfloat16" }. Float16Array holds float16.',
    );
  }
  if (wanted === undefined && own !== undefined) return own;
  if (own === undefined && kind !== "Uint16Array") throw argumentError(operation, "data", accepted, describe(data));
  const advice = own === undefined
    ? "A Uint16Array holds the bits of bfloat16."
    : `It holds ${own}: make a tensor of that and convert it with .to("${wanted}").`;
  throw argumentError(
    operation,
    "data",
    `a ${wanted === undefined ? "typed array" : dtypes[wanted].array} or number[] for dtype ${wanted}`,
    describe(data),
    advice,
  );
}

/** The caller's numbers as doubles, each one checked. */
export function numbersToFloat64(operation: string, argument: string, data: ArrayLike<unknown>): Float64Array {
  const out = new Float64Array(data.length);
  for (let i = 0; i < out.length; i++) {
    const value = data[i];
    if (typeof value !== "number") {
      const advice = Array.isArray(value) ? "Nested arrays are not taken: pass data.flat(Infinity) and the shape." : undefined;
      throw argumentError(operation, `${argument}[${i}]`, "a number", describe(value), advice);
    }
    out[i] = value;
  }
  return out;
}

/** Refuses an array whose length is not the number of elements wanted. */
export function checkLength(operation: string, data: ArrayLike<unknown>, size: number, shape: string): void {
  if (data.length !== size) {
    throw argumentError(operation, "data", `of ${size} elements, as the shape ${shape} says`, `${data.length} elements`);
  }
}

/** The memory of a typed array, without a copy. It stays the caller's: the storage only keeps it alive. */
export function borrow(operation: string, argument: string, array: HostArray, state: DeviceState): Storage {
  const { buffer } = array; // first of all: Bun moves small typed arrays until their buffer is asked for
  if (buffer instanceof ArrayBuffer ? buffer.resizable : buffer.growable) {
    throw argumentError(operation, argument, "of a buffer of fixed size", "one of a resizable buffer", "Copy it first: array.slice().");
  }
  if (buffer instanceof ArrayBuffer && buffer.detached) {
    throw argumentError(operation, argument, "a typed array with its memory", "one whose buffer was transferred or detached");
  }
  const { byteOffset, byteLength } = array;
  const address = byteLength === 0 ? 0 : library().address(new Uint8Array(buffer)) + byteOffset;
  return new Storage(state, "borrowed", { bytes: byteLength, capacity: 0, address, buffer, byteOffset });
}
