// The rotations of the golden cases, and how close they come: what the tests and docs/models.md have in common.
import { type Device, type Pairing, RotaryEmbedding, type Tensor } from "../../mod.ts";
import { hfInvFreq, type RopeParameters } from "../support/formulas.ts";
import { type Golden, Goldens, turningOf } from "./goldens.ts";
import { numbersOf, samples, tensorOf } from "./support.ts";

export const transformers: Goldens = new Goldens("transformers");
export const diffusers: Goldens = new Goldens("diffusers");

/** Whether a case is one rotation with a pairing of this library. */
export function isRotation(golden: Golden): boolean {
  return ["half", "interleaved", "interleaved_to_half"].includes(golden.pairing ?? "");
}

/** How many tokens of a case are a prefix, which does not turn. */
export function prefixOf(golden: Golden): number {
  return golden.name === "dinov3_vits16" ? 1 : 0;
}

/** How far off a frequency of a case may be besides: DINOv3 multiplies the coordinates by 2 pi first, which is one more rounding. */
export function slackOf(golden: Golden): number {
  return golden.name === "dinov3_vits16" ? 2 * Math.PI * 2 ** -23 : 0;
}

/** Where the channels of each pair are read and written. */
function places(golden: Golden, pair: number): [number, number, number, number] {
  const half: [number, number] = [pair, pair + golden.rotary_dim / 2];
  const interleaved: [number, number] = [2 * pair, 2 * pair + 1];
  const [a, b] = golden.pairing === "half" ? half : interleaved;
  const [c, d] = golden.pairing === "interleaved" ? interleaved : half;
  return [a, b, c, d].map((channel) => channel + golden.rotary_offset) as [number, number, number, number];
}

/** Visits every rotated pair: indices of what is written, and the two products that are added there. */
export function eachPair(
  golden: Golden,
  input: Float64Array,
  cos: Float64Array,
  sin: Float64Array,
  heads: number,
  visit: (index: number, first: number, second: number, pair: number, token: number, inputs: number) => void,
): void {
  const dim = golden.head_dim;
  const pairs = golden.rotary_dim / 2;
  const perHead = cos.length * dim === input.length * pairs;
  for (let token = 0; token * heads * dim < input.length; ++token) {
    for (let head = 0; head < heads; ++head) {
      const base = (token * heads + head) * dim;
      for (let pair = 0; pair < pairs; ++pair) {
        const at = (perHead ? token * heads + head : token) * pairs + pair;
        const [a, b, c, d] = places(golden, pair).map((channel) => base + channel) as [number, number, number, number];
        const x = input[a] ?? NaN, y = input[b] ?? NaN, u = cos[at] ?? NaN, v = sin[at] ?? NaN;
        visit(c, x * u, y * v, pair, token, Math.abs(x) + Math.abs(y));
        visit(d, y * u, x * v, pair, token, Math.abs(x) + Math.abs(y));
      }
    }
  }
}

/** An embedding with the golden's own frequencies. */
export function custom(golden: Golden, device: Device): RotaryEmbedding {
  return new RotaryEmbedding({
    dim: golden.head_dim,
    rotaryDim: golden.rotary_dim,
    rotaryOffset: golden.rotary_offset,
    pairing: golden.pairing as Pairing,
    angles: "hf",
    attentionFactor: golden.attention_scaling,
    device,
    ...turningOf(transformers, golden),
  });
}

/** An embedding with the library's frequencies, from the case's config. */
export function ruled(golden: Golden, device: Device, layerType: string | undefined = golden.layer_type ?? undefined): RotaryEmbedding {
  const modelType = golden.model.replace("transformers.models.", "");
  return RotaryEmbedding.fromConfig({ model_type: modelType, ...golden.config }, { angles: "hf", device, layerType });
}

/** How long the context of a case is. Hugging Face's PhiMoE never asks for its long divisors: all its contexts are short ones. */
export function lengthOf(golden: Golden): number {
  return golden.name === "phi35_moe_hf_quirk" ? 4096 : Math.max(...(golden.positions ?? []).flat()) + 1;
}

/** inv_freq of a case by the formulas, for the length of its context. */
export function formulaOf(golden: Golden, rotaryDim: number): Float32Array {
  const parameters = { rope_theta: 10000, ...golden.rope_parameters } as RopeParameters;
  const dim = parameters.rope_type === "proportional" ? rotaryDim : rotaryDim / (parameters.partial_rotary_factor ?? 1);
  const maxPosition = golden.config["max_position_embeddings"] as number | undefined;
  return hfInvFreq(parameters, dim, { maxPosition, seqLen: lengthOf(golden) });
}

/** What came of q and k. */
export interface Rotated {
  readonly q: Float64Array;
  readonly k: Float64Array | null;
}

/** q and k of a case, rotated; `skip` tokens at the beginning left out. */
export function rotate(
  rope: RotaryEmbedding,
  golden: Golden,
  dtype: "float32" | "bfloat16",
  skip: number = 0,
  contextLength: number | undefined = undefined,
): Rotated {
  const device = rope.device;
  const tokens = (golden.positions?.[0] ?? []).length;
  const input = (name: string, heads: number): Tensor => {
    const numbers = transformers.numbers(golden, name).subarray(skip * heads * golden.head_dim);
    return tensorOf(numbers, [tokens, heads, golden.head_dim], dtype, device);
  };
  using q = input("q_in", golden.Hq);
  using k = golden.Hk > 0 ? input("k_in", golden.Hk) : null;
  const positions = (golden.positions ?? []).flat();
  const [qOut, kOut] = rope.forward(q, k, { positions, inverse: golden.inverse, contextLength });
  const result = { q: numbersOf(qOut), k: kOut && numbersOf(kOut) };
  qOut.dispose();
  kOut?.dispose();
  return result;
}

/** How close a result is. */
export interface Closeness {
  /** The largest distance, over the larger of the two products that are added there. */
  readonly error: number;
  /** The largest distance over what is allowed; above 1 it fails, as it does where something moved that does not rotate. */
  readonly ofBound: number;
}

/**
 * How close q or k is to Hugging Face's float32 result. Allowed are 3 float32 ulp (2^-23) of the larger of the two products that are added, and what
 * an inv_freq that is an ulp off moves.
 */
export function closeness(
  golden: Golden,
  name: "q" | "k",
  got: Float64Array,
  skip: number,
  invFreqOff: (pair: number) => number,
): Closeness {
  const heads = name === "q" ? golden.Hq : golden.Hk;
  const rest = skip * heads * golden.head_dim;
  const input = transformers.numbers(golden, `${name}_in`).subarray(rest);
  const want = transformers.numbers(golden, `${name}_out`).subarray(rest);
  const cos = transformers.numbers(golden, "cos"), sin = transformers.numbers(golden, "sin");
  const turned = new Set<number>();
  let error = 0, ofBound = 0;
  eachPair(golden, input, cos, sin, heads, (index, first, second, pair, token, inputs) => {
    turned.add(index);
    const position = Math.max(...(golden.positions ?? []).map((axis) => Math.abs(axis[token] ?? 0)));
    const terms = Math.max(Math.abs(first), Math.abs(second));
    const moved = position * invFreqOff(pair) * golden.attention_scaling * inputs;
    const distance = Math.abs((got[index] ?? NaN) - (want[index] ?? NaN));
    error = Math.max(error, distance === 0 ? 0 : distance / terms);
    ofBound = Math.max(ofBound, distance / (3 * 2 ** -23 * terms + moved + 2 ** -149));
  });
  if (got.some((value, i) => !turned.has(i) && value !== want[i])) ofBound = Infinity;
  return { error, ofBound };
}

/** The rotation of a diffusers case with its own frequencies, and how close it is to the model's. */
export function closenessToTable(golden: Golden, device: Device): Closeness {
  const { head_dim: dim, rotary_dim: rotaryDim, axes } = golden;
  using rope = new RotaryEmbedding({
    dim,
    rotaryDim,
    rotaryOffset: golden.rotary_offset,
    pairing: golden.pairing as Pairing,
    axes,
    frequencies: diffusers.numbers(golden, "freq"),
    device,
  });
  const input = diffusers.numbers(golden, "x_in");
  const positions = Float32Array.from(diffusers.numbers(golden, "pos"));
  const tokens = positions.length / axes;
  using x = tensorOf(input, [tokens, golden.Hq, dim], "float32", device);
  using out = rope.rotate(x, { positions });
  const got = numbersOf(out);
  const want = diffusers.numbers(golden, "x_out");
  const cos = diffusers.numbers(golden, "cos"), sin = diffusers.numbers(golden, "sin");
  // max_err is how far the model's table is from cos and sin of its frequencies; those given here are rounded to float32.
  const table = golden.max_err ?? 0;
  const frequencies = rope.frequencies;
  let error = 0, ofBound = 0;
  eachPair(golden, input, cos, sin, golden.Hq, (index, first, second, pair, token, inputs) => {
    let angle = 0;
    for (let axis = 0; axis < axes; ++axis) {
      const each = frequencies.length / axes;
      for (let i = axis * each + pair; i < (axis + 1) * each; i += rotaryDim / 2) {
        angle = Math.max(angle, Math.abs((positions[axis * tokens + token] ?? NaN) * (frequencies[i] ?? NaN)));
      }
    }
    const off = 1.01 * table + axes * angle * 2 ** -24 + 2e-7;
    const terms = Math.max(Math.abs(first), Math.abs(second));
    const distance = Math.abs((got[index] ?? NaN) - (want[index] ?? NaN));
    error = Math.max(error, distance / inputs);
    ofBound = Math.max(ofBound, distance / (3 * 2 ** -23 * terms + off * inputs + 2 ** -149));
  });
  return { error, ofBound };
}

// ---- cases of factors -------------------------------------------------------------------------------------------------------------------

/** Queries times the factors that the config asks for, next to rotated ones times those of the case. */
function factors(name: string, layerType: string | undefined, device: Device): Closeness {
  const golden = caseOf(name);
  using rope = ruled(golden, device, layerType);
  const want = transformers.numbers(golden, "q_scale");
  const positions = golden.positions?.[0] ?? [];
  using x = tensorOf(samples(positions.length * rope.dim, "float32", 1), [positions.length, 1, rope.dim], "float32", device);
  using qScale = rope.qScale(positions);
  using rotated = rope.rotate(x, { positions });
  using scaled = rope.rotate(x, { positions, qScale });
  const plain = numbersOf(rotated), got = numbersOf(scaled);
  let error = 0;
  got.forEach((value, i) => {
    const exact = (plain[i] ?? NaN) * (want[Math.floor(i / rope.dim)] ?? NaN);
    error = Math.max(error, value === exact ? 0 : Math.abs((value - exact) / exact));
  });
  return { error, ofBound: error / (3 * 2 ** -23) };
}

/** Cases that are factors of the queries, by name: what makes them, and how close they are. */
export const scaled: readonly (readonly [name: string, how: string, close: (device: Device) => Closeness])[] = [
  ["ministral3_q_scale", "fromConfig, qScale", (device) => factors("ministral3_q_scale", undefined, device)],
  [
    "llama4_nope_temperature",
    "fromConfig (full_attention), qScale",
    (device) => factors("llama4_nope_temperature", "full_attention", device),
  ],
];

// ---- cases that are not one rotation, but parts of several ------------------------------------------------------------------------------

/** x rotated by an embedding with hf angles. */
function turned(
  golden: Golden,
  name: "q" | "k",
  device: Device,
  options: Partial<ConstructorParameters<typeof RotaryEmbedding>[0]>,
): Float64Array {
  using rope = new RotaryEmbedding({ dim: golden.head_dim, angles: "hf", device, ...options });
  const positions = golden.positions ?? [];
  const shape = [positions[0]?.length ?? 0, name === "q" ? golden.Hq : golden.Hk, golden.head_dim];
  using x = tensorOf(transformers.numbers(golden, `${name}_in`), shape, "float32", device);
  using out = rope.rotate(x, { positions: positions.slice(0, rope.axes).flat() });
  return numbersOf(out);
}

/** How close `got` is where the two channels of a pair turn by cos and sin of their own, [tokens, D] each. */
function closenessUntied(golden: Golden, name: "q" | "k", got: Float64Array, partner: (channel: number) => number): Closeness {
  const dim = golden.head_dim, heads = name === "q" ? golden.Hq : golden.Hk;
  const input = transformers.numbers(golden, `${name}_in`), want = transformers.numbers(golden, `${name}_out`);
  const cos = transformers.numbers(golden, "cos"), sin = transformers.numbers(golden, "sin");
  let error = 0;
  for (let i = 0; i < got.length; ++i) {
    const channel = i % dim, at = Math.floor(i / dim / heads) * dim + channel;
    const own = (input[i] ?? NaN) * (cos[at] ?? NaN), other = (input[i - channel + partner(channel)] ?? NaN) * (sin[at] ?? NaN);
    const distance = Math.abs((got[i] ?? NaN) - (want[i] ?? NaN));
    error = Math.max(error, distance === 0 ? 0 : distance / Math.max(Math.abs(own), Math.abs(other)));
  }
  return { error, ofBound: error / (3 * 2 ** -23) };
}

function caseOf(name: string): Golden {
  const golden = transformers.entries.find((entry) => entry.name === name);
  if (golden === undefined) throw new Error(`${name} is gone`);
  return golden;
}

/** The worse of two. */
export function worse(a: Closeness, b: Closeness): Closeness {
  return { error: Math.max(a.error, b.error), ofBound: Math.max(a.ofBound, b.ofBound) };
}

/** Half pairs within the block of each axis: a slice for each axis. */
function gemma4Vit(device: Device): Closeness {
  const golden = caseOf("gemma4_vit");
  const [rows = [], columns = []] = golden.positions ?? [];
  const frequencies = transformers.numbers(golden, "inv_freq");
  let result: Closeness = { error: 0, ofBound: 0 };
  for (const [name, heads] of [["q", golden.Hq], ["k", golden.Hk]] as const) {
    using x = tensorOf(transformers.numbers(golden, `${name}_in`), [rows.length, heads, 64], "float32", device);
    for (const [rotaryOffset, positions] of [[0, rows], [32, columns]] as const) {
      using rope = new RotaryEmbedding({ dim: 64, rotaryDim: 32, rotaryOffset, frequencies, angles: "hf", device });
      rope.forwardInplace(x, null, { positions });
    }
    const partner = (channel: number): number => channel % 32 < 16 ? channel + 16 : channel - 16;
    result = worse(result, closenessUntied(golden, name, numbersOf(x), partner));
  }
  return result;
}

/** The first half of the channels turns with axes 0 and 1, the second with 2 and 3: two rotations, of which a half each is kept. */
function hunyuanVl(device: Device): Closeness {
  const golden = caseOf("hunyuan_vl_mrope");
  const rule = { base: 10000, scaling: { ropeType: "dynamic", alpha: 1000 }, axes: 4 } as const;
  let result: Closeness = { error: 0, ofBound: 0 };
  for (const name of ["q", "k"] as const) {
    const [first, second] = [0, 2].map((axis) =>
      turned(golden, name, device, { ...rule, axisOfPair: Array.from({ length: 64 }, (_, pair) => axis + (pair < 32 ? 0 : 1)) })
    );
    const got = Float64Array.from(first ?? [], (value, i) => i % 128 < 64 ? value : second?.[i] ?? NaN);
    result = worse(result, closenessUntied(golden, name, got, (channel) => (channel + 64) % 128));
  }
  return result;
}

/** The tables are tiled where the pairs are interleaved, so each channel of a pair has a frequency of its own: two rotations, every other channel kept. */
function vjepa2(device: Device): Closeness {
  const golden = caseOf("vjepa2_axis_block");
  const tiled = transformers.numbers(golden, "inv_freq");
  const [even, odd] = [0, 1].map((side) => {
    const frequencies = Float64Array.from({ length: 10 }, (_, pair) => tiled[(2 * pair + side) % 10] ?? NaN);
    return turned(golden, "q", device, { frequencies, pairing: "interleaved" });
  });
  const got = Float64Array.from(even ?? [], (value, i) => i % 2 === 0 ? value : odd?.[i] ?? NaN);
  return closenessUntied(golden, "q", got, (channel) => channel ^ 1);
}

/** Cases that the library turns in parts, by name. */
export const inParts: readonly (readonly [string, (device: Device) => Closeness])[] = [
  ["gemma4_vit", gemma4Vit],
  ["hunyuan_vl_mrope", hunyuanVl],
  ["vjepa2_axis_block", vjepa2],
];
