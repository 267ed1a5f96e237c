// A piece of memory that tensors view. Counted by the tensors on it and by the graphs that recorded a use of it; with the last one gone it
// returns to where it came from.
import { RopeArgumentError } from "../errors.ts";
import { library } from "../native/library.ts";
import type { DeviceState } from "./state.ts";
import type { StreamState } from "./stream_state.ts";

/**
 * Where memory came from, and so where it goes: "pooled" blocks back to the pool, "native" memory of rope_memory_allocate to C; "borrowed"
 * arrays and "foreign" addresses stay their owner's.
 */
export type StorageKind = "pooled" | "native" | "borrowed" | "foreign";

/** Memory of one device. */
export class Storage {
  readonly state: DeviceState;
  readonly kind: StorageKind;
  /** What the pool reserved; 0 for memory that is not the pool's. */
  readonly capacity: number;
  /** Bytes asked for. */
  bytes: number;
  /** Where byte 0 lies. */
  address: number;
  /** The memory as JavaScript has it; null for native and foreign memory, which gets views on demand. */
  buffer: ArrayBufferLike | null;
  /** Where byte 0 lies in the buffer. */
  byteOffset: number;
  /** Whether JavaScript code outside has the buffer, and so may have detached it. */
  exposed: boolean;
  /** Kept alive as long as this. */
  owner: unknown = null;

  #references = 0;
  #bufferBytes = 0;
  #views: ArrayBuffer[] | null = null;
  // CUDA: who wrote here last, and who has read it since on another stream. One reader waits for the writer only, so that streams can read
  // the same memory at once; a writer waits for all of them. The writer's own stream may read too: its order is given.
  #home: StreamState | null = null;
  #writer: StreamState | null = null;
  #readers: StreamState[] | null = null;

  /** Made by the pool and by the makers of borrowed and foreign tensors. */
  constructor(state: DeviceState, kind: StorageKind, memory: {
    readonly bytes: number;
    readonly capacity: number;
    readonly address: number;
    readonly buffer: ArrayBufferLike | null;
    readonly byteOffset: number;
  }) {
    this.state = state;
    this.kind = kind;
    this.bytes = memory.bytes;
    this.capacity = memory.capacity;
    this.address = memory.address;
    this.buffer = memory.buffer;
    this.byteOffset = memory.byteOffset;
    this.exposed = kind === "borrowed";
    this.#bufferBytes = memory.buffer?.byteLength ?? 0;
  }

  /** One more user. */
  retain(): void {
    this.#references++;
  }

  /** One user less; the last one lets the memory go. */
  release(): void {
    if (--this.#references > 0) return;
    if (this.#views !== null) {
      for (const view of this.#views) detach(view);
      this.#views = null;
    }
    const { state } = this;
    if (state.queued && state.recording !== null) state.recording.defer(this);
    else state.pool.recycle(this);
  }

  /** Whether the buffer was detached by its owner: transferred, or posted to a Worker. */
  get detached(): boolean {
    return this.exposed && this.buffer !== null && this.buffer.byteLength !== this.#bufferBytes;
  }

  /** CUDA: the memory was taken from the free list of a stream, or allocated in its order. */
  begin(stream: StreamState): void {
    this.#home = stream;
    this.#writer = stream;
  }

  /** Work that is about to be queued on `stream` touches this memory. Called for every tensor of every operation. */
  use(stream: StreamState, written: boolean): void {
    const { recording, queued } = this.state;
    if (recording !== null && recording.stream === stream) recording.keep(this, written);
    else if (queued && (stream !== this.#writer || this.#readers !== null)) this.#order(stream, written);
  }

  /** CUDA: orders all work that touches this memory before what is queued next on its home stream, which is returned. */
  settle(): StreamState {
    const home = this.#home?.live ? this.#home : this.state.defaultStream;
    this.#waitForUsers(home);
    return home;
  }

  #order(stream: StreamState, written: boolean): void {
    if (stream.state !== this.state) return; // the call is about to be refused: its tensors are of two devices
    if (written) {
      this.#waitForUsers(stream);
      this.#writer = stream;
    } else if (stream !== this.#writer) {
      const readers = this.#readers ??= [];
      if (readers.includes(stream)) return;
      if (this.#writer !== null) stream.waitFor(this.#writer);
      readers.push(stream);
    }
  }

  #waitForUsers(stream: StreamState): void {
    if (this.#writer !== null) stream.waitFor(this.#writer);
    if (this.#readers !== null) {
      for (const reader of this.#readers) stream.waitFor(reader);
      this.#readers = null;
    }
  }

  /** `bytes` of this memory from `offset` on as JavaScript sees them, for `data`. They are detached when the storage is released. */
  expose(operation: string, offset: number, bytes: number): { readonly buffer: ArrayBufferLike; readonly byteOffset: number } {
    if (this.buffer !== null) {
      this.exposed = true;
      return { buffer: this.buffer, byteOffset: this.byteOffset + offset };
    }
    if (bytes === 0) return { buffer: new ArrayBuffer(0), byteOffset: 0 };
    let view;
    try {
      view = library().view(this.address + offset, bytes);
    } catch (cause) {
      if (!(cause instanceof RangeError)) throw cause;
      throw tooLarge(operation, bytes, "Take the data of slices, or use read().", cause);
    }
    (this.#views ??= []).push(view);
    return { buffer: view, byteOffset: 0 };
  }

  /** Frees the buffer now rather than when it is collected, as far as the engine does. */
  drop(): void {
    if (this.buffer instanceof ArrayBuffer) detach(this.buffer);
    this.buffer = null;
  }

  /** Puts the memory into a new ArrayBuffer, so that every array that outside code made of the old one has length 0. */
  renew(): void {
    if (!(this.buffer instanceof ArrayBuffer)) return;
    this.buffer = this.buffer.transfer();
    this.address = library().address(new Uint8Array(this.buffer)) + this.byteOffset;
    this.exposed = false;
  }
}

/** Empties an ArrayBuffer: memory of the engine's own is freed, native memory that it aliases is not. */
function detach(view: ArrayBuffer): void {
  if (!view.detached) view.transfer(0);
}

/** The error of bytes that no ArrayBuffer holds. */
export function tooLarge(operation: string, bytes: number, advice: string, cause: unknown): RopeArgumentError {
  const expected = "no larger than an ArrayBuffer can be";
  return new RopeArgumentError({ operation, argument: "this tensor", expected, actual: `${bytes} bytes`, advice, cause });
}
