// What real models compute. Transformers: q and k of every model whose pairing there is, with the model's own inv_freq; and with the library's
// frequencies through fromConfig. Diffusers: every table, several axes, fractional and negative positions.
import { describe, expect, test } from "bun:test";
import {
  closeness,
  closenessToTable,
  custom,
  diffusers,
  eachPair,
  formulaOf,
  inParts,
  isRotation,
  lengthOf,
  prefixOf,
  rotate,
  ruled,
  scaled,
  slackOf,
  transformers,
} from "./golden_rotations.ts";
import { turningOf } from "./goldens.ts";
import { devices, open, ulp } from "./support.ts";

const rotations = transformers.entries.filter(isRotation);
const left = transformers.entries.filter((golden) => !isRotation(golden)).map((golden) => golden.name);

describe.each(devices)("goldens on %s", (device) => {
  test("all cases with a pairing of this library are here", () => {
    expect(left).toEqual(["ministral3_q_scale", "llama4_nope_temperature", "hunyuan_vl_mrope", "gemma4_vit", "vjepa2_axis_block"]);
    expect(rotations.length).toBe(35);
  });

  test.each(rotations.map((golden) => [golden.name, golden] as const))(
    "%s: Hugging Face's float32 result from its inv_freq",
    (_, golden) => {
      using rope = custom(golden, open(device));
      const skip = prefixOf(golden);
      const { q, k } = rotate(rope, golden, "float32", skip);
      const off = (): number => slackOf(golden);
      expect(closeness(golden, "q", q, skip, off).ofBound).toBeLessThanOrEqual(1);
      if (k !== null) expect(closeness(golden, "k", k, skip, off).ofBound).toBeLessThanOrEqual(1);
    },
  );

  test.each(rotations.map((golden) => [golden.name, golden] as const))(
    "%s: the same from the config",
    (_, golden) => {
      using rope = ruled(golden, open(device));
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
      const skip = prefixOf(golden);
      const { q, k } = rotate(rope, golden, "float32", skip, contextLength);
      const moved = (pair: number): number => (off[pair] ?? NaN) + slackOf(golden);
      expect(closeness(golden, "q", q, skip, moved).ofBound).toBeLessThanOrEqual(1);
      if (k !== null) expect(closeness(golden, "k", k, skip, moved).ofBound).toBeLessThanOrEqual(1);
    },
  );

  const bf16 = rotations.filter((golden) => golden.tensors["q_out_bf16"] !== undefined);
  test.each(bf16.map((golden) => [golden.name, golden] as const))("%s: Hugging Face's bfloat16 result, or a better one", (_, golden) => {
    using rope = custom(golden, open(device));
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

  test.each(scaled)("%s: the factors of the config", (_name, _how, close) => {
    expect(close(open(device)).ofBound).toBeLessThanOrEqual(1);
  });

  test.each(inParts)("%s: in parts", (_, turn) => {
    expect(turn(open(device)).ofBound).toBeLessThanOrEqual(1);
  });

  test.each(diffusers.entries.map((golden) => [golden.name, golden] as const))("diffusers: %s", (_, golden) => {
    expect(closenessToTable(golden, open(device)).ofBound).toBeLessThanOrEqual(1);
  });

  test("invFreq is Hugging Face's bit for bit in nearly every value; torch's own power is an ulp off in the others", () => {
    let same = 0;
    let all = 0;
    for (const golden of rotations) {
      using rope = ruled(golden, open(device));
      if (golden.name === "phi3_mini_128k_long") continue;
      const want = Float32Array.from(turningOf(transformers, golden).frequencies);
      same += rope.invFreq.filter((value, pair) => value === want[pair]).length;
      all += want.length;
    }
    expect(all).toBeGreaterThan(1000);
    expect(same / all).toBeGreaterThan(0.99);
  });
});
