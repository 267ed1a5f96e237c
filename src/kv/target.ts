// Where appended tokens go: the public forms, and the tensors that the pipeline takes.
import { argumentError } from "../arguments.ts";
import type { DeviceState } from "../device/state.ts";
import { checkRecord, type Indices } from "../rope/options.ts";
import type { ResolvedTarget } from "../rope/pipeline.ts";
import { stateOf } from "../tensor/operations.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { CachePages } from "./cache.ts";
import { countOf, entry, type EntryCheck, onHost, pageIdIn, requestsOf, risingTo, Tables, upTo } from "./indices.ts";

/** Tokens that go to places in the pages of their requests: FlashInfer's form. Tensors are int32 or int64. */
export interface PageTarget {
  /** [requests + 1]: request b has the pages indices[indptr[b]] .. indices[indptr[b + 1] - 1], for its places 0, 1, 2 ... */
  readonly indptr: Indices;
  /** Page ids. */
  readonly indices: Indices;
  /** [nnz]: the request of each token; -1 skips the token. {@linkcode getBatchIndicesPositions} makes them. */
  readonly batchIndices: Indices;
  /** [nnz]: the place of each token in its request, from 0 on. In calls that rotate also its position, unless the options say another. */
  readonly positions: Indices;
  /** Not in this form. */
  readonly slotMapping?: undefined;
}

/** Tokens that go to slots of the cache: vLLM's form. */
export interface SlotTarget {
  /** int64 or int32 [nnz]: page * pageSize + place in the page; -1 skips the token. */
  readonly slotMapping: Indices;
  /** Not in this form. */
  readonly indptr?: undefined;
  /** Not in this form. */
  readonly indices?: undefined;
  /** Not in this form. */
  readonly batchIndices?: undefined;
  /** Not in this form: positions to rotate by go into the options. */
  readonly positions?: undefined;
}

/**
 * Where the tokens of a call go in a paged cache, by page table or by slots. Arrays on the host are uploaded for the call and checked: an
 * entry that cannot be is a RopeArgumentError, and nothing is written. In tensors it is a RopeFaultError, and only that token is not
 * written.
 */
export type AppendTarget = PageTarget | SlotTarget;

const pageKeys = ["indptr", "indices", "batchIndices", "positions"];
const keys = [...pageKeys, "slotMapping"];

/** The tensors of a target. One object for an operation, resolved before its call and released after it. */
export class TargetTables implements ResolvedTarget {
  slots: Tensor | null = null;
  indptr: Tensor | null = null;
  indices: Tensor | null = null;
  batchIndices: Tensor | null = null;
  places: Tensor | null = null;
  readonly #tables = new Tables();

  /**
   * Takes the target of a call with `tokens` tokens into a cache, on the current stream of the cache's device. Release it also where this
   * throws.
   */
  resolve(operation: string, where: unknown, pages: CachePages, tokens: number): void {
    const forms = `an object with ${pageKeys.slice(0, -1).join(", ")} and positions, or with slotMapping`;
    const given = checkRecord(operation, "where", where, keys, forms);
    const named = keys.filter((key) => given[key] !== undefined);
    const slots = given["slotMapping"] !== undefined;
    if (named.length === 0 || (slots && named.length > 1)) {
      const advice = slots ? "Positions to rotate by go into the options." : undefined;
      throw argumentError(operation, "where", forms, named.length === 0 ? "none of them" : `one with ${named.join(" and ")}`, advice);
    }
    const state = stateOf(pages.k);
    if (slots) this.#resolveSlots(operation, given["slotMapping"], pages, tokens, state);
    else this.#resolvePages(operation, given, pages, tokens, state);
  }

  #resolveSlots(operation: string, slotMapping: unknown, pages: CachePages, tokens: number, state: DeviceState): void {
    const slots = pages.numPages * pages.pageSize;
    const check: EntryCheck = (value) =>
      value >= -1 && value < slots ? undefined : `a slot of the cache, ${upTo(slots)}, or -1 to skip the token`;
    this.slots = this.#perToken(operation, "where.slotMapping", slotMapping, tokens, state, check);
  }

  #resolvePages(operation: string, given: Record<string, unknown>, pages: CachePages, tokens: number, state: DeviceState): void {
    const { indptr, indices, batchIndices, positions } = given;
    const { numPages, pageSize } = pages;
    const ids = countOf(operation, "where.indices", indices);
    const requests = requestsOf(operation, "where.indptr", indptr);
    this.indptr = this.#tables.take(operation, "where.indptr", indptr, state, risingTo(ids, "page ids"));
    const ends = onHost(indptr);
    this.indices = this.#tables.take(operation, "where.indices", indices, state, pageIdIn(numPages, ends));
    this.batchIndices = this.#perToken(operation, "where.batchIndices", batchIndices, tokens, state, (value) => {
      return value >= -1 && value < requests ? undefined : `a request, ${upTo(requests)}, or -1 to skip the token`;
    });
    const owners = onHost(batchIndices);
    this.places = this.#perToken(operation, "where.positions", positions, tokens, state, (value, index) => {
      const request = owners === undefined ? -1 : entry(owners, index);
      if (request < 0) return undefined;
      const places = ends === undefined ? Infinity : (entry(ends, request + 1) - entry(ends, request)) * pageSize;
      if (value >= 0 && value < places) return undefined;
      return places === Infinity ? "a place, 0 or more" : `a place in the pages of request ${request}, ${upTo(places)}`;
    });
  }

  #perToken(operation: string, argument: string, given: unknown, tokens: number, state: DeviceState, check: EntryCheck): Tensor {
    const count = countOf(operation, argument, given);
    const tensor = this.#tables.take(operation, argument, given, state, check);
    if (count === tokens || onHost(given) === undefined) return tensor; // a tensor's shape is the C library's to check
    throw argumentError(operation, argument, `${tokens} numbers, one for each token`, String(count));
  }

  /** Lets go of the tensors, and disposes of those that were made of arrays. */
  release(): void {
    this.slots =
      this.indptr =
      this.indices =
      this.batchIndices =
      this.places =
        null;
    this.#tables.release();
  }
}
