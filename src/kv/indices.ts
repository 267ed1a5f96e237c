// Tables of small integers: a live tensor is taken as it is, what stands on the host becomes a temporary tensor, checked entry by entry.
import { argumentError } from "../arguments.ts";
import type { DeviceState } from "../device/state.ts";
import { checkHostArray, isHostArray, uploadIntegers } from "../rope/positions.ts";
import { checkTensor, geometryOf } from "../tensor/operations.ts";
import { Tensor } from "../tensor/tensor.ts";

/** What an entry must be, of those that cannot be. */
export type EntryCheck = (value: number, index: number) => string | undefined;

/** The tensors of a call. One object for an operation: it is emptied after every call. */
export class Tables {
  readonly #made: Tensor[] = [];

  /** A tensor as it is, or one made of an array for this call, on the device's current stream. */
  take(operation: string, argument: string, given: unknown, state: DeviceState, check: EntryCheck): Tensor {
    if (given instanceof Tensor) return checkTensor(operation, argument, given);
    const tensor = uploadIntegers(operation, argument, checkHostArray(operation, argument, given, state), state, check);
    this.#made.push(tensor);
    return tensor;
  }

  /** Disposes of what was made. */
  release(): void {
    for (const tensor of this.#made) tensor.dispose();
    this.#made.length = 0;
  }
}

/** The entries of a table on the host; undefined where only the device knows them. */
export function onHost(given: unknown): ArrayLike<number | bigint> | undefined {
  return given instanceof Tensor ? undefined : given as ArrayLike<number | bigint>;
}

/** An entry of a table on the host that has been checked; 0 beyond its end. */
export function entry(values: ArrayLike<number | bigint>, index: number): number {
  return Number(values[index] ?? 0);
}

/** How many entries a table has; infinitely many where that is not known. */
export function countOf(operation: string, argument: string, given: unknown): number {
  if (!(given instanceof Tensor)) return isHostArray(given) ? given.length : Infinity;
  const { shape } = geometryOf(checkTensor(operation, argument, given));
  return shape.length === 1 ? shape[0] ?? 0 : Infinity;
}

/** An indptr: entries from 0 or more that never decrease, to at most `most` of `what`. */
export function risingTo(most: number, what: string): EntryCheck {
  let previous = 0;
  return (value, index) => {
    if (value < previous) return index === 0 ? "at least 0" : `at least the entry before it, ${previous}`;
    if (value > most) return `at most ${most}, the number of ${what}`;
    previous = value;
    return undefined;
  };
}

/** Page ids of a cache. `ends` is the indptr where it is on the host: those behind the last request's are nobody's, and may be anything. */
export function pageIdIn(numPages: number, ends: ArrayLike<number | bigint> | undefined): EntryCheck {
  const used = ends === undefined ? Infinity : entry(ends, ends.length - 1);
  return (value, index) => index >= used || (value >= 0 && value < numPages) ? undefined : `a page of the cache, ${upTo(numPages)}`;
}

/** The number of requests that an indptr tells apart: one less than it has entries. */
export function requestsOf(operation: string, argument: string, indptr: unknown): number {
  const count = countOf(operation, argument, indptr);
  if (count === 0) throw argumentError(operation, argument, "one entry more than there are requests", "none");
  return count - 1;
}

/** The length of each request's last page: 1 to pageSize, 0 exactly where it has no pages. `ends` is the indptr where it is on the host. */
export function lastPageIn(pageSize: number, ends: ArrayLike<number | bigint> | undefined): EntryCheck {
  return (value, index) => {
    const pages = ends === undefined ? undefined : entry(ends, index + 1) - entry(ends, index);
    if (pages === 0) return value === 0 ? undefined : "0, for the request has no pages";
    if (pages === undefined && value === 0) return undefined;
    return value >= 1 && value <= pageSize ? undefined : `1 to ${pageSize}, the places of a page`;
  };
}

/** Refuses a table on the host that has not an entry for each request. */
export function checkPerRequest(operation: string, argument: string, given: unknown, requests: number): void {
  const count = isHostArray(given) ? given.length : requests; // what is no table at all is told where it is taken
  if (count !== requests && requests !== Infinity) {
    throw argumentError(operation, argument, `${requests} numbers, one for each request`, String(count));
  }
}

/** "0 to 7" */
export function upTo(count: number): string {
  return count > 0 ? `0 to ${count - 1}` : "of which there are none";
}
