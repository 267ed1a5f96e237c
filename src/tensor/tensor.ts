// The Tensor: a form (geometry.ts) over a piece of memory (../device/storage.ts), with a descriptor that C reads (descriptors.ts).
import { argumentError, checkOptions, describe, notConstructible } from "../arguments.ts";
import { type Device, type DeviceLike, isDeviceLike, resolveDevice } from "../device/device.ts";
import type { DeviceState } from "../device/state.ts";
import type { Storage } from "../device/storage.ts";
import { resolveStream, type Stream } from "../device/stream.ts";
import type { StreamState } from "../device/stream_state.ts";
import { RopeDeviceError, RopeDisposedError } from "../errors.ts";
import * as create from "./create.ts";
import { access, returnSlot, type Slot, takeSlot } from "./descriptors.ts";
import { type DType, dtypeNames, dtypes, type HostArray, type HostArrayOf, isDType } from "./dtype.ts";
import { type Geometry, sameShape, shapeText } from "./geometry.ts";
import { checkLength, hostDType, numbersToFloat64 } from "./host.ts";
import { allocate, copy } from "./operations.ts";
import { copyAcross, download, downloadAsync, upload } from "./transfer.ts";
import { reshapeView, selectView, sliceView, transposeView, type View } from "./views.ts";

/** What a tensor is made as. */
export interface TensorOptions<D extends DType = DType> {
  /** The type of the elements; default "float32". */
  readonly dtype?: D | undefined;
  /** Where it lies; default "auto". */
  readonly device?: DeviceLike | undefined;
}

/**
 * An array of rank 0 to 6 on a device. Views (slice, select, reshape, transpose) share memory and cost no native call; the memory is
 * released with the last tensor on it. Dispose of every tensor, or declare it with `using`; the garbage collector only catches what was
 * forgotten.
 *
 * `shape`, `strides`, `dtype`, `device`, `size`, `byteLength`, `isContiguous` and `disposed` can be read of a disposed tensor; everything
 * else throws RopeDisposedError. A tensor cannot be posted to a Worker or cloned with structuredClone, which make an empty object of it:
 * post what read() returns, or share memory with Tensor.from of an array over a SharedArrayBuffer.
 *
 * @example
 * ```ts
 * import { Tensor } from "@librope/rope";
 *
 * using qkv = Tensor.random([8, 3, 4, 64], { seed: 1, device: "cpu" });
 * using q = qkv.select(1, 0); // a view: nothing is copied
 * console.assert(q.shape.join() === "8,4,64" && q.strides.join() === "768,64,1");
 * ```
 */
export class Tensor<D extends DType = DType> {
  readonly #slot: Slot;
  readonly #generation: number;
  readonly #geometry: Geometry;
  readonly #device: Device;
  readonly #offset: number;
  #data: HostArray | null = null;

  private constructor(geometry: Geometry, storage: Storage, offset: number) {
    if (geometry === undefined) throw notConstructible("Tensor", "Tensor.from, Tensor.empty or one of the other static methods");
    this.#geometry = geometry;
    this.#device = storage.state.device;
    this.#offset = offset;
    this.#slot = takeSlot(this, geometry, storage, offset);
    this.#generation = this.#slot.generation;
    storage.state.recording?.own(this);
  }

  static {
    access.make = (geometry, storage, offset) => new Tensor(geometry, storage, offset);
    access.check = (operation, argument, value) => {
      if (typeof value !== "object" || value === null || !(#slot in value)) {
        throw argumentError(operation, argument, "a Tensor", describe(value));
      }
      value.#live(operation, argument);
      return value;
    };
    access.reference = (tensor, words, at) => {
      words[at] = tensor.#slot.low;
      words[at + 1] = tensor.#slot.high;
      words[at + 2] = tensor.#generation;
    };
    access.geometry = (tensor) => tensor.#geometry;
    access.storage = (tensor) => tensor.#live("Tensor", "this tensor");
    access.offset = (tensor) => tensor.#offset;
    // What console.log prints of it, in Bun (which takes Node's symbol) and in Deno.
    for (const name of ["nodejs.util.inspect.custom", "Deno.customInspect"]) {
      Object.defineProperty(Tensor.prototype, Symbol.for(name), {
        value(this: Tensor): string {
          return this.toString();
        },
      });
    }
  }

  // ---- making tensors ------------------------------------------------------------------------------------------------------------------

  /**
   * A tensor of the caller's data. On the CPU a typed array is not copied: the tensor is a view of it, and never frees it. On a GPU it is a
   * copy, and the array may be changed at once. A `number[]` is copied and rounded to the dtype (to nearest, ties to even; integers
   * truncate and saturate, as with `to`).
   *
   * @param data As many elements as the shape says, in row-major order. A Uint16Array holds bfloat16, which must be said; a Uint8Array
   * holds uint8 unless a float8 dtype is said; every other typed array says its dtype itself. A `number[]` is float32 unless another dtype
   * is said.
   * @throws RopeArgumentError for nested arrays, another kind of array, a dtype that is not the array's, a length that is not the shape's.
   * @example
   * ```ts
   * import { Tensor } from "@librope/rope";
   *
   * const mine = new Float32Array([1, 2, 3, 4]);
   * using x = Tensor.from(mine, [2, 2], { device: "cpu" });
   * mine[0] = 9;
   * console.assert(x.data[0] === 9); // the same memory
   * using half = Tensor.from([0.1, 0.2], [2], { dtype: "float16", device: "cpu" });
   * console.assert(half.data.join() === "0.0999755859375,0.199951171875");
   * ```
   */
  static from<D extends DType>(
    data: HostArrayOf<D> | readonly number[],
    shape: readonly number[],
    options: TensorOptions<D> & { readonly dtype: D },
  ): Tensor<D>;
  /** A float32 tensor of a Float32Array (on the CPU a view of it) or of numbers. */
  static from(data: Float32Array | readonly number[], shape: readonly number[], options?: TensorOptions<"float32">): Tensor<"float32">;
  /** A float64 tensor of a Float64Array (on the CPU a view of it). */
  static from(data: Float64Array, shape: readonly number[], options?: TensorOptions<"float64">): Tensor<"float64">;
  /** A float16 tensor of a Float16Array (on the CPU a view of it). */
  static from(data: Float16Array, shape: readonly number[], options?: TensorOptions<"float16">): Tensor<"float16">;
  /** An int32 tensor of an Int32Array (on the CPU a view of it). */
  static from(data: Int32Array, shape: readonly number[], options?: TensorOptions<"int32">): Tensor<"int32">;
  /** An int64 tensor of a BigInt64Array (on the CPU a view of it). */
  static from(data: BigInt64Array, shape: readonly number[], options?: TensorOptions<"int64">): Tensor<"int64">;
  /** A uint8 tensor of a Uint8Array (on the CPU a view of it). */
  static from(data: Uint8Array, shape: readonly number[], options?: TensorOptions<"uint8">): Tensor<"uint8">;
  /** A tensor of an array whose dtype is known at run time only. */
  static from(data: HostArray | readonly number[], shape: readonly number[], options?: TensorOptions): Tensor;
  static from(data: HostArray | readonly number[], shape: readonly number[], options?: TensorOptions): Tensor {
    return create.fromHost(data, shape, options);
  }

  /**
   * A tensor with whatever its memory held before.
   *
   * @throws RopeArgumentError; RopeOutOfMemoryError, with the numbers in it.
   */
  static empty<D extends DType = "float32">(shape: readonly number[], options?: TensorOptions<D>): Tensor<D> {
    return create.empty(shape, options) as Tensor<D>;
  }

  /** A tensor of zeros. */
  static zeros<D extends DType = "float32">(shape: readonly number[], options?: TensorOptions<D>): Tensor<D> {
    return create.zeros(shape, options) as Tensor<D>;
  }

  /**
   * A tensor of one value, converted to the dtype as `to` converts: floats round to nearest even, integers truncate and saturate, NaN gives
   * 0.
   *
   * @throws RopeArgumentError where the value is no number.
   */
  static full<D extends DType = "float32">(shape: readonly number[], value: number, options?: TensorOptions<D>): Tensor<D> {
    return create.full(shape, value, options) as Tensor<D>;
  }

  /**
   * start, start + step, ... : `n` of them, by default int32 from 0 in steps of 1. Each is converted to the dtype as `to` converts: floats
   * round to nearest even, integers truncate and saturate.
   *
   * @throws RopeArgumentError where n is no count, or start or step no finite number.
   * @example
   * ```ts
   * import { Tensor } from "@librope/rope";
   *
   * using positions = Tensor.arange(4, { start: 100, device: "cpu" });
   * console.assert(positions.dtype === "int32" && positions.data.join() === "100,101,102,103");
   * ```
   */
  static arange<D extends DType = "int32">(
    n: number,
    options?: TensorOptions<D> & { readonly start?: number | undefined; readonly step?: number | undefined },
  ): Tensor<D> {
    return create.arange(n, options) as Tensor<D>;
  }

  /**
   * Standard normal numbers. One seed always gives the same ones, for every shape of as many elements; without a seed they differ each
   * time.
   */
  static random<D extends DType = "float32">(
    shape: readonly number[],
    options?: TensorOptions<D> & { readonly seed?: number | undefined },
  ): Tensor<D> {
    return create.random(shape, options) as Tensor<D>;
  }

  /**
   * Tensors joined along an axis, as a copy. They are of one dtype and device, and of one shape but for that axis.
   *
   * @param axis Negative ones count from the end.
   * @throws RopeArgumentError, RopeDeviceError, RopeDisposedError.
   */
  static cat<D extends DType>(tensors: readonly Tensor<D>[], axis: number): Tensor<D> {
    return create.cat(tensors, axis) as Tensor<D>;
  }

  /**
   * UNSAFE: a tensor over memory that something else owns. Nothing can check that the address is right, that the memory is as long as shape
   * and strides say, or that it stays: a mistake here reads or writes foreign memory. `owner` is kept alive as long as the memory is in
   * use.
   *
   * @param address Of the first element, as a number; a multiple of the element's size.
   */
  static fromPointer<D extends DType>(
    address: number,
    shape: readonly number[],
    options: { readonly dtype: D; readonly device: DeviceLike; readonly strides?: readonly number[] | undefined; readonly owner?: unknown },
  ): Tensor<D> {
    return create.fromPointer(address, shape, options) as Tensor<D>;
  }

  // ---- what it is ----------------------------------------------------------------------------------------------------------------------

  /** The lengths of the axes. Frozen. */
  get shape(): readonly number[] {
    return this.#geometry.frozenShape;
  }

  /** How many elements lie between neighbours along each axis. Frozen. */
  get strides(): readonly number[] {
    return this.#geometry.frozenStrides;
  }

  /** The type of the elements. */
  get dtype(): D {
    return this.#geometry.dtype as D;
  }

  /** Where it lies. */
  get device(): Device {
    return this.#device;
  }

  /** The number of elements. */
  get size(): number {
    return this.#geometry.size;
  }

  /** The bytes of all elements, without gaps between them. */
  get byteLength(): number {
    return this.#geometry.byteLength;
  }

  /** Whether the elements lie in row-major order without gaps. */
  get isContiguous(): boolean {
    return this.#geometry.isContiguous;
  }

  /** Whether dispose() was called. */
  get disposed(): boolean {
    return this.#slot.generation !== this.#generation;
  }

  /** The address of the first element, for handing the memory to other native code. Valid while the tensor is not disposed of. */
  get pointer(): number {
    return this.#live("Tensor.pointer", "this tensor").address + this.#offset;
  }

  /**
   * The memory itself as a typed array, without a copy; CPU only. Portable code uses read() and write(). Once the memory is released every
   * array taken from here has length 0, also one that the caller has kept: read() or `data.slice()` makes a copy that stays. Of a tensor
   * larger than 2 GiB it needs Deno's unscoped --allow-ffi, and must not be larger than an ArrayBuffer can be.
   *
   * @throws RopeArgumentError for a strided view: its elements are not one array; RopeDeviceError for a tensor on a GPU.
   */
  get data(): HostArrayOf<D> {
    const operation = "Tensor.data";
    const storage = this.#live(operation, "this tensor");
    if (this.#data !== null) return this.#data as HostArrayOf<D>;
    if (storage.state.queued) {
      throw new RopeDeviceError({
        operation,
        argument: "this tensor",
        expected: "one on the CPU",
        actual: `one on ${storage.state.name}`,
        advice: "Use read() or readBlocking() for a copy of it, write() to change it.",
      });
    }
    const { dtype, size, byteLength, isContiguous, strides } = this.#geometry;
    if (!isContiguous) {
      throw argumentError(
        operation,
        "this tensor",
        "contiguous",
        `a view with strides ${shapeText(strides)}`,
        "Use read() or readBlocking() for a copy of it.",
      );
    }
    const { buffer, byteOffset } = storage.expose(operation, this.#offset, byteLength);
    this.#data = dtypes[dtype].over(buffer, byteOffset, size);
    return this.#data as HostArrayOf<D>;
  }

  // ---- views ---------------------------------------------------------------------------------------------------------------------------

  /**
   * Elements start to end (not included) of one axis, as a view.
   *
   * @param axis Negative ones count from the end.
   * @param start From 0 to the axis's length; negative ones count from the end.
   * @param end From start to the axis's length, which is the default; negative ones count from the end.
   * @example
   * ```ts
   * import { Tensor } from "@librope/rope";
   *
   * using x = Tensor.arange(6, { device: "cpu" });
   * using lastTwo = x.slice(0, -2);
   * console.assert(lastTwo.data.join() === "4,5");
   * ```
   */
  slice(axis: number, start: number, end?: number): Tensor<D> {
    return this.#view("Tensor.slice", sliceView, axis, start, end);
  }

  /**
   * One element of an axis, as a view of one rank less.
   *
   * @param axis Negative ones count from the end.
   * @param index Negative ones count from the end.
   */
  select(axis: number, index: number): Tensor<D> {
    return this.#view("Tensor.select", selectView, axis, index);
  }

  /**
   * The same elements in the same order under another shape, as a view. One length may be -1: it is what remains.
   *
   * @throws RopeArgumentError where the strides do not allow it; then `contiguous().reshape(...)` does.
   */
  reshape(shape: readonly number[]): Tensor<D> {
    return this.#view("Tensor.reshape", reshapeView, shape);
  }

  /** Two axes exchanged, as a view. Negative axes count from the end. */
  transpose(a: number, b: number): Tensor<D> {
    return this.#view("Tensor.transpose", transposeView, a, b);
  }

  #view(
    operation: string,
    form: (base: Geometry, a: unknown, b: unknown, c: unknown) => View,
    a?: unknown,
    b?: unknown,
    c?: unknown,
  ): Tensor<D> {
    const storage = this.#live(operation, "this tensor");
    const { geometry, offset } = form(this.#geometry, a, b, c);
    return new Tensor<D>(geometry, storage, this.#offset + offset * dtypes[geometry.dtype].bytes);
  }

  // ---- moving data ---------------------------------------------------------------------------------------------------------------------

  /**
   * A copy of the elements in row-major order, of views too, as they are now: work that is queued later is not waited for. Does not block
   * the event loop, and keeps the process alive. A fault that a kernel has met is not reported here but by the next synchronize. Rejects
   * with what readBlocking() throws.
   */
  async read(): Promise<HostArrayOf<D>> {
    const operation = "Tensor.read";
    this.#checkReadable(operation);
    return await downloadAsync(operation, this, this.#geometry.dtype) as HostArrayOf<D>;
  }

  /**
   * A copy of the elements in row-major order, of views too. Blocks until the work that writes them is done.
   *
   * @throws RopeDisposedError; RopeArgumentError while a graph is being recorded; RopeOutOfMemoryError; RopeFatalError.
   */
  readBlocking(): HostArrayOf<D> {
    const operation = "Tensor.readBlocking";
    this.#checkReadable(operation);
    return download(operation, this, this.#geometry.dtype) as HostArrayOf<D>;
  }

  /** A copy of the elements in row-major order, converted to float32. Otherwise as read(). */
  async toFloat32(): Promise<Float32Array> {
    const operation = "Tensor.toFloat32";
    this.#checkReadable(operation);
    return await downloadAsync(operation, this, "float32") as Float32Array;
  }

  #checkReadable(operation: string): void {
    this.#live(operation, "this tensor").state.refuseWhileRecording(operation, "Reading");
  }

  /**
   * Overwrites the elements, in row-major order, of strided views too, in the order of the device's default stream. Takes what Tensor.from
   * takes for this dtype; the array has been read when this returns.
   *
   * @returns this tensor
   * @example
   * ```ts
   * import { Tensor } from "@librope/rope";
   *
   * using x = Tensor.zeros([2, 2], { device: "cpu" });
   * using column = x.select(1, 1);
   * column.write([5, 6]);
   * console.assert(x.data.join() === "0,5,0,6");
   * ```
   */
  write(data: HostArray | readonly number[]): this {
    const operation = "Tensor.write";
    const { state } = this.#live(operation, "this tensor");
    const { dtype, size, shape } = this.#geometry;
    const held = hostDType(operation, data, dtype);
    checkLength(operation, data, size, shapeText(shape));
    state.refuseWhileRecording(operation, "Host data");
    if (held !== null) upload(operation, data as HostArray, held, this);
    else upload(operation, numbersToFloat64(operation, "data", data as readonly number[]), "float64", this);
    return this;
  }

  /**
   * Overwrites the elements with those of a tensor of the same shape (nothing is broadcast), of any dtype and strides, on any device.
   * Floats round to nearest even; float8 saturates; floats to integers truncate and saturate, NaN gives 0. From a GPU to another device it
   * blocks.
   *
   * @param options `stream` is one of this tensor's device; default its current one.
   * @returns this tensor
   * @throws RopeArgumentError, also where the two share elements without being the same, and between devices while a graph is being
   * recorded; RopeDisposedError; RopeOutOfMemoryError.
   */
  copyFrom(source: Tensor, options?: { readonly stream?: Stream | undefined }): this {
    const operation = "Tensor.copyFrom";
    const { state } = this.#live(operation, "this tensor");
    const from = access.check(operation, "source", source);
    checkOptions(operation, options, ["stream"]);
    const stream = resolveStream(operation, options?.stream, state);
    if (!sameShape(from.#geometry.shape, this.#geometry.shape)) {
      const expected = `of the shape ${shapeText(this.#geometry.shape)} of the tensor it is copied to`;
      throw argumentError(operation, "source", expected, shapeText(from.#geometry.shape), "Nothing is broadcast.");
    }
    copyAnywhere(operation, from, this, stream);
    return this;
  }

  /**
   * A contiguous copy with another dtype or on another device; always a copy, also where nothing changes. From a GPU to another device it
   * blocks.
   *
   * @param target A dtype, a Device or the name of one.
   */
  to<T extends DType>(target: T): Tensor<T>;
  /** A contiguous copy on a device. */
  to(target: DeviceLike): Tensor<D>;
  /** A contiguous copy as something known at run time only. */
  to(target: DeviceLike | DType): Tensor;
  to(target: DeviceLike | DType): Tensor {
    const operation = "Tensor.to";
    const { state } = this.#live(operation, "this tensor");
    if (isDType(target)) return this.#copied(operation, this.#geometry.as(target), state);
    if (!isDeviceLike(target)) {
      throw argumentError(operation, "target", `a Device, its name, or one of ${dtypeNames.join(", ")}`, describe(target));
    }
    return this.#copied(operation, this.#geometry.dense, resolveDevice(operation, "target", target));
  }

  /** A contiguous copy. */
  clone(): Tensor<D> {
    const operation = "Tensor.clone";
    return this.#copied(operation, this.#geometry.dense, this.#live(operation, "this tensor").state) as Tensor<D>;
  }

  /** A contiguous tensor of the same elements: a view of this one where it is contiguous itself, else a copy. Dispose of it either way. */
  contiguous(): Tensor<D> {
    const operation = "Tensor.contiguous";
    const storage = this.#live(operation, "this tensor");
    if (this.#geometry.isContiguous) return new Tensor<D>(this.#geometry.dense, storage, this.#offset);
    return this.#copied(operation, this.#geometry.dense, storage.state) as Tensor<D>;
  }

  #copied(operation: string, geometry: Geometry, state: DeviceState): Tensor {
    const target = allocate(operation, geometry, state.current);
    try {
      copyAnywhere(operation, this, target, state.current);
    } catch (error) {
      target.dispose();
      throw error;
    }
    return target;
  }

  // ---- the end -------------------------------------------------------------------------------------------------------------------------

  /**
   * Lets the memory go; it returns to the pool with the last tensor on it, so views of this one stay valid and a view leaves its base
   * alone. Arrays that `data` gave have length 0 then; to keep the elements, copy them before: read() or `data.slice()`. An array that
   * Tensor.from was given stays the caller's. Harmless when repeated.
   */
  dispose(): void {
    if (this.#slot.generation !== this.#generation) return;
    this.#data = null;
    returnSlot(this.#slot);
  }

  /** The same as dispose(), for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** "Tensor(float32[2, 3], cpu)"; console.log prints it too. */
  toString(): string {
    return `Tensor(${this.#geometry.dtype}${shapeText(this.#geometry.shape)}, ${this.#device.name}${this.disposed ? ", disposed" : ""})`;
  }

  /** The storage, of a live tensor with its memory. */
  #live(operation: string, argument: string): Storage {
    const { generation, storage } = this.#slot;
    if (generation !== this.#generation || storage === null) {
      throw new RopeDisposedError({
        operation,
        argument,
        expected: "live",
        actual: "a tensor that was disposed of",
        advice:
          "Do not use it after dispose() or outside its `using` scope: keep it alive until its last use, or clone() what must live longer.",
      });
    }
    if (storage.exposed && storage.detached) {
      throw new RopeDisposedError({
        operation,
        argument,
        expected: "a tensor with its memory",
        actual: "one whose ArrayBuffer was transferred or detached",
        advice: "Do not transfer an array while a tensor uses it.",
      });
    }
    return storage;
  }
}

/** target = source; `stream` is of the target's device. */
function copyAnywhere(operation: string, source: Tensor, target: Tensor, stream: StreamState): void {
  if (source.device === target.device) copy(operation, source, target, stream);
  else copyAcross(operation, source, target, stream);
}
