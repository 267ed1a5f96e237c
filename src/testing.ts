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
   * [n], [B, S] or [S], with several axes [axes, ...the same]. Default 0 .. S-1 in every batch row. They are read as the library reads
   * them: integers if all are, of which -1 on one axis leaves its token as it is, else rounded to float32, where NaN does and -1 is a
   * position. A Float32Array or Float16Array holds floats, and so does a Float64Array with a -1 in it.
   */
  readonly positions?: ArrayLike<number> | BigInt64Array | BigUint64Array | undefined;
  /** Where all rows start, without positions. Default 0. */
  readonly offset?: number | undefined;
  /** theta: pair j turns by theta^(-2j/R) radians per position. Default 10000. */
  readonly base?: number | undefined;
  /** Radians per position, in place of the formula: [R/2], [axes, R/2] or [axes, heads, R/2], row-major. */
  readonly frequencies?: ArrayLike<number> | undefined;
  /** How many positions a token has. Default 1, or as many as `axisOfPair` names. */
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
 * @throws TypeError for what is no number, option or pairing, RangeError where numbers are out of range, or shape, positions and
 * frequencies do not fit together.
 */
export function referenceRope(x: ArrayLike<number>, shape: readonly number[], options: ReferenceRopeOptions = {}): Float64Array {
  const form = formOf(x, shape, options);
  const { batch, sequence, heads, dim, axes, axisOfPair, pairs, rotaryOffset, input } = form;
  const { pairing = "half", inverse = false, attentionFactor = 1, conjugate = false } = options;
  const frequency = frequencyTable(options, form);
  const position = positionTable(options, form);

  const readsInterleaved = pairing === "interleaved" || (pairing === "interleaved_to_half" && !inverse);
  const writesInterleaved = pairing === "interleaved" || (pairing === "interleaved_to_half" && inverse);
  const sign = (inverse ? -1 : 1) * (conjugate ? -1 : 1);
  const out = input.slice();
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
          const a = input[base + (readsInterleaved ? 2 * pair : pair)] ?? NaN;
          const b = input[base + (readsInterleaved ? 2 * pair + 1 : pair + pairs)] ?? NaN;
          out[base + (writesInterleaved ? 2 * pair : pair)] = a * cos - b * sin;
          out[base + (writesInterleaved ? 2 * pair + 1 : pair + pairs)] = a * sin + b * cos;
        }
      }
    }
  }
  return out;
}

// ---- what is asked for, checked ---------------------------------------------------------------------------------------------------------

interface Form {
  readonly input: Float64Array;
  readonly batch: number;
  readonly sequence: number;
  readonly heads: number;
  readonly dim: number;
  readonly pairs: number;
  readonly rotaryOffset: number;
  readonly axes: number;
  readonly axisOfPair: Float64Array | undefined;
}

const optionKeys = [
  ...["positions", "offset", "base", "frequencies", "axes", "axisOfPair", "rotaryDim", "rotaryOffset", "pairing", "inverse"],
  ...["attentionFactor", "conjugate"],
];
const furthest = 2 ** 38; // positions beyond it are faults of the library

function numbersOf(name: string, given: unknown): Float64Array {
  if (typeof given !== "object" || given === null || !("length" in given) || !Number.isSafeInteger(given.length)) {
    throw new TypeError(`${name} must be an array of numbers, got ${given === null ? "null" : typeof given}`);
  }
  const list = given as ArrayLike<unknown>;
  const isBig = given instanceof BigInt64Array || given instanceof BigUint64Array;
  if (ArrayBuffer.isView(given) && !isBig) return new Float64Array(list as ArrayLike<number>); // numbers, all of them
  return Float64Array.from(list, (value, i) => {
    if (typeof value === "number" || (isBig && name === "positions")) return Number(value);
    throw new TypeError(`${name}[${i}] must be a number, got ${value === null ? "null" : typeof value}`);
  });
}

function integer(name: string, value: unknown, least: number): number {
  if (typeof value !== "number") throw new TypeError(`${name} must be a number, got ${value === null ? "null" : typeof value}`);
  if (Number.isSafeInteger(value) && value >= least) return value;
  throw new RangeError(`${name} must be an integer of at least ${least}, got ${value}`);
}

function checkPositive(name: string, value: unknown): void {
  if (value === undefined) return;
  if (typeof value !== "number") throw new TypeError(`${name} must be a number, got ${value === null ? "null" : typeof value}`);
  if (!(value > 0 && value < Infinity)) throw new RangeError(`${name} must be positive and finite, got ${value}`);
}

function checkWords(options: ReferenceRopeOptions): void {
  if (typeof options !== "object" || options === null) throw new TypeError("options must be an object");
  for (const [key, value] of Object.entries(options)) {
    if (value !== undefined && !optionKeys.includes(key)) {
      throw new TypeError(`${JSON.stringify(key)} is no option; they are ${optionKeys.join(", ")}`);
    }
  }
  const { pairing = "half" } = options;
  if (!["half", "interleaved", "interleaved_to_half"].includes(pairing)) {
    throw new TypeError(`pairing must be "half", "interleaved" or "interleaved_to_half", got ${JSON.stringify(pairing)}`);
  }
  for (const name of ["inverse", "conjugate"] as const) {
    const value: unknown = options[name];
    if (value !== undefined && typeof value !== "boolean") throw new TypeError(`${name} must be true or false`);
  }
  checkPositive("base", options.base);
  checkPositive("attentionFactor", options.attentionFactor);
  if (options.base !== undefined && options.frequencies !== undefined) throw new TypeError("give base or frequencies, not both");
  if (options.offset !== undefined && options.positions !== undefined) throw new TypeError("give offset or positions, not both");
}

function formOf(x: ArrayLike<number>, shape: readonly number[], options: ReferenceRopeOptions): Form {
  checkWords(options);
  const lengths = [...numbersOf("shape", shape)];
  const [batch, sequence, heads, dim] = lengths.length === 3 ? [1, ...lengths] : lengths;
  if (batch === undefined || sequence === undefined || heads === undefined || dim === undefined || lengths.length > 4) {
    throw new RangeError(`shape must be [n, H, D] or [B, S, H, D], got [${lengths.join(", ")}]`);
  }
  lengths.forEach((length, i) => integer(`shape[${i}]`, length, 0));
  const input = numbersOf("x", x);
  if (input.length !== batch * sequence * heads * dim) {
    throw new RangeError(`x has ${input.length} numbers, which is not the product of [${lengths.join(", ")}]`);
  }
  const rotaryOffset = integer("rotaryOffset", options.rotaryOffset ?? 0, 0);
  const rotaryDim = options.rotaryDim === undefined ? dim - rotaryOffset : integer("rotaryDim", options.rotaryDim, 2);
  if (!(rotaryDim >= 2 && rotaryDim % 2 === 0 && rotaryOffset + rotaryDim <= dim)) {
    throw new RangeError(`rotaryDim must be even and fit into the ${dim} channels of a head from ${rotaryOffset} on, got ${rotaryDim}`);
  }
  const pairs = rotaryDim / 2;
  const axisOfPair = options.axisOfPair === undefined ? undefined : numbersOf("axisOfPair", options.axisOfPair);
  axisOfPair?.forEach((axis, pair) => integer(`axisOfPair[${pair}]`, axis, 0));
  if (axisOfPair !== undefined && axisOfPair.length !== pairs) {
    throw new RangeError(`axisOfPair must name an axis for each of ${pairs} pairs, got ${axisOfPair.length}`);
  }
  const axes = integer("axes", options.axes ?? (axisOfPair === undefined ? 1 : Math.max(...axisOfPair) + 1), 1);
  if (axisOfPair?.some((axis) => axis >= axes)) {
    throw new RangeError(`axisOfPair must name axes below ${axes}, got ${Math.max(...axisOfPair)}`);
  }
  return { input, batch, sequence, heads, dim, pairs, rotaryOffset, axes, axisOfPair };
}

function frequencyTable(options: ReferenceRopeOptions, form: Form): (axis: number, head: number, pair: number) => number {
  const { pairs, heads, axes, axisOfPair } = form;
  const { base = 10000 } = options;
  if (options.frequencies === undefined) {
    if (axes > 1 && axisOfPair === undefined) throw new RangeError("several axes need frequencies or axisOfPair");
    return (_axis, _head, pair) => base ** (-pair / pairs);
  }
  const given = numbersOf("frequencies", options.frequencies);
  if (!given.every(Number.isFinite)) throw new RangeError("frequencies must be finite");
  if (given.length === pairs && (axes === 1 || axisOfPair !== undefined)) return (_axis, _head, pair) => given[pair] ?? NaN;
  if (axisOfPair !== undefined) throw new RangeError(`frequencies must be [${pairs}] beside axisOfPair, got ${given.length} numbers`);
  if (given.length === axes * pairs) return (axis, _head, pair) => given[axis * pairs + pair] ?? NaN;
  if (given.length === axes * heads * pairs) return (axis, head, pair) => given[(axis * heads + head) * pairs + pair] ?? NaN;
  throw new RangeError(`frequencies must be [${pairs}], [${axes}, ${pairs}] or [${axes}, ${heads}, ${pairs}], got ${given.length} numbers`);
}

function positionTable(options: ReferenceRopeOptions, form: Form): (axis: number, row: number, s: number) => number {
  const { batch, sequence, axes } = form;
  const { positions } = options;
  if (positions === undefined) {
    if (axes > 1) throw new RangeError("several axes need positions");
    const offset = integer("offset", options.offset ?? 0, Number.MIN_SAFE_INTEGER);
    return (_axis, _row, s) => offset + s;
  }
  const given = numbersOf("positions", positions);
  const rows = given.length === axes * sequence ? 1 : batch;
  if (given.length !== axes * rows * sequence) {
    throw new RangeError(
      `positions must be [${sequence}] or [${batch}, ${sequence}] for each of ${axes} axes, got ${given.length} numbers`,
    );
  }
  const isFloat = positions instanceof Float32Array || positions instanceof Float16Array || !given.every(Number.isInteger) ||
    (positions instanceof Float64Array && positions.includes(-1));
  const values = isFloat ? given.map(Math.fround) : given;
  const beyond = values.findIndex((value) => Math.abs(value) > furthest);
  if (beyond >= 0) throw new RangeError(`positions[${beyond}] must be within +-2^38, got ${given[beyond]}`);
  return (axis, row, s) => {
    const value = values[(axis * rows + (rows === 1 ? 0 : row)) * sequence + s] ?? NaN;
    return value === -1 && axes === 1 && !isFloat ? NaN : value;
  };
}
