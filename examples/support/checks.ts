// What the demo proves: golden vectors of Hugging Face, the float64 reference, and the law that rotary embeddings exist for.
import { existsSync, readFileSync } from "node:fs";
import { type DType, type ForwardOptions, fromBfloat16, type RotaryEmbedding, Tensor } from "@librope/rope";
import { referenceRope } from "@librope/rope/testing";
import type { Model } from "./model.ts";

/** One line of the demo's verdict. */
export interface Check {
  readonly ok: boolean;
  readonly what: string;
  readonly result: string;
}

/**
 * The context that the demo rotates in, for rules whose frequencies depend on its length: a short one, whose frequencies are
 * `rope.frequencies`. All calls of a sequence have to agree on it.
 */
const contextLength = 1;

/** Where tokens stand, for a call: one offset, or where a token has several positions the same one on every axis, as for text. */
export function placement(
  rope: RotaryEmbedding,
  start: number,
  count: number,
): Pick<ForwardOptions, "offset" | "positions" | "contextLength"> {
  if (rope.axes === 1) return { offset: start, contextLength };
  return { positions: onEveryAxis(rope, Array.from({ length: count }, (_, i) => start + i)), contextLength };
}

function onEveryAxis(rope: RotaryEmbedding, positions: readonly number[]): number[] {
  return Array.from({ length: rope.axes }, () => positions).flat();
}

// ---- golden vectors ---------------------------------------------------------------------------------------------------------------------

// examples/data/*.golden.json; numbers are base64 of little-endian words.
interface Golden {
  readonly about: string;
  readonly positions: readonly number[];
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Largest error of Hugging Face's own bfloat16 result. */
  readonly bfloat16Error: number;
  readonly q: string;
  readonly k: string;
  readonly qRotated: string;
  readonly kRotated: string;
}

/** The golden vector that stands beside a config: model.json has model.golden.json. */
export function readGolden(configPath: string): Golden | undefined {
  const path = configPath.replace(/\.json$/, ".golden.json");
  return path !== configPath && existsSync(path) ? JSON.parse(readFileSync(path, "utf8")) as Golden : undefined;
}

/**
 * Rotates the golden's queries and keys and compares them with what Hugging Face made of them: in float32 with its float32 angles, and in
 * bfloat16 as the demo rotates, which may be no further off than Hugging Face's own bfloat16.
 */
export async function checkGolden(model: Model, golden: Golden): Promise<Check[]> {
  const { rope, hfRope } = model;
  const { heads, kvHeads, headDim, positions } = golden;
  const sides = [[heads, golden.q, golden.qRotated], [kvHeads, golden.k, golden.kRotated]] as const;
  let ulps = 0;
  let error = 0;
  for (const [count, input, output] of sides) {
    const bits = new Uint16Array(bytesOf(input));
    const values = fromBfloat16(bits);
    const wanted = new Float32Array(bytesOf(output));
    const shape = [positions.length, count, headDim];
    const single = await rotated(hfRope, Tensor.from(values, shape, { device: rope.device }), positions);
    const half = await rotated(rope, Tensor.from(bits, shape, { dtype: "bfloat16", device: rope.device }), positions);
    ulps = Math.max(ulps, largestUlps(hfRope, values, single, wanted, "float32"));
    for (let i = 0; i < wanted.length; ++i) error = Math.max(error, Math.abs((half[i] ?? NaN) - (wanted[i] ?? NaN)));
  }
  return [
    {
      ok: ulps <= 3,
      what: "golden vector of Hugging Face, float32 with its angles",
      result: `${ulps.toFixed(2)} ulp, allowed 3`,
    },
    {
      ok: error <= golden.bfloat16Error,
      what: "golden vector of Hugging Face, bfloat16",
      result: `off by ${error.toFixed(4)}, Hugging Face itself by ${golden.bfloat16Error.toFixed(4)}`,
    },
  ];
}

async function rotated(rope: RotaryEmbedding, x: Tensor, positions: readonly number[], length?: number): Promise<Float32Array> {
  using input = x;
  using output = rope.rotate(input, { positions: onEveryAxis(rope, positions), contextLength: length });
  return await output.toFloat32();
}

function bytesOf(base64: string): ArrayBuffer {
  const text = atob(base64);
  return Uint8Array.from(text, (character) => character.charCodeAt(0)).buffer;
}

// ---- the float64 reference --------------------------------------------------------------------------------------------------------------

/** The largest error of some rows of x rotated, in ulp of the dtype, against the plain float64 reference. */
export async function errorAgainstReference(
  rope: RotaryEmbedding,
  x: Tensor,
  result: Tensor,
  rows: readonly number[],
  start: number,
): Promise<number> {
  let ulps = 0;
  for (const row of rows) {
    using input = x.slice(0, row, row + 1);
    using output = result.slice(0, row, row + 1);
    const values = await input.toFloat32();
    const wanted = referenceRope(values, input.shape, {
      positions: [start + row],
      frequencies: textFrequencies(rope),
      rotaryDim: rope.rotaryDim,
      rotaryOffset: rope.rotaryOffset,
      pairing: rope.pairing,
      attentionFactor: rope.attentionFactor,
      conjugate: isConjugate(rope),
    });
    ulps = Math.max(ulps, largestUlps(rope, values, await output.toFloat32(), wanted, x.dtype));
  }
  return ulps;
}

/** What errorAgainstReference may be: half a unit for the rounding, and the error of the angle. */
export function allowedUlps(dtype: DType): number {
  return 0.5 + 5e-7 / unit(dtype);
}

// A text token has the same position on every axis: its angle is that position times the sum.
function textFrequencies(rope: RotaryEmbedding): Float64Array {
  const pairs = rope.rotaryDim / 2;
  const all = rope.frequencies;
  return new Float64Array(pairs).map((_, pair) => {
    let sum = 0;
    for (let at = pair; at < all.length; at += pairs) sum += all[at] ?? 0;
    return sum;
  });
}

function isConjugate(rope: RotaryEmbedding): boolean {
  const { cos, sin } = rope.cosSin(onEveryAxis(rope, [1]));
  const negated = (sin.readBlocking()[0] ?? 0) < 0; // pair 0 turns by at most 1
  cos.dispose();
  sin.dispose();
  return negated;
}

/** The largest difference in units in the last place of the larger of the result and the channels it is made of. */
function largestUlps(rope: RotaryEmbedding, input: Float32Array, output: Float32Array, wanted: ArrayLike<number>, dtype: DType): number {
  let largest = 0;
  for (let i = 0; i < input.length; ++i) {
    const channel = i % rope.dim;
    const [a, b] = sources(rope, channel);
    const scale = Math.max(Math.abs(wanted[i] ?? NaN), Math.abs(input[i - channel + a] ?? NaN), Math.abs(input[i - channel + b] ?? NaN));
    const ulp = 2 ** Math.floor(Math.log2(Math.max(scale, 2 ** -14))) * unit(dtype);
    const ulps = Math.abs((output[i] ?? NaN) - (wanted[i] ?? NaN)) / ulp;
    if (!(ulps <= largest)) largest = ulps; // NaN too
  }
  return largest;
}

// The two channels that a channel of the result is made of.
function sources(rope: RotaryEmbedding, channel: number): [number, number] {
  const { rotaryOffset: first, rotaryDim, pairing } = rope;
  const at = channel - first;
  if (at < 0 || at >= rotaryDim) return [channel, channel];
  const pair = pairing === "interleaved" ? at >> 1 : at % (rotaryDim / 2);
  return pairing === "half" ? [first + pair, first + pair + rotaryDim / 2] : [first + 2 * pair, first + 2 * pair + 1];
}

function unit(dtype: DType): number {
  return dtype === "bfloat16" ? 2 ** -7 : dtype === "float16" ? 2 ** -10 : 2 ** -23;
}

// ---- the law ----------------------------------------------------------------------------------------------------------------------------

/** One query and one key at many places: their product depends on how far apart they stand, and on nothing else. */
export async function checkRelativeLaw(rope: RotaryEmbedding): Promise<Check> {
  const distances = [0, 1, 16, 255, 4095];
  const starts = [0, 1, 1000, 8192, 100_000, 1_000_000];
  const places = distances.flatMap((distance) => starts.map((start) => ({ query: start + distance, key: start })));
  const q = await atAll(rope, 21, places.map((place) => place.query));
  const k = await atAll(rope, 22, places.map((place) => place.key));
  const norms = Math.sqrt(product(q, q, 0, rope.dim) * product(k, k, 0, rope.dim));
  let spread = 0;
  for (let d = 0; d < distances.length; ++d) {
    const scores = starts.map((_, s) => product(q, k, d * starts.length + s, rope.dim));
    spread = Math.max(spread, (Math.max(...scores) - Math.min(...scores)) / norms);
  }
  const ok = spread <= 2e-6;
  return {
    ok,
    what: "q·k depends on the distance only, tokens 0 to 1,004,095",
    result: `spread ${spread.toExponential(1)} of |q||k|, allowed 2e-6`,
  };
}

async function atAll(rope: RotaryEmbedding, seed: number, positions: readonly number[]): Promise<Float32Array> {
  using x = Tensor.random([1, 1, rope.dim], { seed, dtype: "float32", device: rope.device });
  using copies = Tensor.cat(positions.map(() => x), 0);
  return await rotated(rope, copies, positions, contextLength);
}

function product(a: Float32Array, b: Float32Array, row: number, dim: number): number {
  let sum = 0;
  for (let i = row * dim; i < (row + 1) * dim; ++i) sum += (a[i] ?? NaN) * (b[i] ?? NaN);
  return sum;
}
