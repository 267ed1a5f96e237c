// Typed arrays and numbers of the caller: which dtype they are, where they lie, and as memory that a tensor on the CPU may view.
import { argumentError, describe } from "../arguments.ts";
import { resolveDevice } from "../device/device.ts";
import type { DeviceState } from "../device/state.ts";
import { Storage, tooLarge } from "../device/storage.ts";
import { library } from "../native/library.ts";
import { access } from "./descriptors.ts";
import { type DType, dtypes, type HostArray } from "./dtype.ts";
import { denseGeometry, type Geometry } from "./geometry.ts";
import { copy } from "./operations.ts";
import type { Tensor } from "./tensor.ts";

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

/** Where the elements of a typed array lie; 0 for an empty one. */
export function hostAddress(operation: string, argument: string, array: HostArray): number {
  const { buffer } = array; // first of all: Bun moves small typed arrays until their buffer is asked for
  if (buffer instanceof ArrayBuffer ? buffer.resizable : buffer.growable) {
    throw argumentError(operation, argument, "of a buffer of fixed size", "one of a resizable buffer", "Copy it first: array.slice().");
  }
  if (buffer instanceof ArrayBuffer && buffer.detached) {
    throw argumentError(operation, argument, "a typed array with its memory", "one whose buffer was transferred or detached");
  }
  return array.byteLength === 0 ? 0 : library().address(new Uint8Array(buffer)) + array.byteOffset;
}

/** A tensor on the CPU that views a typed array of the geometry's dtype and size. The array stays the caller's: it is only kept alive. */
export function hostTensor(operation: string, argument: string, array: HostArray, geometry: Geometry, cpu: DeviceState): Tensor {
  const address = hostAddress(operation, argument, array);
  const { buffer, byteOffset, byteLength } = array;
  return access.make(geometry, new Storage(cpu, "borrowed", { bytes: byteLength, capacity: 0, address, buffer, byteOffset }), 0);
}

/** A typed array of `size` elements of a dtype, to read into. Its memory does not move. */
export function hostArray(operation: string, dtype: DType, size: number): HostArray {
  const bytes = size * dtypes[dtype].bytes;
  try {
    return dtypes[dtype].over(new ArrayBuffer(bytes), 0, size);
  } catch (cause) {
    throw tooLarge(operation, bytes, "Read it in slices.", cause);
  }
}

/** The elements of a typed array as those of another dtype. The C library rounds, so that there is one implementation of it. */
export function convertHost(operation: string, argument: string, data: HostArray, from: DType, to: DType): HostArray {
  const cpu = resolveDevice(operation, "device", "cpu");
  const shape = [data.length];
  const result = hostArray(operation, to, data.length);
  const source = hostTensor(operation, argument, data, denseGeometry(from, shape), cpu);
  try {
    const target = hostTensor(operation, argument, result, denseGeometry(to, shape), cpu);
    try {
      copy(operation, source, target, cpu.defaultStream);
    } finally {
      target.dispose();
    }
  } finally {
    source.dispose();
  }
  return result;
}
