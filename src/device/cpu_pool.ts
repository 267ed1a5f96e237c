// The CPU's memory: ArrayBuffers aligned to 64 bytes. Work on them is done when its call returns, so that streams do not matter here.
import { library } from "../native/library.ts";
import { classBytes, listOf, Pool, sizeClass } from "./pool.ts";
import type { DeviceState } from "./state.ts";
import { Storage } from "./storage.ts";
import type { StreamState } from "./stream_state.ts";

const alignment = 64;
const alwaysKept = 512 * 2 ** 20;

/** The pool of the CPU in one realm. */
export class CpuPool extends Pool {
  readonly #alwaysKept: number;
  readonly #free: Storage[][] = [];
  #freeBytes = 0;

  /** Made with the device. Up to `keep` free bytes are kept whatever is in use: 512 MiB but in tests. */
  constructor(state: DeviceState, keep: number = alwaysKept) {
    super(state);
    this.#alwaysKept = keep;
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

  /** Free buffers belong to no stream. */
  adopt(): void {}

  protected pooled(index: number, operation: string, stream: StreamState): Storage {
    const storage = listOf(this.#free, index).pop();
    if (storage === undefined) return this.#fresh(classBytes(index), operation, stream);
    this.#freeBytes -= storage.capacity;
    return storage;
  }

  protected reclaim(storage: Storage): void {
    if (storage.kind === "native") {
      this.releaseNative(storage, this.state.defaultStream);
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
    listOf(this.#free, sizeClass(storage.capacity)).push(storage);
  }

  #fresh(capacity: number, operation: string, stream: StreamState): Storage {
    let buffer: ArrayBuffer;
    try {
      buffer = new ArrayBuffer(capacity + alignment);
    } catch {
      return this.native("native", capacity, operation, stream); // the engine's own limit may be lower than the machine's
    }
    const address = library().address(new Uint8Array(buffer));
    const byteOffset = (alignment - address % alignment) % alignment;
    this.bytesReserved += capacity;
    this.driverAllocations++;
    return new Storage(this.state, "pooled", { bytes: 0, capacity, address: address + byteOffset, buffer, byteOffset });
  }
}
