// An argument block: the one struct that a call passes. Made once per operation and realm and reused, so that a call stores a few words and
// allocates nothing. 64-bit fields are written as two 32-bit words (little-endian, as every machine librope runs on): no BigInt.
import type { StreamState } from "../device/stream_state.ts";
import { access } from "../tensor/descriptors.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { library } from "./library.ts";
import { enums } from "./layouts.ts";
import { errorRecord, type FieldNames, nativeError } from "./status.ts";
import type { NativeFunction, SymbolName } from "./symbols.ts";

const word = 2 ** 32;

/** A reusable argument block of one C function. Offsets are those of layouts.ts, in bytes. */
export class Block {
  readonly #symbol: SymbolName;
  readonly #bytes: Uint8Array;
  readonly #halves: Uint16Array;
  readonly #words: Uint32Array;
  readonly #doubles: Float64Array;
  #function: NativeFunction | null = null;
  #stream: StreamState | null = null;

  /** A zeroed block with its size filled in. Opens nothing: the library is opened by the first call(). */
  constructor(layout: { readonly size: number }, symbol: SymbolName) {
    const buffer = new ArrayBuffer((layout.size + 7) & ~7);
    this.#symbol = symbol;
    this.#bytes = new Uint8Array(buffer);
    this.#halves = new Uint16Array(buffer);
    this.#words = new Uint32Array(buffer);
    this.#doubles = new Float64Array(buffer);
    this.#words[0] = layout.size;
  }

  /** Stores a uint8. */
  u8(offset: number, value: number): void {
    this.#bytes[offset] = value;
  }

  /** Stores a uint16; the offset is a multiple of 2. */
  u16(offset: number, value: number): void {
    this.#halves[offset >>> 1] = value;
  }

  /** Stores a uint32; the offset is a multiple of 4. */
  u32(offset: number, value: number): void {
    this.#words[offset >>> 2] = value;
  }

  /** Stores an integer of at most 2^53 as a uint64; the offset is a multiple of 8. */
  u64(offset: number, value: number): void {
    const at = offset >>> 2;
    this.#words[at] = value >>> 0;
    this.#words[at + 1] = value / word;
  }

  /** Stores an integer within +-2^53 as an int64; the offset is a multiple of 8. */
  i64(offset: number, value: number): void {
    const at = offset >>> 2;
    this.#words[at] = value >>> 0;
    this.#words[at + 1] = Math.floor(value / word);
  }

  /** Stores a double; the offset is a multiple of 8. */
  f64(offset: number, value: number): void {
    this.#doubles[offset >>> 3] = value;
  }

  /** The block itself: for a call that runs on another thread, which must have a block of its own. */
  get bytes(): Uint8Array {
    return this.#bytes;
  }

  /** Reads a uint16 back. */
  getU16(offset: number): number {
    return this.#halves[offset >>> 1] ?? 0;
  }

  /** Reads a uint32 back. */
  getU32(offset: number): number {
    return this.#words[offset >>> 2] ?? 0;
  }

  /** Reads a uint64 of at most 2^53 back. */
  getU64(offset: number): number {
    const at = offset >>> 2;
    return (this.#words[at] ?? 0) + (this.#words[at + 1] ?? 0) * word;
  }

  /** Reads a double back. */
  getF64(offset: number): number {
    return this.#doubles[offset >>> 3] ?? 0;
  }

  /** Reads a text that ends in 0, of at most `capacity` bytes, back. */
  getText(offset: number, capacity: number): string {
    const field = this.#bytes.subarray(offset, offset + capacity);
    const end = field.indexOf(0);
    return new TextDecoder().decode(end < 0 ? field : field.subarray(0, end));
  }

  /** Stores the handle of the stream that the call is queued on. The tensors stored after it are marked as used by that stream. */
  stream(offset: number, stream: StreamState): void {
    this.#stream = stream;
    this.u64(offset, stream.handle);
  }

  /** Stores a tensor that is read: its rope_tensor_ref, or zeros for null. Call stream() first. */
  tensor(offset: number, tensor: Tensor | null): void {
    this.#reference(offset, tensor, false);
  }

  /** Stores a tensor that is written. The same but for the streams that use it: several may read it at the same time, one may write it. */
  output(offset: number, tensor: Tensor | null): void {
    this.#reference(offset, tensor, true);
  }

  /** Calls the function. `operation` is the public name that an error carries, `names` what this call alone calls fields of the block. */
  call(operation: string, names?: FieldNames): void {
    const status = this.#run();
    if (status !== 0) throw nativeError(status, operation, this.#symbol, names);
  }

  /** Calls a function that gives something up. That a device has failed for good is no error then: everything went with it. */
  callUnlessFailed(operation: string): void {
    this.#callBut(enums.FATAL, operation);
  }

  /** Calls a function that waits, for the sake of data. A fault is another's to report. */
  callIgnoringFaults(operation: string): void {
    this.#callBut(enums.FAULT, operation);
  }

  #callBut(accepted: number, operation: string): void {
    const status = this.#run();
    if (status !== 0 && status !== accepted) throw nativeError(status, operation, this.#symbol);
  }

  #run(): number {
    const call = this.#function ?? this.#bind();
    const status = call(this.#bytes, errorRecord);
    if (this.#stream !== null) this.#stream.calls++;
    return status;
  }

  #reference(offset: number, tensor: Tensor | null, written: boolean): void {
    const words = this.#words;
    const at = offset >>> 2;
    if (tensor === null) {
      words[at] = 0;
      words[at + 1] = 0;
      words[at + 2] = 0;
    } else {
      access.reference(tensor, words, at);
      if (this.#stream !== null) access.storage(tensor).use(this.#stream, written);
    }
  }

  #bind(): NativeFunction {
    return this.#function = library().functions[this.#symbol];
  }
}
