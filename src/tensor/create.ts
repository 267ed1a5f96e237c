// How tensors come to be: from host arrays, from the pool, from other tensors, from foreign memory. Tensor's static methods are these.
import { argumentError, checkCount, checkFinite, checkOptions, describe } from "../arguments.ts";
import { resolveDevice } from "../device/device.ts";
import type { DeviceState } from "../device/state.ts";
import { Storage } from "../device/storage.ts";
import { RopeArgumentError, RopeDeviceError } from "../errors.ts";
import { access } from "./descriptors.ts";
import { checkDType, type DType, dtypes, type HostArray } from "./dtype.ts";
import { checkAxis, checkShape, denseGeometry, Geometry, sameShape, shapeText } from "./geometry.ts";
import { borrow, checkLength, hostDType, numbersToFloat64 } from "./host.ts";
import { allocate, copy, fillArange, fillConstant, fillNormal, stateOf } from "./operations.ts";
import type { Tensor } from "./tensor.ts";

type Options = Record<string, unknown> | undefined;

/** A tensor that views a host array of the geometry's dtype and size. */
export function hostTensor(operation: string, argument: string, array: HostArray, geometry: Geometry, state: DeviceState): Tensor {
  return access.make(geometry, borrow(operation, argument, array, state), 0);
}

/** A typed array of `size` elements of a dtype, to read into. */
export function hostArray(operation: string, dtype: DType, size: number): HostArray {
  const bytes = size * dtypes[dtype].bytes;
  try {
    return dtypes[dtype].over(new ArrayBuffer(bytes), 0, size);
  } catch (cause) {
    const advice = "Read it in slices.";
    throw new RopeArgumentError({
      operation,
      argument: "this tensor",
      expected: "no larger than an ArrayBuffer can be",
      actual: `${bytes} bytes`,
      advice,
      cause,
    });
  }
}

/** target = the host array or numbers, which are of its size. */
export function upload(operation: string, data: HostArray | Float64Array, dtype: DType, target: Tensor): void {
  const state = stateOf(target);
  const source = hostTensor(operation, "data", data, access.geometry(target).as(dtype), state);
  try {
    copy(operation, source, target, state.defaultStream);
  } finally {
    source.dispose();
  }
}

/** Tensor.from */
export function fromHost(data: unknown, shape: unknown, options: unknown): Tensor {
  const operation = "Tensor.from";
  checkOptions(operation, options, ["dtype", "device"]);
  const wanted = checkDType(operation, "dtype", (options as Options)?.["dtype"], undefined);
  const held = hostDType(operation, data, wanted);
  const dtype = held ?? wanted ?? "float32";
  const geometry = denseGeometry(dtype, checkShape(operation, shape, dtypes[dtype].bytes));
  checkLength(operation, data as ArrayLike<unknown>, geometry.size, shapeText(geometry.shape));
  const state = resolveDevice(operation, "device", (options as Options)?.["device"]);
  state.refuseWhileRecording(operation, "Host data");
  if (held !== null) return hostTensor(operation, "data", data as HostArray, geometry, state);
  const numbers = numbersToFloat64(operation, "data", data as ArrayLike<unknown>);
  const target = allocate(operation, geometry, state);
  upload(operation, numbers, "float64", target);
  return target;
}

function create(operation: string, shape: unknown, options: unknown, known: readonly string[], defaultDType: DType): Tensor {
  checkOptions(operation, options, known);
  const dtype = checkDType(operation, "dtype", (options as Options)?.["dtype"], defaultDType);
  const geometry = denseGeometry(dtype, checkShape(operation, shape, dtypes[dtype].bytes));
  return allocate(operation, geometry, resolveDevice(operation, "device", (options as Options)?.["device"]));
}

/** Fills a new tensor, and disposes of it where that fails. */
function filled(tensor: Tensor, fill: (tensor: Tensor) => void): Tensor {
  try {
    fill(tensor);
  } catch (error) {
    tensor.dispose();
    throw error;
  }
  return tensor;
}

/** Tensor.empty */
export function empty(shape: unknown, options: unknown): Tensor {
  return create("Tensor.empty", shape, options, ["dtype", "device"], "float32");
}

/** Tensor.zeros */
export function zeros(shape: unknown, options: unknown): Tensor {
  const operation = "Tensor.zeros";
  const tensor = create(operation, shape, options, ["dtype", "device"], "float32");
  return filled(tensor, () => fillConstant(operation, tensor, 0, stateOf(tensor).current));
}

/** Tensor.full */
export function full(shape: unknown, value: unknown, options: unknown): Tensor {
  const operation = "Tensor.full";
  const tensor = create(operation, shape, options, ["dtype", "device"], "float32");
  return filled(tensor, () => {
    if (typeof value !== "number") throw argumentError(operation, "value", "a number", describe(value));
    fillConstant(operation, tensor, value, stateOf(tensor).current);
  });
}

/** Tensor.arange */
export function arange(n: unknown, options: unknown): Tensor {
  const operation = "Tensor.arange";
  const count = checkCount(operation, "n", n);
  const tensor = create(operation, [count], options, ["start", "step", "dtype", "device"], "int32");
  return filled(tensor, () => {
    const { start: first = 0, step: by = 1 } = (options as Options) ?? {};
    const start = checkFinite(operation, "start", first);
    const step = checkFinite(operation, "step", by);
    fillArange(operation, tensor, start, step, stateOf(tensor).current);
  });
}

/** Tensor.random */
export function random(shape: unknown, options: unknown): Tensor {
  const operation = "Tensor.random";
  const tensor = create(operation, shape, options, ["seed", "dtype", "device"], "float32");
  return filled(tensor, () => {
    if (dtypes[tensor.dtype].isInteger) {
      throw argumentError(
        operation,
        "dtype",
        "a float dtype",
        tensor.dtype,
        "Normal numbers are no integers; Tensor.from takes an array of your own.",
      );
    }
    const given = (options as Options)?.["seed"];
    const seed = given === undefined ? freshSeed() : checkCount(operation, "seed", given);
    fillNormal(operation, tensor, seed, stateOf(tensor).current);
  });
}

function freshSeed(): number {
  const [low = 0, high = 0] = crypto.getRandomValues(new Uint32Array(2));
  return low + (high >>> 11) * 2 ** 32;
}

/** Tensor.cat */
export function cat(tensors: unknown, axis: unknown): Tensor {
  const operation = "Tensor.cat";
  if (!Array.isArray(tensors) || tensors.length === 0) {
    throw argumentError(operation, "tensors", "an array of at least one Tensor", describe(tensors));
  }
  const parts = tensors.map((value: unknown, i) => access.check(operation, `tensors[${i}]`, value));
  const [first] = parts;
  if (first === undefined) throw argumentError(operation, "tensors", "an array of at least one Tensor", describe(tensors));
  const { dtype, shape } = access.geometry(first);
  const along = checkAxis(operation, "axis", axis, shape.length);
  const whole = shape.slice();
  whole[along] = 0;
  for (const [i, part] of parts.entries()) {
    const form = access.geometry(part);
    const argument = `tensors[${i}]`;
    if (form.dtype !== dtype) {
      throw argumentError(operation, argument, `${dtype} like tensors[0]`, form.dtype, `Convert it first: .to("${dtype}").`);
    }
    const expected = shape.slice();
    expected[along] = form.shape[along] ?? 0;
    if (!sameShape(form.shape, expected)) {
      throw argumentError(operation, argument, `of the shape ${shapeText(shape)} but for axis ${along}`, shapeText(form.shape));
    }
    if (stateOf(part) !== stateOf(first)) {
      throw new RopeDeviceError({
        operation,
        argument,
        expected: `on ${first.device.name} like tensors[0]`,
        actual: `on ${part.device.name}`,
      });
    }
    whole[along] = (whole[along] ?? 0) + (form.shape[along] ?? 0);
  }
  const state = stateOf(first);
  const result = allocate(operation, denseGeometry(dtype, checkShape(operation, whole, dtypes[dtype].bytes)), state);
  return filled(result, () => {
    let start = 0;
    for (const part of parts) {
      const end = start + (access.geometry(part).shape[along] ?? 0);
      const place = result.slice(along, start, end);
      try {
        copy(operation, part, place, state.current);
      } finally {
        place.dispose();
      }
      start = end;
    }
  });
}

/** Tensor.fromPointer. The address is in no message. */
export function fromPointer(address: unknown, shape: unknown, options: unknown): Tensor {
  const operation = "Tensor.fromPointer";
  checkOptions(operation, options, ["dtype", "device", "strides", "owner"]);
  const { dtype: named, device, strides: steps, owner } = (options as Options) ?? {};
  const dtype = checkDType(operation, "dtype", named ?? null, undefined) ?? "float32";
  const { bytes } = dtypes[dtype];
  const lengths = checkShape(operation, shape, bytes);
  const geometry = steps === undefined
    ? denseGeometry(dtype, lengths)
    : new Geometry(dtype, lengths, checkStrides(operation, steps, lengths, bytes));
  if (device === undefined) throw argumentError(operation, "device", "said: whose memory it is", "none");
  const state = resolveDevice(operation, "device", device);
  if (typeof address !== "number" || !Number.isSafeInteger(address) || address <= 0) {
    const actual = typeof address === "number" ? "a number that is not" : address === undefined ? "undefined" : `a ${typeof address}`;
    const advice = typeof address === "bigint" ? "Convert it: Number(address)." : undefined;
    throw argumentError(operation, "address", "a positive integer below 2^53", actual, advice);
  }
  if (address % bytes !== 0) throw argumentError(operation, "address", `a multiple of the ${bytes} bytes of ${dtype}`, "one that is not");
  const storage = new Storage(state, "foreign", { bytes: geometry.span, capacity: 0, address, buffer: null, byteOffset: 0 });
  storage.owner = owner;
  return access.make(geometry, storage, 0);
}

function checkStrides(operation: string, value: unknown, shape: readonly number[], bytes: number): readonly number[] {
  if (!Array.isArray(value) || value.length !== shape.length) {
    throw argumentError(operation, "strides", `an array of ${shape.length} counts of elements, one per axis`, describe(value));
  }
  let last = 0;
  const strides = shape.map((length, axis) => {
    const stride = checkCount(operation, `strides[${axis}]`, value[axis]);
    last += Math.max(length - 1, 0) * stride;
    return stride;
  });
  if ((last + 1) * bytes > Number.MAX_SAFE_INTEGER) {
    throw argumentError(operation, "strides", "of fewer than 2^53 bytes in all", shapeText(strides));
  }
  return strides;
}
