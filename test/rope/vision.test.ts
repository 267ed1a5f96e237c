// fromConfig of image encoders: which axis drives each pair, by what frequencies; and what is no such config. Three goldens are of them.
import { describe, expect, test } from "bun:test";
import { type Pairing, RopeArgumentError, type RopeError, RotaryEmbedding, Tensor } from "../../mod.ts";
import { devices, errorOf, numbersOf, open, samples, tensorOf } from "./support.ts";

type Json = Record<string, unknown>;

const patches = { patch_size: 14, spatial_merge_size: 2 };
const qwen: Json = { ...patches, hidden_size: 1280, num_heads: 16, depth: 32 };

function refuse(config: Json, argument: string, options?: object): RopeError {
  const error = errorOf(() => RotaryEmbedding.fromConfig(config, options)) as RopeError;
  if (!(error instanceof RopeArgumentError)) throw new Error(`got ${error}`);
  expect(error.argument).toBe(argument);
  return error;
}

/** A head turned pair by pair in float64: what an encoder is to do. */
function turned(x: Float64Array, dim: number, pairing: Pairing, angle: (token: number, pair: number) => number): Float64Array {
  const out = Float64Array.from(x);
  for (let token = 0; token * dim < x.length; ++token) {
    for (let pair = 0; pair < dim / 2; ++pair) {
      const [a, b] = pairing === "half" ? [pair, pair + dim / 2] : [2 * pair, 2 * pair + 1];
      const [cos, sin] = [Math.cos(angle(token, pair)), Math.sin(angle(token, pair))];
      const [u, v] = [x[token * dim + a] ?? NaN, x[token * dim + b] ?? NaN];
      out[token * dim + a] = u * cos - v * sin;
      out[token * dim + b] = u * sin + v * cos;
    }
  }
  return out;
}

const first = [0, 1, 2, 13, 40], second = [3, 0, 27, 13, 5];

describe.each(devices)("image encoders on %s", (name) => {
  const device = open(name);

  const halves = (theta: number, dim: number) => (token: number, pair: number): number => {
    const at = (pair < dim / 4 ? first : second)[token] ?? NaN;
    return at * theta ** (-4 * (pair % (dim / 4)) / dim);
  };
  test.each<[string, Json, number, Pairing, (token: number, pair: number) => number]>([
    [
      "Qwen2-VL, as its model is called",
      { model_type: "qwen2_vl", ...qwen, hidden_size: 3584, embed_dim: 1280 },
      80,
      "half",
      halves(1e4, 80),
    ],
    ["Qwen2.5-VL, no more than its width", { model_type: "qwen2_5_vl", hidden_size: 1280, num_heads: 16 }, 80, "half", halves(1e4, 80)],
    ["Qwen3-VL", { model_type: "qwen3_vl", ...qwen, hidden_size: 1152 }, 72, "half", halves(1e4, 72)],
    [
      "Qwen3.5, theta of its own",
      { model_type: "qwen3_5_vision", ...qwen, rope_parameters: { rope_type: "axial", rope_theta: 500 } },
      80,
      "half",
      halves(500, 80),
    ],
    ["Qwen3-Omni", { model_type: "qwen3_omni_moe_vision_encoder", ...qwen, hidden_size: 1152 }, 72, "half", halves(1e4, 72)],
    ["GLM-OCR, head_dim", { model_type: "glm_ocr_vision", ...qwen, head_dim: 64 }, 64, "half", halves(1e4, 64)],
    [
      "Llama 4",
      { model_type: "llama4_vision_model", hidden_size: 1408, num_attention_heads: 16, image_size: 336, patch_size: 14, rope_theta: 10000 },
      88,
      "interleaved",
      halves(1e4, 88),
    ],
    [
      "Pixtral",
      { model_type: "pixtral", hidden_size: 1024, num_attention_heads: 16, patch_size: 16, rope_theta: 10000 },
      64,
      "half",
      (token, pair) => {
        const [at, j] = pair < 16 ? [first[token] ?? NaN, 2 * pair] : [second[token] ?? NaN, 2 * (pair - 16) + 1];
        return at * 1e4 ** (-2 * j / 64);
      },
    ],
    [
      "DINOv3",
      { model_type: "dinov3_vit", hidden_size: 384, num_attention_heads: 6, patch_size: 16 },
      64,
      "half",
      (token, pair) => 2 * Math.PI * halves(100, 64)(token, pair),
    ],
  ])("%s", (_name, config, dim, pairing, angle) => {
    using rope = RotaryEmbedding.fromConfig(config, { device });
    expect([rope.dim, rope.rotaryDim, rope.rotaryOffset, rope.pairing, rope.axes]).toEqual([dim, dim, 0, pairing, 2]);
    const numbers = samples(5 * dim, "float32", 7);
    using x = tensorOf(numbers, [5, 1, dim], "float32", device);
    using out = rope.rotate(x, { positions: [...first, ...second] });
    const want = turned(numbers, dim, pairing, angle);
    numbersOf(out).forEach((value, i) => expect(Math.abs(value - (want[i] ?? NaN))).toBeLessThan(4e-6));
  });

  test("hf angles have Hugging Face's float32 frequencies; options override the config", () => {
    using hf = RotaryEmbedding.fromConfig({ model_type: "qwen3_vl", ...qwen }, { angles: "hf", device });
    using rule = new RotaryEmbedding({ dim: 40, device });
    expect([...hf.invFreq]).toEqual([...rule.invFreq, ...rule.invFreq]);
    expect([...hf.frequencies]).toEqual([...rule.invFreq, ...rule.invFreq]);
    using own = RotaryEmbedding.fromConfig({ model_type: "qwen3_vl", ...qwen }, { dim: 64, pairing: "interleaved", device });
    expect([own.dim, own.pairing]).toEqual([64, "interleaved"]);
  });
});

describe("what is none", () => {
  test("a whole config is the language model's, and so is what an encoder alone would not say", () => {
    const whole = { model_type: "qwen2_vl", hidden_size: 3584, num_attention_heads: 28, vocab_size: 152064, vision_config: { ...qwen } };
    using rope = RotaryEmbedding.fromConfig(whole);
    expect([rope.axes, rope.dim]).toEqual([3, 128]);
    using text = RotaryEmbedding.fromConfig({ model_type: "llama4", text_config: { model_type: "llama4_text" }, patch_size: 14 });
    expect([text.axes, text.dim]).toEqual([1, 128]);
    using bytes = RotaryEmbedding.fromConfig({ model_type: "blt", patch_size: 4, hidden_size: 512, num_attention_heads: 8 });
    expect(bytes.axes).toBe(1);
  });

  test("errors name the key", () => {
    const config = { model_type: "qwen3_vl", ...qwen };
    refuse({ ...config, rope_parameters: { rope_type: "yarn", factor: 2 } }, "config.rope_parameters.rope_type");
    refuse({ ...config, rope_parameters: { rope_theta: -1 } }, "config.rope_parameters.rope_theta");
    refuse({ ...config, partial_rotary_factor: 0.5 }, "config.partial_rotary_factor");
    refuse({ ...config, head_dim: 70 }, "config.head_dim");
    refuse({ ...config, num_heads: undefined }, "config.head_dim");
    refuse({ ...config, num_heads: "16" }, "config.num_heads");
    refuse({ ...config, hidden_size: undefined }, "config.head_dim");
    refuse(config, "dim", { dim: 6 });
    refuse(config, "dim", { dim: "64" });
    refuse(config, "layerType", { layerType: "full_attention" });
    refuse(config, "rotaryOffset", { rotaryOffset: 2 });
    refuse(config, "angles", { angles: "exakt" });
    refuse(config, "pairing", { pairing: "neox" });
    expect(refuse({ model_type: "gemma4_vision", hidden_size: 768, num_attention_heads: 12 }, "config.model_type").message)
      .toContain("make one embedding for each");
  });

  test("their positions are given on both axes", () => {
    using rope = RotaryEmbedding.fromConfig({ model_type: "qwen3_vl", ...qwen }, { device: "cpu" });
    using q = Tensor.random([3, 2, 80], { device: "cpu" });
    expect((errorOf(() => rope.rotate(q)) as RopeError).argument).toBe("positions");
  });
});
