// The short way to rope_rotate, for what only rotates: options resolved to tensors and numbers, written into the block, run.
import { checkInteger } from "../arguments.ts";
import { resolveStream, type Stream } from "../device/stream.ts";
import { Block } from "../native/block.ts";
import { layouts } from "../native/layouts.ts";
import { allocateLike, geometryOf, stateOf } from "../tensor/operations.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { isFused, rotateFused } from "./fused.ts";
import { checkOut, type Indices, type InplaceOptions, inverseFlag } from "./options.ts";
import { checkOffset, checkSeqLen } from "./placement.ts";
import { resolveIndptr, resolveOffsets, resolvePositions } from "./positions.ts";

/** What a rotation is besides its tensors and its options. One object per embedding; the functional calls reuse one among them. */
export interface Setting {
  /** The handle of the frequencies. */
  frequencies: number;
  /** rope_pairing */
  pairing: number;
  /** rope_angles */
  angles: number;
  rotaryOffset: number;
  /** How many positions a token has. */
  axes: number;
  /** ROPE_CONJUGATE or 0. */
  flags: number;
  /** D where q and k are [nnz, H * D]; 0 where the options must say it. */
  headDim: number;
}

const layout = layouts.rotate_args;
// As far as the rotation goes: what is beyond `size` counts as absent. The rest is pipeline.ts's.
const block = new Block({ size: layout.cos }, "rope_rotate");

/**
 * qOut, kOut = q, k rotated, and normed and scaled where the options say so. What is a tensor has been checked to be one, the options to
 * have no other keys; their values are checked here. Allocates only where positions, indptr or offsets stand on the host.
 */
export function rotateInto(
  operation: string,
  setting: Setting,
  q: Tensor,
  k: Tensor | null,
  qOut: Tensor,
  kOut: Tensor | null,
  given: Indices | undefined,
  options: InplaceOptions | undefined,
): void {
  if (options !== undefined && isFused(options)) return rotateFused(operation, setting, q, k, qOut, kOut, given, options);
  const { frequencies, pairing, angles, rotaryOffset, axes } = setting;
  let flags = setting.flags;
  let headDim = geometryOf(q).shape.length === 2 ? setting.headDim : 0;
  let offset = 0;
  let givenStream: Stream | undefined;
  let givenIndptr: Indices | undefined;
  let givenOffsets: Indices | undefined;
  if (options !== undefined) {
    givenStream = options.stream;
    givenIndptr = options.indptr;
    givenOffsets = options.offsets;
    offset = checkOffset(operation, given, options);
    if (options.inverse !== undefined) flags |= inverseFlag(operation, options.inverse);
    if (options.headDim !== undefined) headDim = checkInteger(operation, "headDim", options.headDim, 1);
    if (options.contextLength !== undefined) checkInteger(operation, "contextLength", options.contextLength, 1);
    if (options.seqLen !== undefined) checkSeqLen(operation, options.seqLen, q);
  }
  const state = stateOf(q);
  const stream = resolveStream(operation, givenStream, state);
  const current = state.current;
  state.current = stream;
  // What is not the tensor that was given is made of a host array, for this call and on its stream.
  let positions: Tensor | null = null;
  let indptr: Tensor | null = null;
  let offsets: Tensor | null = null;
  try {
    if (given !== undefined) positions = resolvePositions(operation, given, q, axes);
    if (givenIndptr !== undefined) indptr = resolveIndptr(operation, givenIndptr, q);
    if (givenOffsets !== undefined) offsets = resolveOffsets(operation, givenOffsets, q);
    block.u32(layout.flags, flags);
    block.stream(layout.stream, stream);
    block.u64(layout.frequencies, frequencies);
    block.tensor(layout.q, q);
    block.tensor(layout.k, k);
    block.output(layout.q_out, qOut);
    block.output(layout.k_out, kOut);
    block.tensor(layout.positions, positions);
    block.tensor(layout.indptr, indptr);
    block.tensor(layout.offsets, offsets);
    block.i64(layout.offset, offset);
    block.i64(layout.head_dim, headDim);
    block.i64(layout.rotary_offset, rotaryOffset);
    block.u8(layout.pairing, pairing);
    block.u8(layout.angles, angles);
    block.call(operation);
  } finally {
    state.current = current;
    if (positions !== null && positions !== given) positions.dispose();
    if (indptr !== null && indptr !== givenIndptr) indptr.dispose();
    if (offsets !== null && offsets !== givenOffsets) offsets.dispose();
  }
}

/** How q and k become qOut and kOut: {@linkcode rotateInto}, or by a table. */
type Rotate<How, Options> = (
  operation: string,
  how: How,
  q: Tensor,
  k: Tensor | null,
  qOut: Tensor,
  kOut: Tensor | null,
  positions: Indices | undefined,
  options: Options | undefined,
) => void;

/** Rotates into `out`, or into new tensors of the shapes and dtypes of q and k. */
export function outOfPlace<How, Options extends { readonly stream?: Stream | undefined }>(
  operation: string,
  rotate: Rotate<How, Options>,
  how: How,
  q: Tensor,
  k: Tensor | null,
  positions: Indices | undefined,
  out: unknown,
  options: Options | undefined,
): [Tensor, Tensor | null] {
  if (out !== undefined) {
    const [qOut, kOut] = checkOut(operation, out, k);
    rotate(operation, how, q, k, qOut, kOut, positions, options);
    return [qOut, kOut];
  }
  const stream = resolveStream(operation, options?.stream, stateOf(q));
  const qOut = allocateLike(operation, q, stream);
  let kOut: Tensor | null = null;
  try {
    if (k !== null) kOut = allocateLike(operation, k, stream);
    rotate(operation, how, q, k, qOut, kOut, positions, options);
    return [qOut, kOut];
  } catch (error) {
    qOut.dispose();
    kOut?.dispose();
    throw error;
  }
}
