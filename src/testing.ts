/**
 * A plain rotary embedding in float64, to test against: no native code, nothing shared with the library, slow and easy to read.
 *
 * @example
 * ```ts
 * import { referenceRope } from "@librope/rope/testing";
 *
 * const x = [1, 0, 0, 1]; // one token, one head of four channels
 * const rotated = referenceRope(x, [1, 1, 4], { positions: [1], base: 100 });
 * console.assert(Math.abs((rotated[0] ?? 0) - Math.cos(1)) < 1e-15); // pair (0, 2) turns by 1, pair (1, 3) by 0.1
 * ```
 *
 * @module
 */

/** Which two channels of R rotated ones form a pair: (j, j + R/2), (2j, 2j + 1), or read as the second and written as the first. */
export type ReferencePairing = "half" | "interleaved" | "interleaved_to_half";

/** How {@linkcode referenceRope} rotates. */
export interface ReferenceRopeOptions {
  /**
   * [n], [B, S] or [S], with several axes [axes, ...the same]. Default 0 .. S-1 in every batch row. A NaN leaves its token as it is. So does -1 on
   * one axis, if all positions are integers and do not come in a Float32Array or Float64Array.
   */
  readonly positions?: ArrayLike<number> | BigInt64Array | undefined;
  /** Where all rows start, without positions. Default 0. */
  readonly offset?: number | undefined;
  /** theta: pair j turns by theta^(-2j/R) radians per position. Default 10000. */
  readonly base?: number | undefined;
  /** Radians per position, in place of the formula: [R/2], [axes, R/2] or [axes, heads, R/2], row-major. */
  readonly frequencies?: ArrayLike<number> | undefined;
  /** How many positions a token has. Default 1. */
  readonly axes?: number | undefined;
  /** Which axis drives each pair; frequencies are [R/2] then. */
  readonly axisOfPair?: ArrayLike<number> | undefined;
  /** R. Default D - rotaryOffset. */
  readonly rotaryDim?: number | undefined;
  /** The first channel that rotates. Default 0. */
  readonly rotaryOffset?: number | undefined;
  /** Default "half". */
  readonly pairing?: ReferencePairing | undefined;
  /** The transposed map: angles negated, and of "interleaved_to_half" read as half and written interleaved. */
  readonly inverse?: boolean | undefined;
  /** Multiplies cos and sin. Default 1. */
  readonly attentionFactor?: number | undefined;
  /** Negate sin. */
  readonly conjugate?: boolean | undefined;
}

/**
 * x with rotary position embeddings applied, in float64.
 *
 * @param x [n, H, D] or [B, S, H, D], row-major.
 * @param shape The shape of x.
 * @returns A new array of the shape of x.
 * @throws RangeError where shape, positions or frequencies do not fit together.
 */
export function referenceRope(x: ArrayLike<number>, shape: readonly number[], options: ReferenceRopeOptions = {}): Float64Array {
  const [batch, sequence, heads, dim] = shape.length === 3 ? [1, ...shape] : shape;
  if (batch === undefined || sequence === undefined || heads === undefined || dim === undefined || shape.length > 4) {
    throw new RangeError(`shape must be [n, H, D] or [B, S, H, D], got [${shape.join(", ")}]`);
  }
  if (x.length !== batch * sequence * heads * dim) {
    throw new RangeError(`x has ${x.length} numbers, which is not the product of [${shape.join(", ")}]`);
  }
  const { axes = 1, rotaryOffset = 0, pairing = "half", inverse = false, attentionFactor = 1, conjugate = false, axisOfPair } = options;
  const rotaryDim = options.rotaryDim ?? dim - rotaryOffset;
  if (!(rotaryDim >= 0 && rotaryDim % 2 === 0 && rotaryOffset + rotaryDim <= dim)) {
    throw new RangeError(`rotaryDim must be even and fit into the ${dim} channels of a head, got ${rotaryDim}`);
  }
  const pairs = rotaryDim / 2;
  const frequency = frequencyTable(options, pairs, heads);
  const position = positionTable(options, batch, sequence);

  const readsInterleaved = pairing === "interleaved" || (pairing === "interleaved_to_half" && !inverse);
  const writesInterleaved = pairing === "interleaved" || (pairing === "interleaved_to_half" && inverse);
  const sign = (inverse ? -1 : 1) * (conjugate ? -1 : 1);
  const out = Float64Array.from(x);
  for (let row = 0; row < batch; ++row) {
    for (let s = 0; s < sequence; ++s) {
      const at = Array.from({ length: axes }, (_, axis) => position(axis, row, s));
      if (at.some(Number.isNaN)) continue;
      for (let head = 0; head < heads; ++head) {
        const base = ((row * sequence + s) * heads + head) * dim + rotaryOffset;
        for (let pair = 0; pair < pairs; ++pair) {
          let angle = 0;
          for (let axis = 0; axis < axes; ++axis) {
            if (axisOfPair === undefined || axisOfPair[pair] === axis) angle += (at[axis] ?? NaN) * frequency(axis, head, pair);
          }
          const cos = Math.cos(angle) * attentionFactor;
          const sin = Math.sin(angle) * attentionFactor * sign;
          const a = x[base + (readsInterleaved ? 2 * pair : pair)] ?? NaN;
          const b = x[base + (readsInterleaved ? 2 * pair + 1 : pair + pairs)] ?? NaN;
          out[base + (writesInterleaved ? 2 * pair : pair)] = a * cos - b * sin;
          out[base + (writesInterleaved ? 2 * pair + 1 : pair + pairs)] = a * sin + b * cos;
        }
      }
    }
  }
  return out;
}

function frequencyTable(options: ReferenceRopeOptions, pairs: number, heads: number): (axis: number, head: number, pair: number) => number {
  const { base = 10000, frequencies: given, axes = 1, axisOfPair } = options;
  if (given === undefined) return (_axis, _head, pair) => base ** (-pair / pairs);
  if (given.length === pairs && (axes === 1 || axisOfPair !== undefined)) return (_axis, _head, pair) => given[pair] ?? NaN;
  if (given.length === axes * pairs) return (axis, _head, pair) => given[axis * pairs + pair] ?? NaN;
  if (given.length === axes * heads * pairs) return (axis, head, pair) => given[(axis * heads + head) * pairs + pair] ?? NaN;
  throw new RangeError(`frequencies must be [${pairs}], [${axes}, ${pairs}] or [${axes}, ${heads}, ${pairs}], got ${given.length} numbers`);
}

function positionTable(options: ReferenceRopeOptions, batch: number, sequence: number): (axis: number, row: number, s: number) => number {
  const { axes = 1, offset = 0, positions } = options;
  if (positions === undefined) return (_axis, _row, s) => offset + s;
  const values = Float64Array.from(positions as ArrayLike<number | bigint>, Number);
  const rows = values.length === axes * sequence ? 1 : batch;
  if (values.length !== axes * rows * sequence) {
    throw new RangeError(
      `positions must be [${sequence}] or [${batch}, ${sequence}] for each of ${axes} axes, got ${values.length} numbers`,
    );
  }
  const isFloat = positions instanceof Float32Array || positions instanceof Float64Array ||
    values.some((value) => !Number.isInteger(value));
  return (axis, row, s) => {
    const value = values[(axis * rows + (rows === 1 ? 0 : row)) * sequence + s] ?? NaN;
    return value === -1 && axes === 1 && !isFloat ? NaN : value;
  };
}
