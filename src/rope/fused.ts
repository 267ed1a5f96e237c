// What the front doors of the pipeline share: options resolved into a PipelineCall, the call run on its stream.
import { argumentError, checkCount, checkInteger, describe } from "../arguments.ts";
import { resolveStream } from "../device/stream.ts";
import type { StreamState } from "../device/stream_state.ts";
import type { CachePages } from "../kv/cache.ts";
import { type AppendTarget, TargetTables } from "../kv/target.ts";
import { shapeText } from "../tensor/geometry.ts";
import { geometryOf, stateOf } from "../tensor/operations.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { resolveNorm, resolveRowScale } from "./norm.ts";
import { type FusedOptions, type Indices, type InplaceOptions, inverseFlag } from "./options.ts";
import { PipelineCall } from "./pipeline.ts";
import { checkOffset, checkSeqLen, isPlaced } from "./placement.ts";
import { checkTableRows, resolveIndptr, resolveOffsets, resolvePositions } from "./positions.ts";
import type { Setting } from "./rotate.ts";

/** Whether anything but a rotation is asked for. */
export function isFused(options: FusedOptions): boolean {
  return options.qNorm !== undefined || options.kNorm !== undefined || options.qScale !== undefined || options.prefix !== undefined;
}

/** Where the k and v of a call go. */
export interface Appending {
  readonly where: AppendTarget;
  readonly pages: CachePages;
}

const rotation = new PipelineCall();
const target = new TargetTables();

/** qOut, kOut = q, k rotated, normed and scaled: rotate.ts's rotateInto, the long way. */
export function rotateFused(
  operation: string,
  setting: Setting,
  q: Tensor,
  k: Tensor | null,
  qOut: Tensor,
  kOut: Tensor | null,
  given: Indices | undefined,
  options: InplaceOptions,
): void {
  const stream = resolveStream(operation, options.stream, stateOf(q));
  rotation.q = q;
  rotation.k = k;
  rotation.qOut = qOut;
  rotation.kOut = kOut;
  runFused(operation, rotation, setting, given, options, stream, null);
}

/**
 * Fills in how `call` rotates, by setting and options, where its tokens stand and where they go; runs it and clears it. Its q, the other
 * tensors, the factors and the table are there already. `given` are positions: those of the options or of another argument.
 */
export function runFused(
  operation: string,
  call: PipelineCall,
  setting: Setting,
  given: Indices | undefined,
  options: InplaceOptions | undefined,
  stream: StreamState,
  append: Appending | null,
): void {
  const { state } = stream;
  const { current } = state;
  state.current = stream; // what is made of host arrays is made on it
  try {
    call.frequencies = setting.frequencies;
    call.pairing = setting.pairing;
    call.angles = setting.angles;
    call.rotaryOffset = setting.rotaryOffset;
    call.flags = setting.flags;
    const { q } = call;
    if (q !== null) {
      fill(operation, call, setting, q, given, options);
      if (append !== null) fillTarget(operation, call, q, options, append);
    }
    call.run(operation, stream);
  } finally {
    state.current = current;
    if (call.positions !== given && call.positions !== target.places) call.positions?.dispose();
    if (call.indptr !== options?.indptr) call.indptr?.dispose();
    if (call.offsets !== options?.offsets) call.offsets?.dispose();
    if (call.qScale !== options?.qScale) call.qScale?.dispose();
    call.clear();
    if (append !== null) target.release();
  }
}

function fill(
  operation: string,
  call: PipelineCall,
  setting: Setting,
  q: Tensor,
  given: Indices | undefined,
  options: InplaceOptions | undefined,
): void {
  if (geometryOf(q).shape.length === 2) call.headDim = setting.headDim;
  if (options !== undefined) {
    call.offset = checkOffset(operation, given, options);
    if (options.inverse !== undefined) call.flags |= inverseFlag(operation, options.inverse);
    if (options.headDim !== undefined) call.headDim = checkInteger(operation, "headDim", options.headDim, 1);
    if (options.contextLength !== undefined) checkInteger(operation, "contextLength", options.contextLength, 1);
    if (options.seqLen !== undefined) checkSeqLen(operation, options.seqLen, q);
    if (options.prefix !== undefined) call.prefix = checkCount(operation, "prefix", options.prefix);
    if (options.qNorm !== undefined) call.qNorm = resolveNorm(operation, "qNorm", options.qNorm);
    if (options.kNorm !== undefined) {
      if (call.k === null) throw argumentError(operation, "kNorm", "absent, for there is no k", describe(options.kNorm));
      call.kNorm = resolveNorm(operation, "kNorm", options.kNorm);
    }
    if (options.qScale !== undefined) call.qScale = resolveRowScale(operation, options.qScale, q);
    if (options.indptr !== undefined) call.indptr = resolveIndptr(operation, options.indptr, q);
    if (options.offsets !== undefined) call.offsets = resolveOffsets(operation, options.offsets, q);
  }
  if (given === undefined) return;
  if (call.cos !== null) checkTableRows(operation, given, q);
  call.positions = resolvePositions(operation, given, q, setting.axes);
}

/** Where k and v go, and the positions that follow from it. */
function fillTarget(operation: string, call: PipelineCall, q: Tensor, options: InplaceOptions | undefined, append: Appending): void {
  const { shape } = geometryOf(q);
  const tokens = (shape.length === 4 ? (shape[0] ?? 0) * (shape[1] ?? 0) : shape[0]) ?? 0;
  target.resolve(operation, append.where, append.pages, tokens);
  call.target = target;
  if (isPlaced(options)) return;
  const { places } = target;
  if (places === null) {
    const advice = "Slots do not say where in its request a token stands.";
    throw argumentError(operation, "positions", "given where tokens go to slots", "undefined", advice);
  }
  const form = geometryOf(places).shape;
  if (form.length !== 1 || form[0] !== tokens) {
    throw argumentError(operation, "where.positions", `of shape [${tokens}], one for each token of q`, shapeText(form));
  }
  call.positions = places;
}
