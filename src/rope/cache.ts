// buildRopeCache: the cosines and sines of a context's positions, as rotalabs-accel makes them.
import { argumentError, checkOptions } from "../arguments.ts";
import { type DeviceLike, resolveDevice } from "../device/device.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { checkCacheDType, checkRowCount, cosSinAt, type CosSinCacheOptions, firstPositions } from "./cos_sin.ts";
import { embeddingFor, settingOf } from "./embedding.ts";
import { checkPositive, checkRotaryDim } from "./options.ts";
import type { RopeScaling } from "./scaling.ts";

/** What {@linkcode buildRopeCache} takes. */
export interface RopeCacheOptions {
  /** The number of positions, 0 .. seqLen - 1. */
  readonly seqLen: number;
  /** The head dimension, all of which rotates. Even. */
  readonly headDim: number;
  /** The base of the frequencies, theta. Default 10000. */
  readonly base?: number | undefined;
  /** The frequency rule. Default `{ ropeType: "default" }`; one that depends on the length takes that of seqLen. */
  readonly scaling?: RopeScaling | undefined;
  /** "float32", "float16" or "bfloat16". Default "float32". */
  readonly dtype?: CosSinCacheOptions["dtype"];
  /** Default "auto". */
  readonly device?: DeviceLike | undefined;
}

/**
 * The cosines and sines of positions 0 .. seqLen - 1, attention factor included, from exact angles: each is within 2e-7 before it is
 * rounded to `dtype`.
 *
 * @returns Two tensors [seqLen, headDim / 2], or fewer pairs where `scaling.partialRotaryFactor` says that only some channels rotate.
 * @throws RopeArgumentError, RopeDeviceError, RopeOutOfMemoryError.
 * @example
 * ```ts
 * import { buildRopeCache } from "@librope/rope";
 *
 * const { cos, sin } = buildRopeCache({ seqLen: 16, headDim: 64 });
 * console.assert(cos.shape.join() === "16,32");
 * cos.dispose();
 * sin.dispose();
 * ```
 */
export function buildRopeCache(options: RopeCacheOptions): { cos: Tensor; sin: Tensor } {
  const operation = "buildRopeCache";
  if (options === undefined) throw argumentError(operation, "options", "an object with seqLen and headDim", "undefined");
  checkOptions(operation, options, ["seqLen", "headDim", "base", "scaling", "dtype", "device"]);
  const seqLen = checkRowCount(operation, "seqLen", options.seqLen);
  const dim = checkRotaryDim(operation, "headDim", options.headDim);
  const base = options.base === undefined ? undefined : checkPositive(operation, "base", options.base);
  const dtype = checkCacheDType(operation, "dtype", options.dtype);
  const state = resolveDevice(operation, "device", options.device);
  using rope = embeddingFor(operation, { dim, base, scaling: options.scaling, device: state.device });
  using positions = firstPositions(operation, seqLen, state);
  const setting = settingOf(operation, "options", rope, Math.max(seqLen, 1));
  const exact = cosSinAt(operation, setting, 0, rope.rotaryDim / 2, positions, state);
  if (dtype === "float32") return exact;
  using cos = exact.cos;
  using sin = exact.sin;
  return { cos: cos.to(dtype), sin: sin.to(dtype) };
}
