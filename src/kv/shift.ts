// Cached keys turned on to other positions: what a context that loses its oldest tokens, or gets some put before it, needs.
import { argumentError, checkInteger, describe } from "../arguments.ts";
import { resolveStream, type Stream } from "../device/stream.ts";
import { Block } from "../native/block.ts";
import { enums, layouts } from "../native/layouts.ts";
import { type RotaryEmbedding, settingOf } from "../rope/embedding.ts";
import { checkCallOptions, checkRecord, type Indices } from "../rope/options.ts";
import { dtypes } from "../tensor/dtype.ts";
import { denseGeometry } from "../tensor/geometry.ts";
import { allocate, geometryOf, stateOf } from "../tensor/operations.ts";
import { Tensor } from "../tensor/tensor.ts";
import { cachePages, type PagedKVCache, type PagedMLACache } from "./cache.ts";
import { checkPerRequest, countOf, entry, lastPageIn, onHost, pageIdIn, requestsOf, risingTo, Tables } from "./indices.ts";

/** Which pages hold the tokens of each request. Tensors are int32 or int64. */
export interface PageTable {
  /** [B + 1]: request b has the pages indices[indptr[b]] .. indices[indptr[b + 1] - 1]. */
  readonly indptr: Indices;
  /** Page ids. */
  readonly indices: Indices;
  /** [B]: the tokens in the last page of each request; 0 where it has no pages. */
  readonly lastPageLen: Indices;
}

/** Options of {@linkcode shiftPagedKVCache}. */
export interface ShiftOptions {
  /** What the keys were rotated with: one axis, and the cache's headDim for dim. */
  readonly embedding: RotaryEmbedding;
  /**
   * For rules that depend on the length ("dynamic", "longrope"): the contextLength that the keys were rotated with, for keys of two lengths
   * cannot be turned in one call. Default: the original length.
   */
  readonly contextLength?: number | undefined;
  /** The stream to run on. Default: the device's own, or the one that records. */
  readonly stream?: Stream | undefined;
}

const tableKeys = ["indptr", "indices", "lastPageLen"];
const keys = ["embedding", "contextLength", "stream"];
const layout = layouts.shift_args;
const block = new Block(layout, "rope_shift");
const tables = new Tables();

/**
 * Turns the cached keys of every request in a page table on by `delta` positions, as if they had been rotated delta further on when they
 * were appended, for turning by p and then by delta is turning by p + delta; the attention factor is not applied again. Values stay as they
 * are, and so do the places behind a request's last token. A key is rounded to the cache's dtype once more. Of an `interleaved_to_half`
 * embedding the cached keys are in halves, and stay so.
 *
 * A page that stands in the table twice, for one request or two, cannot be turned by both: that is a RopeArgumentError where the table is
 * on the host or the CPU (but not while a graph is being recorded), and else a RopeFaultError with that page left as it is.
 *
 * @param cache Of a PagedMLACache its kpe part is turned.
 * @param delta For all requests, or int32 or int64 [B]: one for each. Within +-2^38.
 * @throws RopeArgumentError, RopeDisposedError, RopeDeviceError: nothing has been written. RopeFaultError: an entry of a tensor is out of
 * range; the pages of sound entries have been turned.
 * @example
 * ```ts
 * import { appendPagedKVCache, PagedKVCache, RotaryEmbedding, shiftPagedKVCache, Tensor } from "@librope/rope";
 *
 * using embedding = new RotaryEmbedding({ dim: 64 });
 * using cache = new PagedKVCache({ numPages: 4, pageSize: 8, numKVHeads: 2, headDim: 64, dtype: "float32" });
 * using v = Tensor.random([4, 2, 64]);
 * using k = embedding.rotate(v, { offset: 100 });
 * appendPagedKVCache(k, v, cache, { slotMapping: [8, 9, 10, 11] }); // page 1
 *
 * // The oldest 60 positions have left the context.
 * shiftPagedKVCache(cache, { indptr: [0, 1], indices: [1], lastPageLen: [4] }, -60, { embedding });
 * ```
 */
export function shiftPagedKVCache(
  cache: PagedKVCache | PagedMLACache,
  pageTable: PageTable,
  delta: number | Indices,
  options: ShiftOptions,
): void {
  const operation = "shiftPagedKVCache";
  const { k, numPages, pageSize } = cachePages(operation, cache);
  const { indptr, indices, lastPageLen } = checkRecord(
    operation,
    "pageTable",
    pageTable,
    tableKeys,
    "an object with indptr, indices and lastPageLen",
  );
  if (options === undefined) throw argumentError(operation, "options", "an object with the embedding", "undefined");
  checkCallOptions(operation, options, keys);
  const contextLength = options.contextLength === undefined
    ? undefined
    : checkInteger(operation, "contextLength", options.contextLength, 1);
  const setting = settingOf(operation, "embedding", options.embedding, contextLength);
  checkEmbedding(operation, options.embedding, geometryOf(k).shape[3] ?? 0);
  const each = typeof delta === "object" && delta !== null;
  const same = each ? 0 : checkDelta(operation, delta);

  const state = stateOf(k);
  const { current } = state;
  let owners: Tensor | null = null;
  try {
    const stream = resolveStream(operation, options.stream, state);
    state.current = stream; // what is made of host arrays is made on it
    const ids = countOf(operation, "pageTable.indices", indices);
    const requests = requestsOf(operation, "pageTable.indptr", indptr);
    const pageEnds = tables.take(operation, "pageTable.indptr", indptr, state, risingTo(ids, "page ids"));
    const ends = onHost(indptr);
    const pageIds = tables.take(operation, "pageTable.indices", indices, state, pageIdIn(numPages, ends));
    checkPerRequest(operation, "pageTable.lastPageLen", lastPageLen, requests);
    const lengths = tables.take(operation, "pageTable.lastPageLen", lastPageLen, state, lastPageIn(pageSize, ends));
    let deltas: Tensor | null = null;
    if (each) {
      checkPerRequest(operation, "delta", delta, requests);
      deltas = tables.take(operation, "delta", delta, state, (value) => Math.abs(value) <= enums.MAX_POSITION ? undefined : withinLimit);
    }
    checkApart(operation, readable(indptr), readable(indices), numPages);

    owners = allocate(operation, denseGeometry("int32", [numPages]), stream);
    block.u32(layout.flags, setting.flags);
    block.stream(layout.stream, stream);
    block.u64(layout.frequencies, setting.frequencies);
    block.tensor(layout.page_indptr, pageEnds);
    block.tensor(layout.page_indices, pageIds);
    block.tensor(layout.last_page_len, lengths);
    block.tensor(layout.deltas, deltas);
    block.output(layout.cache, k);
    block.output(layout.owners, owners);
    block.i64(layout.delta, same);
    block.i64(layout.rotary_offset, setting.rotaryOffset);
    block.u8(layout.pairing, setting.pairing);
    block.u8(layout.angles, setting.angles);
    block.call(operation);
  } finally {
    state.current = current;
    owners?.dispose();
    tables.release();
  }
}

const withinLimit = "within +-2^38";

function checkDelta(operation: string, delta: unknown): number {
  const whole = checkInteger(operation, "delta", delta);
  if (Math.abs(whole) <= enums.MAX_POSITION) return whole;
  throw argumentError(operation, "delta", withinLimit, describe(delta));
}

function checkEmbedding(operation: string, embedding: RotaryEmbedding, channels: number): void {
  if (embedding.axes !== 1) throw argumentError(operation, "embedding", "of one axis", `one of ${embedding.axes} axes`);
  if (embedding.dim === channels) return;
  throw argumentError(operation, "embedding", `of dim ${channels}, as the cache's keys`, `one of dim ${embedding.dim}`);
}

/** The entries of a table that can be read without waiting: on the host, or in a tensor on the CPU. */
function readable(table: unknown): ArrayLike<number | bigint> | undefined {
  if (!(table instanceof Tensor)) return onHost(table);
  const state = stateOf(table);
  const { dtype, shape } = geometryOf(table);
  if (state.queued || state.recording !== null || shape.length !== 1 || !dtypes[dtype].isInteger) return undefined;
  return table.readBlocking() as ArrayLike<number | bigint>;
}

/** Refuses a page of the cache that stands in the table twice. What else is wrong with the table is for others to say. */
function checkApart(
  operation: string,
  ends: ArrayLike<number | bigint> | undefined,
  ids: ArrayLike<number | bigint> | undefined,
  numPages: number,
): void {
  if (ends === undefined || ids === undefined) return;
  const places = new Map<number, number>();
  let at = 0;
  for (let request = 0; request + 1 < ends.length; ++request) {
    const end = Math.min(entry(ends, request + 1), ids.length);
    for (at = Math.max(at, entry(ends, request)); at < end; ++at) {
      const page = entry(ids, at);
      if (page < 0 || page >= numPages) continue;
      const before = places.get(page);
      if (before !== undefined) {
        throw argumentError(
          operation,
          `pageTable.indices[${at}]`,
          "a page that stands in the table once",
          `page ${page}, which stands at ${before} too`,
          "Shared keys would be turned twice: give each request a copy of the page before.",
        );
      }
      places.set(page, at);
    }
  }
}
