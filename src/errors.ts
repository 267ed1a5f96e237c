// Every error of librope. Each says which operation failed, which argument was at fault, what was expected, what came instead and how to
// put it right; none prints an address.

/** What an error is made from. `message`, where given, replaces the sentence made from the other fields. */
export interface RopeErrorDetails {
  /** The public operation that failed: "applyRope", "Tensor.slice". */
  readonly operation: string;
  /** The argument at fault. */
  readonly argument?: string | undefined;
  /** What it must be, as a noun phrase: "an integer of at least 0". */
  readonly expected?: string | undefined;
  /** What came instead, as a noun phrase. */
  readonly actual?: string | undefined;
  /** A full sentence on how to put it right. */
  readonly advice?: string | undefined;
  /** Replaces the sentence made from the other fields; the operation still stands before it and the advice after it. */
  readonly message?: string | undefined;
  /** The error underneath, where there is one. */
  readonly cause?: unknown;
}

function sentence(details: RopeErrorDetails): string {
  const { operation, argument, expected, actual, advice, message } = details;
  let text = `${operation}: `;
  if (message !== undefined) text += message;
  else text += `${argument || "the call"} must be ${expected ?? "valid"}, got ${actual ?? "something else"}`;
  if (!/[.!?]$/.test(text)) text += ".";
  return advice ? `${text} ${advice}` : text;
}

/**
 * The base class of every error that librope throws.
 *
 * @example
 * ```ts
 * import { RopeError, Tensor } from "@librope/rope";
 *
 * try {
 *   Tensor.empty([2, -1]);
 * } catch (error) {
 *   if (!(error instanceof RopeError)) throw error;
 *   console.assert(error.code === "ROPE_ARGUMENT" && error.operation === "Tensor.empty" && error.argument === "shape[1]");
 * }
 * ```
 */
export class RopeError extends Error {
  /** The kind of error as a stable word: "ROPE_ARGUMENT", "ROPE_DISPOSED", "ROPE_FAULT" and so on. */
  readonly code: string;
  /** The public operation that failed. */
  readonly operation: string;
  /** The argument at fault, where there is one. */
  readonly argument: string | undefined;
  /** What was expected of it. */
  readonly expected: string | undefined;
  /** What came instead. */
  readonly actual: string | undefined;

  /** Made by librope; there is no reason to make one elsewhere. */
  constructor(details: RopeErrorDetails, code: string = "ROPE_INTERNAL") {
    super(sentence(details), details.cause === undefined ? undefined : { cause: details.cause });
    this.name = new.target.name;
    this.code = code;
    this.operation = details.operation;
    this.argument = details.argument || undefined;
    this.expected = details.expected;
    this.actual = details.actual;
  }
}

/** An argument that cannot be: a wrong type, dtype, shape, stride, range or overlap. Nothing has been written. Code "ROPE_ARGUMENT". */
export class RopeArgumentError extends RopeError {
  /** Made by librope. */
  constructor(details: RopeErrorDetails) {
    super(details, "ROPE_ARGUMENT");
  }
}

const keepAlive = "Do not use it after dispose() or outside its `using` scope: keep it alive until its last use.";

/** A tensor, stream, event, graph or embedding that was disposed of, or whose memory was taken away. Code "ROPE_DISPOSED". */
export class RopeDisposedError extends RopeError {
  /** Made by librope. */
  constructor(details: RopeErrorDetails) {
    super({ ...details, advice: details.advice || keepAlive }, "ROPE_DISPOSED");
  }
}

/** A device that is not there or cannot be used, or tensors of different devices. Code "ROPE_DEVICE". */
export class RopeDeviceError extends RopeError {
  /** Made by librope. */
  constructor(details: RopeErrorDetails) {
    super(details, "ROPE_DEVICE");
  }
}

/** The first index in the data that was out of range, and where it stood. */
export interface Fault {
  /**
   * What was out of range: "position", or "row" of one that has none in a table of cosines and sines; "indptr" (of tokens). Of paged
   * caches: "request", a batch index; "place" of a token in its request; "page", a page id; "slot"; "pages", an indptr of pages; "shared",
   * a page that stands in a table twice; "length" of a last page or of a sequence.
   */
  readonly code: string;
  /**
   * The operation that met it: the public name of the call; in a graph and on CUDA, where it is not known any more, that of the C library
   * without its prefix: "rotate", "cosSin".
   */
  readonly operation: string;
  /** The batch row or request; of a slot 0. */
  readonly request: number;
  /** The token, or the entry of an indptr or of page ids. */
  readonly index: number;
  /** What stood there. A float position beyond +-2^63, an infinite one too, reads as 2^63 or -(2^63). */
  readonly value: number;
  /** What it was compared with. */
  readonly limit: number;
}

/**
 * An index or position in the data was out of range. The good rows have been written, the bad ones have not. Code "ROPE_FAULT".
 *
 * On the CPU the call itself throws it when it has finished; on CUDA the next synchronise rejects with it, once.
 */
export class RopeFaultError extends RopeError {
  /** What was met, and where. */
  readonly fault: Fault;

  /** Made by librope. */
  constructor(details: RopeErrorDetails & { readonly fault: Fault }) {
    super(details, "ROPE_FAULT");
    this.fault = details.fault;
  }
}

/**
 * There was not enough memory, not even after the pool had given back what it did not use. The pool stays usable. Code
 * "ROPE_OUT_OF_MEMORY".
 */
export class RopeOutOfMemoryError extends RopeError {
  /** Bytes asked for. */
  readonly requested: number;
  /** Bytes that live tensors of the device hold. */
  readonly inUse: number;
  /** Bytes that the pool holds, in use or not. */
  readonly reserved: number;
  /** Bytes that the device still has, as far as it says. */
  readonly free: number;

  /** Made by librope. */
  constructor(
    details: RopeErrorDetails & { readonly requested: number; readonly inUse: number; readonly reserved: number; readonly free: number },
  ) {
    super(details, "ROPE_OUT_OF_MEMORY");
    this.requested = details.requested;
    this.inUse = details.inUse;
    this.reserved = details.reserved;
    this.free = details.free;
  }
}

/** The device failed and stays failed; `device.health()` says so too. Start a new process. Code "ROPE_FATAL". */
export class RopeFatalError extends RopeError {
  /** Made by librope. */
  constructor(details: RopeErrorDetails) {
    super(details, "ROPE_FATAL");
  }
}

/** librope.so was not found, could not be opened, or is of another version than this package. Code "ROPE_LIBRARY". */
export class RopeLibraryError extends RopeError {
  /** Made by librope. */
  constructor(details: RopeErrorDetails) {
    super(details, "ROPE_LIBRARY");
  }
}
