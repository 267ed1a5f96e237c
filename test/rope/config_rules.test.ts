// deno-lint-ignore-file no-console
// The rules of a config: every key of every rule, which of two places wins, what is missing, and the one warning for what nobody reads.
import { describe, expect, test } from "bun:test";
import { RopeArgumentError, type RopeError, RotaryEmbedding } from "../../mod.ts";
import { attentionFactorOf, hfInvFreq, type Lengths, type RopeParameters } from "../support/formulas.ts";
import { errorOf } from "./support.ts";

type Json = Record<string, unknown>;

const model: Json = { model_type: "llama", head_dim: 128, max_position_embeddings: 131072, rope_theta: 10000 };
const short = Array.from({ length: 64 }, (_, i) => 1 + i / 64);
const long = Array.from({ length: 64 }, (_, i) => 2 + i);
const longrope = { short_factor: short, long_factor: long, original_max_position_embeddings: 4096 };

/** Checks what a config gives against the formulas. */
function expectRule(config: Json, parameters: RopeParameters, lengths: Lengths = {}, layerType?: string): void {
  using rope = RotaryEmbedding.fromConfig(config, { layerType });
  expect([...rope.invFreq]).toEqual([...hfInvFreq(parameters, 128, lengths)]);
  expect(Math.abs(rope.attentionFactor - attentionFactorOf(parameters, lengths))).toBeLessThanOrEqual(2e-16);
}

function refuse(config: Json, argument: string): RopeError {
  const error = errorOf(() => RotaryEmbedding.fromConfig(config)) as RopeError;
  if (!(error instanceof RopeArgumentError)) throw new Error(`${argument}: got ${error}`);
  expect([error.operation, error.argument]).toEqual(["RotaryEmbedding.fromConfig", argument]);
  return error;
}

/** The warnings of a call. */
function warningsOf(call: () => void): string[] {
  const warnings: string[] = [];
  const warn = console.warn;
  console.warn = (...texts: unknown[]): void => {
    warnings.push(texts.join(" "));
  };
  try {
    call();
  } finally {
    console.warn = warn;
  }
  return warnings;
}

describe("rules of a config", () => {
  test("dynamic: theta grows beyond max_position_embeddings; alpha", () => {
    const config = { ...model, max_position_embeddings: 2048, rope_scaling: { type: "dynamic", factor: 2 } };
    expectRule(config, { rope_type: "dynamic", rope_theta: 1e4, factor: 2 }, { maxPosition: 2048 });
    using rope = RotaryEmbedding.fromConfig(config);
    const { cos, sin } = rope.cosSin([1], { contextLength: 8192 });
    const want = hfInvFreq({ rope_type: "dynamic", rope_theta: 1e4, factor: 2 }, 128, { maxPosition: 2048, seqLen: 8192 });
    want.forEach((frequency, pair) => expect(Math.abs(Number(cos.readBlocking()[pair]) - Math.cos(frequency))).toBeLessThan(2e-7));
    cos.dispose();
    sin.dispose();
    expectRule({ ...model, rope_scaling: { rope_type: "dynamic", alpha: 1000, factor: 1 } }, {
      rope_type: "dynamic",
      rope_theta: 1e4,
      alpha: 1000,
    });
    refuse({ ...config, max_position_embeddings: undefined }, "config.max_position_embeddings");
    refuse({ ...config, rope_scaling: { type: "dynamic" } }, "config.rope_scaling.factor");
    refuse({ ...config, rope_scaling: { type: "dynamic", alpha: -1 } }, "config.rope_scaling.alpha");
  });

  test("ntk", () => {
    for (const rest of [{}, { mixed_b: 0.625 }]) {
      const parameters = { rope_type: "ntk", factor: 4, ...rest };
      expectRule({ ...model, rope_parameters: parameters }, { ...parameters, rope_theta: 1e4 });
    }
    refuse({ ...model, rope_parameters: { rope_type: "ntk" } }, "config.rope_parameters.factor");
    refuse({ ...model, rope_parameters: { rope_type: "ntk", factor: 2, mixed_b: 0 } }, "config.rope_parameters.mixed_b");
  });

  const yarns: [string, Json, Json?][] = [
    ["plain", { factor: 4, original_max_position_embeddings: 32768 }],
    ["truncate", { factor: 4, original_max_position_embeddings: 32768, truncate: false }],
    ["betas", { factor: 4, original_max_position_embeddings: 32768, beta_fast: 16, beta_slow: 2 }],
    ["equal betas", { factor: 4, original_max_position_embeddings: 32768, beta_fast: 1, beta_slow: 1 }],
    ["betas of 0 are the default", { factor: 4, original_max_position_embeddings: 32768, beta_fast: 0, beta_slow: 0 }],
    ["mscales", { factor: 40, original_max_position_embeddings: 4096, mscale: 1, mscale_all_dim: 0.707 }],
    ["mscale 0", { factor: 40, original_max_position_embeddings: 4096, mscale: 1, mscale_all_dim: 0 }],
    ["attention_factor", { factor: 4, original_max_position_embeddings: 32768, attention_factor: 1.3 }],
    ["attention_factor before mscales", {
      factor: 4,
      original_max_position_embeddings: 32768,
      attention_factor: 1.3,
      mscale: 1,
      mscale_all_dim: 0.5,
    }],
    ["attention_factor null", { factor: 4, original_max_position_embeddings: 32768, attention_factor: null }],
    ["factor null", { factor: null, original_max_position_embeddings: 32768 }],
    ["no factor", { original_max_position_embeddings: 32768 }],
    ["no original length", { factor: 4 }],
    ["the original length beside it wins", { factor: 4, original_max_position_embeddings: 777 }, {
      original_max_position_embeddings: 4096,
    }],
  ];
  test.each(yarns)("yarn: %s", (_, rule, beside = {}) => {
    for (const type of [{ type: "yarn" }, { rope_type: "yarn" }, { type: "deepseek_yarn" }, { type: "yarn", rope_type: "yarn" }]) {
      const config = { ...model, ...beside, rope_scaling: { ...type, ...rule } };
      expectRule(config, { ...rule, ...beside, rope_type: "yarn", rope_theta: 1e4 }, { maxPosition: 131072 });
    }
  });

  test("yarn that cannot be", () => {
    const yarn = { rope_type: "yarn", factor: 4, original_max_position_embeddings: 32768 };
    for (const key of ["factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale"]) {
      for (const value of ["4", true, {}, [], NaN, -1]) {
        refuse({ ...model, rope_scaling: { ...yarn, [key]: value } }, `config.rope_scaling.${key}`);
      }
    }
    refuse({ ...model, rope_scaling: { ...yarn, truncate: "no" } }, "config.rope_scaling.truncate");
    refuse({ ...model, rope_scaling: { ...yarn, beta_fast: 0.5 } }, "config.rope_scaling.beta_fast");
    const { max_position_embeddings: _, ...lengthless } = model;
    refuse({ ...lengthless, rope_scaling: { ...yarn, factor: null } }, "config.rope_scaling.factor");
    refuse({ ...lengthless, rope_scaling: { rope_type: "yarn", factor: 4 } }, "config.rope_scaling.original_max_position_embeddings");
  });

  test("longrope, su, and Phi-3's yarn; the factor before the lengths; mscales of its own", () => {
    for (const rope_type of ["longrope", "su", "yarn"]) {
      for (const rest of [{}, { factor: 2 }, { attention_factor: 1.4 }, { factor: null }]) {
        const config = { ...model, model_type: "phi3", rope_scaling: { rope_type, ...longrope, ...rest } };
        expectRule(config, { ...longrope, ...rest, rope_type: "longrope", rope_theta: 1e4 }, { maxPosition: 131072 });
      }
    }
    const beside = { ...model, original_max_position_embeddings: 8192, rope_scaling: { type: "longrope", ...longrope } };
    expectRule(beside, { ...longrope, rope_type: "longrope", rope_theta: 1e4, original_max_position_embeddings: 8192 }, {
      maxPosition: 131072,
    });
    using phimoe = RotaryEmbedding.fromConfig({
      ...model,
      model_type: "phimoe",
      rope_scaling: { type: "longrope", ...longrope, short_mscale: 1.25, long_mscale: 1.5 },
    });
    expect(phimoe.attentionFactor).toBe(1.25);
    const { cos, sin } = phimoe.cosSin([0], { contextLength: 4097 });
    expect(cos.readBlocking()[0]).toBe(1.5);
    cos.dispose();
    sin.dispose();
  });

  test("longrope that cannot be", () => {
    const config = (rest: Json): Json => ({ ...model, rope_scaling: { rope_type: "longrope", ...longrope, ...rest } });
    for (const key of ["short_factor", "long_factor"]) {
      for (const value of [null, undefined, 3, "1", {}, [], [1], [...short, 1]]) {
        refuse(config({ [key]: value }), `config.rope_scaling.${key}`);
      }
      for (const value of [null, "1", 0, -1, NaN]) {
        refuse(config({ [key]: short.map((one, i) => i === 7 ? value : one) }), `config.rope_scaling.${key}[7]`);
      }
    }
    refuse(config({ original_max_position_embeddings: 1 }), "config.rope_scaling.original_max_position_embeddings");
    refuse({ ...config({}), partial_rotary_factor: 0.5 }, "config.rope_scaling.short_factor"); // 32 pairs
  });

  test("proportional: the part, inside or beside", () => {
    for (const [inside, beside] of [[{ partial_rotary_factor: 0.25 }, {}], [{}, { partial_rotary_factor: 0.25 }]] as const) {
      const config = { ...model, ...beside, rope_parameters: { rope_type: "proportional", rope_theta: 1e6, ...inside } };
      expectRule(config, { rope_type: "proportional", rope_theta: 1e6, partial_rotary_factor: 0.25 });
    }
    expectRule({ ...model, rope_parameters: { rope_type: "proportional", factor: 8 } }, {
      rope_type: "proportional",
      rope_theta: 1e4,
      factor: 8,
    });
    const wrong = { ...model, rope_parameters: { rope_type: "proportional", partial_rotary_factor: 1.5 } };
    refuse(wrong, "config.rope_parameters.partial_rotary_factor");
  });

  test("gpt-oss without rope parameters has the model's own; DeepSeek V4's compressed layers no attention factor", () => {
    using gpt = RotaryEmbedding.fromConfig({ model_type: "gpt_oss" });
    expect(Math.abs(gpt.attentionFactor - (0.1 * Math.log(32) + 1))).toBeLessThan(2e-16);
    const yarn = { type: "yarn", factor: 16, original_max_position_embeddings: 65536 };
    for (
      const config of [{ rope_scaling: yarn }, { rope_parameters: { main: { rope_theta: 1e4 }, compress: { ...yarn, rope_theta: 1.6e5 } } }]
    ) {
      using compress = RotaryEmbedding.fromConfig({ model_type: "deepseek_v4", ...config }, { layerType: "compress" });
      expect([...compress.invFreq]).toEqual([...hfInvFreq({ ...yarn, rope_type: "yarn", rope_theta: 1.6e5 }, 64)]);
      expect(compress.attentionFactor).toBe(1);
    }
  });

  const yarn16 = { rope_type: "yarn", factor: 16, mscale: 1, mscale_all_dim: 1, original_max_position_embeddings: 16384 };
  const llama3 = { rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 };
  const defaults: [string, number, RopeParameters, string?][] = [ // model type, R, what its class turns by where the config says nothing
    ["apertus", 128, { ...llama3, rope_theta: 1.2e7 }],
    ["cwm", 128, { ...llama3, factor: 16, rope_theta: 1e6 }],
    ["gpt_oss", 64, { rope_type: "yarn", factor: 32, truncate: false, original_max_position_embeddings: 4096, rope_theta: 150000 }],
    ["ministral3", 128, { ...yarn16, rope_theta: 1e6 }],
    ["mistral4", 64, { ...yarn16, factor: 128, original_max_position_embeddings: 8192, rope_theta: 1e4 }],
    ["minicpm3", 32, { rope_theta: 1e4 }],
    ["axk2", 32, { rope_theta: 1e4 }],
    ["mimo_v2_flash", 64, { rope_theta: 5e6 }, "full_attention"],
    ["mimo_v2_flash", 64, { rope_theta: 1e4 }, "sliding_attention"],
    ["laguna", 64, { rope_theta: 5e5 }, "full_attention"],
    ["laguna", 128, { rope_theta: 1e4 }, "sliding_attention"],
    ["mellum", 128, { rope_theta: 5e5 }, "full_attention"],
    ["minimax_m3_vl_text", 64, { rope_theta: 5e6 }],
    ["cosmos3_edge_text", 128, { rope_theta: 1e8 }],
    ["bitnet", 128, { rope_theta: 5e5 }],
    ["bamba", 64, { rope_theta: 1e4 }],
  ];
  test.each(defaults.map(([type, dim, rule, layer]) => [type, dim, rule, layer] as const))(
    "%s, R %d, by default",
    (model_type, rotaryDim, parameters, layerType) => {
      const config = { model_type, hidden_size: 4096, num_attention_heads: 32 };
      using rope = RotaryEmbedding.fromConfig(config, { layerType });
      expect(rope.rotaryDim).toBe(rotaryDim);
      expect([...rope.invFreq]).toEqual([...hfInvFreq(parameters, rotaryDim)]);
      expect(Math.abs(rope.attentionFactor - attentionFactorOf(parameters))).toBeLessThanOrEqual(2e-16);
    },
  );

  test("M-RoPE with a rule", () => {
    const rule = { rope_type: "yarn", factor: 4, original_max_position_embeddings: 32768 };
    const config = { ...model, rope_scaling: { ...rule, mrope_section: [16, 24, 24], mrope_interleaved: false } };
    expectRule(config, { ...rule, rope_theta: 1e4 });
    using rope = RotaryEmbedding.fromConfig(config);
    expect(rope.axes).toBe(3);
  });
});

describe("keys that are read nowhere", () => {
  const warned = (config: Json, options?: { layerType: string }): string[] =>
    warningsOf(() => RotaryEmbedding.fromConfig(config, options).dispose());

  test("one warning that names them", () => {
    const linear = { rope_type: "linear", factor: 2 };
    expect(warned({ ...model, rope_scaling: { ...linear, twist: 3 } })).toEqual([
      "librope: RotaryEmbedding.fromConfig does not read config.rope_scaling.twist; the embedding is made as if it were not there.",
    ]);
    const several = { ...model, rope_scaling: { ...linear, beta_fast: 32, finetuned: true }, rope_local_scale: 3 };
    expect(warned(several)).toEqual([
      "librope: RotaryEmbedding.fromConfig does not read config.rope_scaling.beta_fast, config.rope_scaling.finetuned, config.rope_local_scale; " +
      "the embedding is made as if they were not there.",
    ]);
    expect(warned(several)).toEqual([]); // the same object again, as for its next layer type
    const many = Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`k${i}`.padEnd(1000, "x"), i]));
    const [text = ""] = warned({ ...model, rope_scaling: { ...linear, ...many } });
    expect(text.length).toBeLessThan(900);
    expect(text).toContain("and 12 more");
  });

  test("none for what is read, is null, or belongs to something else", () => {
    const quiet: Json[] = [
      model,
      { ...model, vocab_size: 32000, tie_word_embeddings: false, bos_token_id: 1 },
      {
        ...model,
        rope_scaling: { type: "linear", rope_type: "linear", factor: 2, rope_theta: 1e4, beta_fast: null, partial_rotary_factor: 0.5 },
      },
      { ...model, rope_scaling: { type: "yarn", factor: 4, original_max_position_embeddings: 1024, truncate: true, mscale: 1 } },
      { ...model, rope_scaling: { type: "dynamic", factor: 4 } },
      { ...model, rope_scaling: { type: "yarn", factor: 16, original_max_position_embeddings: 16384, llama_4_scaling_beta: 0.1 } },
      { ...model, partial_rotary_factor: 0.5, rope_parameters: { partial_rotary_factor: 0.25, rope_theta: 5 } },
      { ...model, rope_scaling: { type: "mrope", mrope_section: [16, 24, 24] } },
      { model_type: "deepseek_v3", qk_rope_head_dim: 64, rope_theta: 1e4, rope_interleave: true, rope_scaling: null },
      { model_type: "mistral4", qk_rope_head_dim: 64, rope_parameters: { rope_theta: 1e4, partial_rotary_factor: 0.5 } },
      { model_type: "gptj", n_embd: 4096, n_head: 16, rotary: true, rotary_dim: 64 },
      { ...model, no_rope_layers: [1, 1, 1, 0], use_rope: true, rope_ratio: 1, rotary_scaling_factor: null },
    ];
    for (const config of quiet) expect([config, warned({ ...config })]).toEqual([config, []]);
    const layered = {
      ...model,
      model_type: "gemma3_text",
      rope_parameters: { full_attention: { rope_type: "linear", factor: 8 }, sliding_attention: { rope_theta: 1e4, twist: 1 } },
    };
    expect(warned({ ...layered }, { layerType: "full_attention" })).toEqual([]);
    expect(warned({ ...layered }, { layerType: "sliding_attention" })[0]).toContain("config.rope_parameters.sliding_attention.twist");
  });

  test("no warning where there is an error", () => {
    const config = { ...model, rope_scaling: { rope_type: "linear", twist: 3 } };
    expect(warningsOf(() => void refuse(config, "config.rope_scaling.factor"))).toEqual([]);
  });
});
