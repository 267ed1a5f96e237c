// The CPU's memory: ArrayBuffers by size class, aligned to 64 bytes, reused when their last tensor is disposed of. What is larger than an
// ArrayBuffer can safely be comes from the C library and goes straight back to it.
import { RopeOutOfMemoryError } from "../errors.ts";
import { Block } from "../native/block.ts";
import { layouts } from "../native/layouts.ts";
import { library } from "../native/library.ts";
import { realm } from "../native/realm.ts";
import { outOfMemory } from "../native/status.ts";
import type { DeviceState } from "./state.ts";
import { Storage } from "./storage.ts";

const alignment = 64;
const largestBuffer = 2 ** 31;
const alwaysKept = 512 * 2 ** 20;

/**
 * Classes are 64 bytes and then four per octave: 80, 96, 112, 128, 160, ... so that at most a fifth of a buffer is unused. Of 1 to 2^31 bytes.
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

const block = {
  allocate: new Block(layouts.memory_args, "rope_memory_allocate"),
  release: new Block(layouts.memory_args, "rope_memory_release"),
};

/** The pool of one device and realm, and its counters. */
export class CpuPool {
  readonly #state: DeviceState;
  readonly #alwaysKept: number;
  readonly #free: Storage[][] = [];
  #freeBytes = 0;
  /** Bytes that live storages were asked for; borrowed memory is not counted. */
  bytesInUse: number = 0;
  /** The most that bytesInUse has been. */
  peakBytesInUse: number = 0;
  /** Bytes the pool holds, in use or free. */
  bytesReserved: number = 0;
  /** Buffers ever made. */
  driverAllocations: number = 0;

  /** Made with the device. Up to `keep` free bytes are kept whatever is in use: 512 MiB but in tests. */
  constructor(state: DeviceState, keep: number = alwaysKept) {
    this.#state = state;
    this.#alwaysKept = keep;
  }

  /** Memory for `bytes`, with whatever it held before. */
  acquire(bytes: number, operation: string): Storage {
    const storage = bytes <= largestBuffer ? this.#pooled(bytes, operation) : this.#retried(bytes, operation);
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
    if (storage.kind === "native") {
      this.bytesReserved -= storage.capacity;
      this.#releaseNative(storage.address);
      return;
    }
    if (storage.exposed) {
      try {
        if (storage.detached) throw new Error("the memory is gone with its buffer");
        storage.renew();
        if (storage.address % alignment !== 0) throw new Error("the engine has moved the memory");
      } catch {
        this.bytesReserved -= storage.capacity; // outside code has taken the buffer or holds it fast: it is theirs now
        return;
      }
    }
    // As much as is in use, or 512 MiB: what a peak left behind does not stay with the process for good.
    if (this.#freeBytes + storage.capacity > Math.max(this.#alwaysKept, this.bytesInUse)) {
      this.bytesReserved -= storage.capacity;
      storage.drop();
      return;
    }
    this.#freeBytes += storage.capacity;
    this.#list(sizeClass(storage.capacity)).push(storage);
  }

  /** Drops every free buffer. */
  trim(): void {
    for (const list of this.#free) {
      for (const storage of list) {
        this.bytesReserved -= storage.capacity;
        storage.drop();
      }
      list.length = 0;
    }
    this.#freeBytes = 0;
  }

  #list(index: number): Storage[] {
    while (this.#free.length <= index) this.#free.push([]);
    return this.#free[index] ?? [];
  }

  #pooled(bytes: number, operation: string): Storage {
    const index = sizeClass(bytes);
    const storage = this.#list(index).pop();
    if (storage === undefined) return this.#fresh(classBytes(index), operation);
    this.#freeBytes -= storage.capacity;
    return storage;
  }

  #fresh(capacity: number, operation: string): Storage {
    let buffer: ArrayBuffer;
    try {
      buffer = new ArrayBuffer(capacity + alignment);
    } catch {
      return this.#retried(capacity, operation); // the engine's own limit may be lower than the machine's
    }
    const address = library().address(new Uint8Array(buffer));
    const byteOffset = (alignment - address % alignment) % alignment;
    this.bytesReserved += capacity;
    this.driverAllocations++;
    return new Storage(this.#state, "pooled", { bytes: 0, capacity, address: address + byteOffset, buffer, byteOffset });
  }

  /** Native memory; where there is none, once more with the free buffers dropped. */
  #retried(bytes: number, operation: string): Storage {
    try {
      return this.#native(bytes, operation);
    } catch (error) {
      if (!(error instanceof RopeOutOfMemoryError)) throw error;
    }
    this.trim();
    try {
      return this.#native(bytes, operation);
    } catch (error) {
      if (!(error instanceof RopeOutOfMemoryError)) throw error;
      throw outOfMemory(operation, bytes, this.bytesInUse, this.bytesReserved, error.free);
    }
  }

  #native(bytes: number, operation: string): Storage {
    const layout = layouts.memory_args;
    block.allocate.u16(layout.device, this.#state.code);
    block.allocate.u64(layout.realm, realm());
    block.allocate.u64(layout.bytes, bytes);
    block.allocate.call(operation);
    this.bytesReserved += bytes;
    this.driverAllocations++;
    return new Storage(this.#state, "native", {
      bytes,
      capacity: bytes,
      address: block.allocate.getU64(layout.address),
      buffer: null,
      byteOffset: 0,
    });
  }

  #releaseNative(address: number): void {
    const layout = layouts.memory_args;
    block.release.u16(layout.device, this.#state.code);
    block.release.u64(layout.realm, realm());
    block.release.u64(layout.address, address);
    block.release.call("Tensor.dispose");
  }
}
