// Moving elements between the host and a device, and between devices. Bytes travel densely packed and in the smaller of the two dtypes;
// packing and converting is done on the side that has the elements, unpacking on the other.
import { resolveDevice } from "../device/device.ts";
import type { DeviceState } from "../device/state.ts";
import type { StreamState } from "../device/stream_state.ts";
import { finish, finished } from "../device/waiting.ts";
import { Block } from "../native/block.ts";
import { layouts } from "../native/layouts.ts";
import { access } from "./descriptors.ts";
import { type DType, dtypes, type HostArray } from "./dtype.ts";
import type { Geometry } from "./geometry.ts";
import { convertHost, hostAddress, hostArray, hostTensor } from "./host.ts";
import { allocate, copy, stateOf } from "./operations.ts";
import type { Tensor } from "./tensor.ts";

const layout = layouts.transfer_args;
const block = new Block(layout, "rope_transfer");

/**
 * Queues a copy of bytes. Host memory that is read has been read when this returns; host memory that is written is there when the stream
 * has passed.
 */
function transfer(operation: string, source: number, target: number, bytes: number, stream: StreamState): void {
  if (bytes === 0) return;
  block.u16(layout.device, stream.state.code);
  block.stream(layout.stream, stream);
  block.u64(layout.source, source);
  block.u64(layout.target, target);
  block.u64(layout.bytes, bytes);
  block.call(operation);
}

/** Where a tensor begins; work on the stream is about to read or write it. */
function addressOf(tensor: Tensor, stream: StreamState, written: boolean): number {
  const storage = access.storage(tensor);
  storage.use(stream, written);
  return storage.address + access.offset(tensor);
}

function isPacked(tensor: Tensor, dtype: DType): boolean {
  const geometry = access.geometry(tensor);
  return geometry.dtype === dtype && geometry.isContiguous;
}

/** A tensor's elements in a contiguous form: the tensor itself where it has it, else a copy that release() disposes of. */
function pack(operation: string, tensor: Tensor, form: Geometry, stream: StreamState): Tensor {
  if (isPacked(tensor, form.dtype)) return tensor;
  const packed = allocate(operation, form, stream);
  copy(operation, tensor, packed, stream);
  return packed;
}

/** Something contiguous to write a tensor's elements into: the tensor itself where it is, else memory that unpack() copies to it. */
function place(operation: string, tensor: Tensor, form: Geometry, stream: StreamState): Tensor {
  return isPacked(tensor, form.dtype) ? tensor : allocate(operation, form, stream);
}

function unpack(operation: string, packed: Tensor, tensor: Tensor, stream: StreamState): void {
  if (packed !== tensor) copy(operation, packed, tensor, stream);
}

function release(packed: Tensor, tensor: Tensor): void {
  if (packed !== tensor) packed.dispose();
}

function cpu(operation: string): DeviceState {
  return resolveDevice(operation, "device", "cpu");
}

/** target = the elements of a host array of a dtype, which are as many. The array has been read when this returns. */
export function upload(operation: string, data: HostArray, dtype: DType, target: Tensor): void {
  const state = stateOf(target);
  const geometry = access.geometry(target);
  const stream = state.current;
  if (state.queued) {
    const array = dtype === geometry.dtype ? data : convertHost(operation, "data", data, dtype, geometry.dtype);
    const packed = place(operation, target, geometry.dense, stream);
    try {
      transfer(operation, hostAddress(operation, "data", array), addressOf(packed, stream, true), geometry.byteLength, stream);
      unpack(operation, packed, target, stream);
    } finally {
      release(packed, target);
    }
  } else {
    const source = hostTensor(operation, "data", data, geometry.as(dtype), state);
    try {
      copy(operation, source, target, stream);
    } finally {
      source.dispose();
    }
  }
}

/** The elements in row-major order, as those of a dtype. Blocks until the work that writes them is done. */
export function download(operation: string, tensor: Tensor, dtype: DType): HostArray {
  const state = stateOf(tensor);
  const geometry = access.geometry(tensor).as(dtype);
  const array = hostArray(operation, dtype, geometry.size);
  const stream = state.defaultStream;
  if (state.queued) {
    send(operation, tensor, geometry, hostAddress(operation, "this tensor", array), stream);
    finish(operation, stream, "left");
  } else {
    const target = hostTensor(operation, "this tensor", array, geometry, state);
    try {
      copy(operation, tensor, target, stream);
    } finally {
      target.dispose();
    }
  }
  return array;
}

/** The same without blocking. What the tensor holds now is read, whatever is done to it meanwhile. */
export async function downloadAsync(operation: string, tensor: Tensor, dtype: DType): Promise<HostArray> {
  const { staging, defaultStream } = stateOf(tensor);
  if (staging === null) return download(operation, tensor, dtype);
  const geometry = access.geometry(tensor).as(dtype);
  const array = hostArray(operation, dtype, geometry.size);
  if (geometry.byteLength === 0) return array;
  const pinned = staging.acquire(geometry.byteLength, operation);
  try {
    send(operation, tensor, geometry, pinned.address, defaultStream);
    await finished(operation, defaultStream, 0, "left");
    const target = hostAddress(operation, "this tensor", array);
    transfer(operation, pinned.address, target, geometry.byteLength, cpu(operation).defaultStream);
  } finally {
    staging.recycle(pinned);
  }
  return array;
}

/** Queues the copy of a tensor's elements, in a contiguous form, to an address outside its device. */
function send(operation: string, tensor: Tensor, form: Geometry, target: number, stream: StreamState): void {
  const packed = pack(operation, tensor, form, stream);
  try {
    transfer(operation, addressOf(packed, stream, false), target, form.byteLength, stream);
  } finally {
    release(packed, tensor);
  }
}

/**
 * target = source, which is on another device. `stream` is the target's. From the CPU the copy is queued there. From a GPU it blocks: the
 * CPU's memory must be complete when this returns, and streams of two GPUs have no order between them.
 */
export function copyAcross(operation: string, source: Tensor, target: Tensor, stream: StreamState): void {
  const from = stateOf(source);
  for (const state of [from, stream.state]) state.refuseWhileRecording(operation, "A copy between devices");
  const { dtype } = access.geometry(source);
  const wide = access.geometry(target).dtype;
  const form = access.geometry(target).as(dtypes[dtype].bytes <= dtypes[wide].bytes ? dtype : wide);
  const packed = place(operation, target, form, stream);
  try {
    if (stream.state.queued) {
      const sent = pack(operation, source, form, from.current);
      try {
        const address = addressOf(sent, from.current, false);
        if (from.queued) finish(operation, from.current, "left");
        transfer(operation, address, addressOf(packed, stream, true), form.byteLength, stream);
        if (from.queued) finish(operation, stream, "left");
      } finally {
        release(sent, source);
      }
    } else {
      send(operation, source, form, addressOf(packed, stream, true), from.current);
      finish(operation, from.current, "left");
    }
    unpack(operation, packed, target, stream);
  } finally {
    release(packed, target);
  }
}
