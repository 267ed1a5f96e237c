// The rope_tensor structs that C reads, in slabs of this realm that never move. A descriptor is written once, when its tensor is made; when
// the tensor is disposed of, its generation changes, so that a stale reference is recognised on both sides of the border.
import type { Storage } from "../device/storage.ts";
import { layouts } from "../native/layouts.ts";
import { library } from "../native/library.ts";
import { log } from "../native/trace.ts";
import { dtypes } from "./dtype.ts";
import type { Geometry } from "./geometry.ts";
import type { Tensor } from "./tensor.ts";

const layout = layouts.tensor;
const slotBytes = Math.ceil(layout.size / 64) * 64;
const slotsPerSlab = 512;
const word = 2 ** 32;

/** A descriptor's place. Reused by one tensor after another, each with a generation of its own. */
export class Slot {
  readonly #words: Uint32Array;
  readonly #bytes: Uint8Array;
  readonly #at: number;
  /** The descriptor's address. */
  readonly low: number;
  readonly high: number;
  /** The generation of the tensor that has the slot now. */
  generation: number = 1;
  /** That tensor's memory; null while the slot is free. */
  storage: Storage | null = null;

  /** The slot at byte `offset` of a slab, seen as words and bytes, that lies at `address`. */
  constructor(words: Uint32Array, bytes: Uint8Array, offset: number, address: number) {
    this.#words = words;
    this.#bytes = bytes;
    this.#at = offset;
    this.low = (address + offset) >>> 0;
    this.high = Math.floor((address + offset) / word);
  }

  /** Describes a tensor of the form `geometry` that begins `offset` bytes into the storage. */
  write(geometry: Geometry, storage: Storage, offset: number): void {
    const words = this.#words;
    const base = this.#at >>> 2;
    const { shape, strides } = geometry;
    const rank = shape.length;
    put(words, base + (layout.data >>> 2), storage.address + offset);
    for (let axis = 0; axis < rank; axis++) {
      put(words, base + (layout.shape >>> 2) + 2 * axis, shape[axis] ?? 0);
      put(words, base + (layout.stride >>> 2) + 2 * axis, strides[axis] ?? 0);
    }
    this.#bytes[this.#at + layout.dtype] = dtypes[geometry.dtype].code;
    this.#bytes[this.#at + layout.rank] = rank;
    this.#bytes[this.#at + layout.device] = storage.state.code & 255;
    this.#bytes[this.#at + layout.device + 1] = storage.state.code >>> 8;
    words[base + (layout.generation >>> 2)] = this.generation;
    put(words, base + (layout.extent >>> 2), storage.bytes - offset);
  }

  /** Makes every reference to the descriptor stale. */
  retire(): void {
    this.generation = (this.generation + 1) >>> 0;
    this.#words[(this.#at + layout.generation) >>> 2] = this.generation;
  }
}

function put(words: Uint32Array, at: number, value: number): void {
  words[at] = value >>> 0;
  words[at + 1] = value / word;
}

const free: Slot[] = [];

function addSlab(): void {
  const slab = new ArrayBuffer(slotBytes * slotsPerSlab);
  const words = new Uint32Array(slab);
  const bytes = new Uint8Array(slab);
  const address = library().address(bytes);
  for (let slot = slotsPerSlab - 1; slot >= 0; slot--) free.push(new Slot(words, bytes, slot * slotBytes, address));
}

// The held value and the token is the slot, which outlives its tensors: registering a tensor allocates nothing that lasts.
const net = new FinalizationRegistry<Slot>((slot) => {
  const { storage } = slot;
  log(
    `a Tensor on ${storage?.state.name} (${storage?.bytes} bytes of ${storage?.kind} memory) was collected that had not been disposed of`,
  );
  releaseSlot(slot);
});

/** A descriptor for a new tensor, which counts as live from now on. */
export function takeSlot(tensor: Tensor, geometry: Geometry, storage: Storage, offset: number): Slot {
  if (free.length === 0) addSlab();
  const slot = free.pop();
  if (slot === undefined) throw new Error("unreachable: a slab was just added");
  storage.retain();
  storage.state.liveTensors++;
  slot.storage = storage;
  slot.write(geometry, storage, offset);
  net.register(tensor, slot, slot);
  return slot;
}

/** Gives a descriptor and its tensor's hold on the memory back. */
export function returnSlot(slot: Slot): void {
  net.unregister(slot);
  releaseSlot(slot);
}

function releaseSlot(slot: Slot): void {
  const { storage } = slot;
  if (storage === null) return;
  slot.retire();
  slot.storage = null;
  free.push(slot);
  storage.state.liveTensors--;
  storage.release();
}

/** How the rest of librope reaches into a Tensor. Set by the class itself; its fields are private. */
export interface TensorAccess {
  /** Makes a tensor of the form `geometry` that begins `offset` bytes into the storage. */
  make(geometry: Geometry, storage: Storage, offset: number): Tensor;
  /** A value that must be a live Tensor with its memory. */
  check(operation: string, argument: string, value: unknown): Tensor;
  /** Writes a rope_tensor_ref. A disposed tensor's is one that C recognises as stale. */
  reference(tensor: Tensor, words: Uint32Array, at: number): void;
  /** The form. */
  geometry(tensor: Tensor): Geometry;
  /** The memory. Only of a live tensor. */
  storage(tensor: Tensor): Storage;
  /** Where in the storage the tensor begins, in bytes. */
  offset(tensor: Tensor): number;
}

/** Filled when tensor.ts is loaded. */
export const access: TensorAccess = {} as TensorAccess;
