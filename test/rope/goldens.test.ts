// What real models compute. Transformers: q and k of every model whose pairing there is, with the model's own inv_freq; and with the library's
// frequencies through fromConfig. Diffusers: every table, several axes, fractional and negative positions.
import { describe, expect, test } from "bun:test";
import { type Pairing, RotaryEmbedding, type Tensor } from "../../mod.ts";
import { hfInvFreq, type RopeParameters } from "../support/formulas.ts";
import { type Golden, Goldens, turningOf } from "./goldens.ts";
import { devices, numbersOf, open, tensorOf, ulp } from "./support.ts";

const transformers = new Goldens("transformers");
const diffusers = new Goldens("diffusers");
const isImage = (golden: Golden): boolean =>
  golden.name === "dinov3_vits16" || golden.model.includes("vision") || /_vit$|vision/.test(golden.name);

const isRotation = (golden: Golden): boolean => ["half", "interleaved", "interleaved_to_half"].includes(golden.pairing ?? "");
const rotations = transformers.entries.filter(isRotation);
const left = transformers.entries.filter((golden) => !isRotation(golden)).map((golden) => golden.name);

/** Where the channels of each pair are read and written. */
function places(golden: Golden, pair: number): [number, number, number, number] {
  const half: [number, number] = [pair, pair + golden.rotary_dim / 2];
  const interleaved: [number, number] = [2 * pair, 2 * pair + 1];
  const [a, b] = golden.pairing === "half" ? half : interleaved;
  const [c, d] = golden.pairing === "interleaved" ? interleaved : half;
  return [a, b, c, d].map((channel) => channel + golden.rotary_offset) as [number, number, number, number];
}

/** Visits every rotated pair: indices of what is written, and the two products that are added there. */
function eachPair(
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

interface Rotated {
  readonly q: Float64Array;
  readonly k: Float64Array | null;
}

function rotate(
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

/** An embedding with the golden's own frequencies. */
function custom(golden: Golden, device: string): RotaryEmbedding {
  return new RotaryEmbedding({
    dim: golden.head_dim,
    rotaryDim: golden.rotary_dim,
    rotaryOffset: golden.rotary_offset,
    pairing: golden.pairing as Pairing,
    angles: "hf",
    attentionFactor: golden.attention_scaling,
    device: open(device),
    ...turningOf(transformers, golden),
  });
}

/** An embedding with the library's frequencies, or null for an image encoder, whose positions no config describes. */
function ruled(golden: Golden, device: string): RotaryEmbedding | null {
  if (isImage(golden)) return null;
  const options = { angles: "hf", device: open(device) } as const;
  const modelType = golden.model.replace("transformers.models.", "");
  const config = { model_type: modelType, ...golden.config };
  return RotaryEmbedding.fromConfig(config, { ...options, layerType: golden.layer_type ?? undefined });
}

/** How long the context of a case is. Hugging Face's PhiMoE never asks for its long divisors: all its contexts are short ones. */
function lengthOf(golden: Golden): number {
  return golden.name === "phi35_moe_hf_quirk" ? 4096 : Math.max(...(golden.positions ?? []).flat()) + 1;
}

/** inv_freq of a case by the formulas, for the length of its context. */
function formulaOf(golden: Golden, rotaryDim: number): Float32Array {
  const parameters = { rope_theta: 10000, ...golden.rope_parameters } as RopeParameters;
  const dim = parameters.rope_type === "proportional" ? rotaryDim : rotaryDim / (parameters.partial_rotary_factor ?? 1);
  const maxPosition = golden.config["max_position_embeddings"] as number | undefined;
  return hfInvFreq(parameters, dim, { maxPosition, seqLen: lengthOf(golden) });
}

/** 3 float32 ulp (2^-23) of the larger of the two products that are added, and what an inv_freq that is an ulp off moves. */
function expectClose(golden: Golden, name: "q" | "k", got: Float64Array, skip: number, invFreqOff: (pair: number) => number): void {
  const heads = name === "q" ? golden.Hq : golden.Hk;
  const rest = skip * heads * golden.head_dim;
  const input = transformers.numbers(golden, `${name}_in`).subarray(rest);
  const want = transformers.numbers(golden, `${name}_out`).subarray(rest);
  const cos = transformers.numbers(golden, "cos"), sin = transformers.numbers(golden, "sin");
  const turned = new Set<number>();
  let worst = 0;
  eachPair(golden, input, cos, sin, heads, (index, first, second, pair, token, inputs) => {
    turned.add(index);
    const position = Math.max(...(golden.positions ?? []).map((axis) => Math.abs(axis[token] ?? 0)));
    const moved = position * invFreqOff(pair) * golden.attention_scaling * inputs;
    const allowed = 3 * 2 ** -23 * Math.max(Math.abs(first), Math.abs(second)) + moved + 2 ** -149;
    worst = Math.max(worst, Math.abs((got[index] ?? NaN) - (want[index] ?? NaN)) / allowed);
  });
  expect(worst).toBeLessThanOrEqual(1);
  for (let i = 0; i < got.length; ++i) {
    if (!turned.has(i) && got[i] !== want[i]) throw new Error(`channel ${i % golden.head_dim} changed, which does not rotate`);
  }
}

describe.each(devices)("goldens on %s", (device) => {
  test("all cases with a pairing of this library are here", () => {
    expect(left).toEqual(["ministral3_q_scale", "llama4_nope_temperature", "hunyuan_vl_mrope", "gemma4_vit", "vjepa2_axis_block"]);
    expect(rotations.length).toBe(35);
  });

  test.each(rotations.map((golden) => [golden.name, golden] as const))(
    "%s: Hugging Face's float32 result from its inv_freq",
    (_, golden) => {
      using rope = custom(golden, device);
      const skip = golden.name === "dinov3_vits16" ? 1 : 0; // a prefix token that passes
      const { q, k } = rotate(rope, golden, "float32", skip);
      // DINOv3 multiplies by 2 pi first: its frequency is rounded once more, for angles up to 2 pi.
      const off = golden.name === "dinov3_vits16" ? (): number => 2 * Math.PI * 2 ** -23 : (): number => 0;
      expectClose(golden, "q", q, skip, off);
      if (k !== null) expectClose(golden, "k", k, skip, off);
    },
  );

  test.each(rotations.map((golden) => [golden.name, golden] as const))(
    "%s: the same from the config",
    (_, golden) => {
      using rope = ruled(golden, device);
      if (rope === null) return;
      expect([rope.dim, rope.rotaryDim, rope.rotaryOffset, rope.pairing as string, rope.axes]).toEqual(
        [golden.head_dim, golden.rotary_dim, golden.rotary_offset, golden.pairing as string, golden.axes],
      );
      const want = Float32Array.from(turningOf(transformers, golden).frequencies);
      expect(Math.abs(rope.attentionFactor - golden.attention_scaling)).toBeLessThanOrEqual(2e-16);
      // The getter has those of the original length; what calls of other lengths take is the formulas', which test/rope/rules.test.ts shows.
      const isLong = golden.name === "phi3_mini_128k_long";
      const got = isLong ? formulaOf(golden, rope.rotaryDim) : rope.invFreq;
      expect(got.length).toBe(want.length);
      const off = Float64Array.from(got, (value, pair) => Math.abs(value - (want[pair] ?? NaN)));
      if (golden.axes === 1) {
        const formula = formulaOf(golden, rope.rotaryDim);
        got.forEach((value, pair) => {
          if (formula[pair] === want[pair]) expect(value).toBe(want[pair] ?? NaN);
          expect(off[pair]).toBeLessThanOrEqual(ulp(want[pair] ?? NaN, "float32"));
        });
      }
      const contextLength = golden.name === "phi35_moe_hf_quirk" ? lengthOf(golden) : undefined; // the others are known from their positions
      const { q, k } = rotate(rope, golden, "float32", 0, contextLength);
      expectClose(golden, "q", q, 0, (pair) => off[pair] ?? NaN);
      if (k !== null) expectClose(golden, "k", k, 0, (pair) => off[pair] ?? NaN);
    },
  );

  const bf16 = rotations.filter((golden) => golden.tensors["q_out_bf16"] !== undefined);
  test.each(bf16.map((golden) => [golden.name, golden] as const))("%s: Hugging Face's bfloat16 result, or a better one", (_, golden) => {
    using rope = custom(golden, device);
    const rotated = rotate(rope, golden, "bfloat16");
    for (const name of ["q", "k"] as const) {
      const got = rotated[name];
      if (got === null) continue;
      const theirs = transformers.numbers(golden, `${name}_out_bf16`);
      const rounded = golden.cos_sin_dtype_in_bf16_model === "bf16";
      if (!rounded || golden.tensors[`${name}_out64`] === undefined) {
        // One rounding on both sides, of sums that differ by a few float32 ulp of their terms.
        const input = transformers.numbers(golden, `${name}_in`);
        const heads = name === "q" ? golden.Hq : golden.Hk;
        const cos = transformers.numbers(golden, "cos"), sin = transformers.numbers(golden, "sin");
        eachPair(golden, input, cos, sin, heads, (index, first, second) => {
          const want = theirs[index] ?? NaN;
          const terms = Math.max(Math.abs(first), Math.abs(second));
          if (!(Math.abs((got[index] ?? NaN) - want) <= ulp(want, "bfloat16") + 4 * ulp(terms, "float32"))) {
            throw new Error(`${name}[${index}] is ${got[index]}, Hugging Face's ${want}`);
          }
        });
      } else {
        const exact = transformers.numbers(golden, `${name}_out64`);
        const error = (of: Float64Array): number => of.reduce((worst, value, i) => Math.max(worst, Math.abs(value - (exact[i] ?? NaN))), 0);
        expect(error(got)).toBeLessThanOrEqual(error(theirs));
      }
    }
  });

  test("gemma4_vit: a half pairing inside each axis's block, as two slices", () => {
    const golden = transformers.entries.find((entry) => entry.name === "gemma4_vit");
    if (golden === undefined) throw new Error("it is gone");
    const [rows = [], columns = []] = golden.positions ?? [];
    using q = tensorOf(transformers.numbers(golden, "q_in"), [rows.length, golden.Hq, 64], "float32", open(device));
    const frequencies = transformers.numbers(golden, "inv_freq");
    for (const [rotaryOffset, positions] of [[0, rows], [32, columns]] as const) {
      using rope = new RotaryEmbedding({ dim: 64, rotaryDim: 32, rotaryOffset, frequencies, angles: "hf", device: open(device) });
      rope.forwardInplace(q, null, { positions });
    }
    const want = transformers.numbers(golden, "q_out");
    numbersOf(q).forEach((value, i) => expect(Math.abs(value - (want[i] ?? NaN))).toBeLessThan(2e-6));
  });

  test.each(diffusers.entries.map((golden) => [golden.name, golden] as const))("diffusers: %s", (_, golden) => {
    const { head_dim: dim, rotary_dim: rotaryDim, axes } = golden;
    using rope = new RotaryEmbedding({
      dim,
      rotaryDim,
      rotaryOffset: golden.rotary_offset,
      pairing: golden.pairing as Pairing,
      axes,
      frequencies: diffusers.numbers(golden, "freq"),
      device: open(device),
    });
    const input = diffusers.numbers(golden, "x_in");
    const positions = Float32Array.from(diffusers.numbers(golden, "pos"));
    const tokens = positions.length / axes;
    using x = tensorOf(input, [tokens, golden.Hq, dim], "float32", rope.device);
    using out = rope.rotate(x, { positions });
    const got = numbersOf(out);
    const want = diffusers.numbers(golden, "x_out");
    const cos = diffusers.numbers(golden, "cos"), sin = diffusers.numbers(golden, "sin");
    // max_err is how far the model's table is from cos and sin of its frequencies; those given here are rounded to float32.
    const table = golden.max_err ?? 0;
    const frequencies = rope.frequencies;
    let worst = 0;
    eachPair(golden, input, cos, sin, golden.Hq, (index, first, second, pair, token, inputs) => {
      let angle = 0;
      for (let axis = 0; axis < axes; ++axis) {
        const each = frequencies.length / axes;
        for (let i = axis * each + pair; i < (axis + 1) * each; i += rotaryDim / 2) {
          angle = Math.max(angle, Math.abs((positions[axis * tokens + token] ?? NaN) * (frequencies[i] ?? NaN)));
        }
      }
      const off = 1.01 * table + axes * angle * 2 ** -24 + 2e-7;
      const allowed = 3 * 2 ** -23 * Math.max(Math.abs(first), Math.abs(second)) + off * inputs + 2 ** -149;
      worst = Math.max(worst, Math.abs((got[index] ?? NaN) - (want[index] ?? NaN)) / allowed);
    });
    expect(worst).toBeLessThanOrEqual(1);
  });

  test("invFreq is Hugging Face's bit for bit in nearly every value; torch's own power is an ulp off in the others", () => {
    let same = 0;
    let all = 0;
    for (const golden of rotations) {
      using rope = ruled(golden, device);
      if (rope === null || golden.name === "phi3_mini_128k_long") continue;
      const want = Float32Array.from(turningOf(transformers, golden).frequencies);
      same += rope.invFreq.filter((value, pair) => value === want[pair]).length;
      all += want.length;
    }
    expect(all).toBeGreaterThan(1000);
    expect(same / all).toBeGreaterThan(0.99);
  });
});
