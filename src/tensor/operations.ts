// What the other folders build on: making tensors for results, checking tensors that callers pass, and the C library's copy and fill.
import type { DeviceState } from "../device/state.ts";
import type { StreamState } from "../device/stream_state.ts";
import { Block } from "../native/block.ts";
import { enums, layouts } from "../native/layouts.ts";
import { access } from "./descriptors.ts";
import type { Geometry } from "./geometry.ts";
import type { Tensor } from "./tensor.ts";

/**
 * A tensor of a contiguous form from the pool of a stream's device, with whatever its memory held before. It is first used on that stream.
 */
export function allocate(operation: string, geometry: Geometry, stream: StreamState): Tensor {
  return access.make(geometry, stream.state.pool.acquire(geometry.byteLength, operation, stream), 0);
}

/** The same filled with zeros. */
export function allocateZeros(operation: string, geometry: Geometry, stream: StreamState): Tensor {
  const tensor = allocate(operation, geometry, stream);
  try {
    fillConstant(operation, tensor, 0, stream);
    return tensor;
  } catch (error) {
    tensor.dispose();
    throw error;
  }
}

/** A contiguous tensor of the same dtype and shape, for a result. It shares the shape's arrays. */
export function allocateLike(operation: string, tensor: Tensor, stream: StreamState): Tensor {
  return allocate(operation, access.geometry(tensor).dense, stream);
}

/**
 * A value that must be a live Tensor: throws RopeArgumentError for anything else, RopeDisposedError for one that was disposed of or whose
 * borrowed array lost its buffer.
 */
export function checkTensor(operation: string, argument: string, value: unknown): Tensor {
  return access.check(operation, argument, value);
}

/** The form of a tensor: shape and strides to read in hot code, where the public arrays, which are frozen, are slower. */
export function geometryOf(tensor: Tensor): Geometry {
  return access.geometry(tensor);
}

/** The internal side of a live tensor's device. */
export function stateOf(tensor: Tensor): DeviceState {
  return access.storage(tensor).state;
}

const copyBlock = new Block(layouts.copy_args, "rope_copy");
const fillBlock = new Block(layouts.fill_args, "rope_fill");

/** target = source, converted. Same shape, any dtypes and strides, no shared element. */
export function copy(operation: string, source: Tensor, target: Tensor, stream: StreamState): void {
  const layout = layouts.copy_args;
  copyBlock.stream(layout.stream, stream);
  copyBlock.tensor(layout.source, source);
  copyBlock.output(layout.target, target);
  copyBlock.call(operation);
}

function fill(operation: string, target: Tensor, kind: number, stream: StreamState): void {
  const layout = layouts.fill_args;
  fillBlock.u32(layout.kind, kind);
  fillBlock.stream(layout.stream, stream);
  fillBlock.output(layout.target, target);
  fillBlock.call(operation);
}

/** Every element = value. */
export function fillConstant(operation: string, target: Tensor, value: number, stream: StreamState): void {
  fillBlock.f64(layouts.fill_args.start, value);
  fill(operation, target, enums.FILL_CONSTANT, stream);
}

/** Element i, in row-major order, = start + step * i. */
export function fillArange(operation: string, target: Tensor, start: number, step: number, stream: StreamState): void {
  fillBlock.f64(layouts.fill_args.start, start);
  fillBlock.f64(layouts.fill_args.step, step);
  fill(operation, target, enums.FILL_ARANGE, stream);
}

/** Standard normal numbers that depend on the seed and each element's index alone. */
export function fillNormal(operation: string, target: Tensor, seed: number, stream: StreamState): void {
  fillBlock.u64(layouts.fill_args.seed, seed);
  fill(operation, target, enums.FILL_NORMAL, stream);
}
