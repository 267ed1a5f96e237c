// The tables of paged caches: how long requests are, and where the tokens that are appended to them stand.
import { checkCount, checkInteger } from "../arguments.ts";
import { resolveDevice } from "../device/device.ts";
import type { DeviceState } from "../device/state.ts";
import { Block } from "../native/block.ts";
import { layouts } from "../native/layouts.ts";
import type { Indices } from "../rope/options.ts";
import { denseGeometry } from "../tensor/geometry.ts";
import { allocate, checkTensor, stateOf } from "../tensor/operations.ts";
import { Tensor } from "../tensor/tensor.ts";
import { checkPerRequest, entry, lastPageIn, onHost, requestsOf, risingTo, Tables } from "./indices.ts";

const lensLayout = layouts.seq_lens_args;
const lensBlock = new Block(lensLayout, "rope_seq_lens");
const placesLayout = layouts.batch_indices_args;
const placesBlock = new Block(placesLayout, "rope_batch_indices");
const tables = new Tables();

/** Where a call with these two tables runs: where a tensor among them is, else the default device. */
function deviceOf(operation: string, first: readonly [string, unknown], second: readonly [string, unknown]): DeviceState {
  for (const [argument, given] of [first, second]) {
    if (given instanceof Tensor) return stateOf(checkTensor(operation, argument, given));
  }
  return resolveDevice(operation, "device", undefined);
}

/**
 * How many tokens each request of a page table has: (pages - 1) * pageSize + the length of its last page, 0 without pages (FlashInfer's
 * get_seq_lens).
 *
 * @param indptr int32 or int64 [B + 1], of pages, or numbers.
 * @param lastPageLen int32 or int64 [B], the tokens in the last page of each request, or numbers.
 * @param pageSize The tokens that a page has place for.
 * @returns int32 [B], on the device of the tensors given, else on the default one.
 * @throws RopeArgumentError, RopeDisposedError, RopeDeviceError; RopeFaultError for a tensor whose entries cannot be.
 * @example
 * ```ts
 * import { getSeqLens } from "@librope/rope";
 *
 * using seqLens = getSeqLens([0, 2, 2, 3], [5, 0, 16], 16);
 * console.assert(seqLens.readBlocking().join() === "21,0,16");
 * ```
 */
export function getSeqLens(indptr: Indices, lastPageLen: Indices, pageSize: number): Tensor<"int32"> {
  const operation = "getSeqLens";
  const size = checkInteger(operation, "pageSize", pageSize, 1);
  const state = deviceOf(operation, ["indptr", indptr], ["lastPageLen", lastPageLen]);
  let result: Tensor | null = null;
  try {
    const requests = requestsOf(operation, "indptr", indptr);
    const pages = tables.take(operation, "indptr", indptr, state, risingTo(Infinity, "pages"));
    checkPerRequest(operation, "lastPageLen", lastPageLen, requests);
    const lengths = tables.take(operation, "lastPageLen", lastPageLen, state, lastPageIn(size, onHost(indptr)));
    result = allocate(operation, denseGeometry("int32", [pages.size - 1]), state.current);
    lensBlock.stream(lensLayout.stream, state.current);
    lensBlock.tensor(lensLayout.page_indptr, pages);
    lensBlock.tensor(lensLayout.last_page_len, lengths);
    lensBlock.output(lensLayout.seq_lens, result);
    lensBlock.i64(lensLayout.page_size, size);
    lensBlock.call(operation);
    return result as Tensor<"int32">;
  } catch (error) {
    result?.dispose();
    throw error;
  } finally {
    tables.release();
  }
}

/**
 * For each of the tokens that are appended its request and its place in it: request b has the tokens indptr[b] .. indptr[b + 1] - 1, and
 * they are the last of its seqLens[b] (FlashInfer's get_batch_indices_positions).
 *
 * @param indptr int32 or int64 [B + 1], of the appended tokens, or numbers.
 * @param seqLens int32 or int64 [B], how long each request is after the append, or numbers.
 * @param nnz The number of tokens of the call. Those beyond the last request's are padding: both results are -1 there.
 * @returns Two int32 tensors [nnz], on the device of the tensors given, else on the default one.
 * @throws RopeArgumentError, RopeDisposedError, RopeDeviceError; RopeFaultError for a tensor whose entries cannot be.
 * @example
 * ```ts
 * import { getBatchIndicesPositions } from "@librope/rope";
 *
 * const { batchIndices, positions } = getBatchIndicesPositions([0, 3, 5], [6, 2], 6);
 * console.assert(batchIndices.readBlocking().join() === "0,0,0,1,1,-1");
 * console.assert(positions.readBlocking().join() === "3,4,5,0,1,-1");
 * batchIndices.dispose();
 * positions.dispose();
 * ```
 */
export function getBatchIndicesPositions(
  indptr: Indices,
  seqLens: Indices,
  nnz: number,
): { batchIndices: Tensor<"int32">; positions: Tensor<"int32"> } {
  const operation = "getBatchIndicesPositions";
  const tokens = checkCount(operation, "nnz", nnz);
  const state = deviceOf(operation, ["indptr", indptr], ["seqLens", seqLens]);
  const stream = state.current;
  let batchIndices: Tensor | null = null;
  let positions: Tensor | null = null;
  try {
    const requests = requestsOf(operation, "indptr", indptr);
    const ends = tables.take(operation, "indptr", indptr, state, risingTo(tokens, "tokens"));
    checkPerRequest(operation, "seqLens", seqLens, requests);
    const starts = onHost(indptr);
    const lengths = tables.take(operation, "seqLens", seqLens, state, (value, index) => {
      const appended = starts === undefined ? 0 : entry(starts, index + 1) - entry(starts, index);
      return value >= appended ? undefined : `at least ${appended}, the tokens appended to the request`;
    });
    const form = denseGeometry("int32", [tokens]);
    batchIndices = allocate(operation, form, stream);
    positions = allocate(operation, form, stream);
    placesBlock.stream(placesLayout.stream, stream);
    placesBlock.tensor(placesLayout.indptr, ends);
    placesBlock.tensor(placesLayout.seq_lens, lengths);
    placesBlock.output(placesLayout.batch_indices, batchIndices);
    placesBlock.output(placesLayout.places, positions);
    placesBlock.call(operation);
    return { batchIndices: batchIndices as Tensor<"int32">, positions: positions as Tensor<"int32"> };
  } catch (error) {
    batchIndices?.dispose();
    positions?.dispose();
    throw error;
  } finally {
    tables.release();
  }
}
