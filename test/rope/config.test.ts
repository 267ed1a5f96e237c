// fromConfig: configs as they are on the Hub, old style and new, and what is wrong with those that cannot be read.
import { describe, expect, test } from "bun:test";
import { RopeArgumentError, type RopeError, RotaryEmbedding } from "../../mod.ts";
import { hfInvFreq } from "../support/formulas.ts";
import { errorOf } from "./support.ts";

type Json = Record<string, unknown>;

const llama: Json = { model_type: "llama", hidden_size: 4096, num_attention_heads: 32, max_position_embeddings: 4096, rope_theta: 10000 };
const llama3 = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 };
const gemma3: Json = {
  model_type: "gemma3",
  text_config: { model_type: "gemma3_text", hidden_size: 2560, num_hidden_layers: 34, rope_scaling: { factor: 8, rope_type: "linear" } },
  vision_config: { model_type: "siglip_vision_model", hidden_size: 1152 },
};

interface Read {
  readonly dim: number;
  readonly rotaryDim: number;
  readonly rotaryOffset: number;
  readonly pairing: string;
  readonly axes: number;
  readonly frequencies: Float64Array;
  readonly invFreq: Float32Array;
}

function read(config: Json, options?: Parameters<typeof RotaryEmbedding.fromConfig>[1]): Read {
  using rope = RotaryEmbedding.fromConfig(config, options);
  const { dim, rotaryDim, rotaryOffset, pairing, axes, frequencies, invFreq } = rope;
  return { dim, rotaryDim, rotaryOffset, pairing, axes, frequencies, invFreq };
}

/** theta, from the frequency of pair 1. */
function thetaOf(found: Read): number {
  return Math.round((found.frequencies[1] ?? NaN) ** (-found.rotaryDim / 2));
}

function refuse(config: unknown, argument: string | RegExp, options?: object): RopeError {
  const error = errorOf(() => RotaryEmbedding.fromConfig(config as object, options)) as RopeError;
  if (!(error instanceof RopeArgumentError)) throw new Error(`got ${error}`);
  if (typeof argument === "string") expect(error.argument).toBe(argument);
  else expect(error.argument).toMatch(argument);
  return error;
}

describe("what the keys say", () => {
  const cases: [string, Json, Partial<Read> & { theta?: number }][] = [
    ["Llama 2", llama, { dim: 128, rotaryDim: 128, rotaryOffset: 0, pairing: "half", axes: 1, theta: 10000 }],
    ["no theta: the model's own", { model_type: "llama", hidden_size: 64, num_attention_heads: 1 }, { theta: 10000 }],
    ["no theta: Cohere's own", { model_type: "cohere", hidden_size: 64, num_attention_heads: 1 }, {
      theta: 500000,
      pairing: "interleaved",
    }],
    ["head_dim wins", { ...llama, head_dim: 64 }, { dim: 64 }],
    ["head_dim null does not", { ...llama, head_dim: null, rope_scaling: null }, { dim: 128 }],
    ["no model type", { hidden_size: 64, num_attention_heads: 2, rope_theta: 777 }, { dim: 32, pairing: "half", theta: 777 }],
    ["rope_parameters", { ...llama, rope_theta: undefined, rope_parameters: { rope_type: "default", rope_theta: 123 } }, { theta: 123 }],
    ["theta inside wins", { ...llama, rope_scaling: { rope_type: "default", rope_theta: 321 } }, { theta: 321 }],
    ["GPT-NeoX", { model_type: "gpt_neox", hidden_size: 1024, num_attention_heads: 16, rotary_pct: 0.25, rotary_emb_base: 20000 }, {
      dim: 64,
      rotaryDim: 16,
      theta: 20000,
    }],
    ["GPT-J", { model_type: "gptj", n_embd: 4096, n_head: 16, rotary_dim: 64, n_positions: 2048 }, {
      dim: 256,
      rotaryDim: 64,
      pairing: "interleaved",
    }],
    ["GPT-J, all of it", { model_type: "gptj", n_embd: 4096, n_head: 16, rotary_dim: null }, { rotaryDim: 256 }],
    ["CodeGen", { model_type: "codegen", n_embd: 1024, n_head: 16, rotary_dim: 32 }, { dim: 64, rotaryDim: 32, pairing: "interleaved" }],
    ["StableLM", { model_type: "stablelm", hidden_size: 2560, num_attention_heads: 32, rope_pct: 0.25, rope_theta: 10000 }, {
      rotaryDim: 20,
    }],
    ["Phi without the key", { model_type: "phi", hidden_size: 2560, num_attention_heads: 32 }, { dim: 80, rotaryDim: 40 }],
    ["MiniMax-M2", { model_type: "minimax_m2", head_dim: 128, rotary_dim: 64, rope_theta: 5000000 }, {
      dim: 128,
      rotaryDim: 64,
      theta: 5000000,
    }],
    ["GLM-4", { model_type: "glm4", head_dim: 128, partial_rotary_factor: 0.5, rope_theta: 10000 }, {
      rotaryDim: 64,
      pairing: "interleaved",
    }],
    ["GLM-4.5", { model_type: "glm4_moe", head_dim: 128, partial_rotary_factor: 0.5, rope_theta: 1e6 }, { rotaryDim: 64, pairing: "half" }],
    ["Moonshine, whose 32.4 channels are 32", {
      model_type: "moonshine",
      hidden_size: 288,
      decoder_num_attention_heads: 8,
      partial_rotary_factor: 0.9,
    }, {
      dim: 36,
      rotaryDim: 32,
      pairing: "interleaved",
    }],
    ["DeepSeek V3's part of a head", {
      model_type: "deepseek_v3",
      hidden_size: 7168,
      num_attention_heads: 128,
      qk_rope_head_dim: 64,
      rope_theta: 10000,
    }, {
      dim: 64,
      rotaryDim: 64,
      rotaryOffset: 0,
      pairing: "interleaved_to_half",
    }],
    ["the same without interleaving", { model_type: "deepseek_v3", qk_rope_head_dim: 64, rope_theta: 10000, rope_interleave: false }, {
      pairing: "half",
    }],
    ["DeepSeek V3 without the key: hidden_size / num_attention_heads is not what rotates", {
      model_type: "deepseek_v3",
      hidden_size: 7168,
      num_attention_heads: 128,
    }, { dim: 64, rotaryDim: 64 }],
    ["DeepSeek V2", { model_type: "deepseek_v2", qk_rope_head_dim: 64, rope_theta: 10000 }, { pairing: "interleaved" }],
    ["Mistral 4", {
      model_type: "mistral4",
      qk_rope_head_dim: 64,
      qk_nope_head_dim: 64,
      rope_parameters: { rope_theta: 1e4, partial_rotary_factor: 0.5 },
    }, {
      dim: 64,
      rotaryDim: 64,
    }],
    ["Cohere 2", { model_type: "cohere2", hidden_size: 4096, num_attention_heads: 32, rope_theta: 50000 }, { pairing: "interleaved" }],
    ["Cohere 2, as it is on the Hub", {
      model_type: "cohere2",
      hidden_size: 4096,
      num_attention_heads: 32,
      rope_theta: 50000,
      position_embedding_type: "rope_gptj",
    }, { pairing: "interleaved" }],
    ["rope_gptj of a model that is not listed", {
      model_type: "brand_new",
      head_dim: 64,
      rope_theta: 1e4,
      position_embedding_type: "rope_gptj",
    }, {
      pairing: "interleaved",
    }],
    ["Nomic BERT", {
      model_type: "nomic_bert",
      n_embd: 768,
      n_head: 12,
      rotary_emb_base: 1000,
      rotary_emb_fraction: 1.0,
      rotary_emb_interleaved: false,
      rotary_emb_scale_base: null,
      rotary_scaling_factor: null,
    }, { dim: 64, pairing: "half", theta: 1000 }],
    ["rotary_emb_interleaved", { model_type: "brand_new", head_dim: 64, rotary_emb_base: 1000, rotary_emb_interleaved: true }, {
      pairing: "interleaved",
    }],
    ["rotary_emb_interleaved of a model that is listed", { ...llama, rotary_emb_interleaved: true }, { pairing: "interleaved" }],
    ["factors of 1", { ...llama, rotary_scaling_factor: 1, rope_ratio: 1.0, rope_3d: false, use_rope: true, alibi: false }, {
      theta: 10000,
    }],
    ["DeepSeek V3 as newer files spell its part of a head", { model_type: "deepseek_v3", head_dim: 64, rope_theta: 10000 }, {
      dim: 64,
      pairing: "interleaved_to_half",
    }],
    ["rope parameters without a type that mean no rule", {
      ...llama,
      rope_scaling: { rope_theta: 99, partial_rotary_factor: 0.5, factor: null },
    }, {
      theta: 99,
      rotaryDim: 64,
    }],
    ["an unknown model pairs halves", { model_type: "brand_new", head_dim: 64, rope_theta: 10000 }, { pairing: "half" }],
    ["LLaVA: its text_config", { model_type: "llava", text_config: llama, vision_config: { hidden_size: 1024 } }, { dim: 128 }],
    ["InternVL: its llm_config", { llm_config: { ...llama, rope_theta: 99 } }, { theta: 99 }],
    ["Qwen Omni: its thinker_config's text_config", {
      thinker_config: { text_config: { model_type: "qwen2", hidden_size: 64, num_attention_heads: 1, rope_theta: 55 } },
    }, { theta: 55 }],
    ["text_config null", { ...llama, text_config: null }, { dim: 128 }],
  ];
  test.each(cases)("%s", (_, config, expected) => {
    const found = read(config);
    const { theta, ...rest } = expected;
    expect(found).toMatchObject(rest);
    if (theta !== undefined) expect(thetaOf(found)).toBe(theta);
  });

  test("options override", () => {
    expect(read(llama, { dim: 64, pairing: "interleaved", rotaryOffset: 0 })).toMatchObject({ dim: 64, pairing: "interleaved" });
    const mla = { model_type: "deepseek_v3", qk_rope_head_dim: 64, rope_theta: 10000 };
    expect(read(mla, { dim: 192 })).toMatchObject({ dim: 192, rotaryDim: 64, rotaryOffset: 128 }); // [nope | rope]
    expect(read({ model_type: "deepseek_v3" }, { dim: 192 })).toMatchObject({ rotaryDim: 64, rotaryOffset: 128 }); // 64 is the model's own
    expect(read(mla, { dim: 192, rotaryOffset: 0 })).toMatchObject({ rotaryDim: 64, rotaryOffset: 0 });
    expect(read({ ...llama, partial_rotary_factor: 0.5 }, { dim: 64 })).toMatchObject({ rotaryDim: 32 });
  });

  test("nanochat turns the other way", () => {
    using rope = RotaryEmbedding.fromConfig({ model_type: "nanochat", head_dim: 64, rope_theta: 10000 });
    const { sin } = rope.cosSin([1]);
    expect(sin.readBlocking()[0]).toBeCloseTo(-Math.sin(1), 6);
    sin.dispose();
  });
});

describe("rules", () => {
  const styles: [string, Json][] = [
    ["rope_scaling with rope_type", { rope_scaling: { rope_type: "llama3", ...llama3 } }],
    ["rope_scaling with type", { rope_scaling: { type: "llama3", ...llama3 } }],
    ["rope_parameters", { rope_parameters: { rope_type: "llama3", ...llama3, rope_theta: 500000 } }],
    ["both spellings of the type", { rope_scaling: { type: "llama3", rope_type: "llama3", ...llama3 } }],
    ["the original length on top", {
      original_max_position_embeddings: 8192,
      rope_scaling: { rope_type: "llama3", ...llama3, original_max_position_embeddings: 1 },
    }],
    ["the original length from max_position_embeddings", {
      max_position_embeddings: 8192,
      rope_scaling: { rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4 },
    }],
  ];
  test.each(styles)("llama3: %s", (_, keys) => {
    const found = read({ ...llama, rope_theta: 500000, ...keys });
    expect([...found.invFreq]).toEqual([...hfInvFreq({ rope_type: "llama3", rope_theta: 500000, ...llama3 }, 128)]);
  });

  test("linear", () => {
    for (const keys of [{ rope_scaling: { type: "linear", factor: 4 } }, { rope_parameters: { rope_type: "linear", factor: 4 } }]) {
      expect([...read({ ...llama, ...keys }).invFreq]).toEqual([...hfInvFreq({ rope_type: "linear", rope_theta: 10000, factor: 4 }, 128)]);
    }
  });

  test("an unknown rule is not guessed at", () => {
    const error = refuse({ ...llama, rope_scaling: { rope_type: "hyperbolic", factor: 2 } }, "config.rope_scaling.rope_type");
    expect(error.message).toContain("This rule is not known.");
    expect(error.message).toContain('"default", "linear", "dynamic", "ntk", "yarn", "longrope", "llama3", "proportional", "su"');
    for (const type of ["axial", "", "LINEAR"]) {
      refuse({ ...llama, rope_parameters: { rope_type: type, factor: 2 } }, "config.rope_parameters.rope_type");
    }
    refuse({ ...llama, rope_scaling: { rope_type: "linear", factor: 2, interleaved: true } }, "config.rope_scaling");
  });

  test("a rule without a type is not guessed at", () => {
    for (
      const scaling of [{ factor: 2 }, { factor: 8, low_freq_factor: 1, mrope_section: [16, 24, 24] }, { alpha: 1000, rope_type: null }]
    ) {
      const error = refuse({ ...llama, rope_scaling: scaling }, "config.rope_scaling.rope_type");
      expect(error.message).toContain('"llama3", "proportional" beside the key');
    }
    refuse(
      { ...llama, rope_parameters: { full_attention: { factor: 2 }, sliding_attention: {} } },
      "config.rope_parameters.full_attention.rope_type",
      { layerType: "full_attention" },
    );
  });

  test("a rule that is not known is named before dimensions that are missing", () => {
    refuse({ model_type: "llama", rope_scaling: { type: "hyperbolic", factor: 2 } }, "config.rope_scaling.type");
  });
});

describe("layers that differ", () => {
  test("Gemma 3, old style: the global layers are scaled, the local ones have a theta of their own", () => {
    const global = read(gemma3, { layerType: "full_attention" });
    expect(global.dim).toBe(256);
    expect([...global.invFreq]).toEqual([...hfInvFreq({ rope_type: "linear", rope_theta: 1e6, factor: 8 }, 256)]);
    const local = read(gemma3, { layerType: "sliding_attention" });
    expect([...local.invFreq]).toEqual([...hfInvFreq({ rope_theta: 1e4 }, 256)]);
    for (const [old, current] of [["global", global], ["local", local], ["attention", global], ["sliding", local]] as const) {
      expect([...read(gemma3, { layerType: old }).invFreq]).toEqual([...current.invFreq]);
    }
    const own = { ...gemma3, text_config: { ...gemma3["text_config"] as Json, rope_theta: 5e5, rope_local_base_freq: 2e4 } };
    expect(thetaOf(read(own, { layerType: "sliding_attention" }))).toBe(2e4);
  });

  test("new style: an object for each type", () => {
    const config = {
      model_type: "gemma4_text",
      head_dim: 256,
      global_head_dim: 256,
      layer_types: ["sliding_attention", "full_attention"],
      rope_parameters: {
        sliding_attention: { rope_type: "default", rope_theta: 10000 },
        full_attention: { rope_type: "proportional", partial_rotary_factor: 0.25, rope_theta: 1000000 },
      },
    };
    expect(thetaOf(read(config, { layerType: "sliding_attention" }))).toBe(10000);
    const full = read(config, { layerType: "full_attention" });
    expect(full).toMatchObject({ dim: 256, rotaryDim: 256 });
    expect([...full.invFreq]).toEqual([...hfInvFreq({ rope_type: "proportional", rope_theta: 1e6, partial_rotary_factor: 0.25 }, 256)]);
    const error = refuse(config, "layerType");
    expect(error.message).toContain('"sliding_attention", "full_attention"');
    expect(error.message).toContain("This config has rope parameters for each type of layer.");
    refuse(config, "layerType", { layerType: "linear_attention" });
    const nope = { ...config, rope_parameters: { ...config.rope_parameters, full_attention: null } };
    expect(refuse(nope, "layerType", { layerType: "full_attention" }).message).toContain("no rotary embedding");
    const partial = {
      ...config,
      rope_parameters: { full_attention: { rope_theta: 5e5, partial_rotary_factor: 0.5 }, sliding_attention: { rope_theta: 1e4 } },
    };
    expect(read(partial, { layerType: "full_attention" }).rotaryDim).toBe(128);
  });

  test("Gemma 4: the defaults of the model, sliding layers and full ones", () => {
    for (const config of [{ model_type: "gemma4" }, { model_type: "gemma4", text_config: { model_type: "gemma4_text" } }]) {
      const sliding = read(config, { layerType: "sliding_attention" });
      expect(sliding).toMatchObject({ dim: 256, rotaryDim: 256, pairing: "half" });
      expect([...sliding.invFreq]).toEqual([...hfInvFreq({ rope_theta: 1e4 }, 256)]);
      const full = read(config, { layerType: "full_attention" });
      expect(full).toMatchObject({ dim: 512, rotaryDim: 512 });
      expect([...full.invFreq]).toEqual([...hfInvFreq({ rope_type: "proportional", rope_theta: 1e6, partial_rotary_factor: 0.25 }, 512)]);
      expect(refuse(config, "layerType").message).toContain('"full_attention", "sliding_attention"');
    }
    const wide = {
      model_type: "gemma4_text",
      head_dim: 256,
      global_head_dim: 512,
      rope_parameters: { full_attention: { rope_theta: 1e6 } },
    };
    expect(read(wide, { layerType: "full_attention" }).dim).toBe(512);
  });

  test("ModernBERT, Olmo 3, DeepSeek V4", () => {
    const bert = {
      position_embedding_type: "absolute",
      model_type: "modernbert",
      hidden_size: 768,
      num_attention_heads: 12,
      global_rope_theta: 160000,
      local_rope_theta: 10000,
    };
    expect(thetaOf(read(bert, { layerType: "full_attention" }))).toBe(160000);
    expect(thetaOf(read(bert, { layerType: "sliding_attention" }))).toBe(10000);
    const olmo = {
      model_type: "olmo3",
      hidden_size: 4096,
      num_attention_heads: 32,
      rope_theta: 500000,
      rope_scaling: { rope_type: "yarn", factor: 8, original_max_position_embeddings: 8192 },
    };
    expect(thetaOf(read(olmo, { layerType: "sliding_attention" }))).toBe(500000);
    const yarn = { rope_type: "yarn", factor: 8, original_max_position_embeddings: 8192 };
    expect([...read(olmo, { layerType: "full_attention" }).invFreq]).toEqual([...hfInvFreq({ rope_theta: 5e5, ...yarn }, 128)]);
    const deepseek = { model_type: "deepseek_v4", head_dim: 512, rope_theta: 10000, rope_scaling: { ...yarn, type: "yarn" } };
    expect(read(deepseek, { layerType: "main" })).toMatchObject({ dim: 512, rotaryDim: 64, rotaryOffset: 448, pairing: "interleaved" });
    const compressed = read(deepseek, { layerType: "compress" });
    expect(compressed).toMatchObject({ dim: 512, rotaryDim: 64, rotaryOffset: 448, pairing: "interleaved" });
    expect([...compressed.invFreq]).toEqual([...hfInvFreq({ rope_theta: 160000, ...yarn }, 64)]);
    refuse(deepseek, "layerType");
  });

  test("where all layers are alike, a known type is accepted and a misspelt one is not", () => {
    const config = { ...llama, layer_types: ["full_attention", "my_attention_kind"] };
    for (const layerType of ["full_attention", "sliding_attention", "my_attention_kind"]) expect(read(config, { layerType }).dim).toBe(128);
    refuse(config, "layerType", { layerType: "ful_atention" });
    for (const layerType of [3, null, {}]) refuse(config, "layerType", { layerType });
  });
});

describe("several axes", () => {
  const chunked = [...new Array<number>(16).fill(0), ...new Array<number>(24).fill(1), ...new Array<number>(24).fill(2)];
  const qwen2: Json = { model_type: "qwen2_vl", hidden_size: 3584, num_attention_heads: 28, rope_theta: 1e6 };
  // The axis of a pair is where its frequency is: at that axis's own position alone it turns.
  const axesOf = (config: Json): number[] => {
    using rope = RotaryEmbedding.fromConfig(config);
    return Array.from({ length: rope.rotaryDim / 2 }, (_, pair) => {
      for (let axis = 0; axis < rope.axes; ++axis) {
        const { sin } = rope.cosSin(Array.from({ length: rope.axes }, (_, i) => i === axis ? 1 : 0));
        const turns = (sin.readBlocking()[pair] ?? 0) !== 0;
        sin.dispose();
        if (turns) return axis;
      }
      return -1;
    });
  };

  test("chunked sections", () => {
    expect(axesOf({ ...qwen2, rope_scaling: { type: "mrope", mrope_section: [16, 24, 24] } })).toEqual(chunked);
    expect(axesOf(qwen2)).toEqual(chunked); // the model's own
    expect(
      axesOf({ hidden_size: 128, num_attention_heads: 1, rope_theta: 1e4, rope_scaling: { type: "mrope", mrope_section: [16, 24, 24] } }),
    ).toEqual(chunked);
  });

  test("interleaved sections, by the key or by the model", () => {
    const interleaved = Array.from({ length: 64 }, (_, j) => j % 3 === 1 && j < 60 ? 1 : j % 3 === 2 && j < 60 ? 2 : 0);
    const scaling = { rope_type: "default", mrope_section: [24, 20, 20], mrope_interleaved: true };
    expect(axesOf({ ...qwen2, rope_scaling: scaling })).toEqual(interleaved);
    for (const type of [{ type: "default" }, {}]) { // Qwen3 Omni's and TTS's spelling
      const alias = { ...type, mrope_section: [24, 20, 20], interleaved: true };
      expect(axesOf({ ...qwen2, rope_scaling: alias })).toEqual(interleaved);
      expect(axesOf({ model_type: "brand_new", head_dim: 128, rope_theta: 1e6, rope_scaling: alias })).toEqual(interleaved);
    }
    const plain = { type: "default", mrope_section: [24, 20, 20], interleaved: false };
    expect(axesOf({ ...qwen2, rope_scaling: plain })).not.toEqual(interleaved);
    const qwen3 = {
      model_type: "qwen3_vl",
      text_config: { model_type: "qwen3_vl_text", head_dim: 128, rope_theta: 5e6, rope_scaling: { mrope_section: [24, 20, 20] } },
    };
    expect(axesOf(qwen3)).toEqual(interleaved);
    const qwen35 = { model_type: "qwen3_5_text", head_dim: 256, partial_rotary_factor: 0.25, rope_theta: 1e7 };
    expect(read(qwen35)).toMatchObject({ rotaryDim: 64, axes: 3 });
  });

  test("Ernie's order, with interleaved pairs; GLM-4V's part", () => {
    const ernie = { model_type: "ernie4_5_vl_moe", head_dim: 128, rope_parameters: { rope_theta: 5e5, mrope_section: [22, 22, 20] } };
    expect(axesOf(ernie)).toEqual(Array.from({ length: 64 }, (_, j) => j < 44 ? 1 + j % 2 : 0));
    const glm = {
      model_type: "glm4v",
      text_config: {
        model_type: "glm4v_text",
        head_dim: 128,
        partial_rotary_factor: 0.5,
        rope_scaling: { type: "default", mrope_section: [8, 12, 12] },
      },
    };
    expect(read(glm)).toMatchObject({ rotaryDim: 64, pairing: "interleaved", axes: 3 });
  });

  test("sections that cannot be", () => {
    for (const section of ["16", 3, {}, [64], [16, 24, 23], [16, 24, "24"], [16, 24, 24.5], [-1, 33, 32], [16, 48, null]]) {
      refuse({ ...qwen2, rope_scaling: { type: "mrope", mrope_section: section } }, /^config\.rope_scaling\.mrope_section/);
    }
    refuse({ ...llama, rope_scaling: { type: "mrope" } }, "config.rope_scaling.mrope_section");
    refuse(
      { ...llama, rope_scaling: { type: "default", mrope_section: [32, 32], mrope_interleaved: true } },
      "config.rope_scaling.mrope_section",
    );
    refuse(
      { ...llama, rope_scaling: { type: "default", mrope_section: [32, 16, 16], mrope_interleaved: "yes" } },
      "config.rope_scaling.mrope_interleaved",
    );
  });
});

describe("configs that are wrong", () => {
  test("no config at all", () => {
    for (const config of [undefined, null, 0, "config.json", true, [], [llama], () => llama]) refuse(config, "config");
    for (const options of [null, 0, "full_attention", []]) {
      expect(errorOf(() => RotaryEmbedding.fromConfig(llama, options as object))).toBeInstanceOf(RopeArgumentError);
    }
    refuse(llama, "options", { layer_type: "full_attention" });
    refuse(llama, "dim", { dim: 0 });
    refuse(llama, "pairing", { pairing: "neox" });
    for (const options of [{ angles: "fast" }, { device: "gpu" }, { rotaryOffset: -1 }, { rotaryOffset: "2" }]) {
      expect(refuse(llama, Object.keys(options)[0] ?? "", options).operation).toBe("RotaryEmbedding.fromConfig");
    }
    new RotaryEmbedding({ dim: 64 }).dispose();
    expect((errorOf(() => new RotaryEmbedding({ dim: 0 })) as RopeError).operation).toBe("RotaryEmbedding"); // after a fromConfig as before
    const error = refuse(llama, "rotaryOffset", { rotaryOffset: 2 });
    expect(error.message).toBe("RotaryEmbedding.fromConfig: rotaryOffset must be at most 0, for 128 of 128 channels rotate, got 2.");
    expect(read({ ...llama, partial_rotary_factor: 0.5 }, { rotaryOffset: 64 })).toMatchObject({ rotaryDim: 64, rotaryOffset: 64 });
  });

  test("numbers that are none, each by its key", () => {
    const wrong = ["8", "", true, {}, [], [8], NaN, Infinity, -1, 0];
    for (const value of wrong) {
      refuse({ ...llama, rope_theta: value }, "config.rope_theta");
      refuse({ ...llama, hidden_size: value }, "config.hidden_size");
      refuse({ ...llama, num_attention_heads: value }, "config.num_attention_heads");
      refuse({ ...llama, head_dim: value }, "config.head_dim");
      refuse({ ...llama, max_position_embeddings: value }, "config.max_position_embeddings");
      refuse({ ...llama, partial_rotary_factor: value }, "config.partial_rotary_factor");
      refuse({ ...llama, rotary_dim: value }, "config.rotary_dim");
      refuse({ ...llama, qk_rope_head_dim: value }, "config.qk_rope_head_dim");
      refuse({ ...llama, rope_scaling: { type: "linear", factor: value } }, "config.rope_scaling.factor");
      refuse({ ...llama, rope_scaling: { type: "llama3", ...llama3, low_freq_factor: value } }, "config.rope_scaling.low_freq_factor");
      refuse({ ...llama, rope_parameters: { rope_theta: value } }, "config.rope_parameters.rope_theta");
      refuse({ text_config: { ...llama, rope_theta: value } }, "config.text_config.rope_theta");
    }
    for (const value of [1.5, 2 ** 53]) refuse({ ...llama, hidden_size: value }, "config.hidden_size");
    refuse({ ...llama, partial_rotary_factor: 1.5 }, "config.partial_rotary_factor");
    refuse({ ...llama, partial_rotary_factor: 0.135 }, "config.partial_rotary_factor"); // 17 channels
    for (const rotary_dim of [7, 130]) refuse({ ...llama, rotary_dim }, "config.rotary_dim");
    refuse({ model_type: "deepseek_v3", qk_rope_head_dim: 63 }, "config.qk_rope_head_dim");
    refuse({ model_type: "deepseek_v3", qk_rope_head_dim: 64 }, "config.qk_rope_head_dim", { dim: 32 });
    refuse({ ...llama, rope_scaling: { type: "llama3", ...llama3, low_freq_factor: 5 } }, "config.rope_scaling.low_freq_factor");
    refuse({ ...llama, rope_scaling: { type: "linear" } }, "config.rope_scaling.factor");
    refuse({ ...llama, rope_scaling: { type: "llama3", factor: 8 } }, "config.rope_scaling.low_freq_factor");
    refuse({
      ...llama,
      max_position_embeddings: undefined,
      rope_scaling: { type: "llama3", ...llama3, original_max_position_embeddings: undefined },
    }, "config.rope_scaling.original_max_position_embeddings");
  });

  test("objects and words that are none", () => {
    for (const value of [3, "linear", true, [], [1]]) {
      refuse({ ...llama, rope_scaling: value }, "config.rope_scaling");
      refuse({ ...llama, rope_parameters: value }, "config.rope_parameters");
      refuse({ ...llama, text_config: value }, "config.text_config");
    }
    for (const value of [3, true, {}, []]) {
      refuse({ ...llama, model_type: value }, "config.model_type");
      refuse({ ...llama, rope_scaling: { type: value, factor: 2 } }, "config.rope_scaling.type");
    }
    refuse(
      { ...llama, rope_parameters: { full_attention: 3, sliding_attention: { rope_theta: 1 } } },
      "config.rope_parameters.full_attention",
      {
        layerType: "full_attention",
      },
    );
  });

  test("nothing to go by", () => {
    refuse({}, "config.rope_theta");
    refuse({ model_type: "bert", hidden_size: 768, num_attention_heads: 12 }, "config.rope_theta");
    refuse({ ...llama, hidden_size: undefined }, "config.head_dim");
    refuse({ ...llama, num_attention_heads: undefined }, "config.head_dim");
    refuse({ model_type: "llava", text_config: { model_type: "llama", vocab_size: 32064 } }, "config.text_config.head_dim");
  });

  test("models that do not rotate, or not so", () => {
    const unlisted = { ...llama, model_type: "brand_new" };
    for (const kind of ["absolute", "alibi", "nope", "relative_key"]) {
      refuse({ ...unlisted, position_embedding_type: kind }, "config.position_embedding_type");
      expect(read({ ...llama, position_embedding_type: kind }).pairing).toBe("half"); // Llama rotates, whatever it says
    }
    for (const config of [llama, unlisted]) {
      for (const key of ["alibi", "use_alibi", "use_fope", "rope_3d", "no_rope", "use_dynamic_ntk", "use_xpos"]) {
        refuse({ ...config, [key]: true }, `config.${key}`);
      }
      for (const key of ["use_rope", "use_rotary", "use_rotary_embedding", "use_rotary_embeddings"]) {
        refuse({ ...config, [key]: false }, `config.${key}`);
      }
      for (const key of ["rotary_scaling_factor", "rope_scaling_factor", "rope_ratio"]) {
        for (const value of [2, 500, "1", true]) refuse({ ...config, [key]: value }, `config.${key}`);
      }
      refuse({ ...config, rotary_emb_scale_base: 512 }, "config.rotary_emb_scale_base");
      refuse({ ...config, rotary_emb_interleaved: "yes" }, "config.rotary_emb_interleaved");
    }
    refuse({ ...unlisted, rope_interleave: true }, "config.rope_interleave");
    expect(read({ ...unlisted, rope_interleave: true }, { pairing: "interleaved" }).pairing).toBe("interleaved");
    const esm = { model_type: "esm", hidden_size: 320, num_attention_heads: 20, position_embedding_type: "rotary" };
    expect(refuse(esm, "config.rope_theta").message).toContain("make it with new RotaryEmbedding({ dim, base })");
    for (const modelType of ["hunyuan_vl_text", "mllama_vision_model", "gemma4_vision", "gemma4_audio", "cohere_compass_text"]) {
      refuse({ ...llama, model_type: modelType }, "config.model_type");
    }
    expect(read({ ...llama, position_embedding_type: "rope", alibi: false }).dim).toBe(128);
  });

  test("hostile objects are only data", () => {
    const hostile = JSON.parse(
      '{"__proto__": {"rope_theta": 5, "head_dim": 64}, "constructor": 3, "toString": null, "hasOwnProperty": 1}',
    ) as Json;
    refuse(hostile, "config.rope_theta");
    refuse({ ...llama, model_type: "constructor", rope_theta: undefined }, "config.rope_theta");
    refuse({ ...llama, model_type: "__proto__", rope_theta: undefined }, "config.rope_theta");
    refuse({ ...llama, rope_scaling: { type: "toString", factor: 2 } }, "config.rope_scaling.type");
    refuse(llama, "layerType", { layerType: "constructor" });
    expect(read(Object.assign(Object.create(null) as Json, llama)).dim).toBe(128);
    let deep: Json = llama;
    for (let i = 0; i < 10000; ++i) deep = { text_config: deep };
    expect(errorOf(() => RotaryEmbedding.fromConfig(deep))).toBeInstanceOf(RopeArgumentError);
    const error = refuse({ ...llama, model_type: "x".repeat(1e6), rope_theta: undefined }, "config.rope_theta");
    expect(error.message.length).toBeLessThan(500);
  });
});
