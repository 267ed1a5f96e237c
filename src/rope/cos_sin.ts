// The cosines and sines that a rotation uses, and tables of them.
import { checkChoice, checkInteger } from "../arguments.ts";
import type { DeviceState } from "../device/state.ts";
import { Block } from "../native/block.ts";
import { layouts } from "../native/layouts.ts";
import type { DType } from "../tensor/dtype.ts";
import { denseGeometry } from "../tensor/geometry.ts";
import { allocate, fillArange, geometryOf, stateOf } from "../tensor/operations.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Indices } from "./options.ts";
import { resolvePositionList } from "./positions.ts";
import type { Setting } from "./rotate.ts";

/** Options of {@linkcode RotaryEmbedding.cosSin}. */
export interface CosSinOptions {
  /**
   * The length of the longest sequence, for rules that depend on it ("dynamic", "longrope"). A positive integer. Default: the original
   * length.
   */
  readonly contextLength?: number | undefined;
}

/** Options of {@linkcode RotaryEmbedding.cosSinCache}. */
export interface CosSinCacheOptions extends CosSinOptions {
  /** "float32", "float16" or "bfloat16", to which each value is rounded once. Default "float32". */
  readonly dtype?: DType | undefined;
}

const cacheDTypes = ["float32", "float16", "bfloat16"] as const;
type CacheDType = typeof cacheDTypes[number];

/** Checks the dtype of a table; undefined reads as "float32". */
export function checkCacheDType(operation: string, argument: string, value: unknown): CacheDType {
  return value === undefined ? "float32" : checkChoice(operation, argument, value, cacheDTypes);
}

const layout = layouts.cos_sin_args;
const block = new Block(layout, "rope_cos_sin");

/**
 * float32 [n, pairs] each, with frequencies per head (`heads` > 0) [n, heads, pairs]. `state` is the device of positions that stand on the
 * host.
 */
export function cosSinAt(
  operation: string,
  setting: Setting,
  heads: number,
  pairs: number,
  positions: Indices,
  state: DeviceState,
): { cos: Tensor; sin: Tensor } {
  const at = resolvePositionList(operation, positions, setting.axes, state);
  let cos: Tensor | null = null;
  let sin: Tensor | null = null;
  try {
    const stream = stateOf(at).current;
    const tokens = geometryOf(at).shape.at(-1) ?? 0;
    const shape = heads > 0 ? [tokens, heads, pairs] : [tokens, pairs];
    cos = allocate(operation, denseGeometry("float32", shape), stream);
    sin = allocate(operation, denseGeometry("float32", shape), stream);
    block.u32(layout.flags, setting.flags);
    block.stream(layout.stream, stream);
    block.u64(layout.frequencies, setting.frequencies);
    block.tensor(layout.positions, at);
    block.output(layout.cos, cos);
    block.output(layout.sin, sin);
    block.u8(layout.angles, setting.angles);
    block.call(operation);
    return { cos, sin };
  } catch (error) {
    cos?.dispose();
    sin?.dispose();
    throw error;
  } finally {
    if (at !== positions) at.dispose();
  }
}

/** The number of positions of a table, of which each is an int32. */
export function checkRowCount(operation: string, argument: string, value: unknown): number {
  return checkInteger(operation, argument, value, 0, 2 ** 31);
}

/** 0 .. rows - 1 */
export function firstPositions(operation: string, rows: number, state: DeviceState): Tensor {
  const positions = allocate(operation, denseGeometry("int32", [rows]), state.current);
  fillArange(operation, positions, 0, 1, state.current);
  return positions;
}

/** Those of positions 0 .. rows - 1 in one table [rows, 2 * pairs], the cosines before the sines. Of one axis, all heads alike. */
export function cosSinTable(
  operation: string,
  setting: Setting,
  pairs: number,
  rows: number,
  dtype: CacheDType,
  state: DeviceState,
): Tensor {
  using positions = firstPositions(operation, rows, state);
  const { cos, sin } = cosSinAt(operation, setting, 0, pairs, positions, state);
  try {
    const table = allocate(operation, denseGeometry(dtype, [rows, 2 * pairs]), state.current);
    using left = table.slice(1, 0, pairs);
    using right = table.slice(1, pairs);
    left.copyFrom(cos);
    right.copyFrom(sin);
    return table;
  } finally {
    cos.dispose();
    sin.dispose();
  }
}
