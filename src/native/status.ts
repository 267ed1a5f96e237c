// From a rope_status and the error record to the RopeError that the caller sees. The record is one per realm: calls are synchronous.
import {
  type Fault,
  RopeArgumentError,
  RopeDeviceError,
  RopeDisposedError,
  RopeError,
  type RopeErrorDetails,
  RopeFatalError,
  RopeFaultError,
  RopeOutOfMemoryError,
} from "../errors.ts";
import { faultText, faultWord } from "./faults.ts";
import { enums, layouts } from "./layouts.ts";
import type { SymbolName } from "./symbols.ts";

/** What fields of a block are called in TypeScript. */
export type FieldNames = Readonly<Record<string, string>>;

const layout = layouts.error;
const buffer = new ArrayBuffer(layout.size);
const view = new DataView(buffer);
const decoder = new TextDecoder();

/** The record that every call passes as its second argument. */
export const errorRecord: Uint8Array = new Uint8Array(buffer);
view.setUint32(0, layout.size, true);

// What TypeScript calls a field of a block where that is not its name in camelCase, by the operations that have it. The first line that
// fits counts.
const names: readonly (readonly [operations: RegExp, fields: FieldNames])[] = [
  [/\.rotate$/, { q: "x", q_out: "out" }],
  [/^appendPagedMLAKVCache$/, { k: "kpe", k_rest: "ckv" }],
  [/^mlaRope/, { q: "qRope", k: "kRope" }],
  [/^ropeQuantizeFp8Append/, {
    q_out: "out.q",
    q_rest: "qNope",
    q_rest_out: "out.qNope",
    k_rest: "kNope",
    q_factor: "quantScaleQ",
    k_factor: "quantScaleKv",
    v_factor: "quantScaleKv",
  }],
  [/QuantizeFp8$/, {
    q_out: "out.q",
    k_out: "out.k",
    q_rest: "qNope",
    k_rest: "kNope",
    q_rest_out: "out.qNope",
    k_rest_out: "out.kNope",
    q_factor: "quantScaleQ",
    k_factor: "quantScaleKv",
  }],
  [/^applyRopeWithCosSinCache/, { cos: "cache", sin: "cache[1]" }],
  [/append/i, {
    q_out: "out",
    k_out: "cache",
    v_out: "cache",
    k_rest_out: "cache",
    q_factor: "scaleQ",
    k_factor: "scaleK",
    v_factor: "scaleV",
  }],
  [/^shift/, {
    page_indptr: "pageTable.indptr",
    page_indices: "pageTable.indices",
    last_page_len: "pageTable.lastPageLen",
    deltas: "delta",
  }],
  [/^(getS|s)eqLens$/, { page_indptr: "indptr" }],
  [/^(getB|b)atchIndices/, { batch_indices: "batchIndices", places: "positions" }],
  [/^/, {
    q_out: "out[0]",
    k_out: "out[1]",
    page_indptr: "where.indptr",
    page_indices: "where.indices",
    batch_indices: "where.batchIndices",
    places: "where.positions",
    slots: "where.slotMapping",
    cos: "cosSinCache",
    sin: "cosSinCache[1]",
    q_weight: "qNorm.weight",
    k_weight: "kNorm.weight",
    q_eps: "qNorm.eps",
    k_eps: "kNorm.eps",
  }],
];

/** The name in TypeScript of a field of a block: head_dim is headDim, q_out is out[0]. An operation on one tensor calls it x. */
export function publicName(field: string, operation: string): string {
  return namedApart(field, operation) ?? camelCase(field);
}

function namedApart(field: string, operation: string): string | undefined {
  for (const [operations, fields] of names) {
    if (Object.hasOwn(fields, field) && operations.test(operation)) return fields[field];
  }
  return undefined;
}

/** A phrase of the C library, with the arguments that it compares with under their names in TypeScript: "memory apart from page_indptr". */
function publicPhrase(phrase: string, operation: string): string {
  return phrase.replace(/\b(as|for|from|like|of) ([a-z_]+)\b/g, (_, link: string, word: string) => {
    return `${link} ${namedApart(word, operation) ?? word}`;
  });
}

function camelCase(name: string): string {
  return name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

let failed = false;

/** Whether any device of this realm has been seen to have failed for good. */
export function sawFailure(): boolean {
  return failed;
}

/**
 * The error that `status` and the record tell of, for the public operation. `symbol` is the function that was called, where it was not a
 * wait for the work of others.
 */
export function nativeError(status: number, operation: string, symbol: SymbolName | "" = "", own: FieldNames = {}): RopeError {
  const field = text(layout.argument, layout.expected);
  const details: RopeErrorDetails = {
    operation,
    argument: own[field] ?? publicName(field, operation),
    expected: publicPhrase(text(layout.expected, layout.actual), operation),
    actual: text(layout.actual, layout.advice),
    advice: text(layout.advice, layout.fault),
  };
  switch (status) {
    case enums.ARGUMENT:
      return new RopeArgumentError(details);
    case enums.DISPOSED:
      return new RopeDisposedError(details);
    case enums.DEVICE:
      return new RopeDeviceError(details);
    case enums.FAULT:
      return faultError(operation, symbol);
    case enums.OUT_OF_MEMORY:
      return outOfMemory(operation, u64(layout.requested), 0, 0, u64(layout.available));
    case enums.FATAL:
      failed = true;
      return new RopeFatalError(details);
    default:
      return new RopeError({
        operation,
        message: `librope failed with status ${status}: ${details.actual || "no details"}`,
        advice: "This is a defect of librope; please report it with the call that led here.",
      });
  }
}

/** The error of memory that is not there, in words and in numbers. */
export function outOfMemory(operation: string, requested: number, inUse: number, reserved: number, free: number): RopeOutOfMemoryError {
  return new RopeOutOfMemoryError({
    operation,
    message: `out of memory: ${requested} bytes were asked for, ${inUse} are in use, ${reserved} reserved, ${free} free`,
    advice: "Dispose of tensors that are no longer needed, or ask for less at a time.",
    requested,
    inUse,
    reserved,
    free,
  });
}

function faultError(operation: string, symbol: SymbolName | ""): RopeFaultError {
  const met = text(layout.operation, layout.argument);
  // A launch of a graph and a wait report what another operation has met.
  const fault = readFault(view, layout.fault, met === symbol ? operation : publicOperation(met));
  return new RopeFaultError({ operation, ...faultText(fault, (field) => publicName(field, fault.operation)), fault });
}

/** An operation that has no public name of its own where it was met, as in a graph: rope_cos_sin is cosSin. */
export function publicOperation(symbol: string): string {
  return camelCase(symbol.replace(/^rope_/, ""));
}

/** The rope_fault at a place of a block, met by `operation`. */
export function readFault(block: DataView, at: number, operation: string): Fault {
  const i64 = (offset: number): number => block.getUint32(at + offset, true) + block.getInt32(at + offset + 4, true) * 2 ** 32;
  return {
    code: faultWord(block.getUint32(at + layouts.fault.code, true)),
    operation,
    request: i64(layouts.fault.request),
    index: i64(layouts.fault.index),
    value: i64(layouts.fault.value),
    limit: i64(layouts.fault.limit),
  };
}

function text(from: number, to: number): string {
  let end = from;
  while (end < to && errorRecord[end] !== 0) end++;
  return decoder.decode(errorRecord.subarray(from, end));
}

function u64(offset: number): number {
  return view.getUint32(offset, true) + view.getUint32(offset + 4, true) * 2 ** 32;
}
