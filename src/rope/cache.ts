// buildRopeCache: the cosines and sines of a context's positions, as rotalabs-accel makes them.
import { checkCount, checkOptions } from "../arguments.ts";
import type { DeviceLike } from "../device/device.ts";
import { Tensor } from "../tensor/tensor.ts";
import { checkCacheDType, type CosSinCacheOptions } from "./cos_sin.ts";
import { RotaryEmbedding } from "./embedding.ts";
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
  /** Default "float32". */
  readonly dtype?: CosSinCacheOptions["dtype"];
  /** Default "auto". */
  readonly device?: DeviceLike | undefined;
}

/**
 * The cosines and sines of positions 0 .. seqLen - 1, attention factor included, from exact angles: each is within 2e-7 before it is rounded to
 * `dtype`.
 *
 * @returns Two tensors [seqLen, headDim / 2].
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
  checkOptions(operation, options, ["seqLen", "headDim", "base", "scaling", "dtype", "device"]);
  const seqLen = checkCount(operation, "seqLen", options.seqLen);
  const dim = checkRotaryDim(operation, "headDim", options.headDim);
  const base = options.base === undefined ? undefined : checkPositive(operation, "base", options.base);
  const dtype = checkCacheDType(operation, "dtype", options.dtype);
  using rope = new RotaryEmbedding({ dim, base, scaling: options.scaling, device: options.device });
  using positions = Tensor.arange(seqLen, { device: rope.device });
  const exact = rope.cosSin(positions, { contextLength: Math.max(seqLen, 1) });
  if (dtype === "float32") return exact;
  using cos = exact.cos;
  using sin = exact.sin;
  return { cos: cos.to(dtype), sin: sin.to(dtype) };
}
