// The whole pipeline in one call of rope_rotate: what a front door has resolved to tensors and numbers, written into the block and run. A
// rotation of q and k alone goes the shorter way, rotate.ts.
import type { StreamState } from "../device/stream_state.ts";
import { Block } from "../native/block.ts";
import { layouts } from "../native/layouts.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** An RMS-norm of q's or k's heads, checked. */
export interface ResolvedNorm {
  /** A sum of rope_norm_flags with ROPE_NORM. */
  readonly flags: number;
  /** [D] or, over the width, [H * D]. */
  readonly weight: Tensor | null;
  readonly eps: number;
}

/** Where appended tokens go: `slots`, or the other four. */
export interface ResolvedTarget {
  readonly slots: Tensor | null;
  readonly indptr: Tensor | null;
  readonly indices: Tensor | null;
  readonly batchIndices: Tensor | null;
  readonly places: Tensor | null;
}

const layout = layouts.rotate_args;
const block = new Block(layout, "rope_rotate");

/**
 * One call. A front door keeps one, fills it, runs it and clears it: steady state makes no garbage. Every field but `stream` may stay as it
 * is. The C library checks what the values mean together; what FFI would coerce must have been checked before.
 */
export class PipelineCall {
  /** ROPE_INVERSE, ROPE_CONJUGATE, or ROPE_STILL: nothing turns. */
  flags = 0;
  frequencies = 0;
  /** A table in place of frequencies. */
  cos: Tensor | null = null;
  sin: Tensor | null = null;
  /** R of a table; 0: from its width. */
  rotaryDim = 0;
  rotaryOffset = 0;
  /** rope_pairing */
  pairing = 0;
  /** rope_angles */
  angles = 0;
  /** D of a q of rank 2, else 0. */
  headDim = 0;
  positions: Tensor | null = null;
  indptr: Tensor | null = null;
  offsets: Tensor | null = null;
  offset = 0;
  prefix = 0;
  q: Tensor | null = null;
  qOut: Tensor | null = null;
  k: Tensor | null = null;
  /** A tensor or, with `target`, a cache [pages, pageSize, Hk, D]; so are vOut and kRestOut. */
  kOut: Tensor | null = null;
  v: Tensor | null = null;
  vOut: Tensor | null = null;
  qRest: Tensor | null = null;
  qRestOut: Tensor | null = null;
  kRest: Tensor | null = null;
  kRestOut: Tensor | null = null;
  qNorm: ResolvedNorm | null = null;
  kNorm: ResolvedNorm | null = null;
  qScale: Tensor | null = null;
  /** Of float8 results; 0: they have the inputs' dtype, of a cache 1. */
  qFactor = 0;
  kFactor = 0;
  vFactor = 0;
  target: ResolvedTarget | null = null;

  /** Runs the call on a stream. `operation` is the public name that an error carries. */
  run(operation: string, stream: StreamState): void {
    block.u32(layout.flags, this.flags);
    block.stream(layout.stream, stream);
    block.u64(layout.frequencies, this.frequencies);
    block.tensor(layout.q, this.q);
    block.tensor(layout.k, this.k);
    block.tensor(layout.positions, this.positions);
    block.tensor(layout.indptr, this.indptr);
    block.tensor(layout.offsets, this.offsets);
    block.i64(layout.offset, this.offset);
    block.i64(layout.head_dim, this.headDim);
    block.i64(layout.rotary_offset, this.rotaryOffset);
    block.u8(layout.pairing, this.pairing);
    block.u8(layout.angles, this.angles);
    block.u8(layout.q_norm, this.qNorm?.flags ?? 0);
    block.u8(layout.k_norm, this.kNorm?.flags ?? 0);
    block.tensor(layout.cos, this.cos);
    block.tensor(layout.sin, this.sin);
    block.i64(layout.rotary_dim, this.rotaryDim);
    block.i64(layout.prefix, this.prefix);
    block.tensor(layout.q_weight, this.qNorm?.weight ?? null);
    block.tensor(layout.k_weight, this.kNorm?.weight ?? null);
    block.f64(layout.q_eps, this.qNorm?.eps ?? 0);
    block.f64(layout.k_eps, this.kNorm?.eps ?? 0);
    block.tensor(layout.q_scale, this.qScale);
    block.tensor(layout.v, this.v);
    block.tensor(layout.q_rest, this.qRest);
    block.tensor(layout.k_rest, this.kRest);
    block.f64(layout.q_factor, this.qFactor);
    block.f64(layout.k_factor, this.kFactor);
    block.f64(layout.v_factor, this.vFactor);
    block.tensor(layout.slots, this.target?.slots ?? null);
    block.tensor(layout.page_indptr, this.target?.indptr ?? null);
    block.tensor(layout.page_indices, this.target?.indices ?? null);
    block.tensor(layout.batch_indices, this.target?.batchIndices ?? null);
    block.tensor(layout.places, this.target?.places ?? null);
    block.output(layout.q_out, this.qOut);
    block.output(layout.k_out, this.kOut);
    block.output(layout.v_out, this.vOut);
    block.output(layout.q_rest_out, this.qRestOut);
    block.output(layout.k_rest_out, this.kRestOut);
    block.call(operation);
  }

  /** Lets go of everything. */
  clear(): void {
    this.flags =
      this.frequencies =
      this.rotaryDim =
      this.rotaryOffset =
      this.pairing =
      this.angles =
        0;
    this.headDim =
      this.offset =
      this.prefix =
      this.qFactor =
      this.kFactor =
      this.vFactor =
        0;
    this.cos =
      this.sin =
      this.positions =
      this.indptr =
      this.offsets =
      this.qScale =
        null;
    this.q =
      this.qOut =
      this.k =
      this.kOut =
      this.v =
      this.vOut =
        null;
    this.qRest =
      this.qRestOut =
      this.kRest =
      this.kRestOut =
        null;
    this.qNorm = this.kNorm = this.target = null;
  }
}
