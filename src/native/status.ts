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
import { enums, layouts } from "./layouts.ts";

const layout = layouts.error;
const buffer = new ArrayBuffer(layout.size);
const view = new DataView(buffer);
const decoder = new TextDecoder();

/** The record that every call passes as its second argument. */
export const errorRecord: Uint8Array = new Uint8Array(buffer);
view.setUint32(0, layout.size, true);

/** The name in TypeScript of a field of a block: head_dim is headDim, q_out is out[0]. An operation on one tensor calls it x. */
export function publicName(field: string, operation: string): string {
  if (operation === "RotaryEmbedding.rotate") {
    if (field === "q") return "x";
    if (field === "q_out") return "out";
  }
  if (field === "q_out") return "out[0]";
  if (field === "k_out") return "out[1]";
  return camelCase(field);
}

function camelCase(name: string): string {
  return name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

/** The error that `status` and the record tell of, for the public operation. */
export function nativeError(status: number, operation: string): RopeError {
  const details: RopeErrorDetails = {
    operation,
    argument: publicName(text(layout.argument, layout.expected), operation),
    expected: text(layout.expected, layout.actual),
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
      return faultError(operation);
    case enums.OUT_OF_MEMORY:
      return outOfMemory(operation, u64(layout.requested), 0, 0, u64(layout.available));
    case enums.FATAL:
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

function faultError(operation: string): RopeFaultError {
  const at = layout.fault;
  const code = view.getUint32(at + layouts.fault.code, true);
  const fault: Fault = {
    code: code === enums.FAULT_POSITION ? "position" : code === enums.FAULT_INDPTR ? "indptr" : `fault ${code}`,
    // A graph's fault names the operation inside it: rope_cos_sin is cosSin.
    operation: operation === "Graph.launch" ? camelCase(text(layout.operation, layout.argument).replace(/^rope_/, "")) : operation,
    request: i64(at + layouts.fault.request),
    index: i64(at + layouts.fault.index),
    value: i64(at + layouts.fault.value),
    limit: i64(at + layouts.fault.limit),
  };
  if (code === enums.FAULT_INDPTR) {
    const message =
      `entry ${fault.index} of indptr is ${fault.value}, where entries rise from 0 to at most ${fault.limit}; only rows of sound requests are written`;
    return new RopeFaultError({ operation, argument: "indptr", message, fault });
  }
  const token = `token ${fault.index} in request ${fault.request}`;
  const met = Math.abs(fault.value) < 2 ** 63 // the C library's largest int64 stands for everything beyond
    ? `the ${fault.code} ${fault.value} of ${token} is beyond the limit of ${fault.limit}`
    : `the ${fault.code} of ${token} is beyond +-2^63 or infinite, where the limit is ${fault.limit}`;
  // No argument is named: the position may have come from positions, from offset or from offsets.
  return new RopeFaultError({ operation, message: `${met}; its row has not been written`, fault });
}

function text(from: number, to: number): string {
  let end = from;
  while (end < to && errorRecord[end] !== 0) end++;
  return decoder.decode(errorRecord.subarray(from, end));
}

function u64(offset: number): number {
  return view.getUint32(offset, true) + view.getUint32(offset + 4, true) * 2 ** 32;
}

function i64(offset: number): number {
  return view.getUint32(offset, true) + view.getInt32(offset + 4, true) * 2 ** 32;
}
