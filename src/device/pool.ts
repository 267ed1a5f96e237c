// Where a device's memory comes from: blocks by size class that are used again when their last tensor is disposed of. The CPU's are
// ArrayBuffers (cpu_pool.ts), CUDA's blocks of the driver's pool (cuda_pool.ts). What is larger than the largest class comes from the C
// library and goes straight back to it.
import { RopeOutOfMemoryError } from "../errors.ts";
import { Block } from "../native/block.ts";
import { enums, layouts } from "../native/layouts.ts";
import { realm } from "../native/realm.ts";
import { outOfMemory } from "../native/status.ts";
import type { DeviceState } from "./state.ts";
import { Storage, type StorageKind } from "./storage.ts";
import type { StreamState } from "./stream_state.ts";

/** The bytes of the largest class. */
export const largestClass: number = 2 ** 31;

/**
 * Classes are 64 bytes and then four per octave: 80, 96, 112, 128, 160, ... so that at most a fifth of a buffer is unused. Of 1 to 2^31
 * bytes.
 */
export function sizeClass(bytes: number): number {
  if (bytes <= 64) return 0;
  const last = bytes - 1;
  const octave = 31 - Math.clz32(last);
  return (octave - 6) * 4 + ((last >>> (octave - 2)) & 3) + 1;
}

/** The bytes of a class. */
export function classBytes(index: number): number {
  if (index === 0) return 64;
  return (((index - 1) & 3) + 5) * 2 ** (((index - 1) >>> 2) + 4);
}

/** The list of a class among lists by class, made where there is none yet. */
export function listOf<Item>(lists: Item[][], index: number): Item[] {
  while (lists.length <= index) lists.push([]);
  return lists[index] ?? [];
}

const layout = layouts.memory_args;
const block = {
  allocate: new Block(layout, "rope_memory_allocate"),
  release: new Block(layout, "rope_memory_release"),
};

/**
 * The address of new memory of the C library, of a rope_memory_kind. Where there is none it is asked for once more, the pool's free blocks
 * given back.
 */
export function takeMemory(state: DeviceState, kind: number, bytes: number, operation: string, stream: StreamState): number {
  const { pool } = state;
  try {
    return allocate(state, kind, bytes, operation, stream);
  } catch (error) {
    if (!(error instanceof RopeOutOfMemoryError)) throw error;
  }
  pool.trim();
  try {
    return allocate(state, kind, bytes, operation, stream);
  } catch (error) {
    if (!(error instanceof RopeOutOfMemoryError)) throw error;
    throw outOfMemory(operation, bytes, pool.bytesInUse, pool.bytesReserved, error.free);
  }
}

function allocate(state: DeviceState, kind: number, bytes: number, operation: string, stream: StreamState): number {
  block.allocate.u16(layout.device, state.code);
  block.allocate.u16(layout.kind, kind);
  block.allocate.u64(layout.realm, realm());
  block.allocate.stream(layout.stream, stream);
  block.allocate.u64(layout.bytes, bytes);
  block.allocate.call(operation);
  state.pool.driverAllocations++;
  return block.allocate.getU64(layout.address);
}

/** Gives memory of takeMemory() back, the device's own in the order of the stream. */
export function giveMemory(state: DeviceState, kind: number, address: number, stream: StreamState): void {
  block.release.u16(layout.device, state.code);
  block.release.u16(layout.kind, kind);
  block.release.u64(layout.realm, realm());
  block.release.stream(layout.stream, stream);
  block.release.u64(layout.address, address);
  block.release.callUnlessFailed("Tensor.dispose");
}

/** The pool of one device and realm, and its counters. */
export abstract class Pool {
  protected readonly state: DeviceState;
  /** Bytes that live storages were asked for; borrowed memory is not counted. */
  bytesInUse: number = 0;
  /** The most that bytesInUse has been. */
  peakBytesInUse: number = 0;
  /** Bytes the pool holds, in use or free. */
  bytesReserved: number = 0;
  /** How often memory was taken from the engine or the driver. */
  driverAllocations: number = 0;

  /** Made with the device. */
  constructor(state: DeviceState) {
    this.state = state;
  }

  /** Memory for `bytes`, with whatever it held before, ready for use on the stream. */
  acquire(bytes: number, operation: string, stream: StreamState): Storage {
    const storage = bytes <= largestClass
      ? this.pooled(sizeClass(bytes), operation, stream)
      : this.native("native", bytes, operation, stream);
    storage.bytes = bytes;
    this.bytesInUse += bytes;
    if (this.bytesInUse > this.peakBytesInUse) this.peakBytesInUse = this.bytesInUse;
    return storage;
  }

  /** Takes back the memory of a storage that nobody uses any more. */
  recycle(storage: Storage): void {
    storage.owner = null;
    if (storage.kind === "borrowed" || storage.kind === "foreign") return;
    this.bytesInUse -= storage.bytes;
    this.reclaim(storage);
  }

  /** Gives every free block back. */
  abstract trim(): void;

  /** A stream has ended, and the default stream was ordered after it: its free blocks, if it has any, are the default stream's. */
  abstract adopt(stream: StreamState): void;

  /** A block of a size class, free or new. */
  protected abstract pooled(index: number, operation: string, stream: StreamState): Storage;

  /** Keeps a block for the next use, or gives it back. */
  protected abstract reclaim(storage: Storage): void;

  /** A block of the C library. */
  protected native(kind: StorageKind, bytes: number, operation: string, stream: StreamState): Storage {
    const address = takeMemory(this.state, enums.MEMORY_DEVICE, bytes, operation, stream);
    this.bytesReserved += bytes;
    return new Storage(this.state, kind, { bytes, capacity: bytes, address, buffer: null, byteOffset: 0 });
  }

  /** Gives a block of native() back. */
  protected releaseNative(storage: Storage, stream: StreamState): void {
    this.bytesReserved -= storage.capacity;
    giveMemory(this.state, enums.MEMORY_DEVICE, storage.address, stream);
  }
}
