// Pinned host memory, which the GPU copies into while this thread does something else: read() goes through it. Taking it from the driver is
// slow, so some of it is kept, by size class, until trim().
import { enums } from "../native/layouts.ts";
import { classBytes, giveMemory, largestClass, listOf, sizeClass, takeMemory } from "./pool.ts";
import type { DeviceState } from "./state.ts";

const most = 256 * 2 ** 20;

/** A block of pinned memory. */
export interface Pinned {
  readonly address: number;
  readonly capacity: number;
}

/** The pinned memory of a GPU in one realm. */
export class Staging {
  readonly #state: DeviceState;
  readonly #free: Pinned[][] = [];
  #freeBytes = 0;

  /** Made with the device. */
  constructor(state: DeviceState) {
    this.#state = state;
  }

  /** A block for `bytes`, which are not 0. */
  acquire(bytes: number, operation: string): Pinned {
    if (bytes > largestClass) return this.#fresh(bytes, operation);
    const index = sizeClass(bytes);
    const pinned = listOf(this.#free, index).pop();
    if (pinned === undefined) return this.#fresh(classBytes(index), operation);
    this.#freeBytes -= pinned.capacity;
    return pinned;
  }

  /** Takes a block back that nothing copies into any more. */
  recycle(pinned: Pinned): void {
    if (this.#freeBytes + pinned.capacity > most) return this.#release(pinned);
    this.#freeBytes += pinned.capacity;
    listOf(this.#free, sizeClass(pinned.capacity)).push(pinned);
  }

  /** Gives the free blocks back to the driver. */
  trim(): void {
    for (const list of this.#free) {
      for (const pinned of list) this.#release(pinned);
      list.length = 0;
    }
    this.#freeBytes = 0;
  }

  #fresh(capacity: number, operation: string): Pinned {
    return { address: takeMemory(this.#state, enums.MEMORY_PINNED, capacity, operation, this.#state.defaultStream), capacity };
  }

  #release({ address }: Pinned): void {
    giveMemory(this.#state, enums.MEMORY_PINNED, address, this.#state.defaultStream);
  }
}
