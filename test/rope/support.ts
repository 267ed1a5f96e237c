// What the tests of the rotation share: devices, numbers that are the same every time, bytes, fences, and how far off a result may be.
import { Device, fromBfloat16, type Pairing, Tensor, toBfloat16 } from "../../mod.ts";

/** Every device that works: the tests run on each. */
export const devices: string[] = Device.list().filter((device) => device.usable).map((device) => device.name);

/** The device of a name of `devices`. */
export function open(name: string): Device {
  return Device.open(name as "cpu");
}

/** The dtypes that rotate. */
export const dtypes: readonly ["float64", "float32", "float16", "bfloat16"] = ["float64", "float32", "float16", "bfloat16"];
export type RotaryDType = typeof dtypes[number];

/** The pairings. */
export const pairings: readonly Pairing[] = ["half", "interleaved", "interleaved_to_half"];

/** Uniform numbers in [0, 1) that depend on the seed alone. */
export function uniform(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A number rounded as the dtype stores it. */
export function rounded(x: number, dtype: RotaryDType): number {
  switch (dtype) {
    case "float64":
      return x;
    case "float32":
      return Math.fround(x);
    case "float16":
      return new Float16Array([x])[0] ?? NaN;
    case "bfloat16":
      return fromBfloat16(toBfloat16([x]))[0] ?? NaN;
  }
}

/** `count` numbers in (-2, 2) that the dtype holds exactly. */
export function samples(count: number, dtype: RotaryDType, seed: number): Float64Array {
  const next = uniform(seed);
  const numbers = Float64Array.from({ length: count }, () => 4 * next() - 2);
  switch (dtype) {
    case "float64":
      return numbers;
    case "float32":
      return Float64Array.from(Float32Array.from(numbers));
    case "float16":
      return Float64Array.from(Float16Array.from(numbers));
    case "bfloat16":
      return Float64Array.from(fromBfloat16(toBfloat16(numbers)));
  }
}

/** Numbers as a typed array of the dtype. */
export function typed(numbers: ArrayLike<number>, dtype: RotaryDType): Float64Array | Float32Array | Float16Array | Uint16Array {
  switch (dtype) {
    case "float64":
      return Float64Array.from(numbers);
    case "float32":
      return Float32Array.from(numbers);
    case "float16":
      return Float16Array.from(numbers);
    case "bfloat16":
      return toBfloat16(numbers);
  }
}

/** A tensor of numbers, in memory of its own. */
export function tensorOf(numbers: ArrayLike<number>, shape: number[], dtype: RotaryDType, device: Device): Tensor {
  return Tensor.empty(shape, { dtype, device }).write(typed(numbers, dtype));
}

/** The elements of a tensor of any strides, in row-major order. */
export function numbersOf(tensor: Tensor): Float64Array {
  const data = tensor.readBlocking();
  if (tensor.dtype === "bfloat16") return Float64Array.from(fromBfloat16(data as Uint16Array));
  return Float64Array.from(data as ArrayLike<number>);
}

/** The bytes of the elements of a tensor, in row-major order. */
export function bytesOf(tensor: Tensor): Uint8Array {
  const data = tensor.readBlocking();
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** The first byte at which two arrays differ, or -1. */
export function firstDifference(a: Uint8Array, b: Uint8Array): number {
  if (a.length !== b.length) return Math.min(a.length, b.length);
  for (let i = 0; i < a.length; ++i) {
    if (a[i] !== b[i]) return i;
  }
  return -1;
}

/** The distance of neighbouring numbers of the dtype at x. */
export function ulp(x: number, dtype: RotaryDType): number {
  const [mantissa, smallest] = { float64: [52, -1074], float32: [23, -149], float16: [10, -24], bfloat16: [7, -133] }[dtype] as [
    number,
    number,
  ];
  const size = Math.abs(x);
  if (size === 0 || !Number.isFinite(size)) return 2 ** smallest;
  let exponent = Math.floor(Math.log2(size));
  if (2 ** exponent > size) --exponent;
  return 2 ** Math.max(exponent - mantissa, smallest);
}

/**
 * How far a rotated element may be from the exact result: half an ulp for storing it, cos and sin each off by `angle` (2e-7 at every position), and
 * the float32 products and their sum.
 */
export function tolerance(exact: number, a: number, b: number, dtype: RotaryDType, angle: number = 2e-7): number {
  const terms = Math.abs(a) + Math.abs(b);
  const arithmetic = dtype === "float64" ? 4 * 2 ** -53 : 2 * 2 ** -24;
  return 0.5001 * ulp(Math.abs(exact) + terms * angle, dtype) + terms * (angle + arithmetic);
}

/** Memory around a tensor that must not change: a fence of `width` elements before and after, everything filled with a pattern. */
export class Fenced {
  readonly tensor: Tensor;
  readonly #base: Tensor;
  readonly #width: number;

  constructor(shape: number[], dtype: RotaryDType, device: Device, width: number = 64) {
    const size = shape.reduce((a, b) => a * b, 1);
    const words = typed(new Float64Array(size + 2 * width), dtype);
    new Uint8Array(words.buffer).fill(0xa5);
    this.#width = width;
    this.#base = Tensor.empty([words.length], { dtype, device }).write(words);
    this.tensor = this.#base.slice(0, width, width + size).reshape(shape);
  }

  /** Whether the fences are as they were. */
  get intact(): boolean {
    const all = bytesOf(this.#base);
    const width = this.#width * all.length / this.#base.size;
    return all.subarray(0, width).every((byte) => byte === 0xa5) && all.subarray(all.length - width).every((byte) => byte === 0xa5);
  }

  /** Whether nothing at all has been written. */
  get untouched(): boolean {
    return bytesOf(this.#base).every((byte) => byte === 0xa5);
  }

  [Symbol.dispose](): void {
    this.tensor.dispose();
    this.#base.dispose();
  }
}

/** The error a call throws. */
export function errorOf(call: () => unknown): unknown {
  try {
    call();
  } catch (error) {
    return error;
  }
  throw new Error("the call did not throw");
}

/** Whether two tensors hold the same bits. */
export function same(a: Tensor, b: Tensor): boolean {
  return firstDifference(bytesOf(a), bytesOf(b)) === -1;
}

/** The largest distance of elements. */
export function distance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let worst = a.length === b.length ? 0 : Infinity;
  for (let i = 0; i < a.length; ++i) worst = Math.max(worst, Math.abs((a[i] ?? NaN) - (b[i] ?? NaN)));
  return worst;
}

/** A tensor of numbers in (-2, 2) that depend on the seed alone. */
export function randomTensor(shape: number[], dtype: RotaryDType, device: Device, seed: number = 1): Tensor {
  return tensorOf(samples(shape.reduce((a, b) => a * b, 1), dtype, seed), shape, dtype, device);
}
