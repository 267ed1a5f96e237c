// What a config.json leaves to its model_type, from Hugging Face's model classes: how channels pair, and the defaults of keys that are
// absent. A model that is not listed pairs halves and has no defaults beyond theta 10000 and the whole head.
import type { Pairing } from "./options.ts";

/** What a model type says. */
export interface ModelTraits {
  readonly pairing?: Pairing;
  /** sin is negated. */
  readonly conjugate?: boolean;
  /** theta where the config has none. */
  readonly theta?: number;
  /** theta of each layer type, for models whose layers differ. */
  readonly layers?: Readonly<Record<string, number>>;
  /** The rope_parameters where the config has none; of models whose layers differ, those of the full layers. */
  readonly rule?: Readonly<Record<string, unknown>>;
  /** partial_rotary_factor where the config has none. */
  readonly partial?: number;
  /** head_dim where the config has none. */
  readonly headDim?: number;
  /** head_dim of the full layers, where the config has no global_head_dim. */
  readonly globalHeadDim?: number;
  /** Channels that rotate, where the config has no rotary_dim. */
  readonly rotaryDim?: number;
  /** How a multi-axis section maps pairs to axes; its default. */
  readonly axes?: "chunked" | "interleaved" | "ernie";
  readonly section?: readonly number[];
  /** The rotating channels stand last in the head. */
  readonly trailing?: boolean;
  /** The layers of full attention do not turn, and may have a temperature (Llama 4). */
  readonly temperature?: boolean;
  /** Multi-head latent attention: the part of a head that rotates is a tensor of its own, of qk_rope_head_dim channels; their default. */
  readonly latent?: number;
}

const gemma = { headDim: 256 };
const gemmaLayers = { headDim: 256, layers: { full_attention: 1e6, sliding_attention: 1e4 } };
const gemma4: ModelTraits = { ...gemmaLayers, globalHeadDim: 512, rule: { rope_type: "proportional", partial_rotary_factor: 0.25 } };
const llama3 = { rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 };
const ministral = {
  ...{ rope_type: "yarn", factor: 16, mscale: 1, mscale_all_dim: 1, original_max_position_embeddings: 16384 },
  llama_4_scaling_beta: 0.1,
};
const gptOss = { rope_type: "yarn", factor: 32, beta_fast: 32, beta_slow: 1, truncate: false, original_max_position_embeddings: 4096 };
const bert = { layers: { full_attention: 160000, sliding_attention: 1e4 } };
const glm: ModelTraits = { pairing: "interleaved", partial: 0.5, headDim: 128 };
const glmVision: ModelTraits = { pairing: "interleaved", axes: "chunked", section: [8, 12, 12] };
const ernie: ModelTraits = { pairing: "interleaved", theta: 5e5 };
const ernieVision: ModelTraits = { ...ernie, axes: "ernie", section: [22, 22, 20] };
const mla: ModelTraits = { pairing: "interleaved_to_half", latent: 64 };
const qwenVision: ModelTraits = { theta: 1e6, axes: "chunked", section: [16, 24, 24] };
const qwen3Vision: ModelTraits = { theta: 5e5, headDim: 128, axes: "interleaved", section: [24, 20, 20] };
const qwen35: ModelTraits = { partial: 0.25, headDim: 256, axes: "interleaved", section: [11, 11, 10] };
const cohere: ModelTraits = { pairing: "interleaved" };
const llama4: ModelTraits = { pairing: "interleaved", theta: 5e5, headDim: 128, temperature: true };

const models: Readonly<Record<string, ModelTraits>> = {
  falcon: {},
  gpt_neox_japanese: {},
  hunyuan_v1_dense: {},
  hunyuan_v1_moe: {},
  llama: {},
  mistral: {},
  olmo: {},
  phi3: {},
  qwen2: {},
  qwen2_moe: {},
  // Pairs (2j, 2j + 1).
  gptj: { pairing: "interleaved", rotaryDim: 64 },
  codegen: { pairing: "interleaved", rotaryDim: 64 },
  cohere: { pairing: "interleaved", theta: 5e5 },
  cohere2: cohere,
  cohere2_moe: { ...cohere, headDim: 128 },
  glm,
  glm4: glm,
  glm4v: glmVision,
  glm4v_text: glmVision,
  glm_ocr: glmVision,
  glm_ocr_text: glmVision,
  ernie4_5: { ...ernie, headDim: 128 },
  ernie4_5_moe: ernie,
  ernie4_5_vl_moe: ernieVision,
  ernie4_5_vl_moe_text: ernieVision,
  helium: { pairing: "interleaved", theta: 1e5, headDim: 128 },
  moonshine: { pairing: "interleaved", partial: 0.9 },
  llama4,
  llama4_text: llama4,
  blt: { pairing: "interleaved", theta: 5e5 },
  deepseek_v2: { pairing: "interleaved", latent: 64 },
  deepseek_v4: { pairing: "interleaved", headDim: 512, partial: 64 / 512, trailing: true, layers: { main: 1e4, compress: 160000 } },
  openai_privacy_filter: { pairing: "interleaved", theta: 150000, headDim: 64, rule: gptOss },
  moonshine_streaming: { pairing: "interleaved", partial: 0.8 },
  // Read at (2j, 2j + 1), written at (j, j + R/2).
  deepseek_v3: mla,
  deepseek_v32: mla,
  kimi_k2: mla,
  glm4_moe_lite: mla,
  glm_moe_dsa: mla,
  longcat_flash: { ...mla, theta: 1e7 },
  mistral4: { ...mla, rule: { ...ministral, factor: 128, original_max_position_embeddings: 8192 } },
  youtu: mla,
  axk1: mla,
  axk2: { ...mla, latent: 32 },
  // Multi-head latent attention in halves.
  hy_v4: { latent: 64 },
  minicpm3: { latent: 32 },
  nanochat: { conjugate: true },
  // Layers that differ.
  gemma3: gemmaLayers,
  gemma3_text: gemmaLayers,
  gemma3n_text: gemmaLayers,
  gemma4,
  gemma4_text: gemma4,
  t5gemma2_text: gemmaLayers,
  t5gemma2_decoder: gemmaLayers,
  modernbert: bert,
  "modernbert-decoder": bert,
  olmo3: { layers: { full_attention: 5e5, sliding_attention: 5e5 } },
  gemma4_unified_text: gemma4,
  diffusion_gemma_text: gemma4,
  laguna: {
    headDim: 128,
    layers: { full_attention: 5e5, sliding_attention: 1e4 },
    rule: { rope_type: "default", partial_rotary_factor: 0.5 },
  },
  mellum: { headDim: 128, layers: { full_attention: 5e5, sliding_attention: 1e4 } },
  mimo_v2_flash: { headDim: 192, partial: 0.334, layers: { full_attention: 5e6, sliding_attention: 1e4 } },
  // Positions on several axes.
  qwen2_vl: qwenVision,
  qwen2_vl_text: qwenVision,
  qwen2_5_vl: qwenVision,
  qwen2_5_vl_text: qwenVision,
  qwen2_5_omni_text: qwenVision,
  qwen2_5_omni_talker: { ...qwenVision, headDim: 128 },
  cosmos3_edge_text: { ...qwen3Vision, theta: 1e8 },
  paddleocr_vl_text: { ...qwenVision, theta: 5e5, headDim: 128 },
  qwen3_vl: qwen3Vision,
  qwen3_vl_text: qwen3Vision,
  qwen3_vl_moe: qwen3Vision,
  qwen3_vl_moe_text: { theta: 5e5, axes: "interleaved", section: [24, 20, 20] },
  qwen3_omni_moe_text: { theta: 1e6, axes: "interleaved", section: [24, 20, 20] },
  qwen3_5_text: qwen35,
  qwen3_5_moe_text: qwen35,
  glm4v_moe_text: { partial: 0.5, axes: "chunked", section: [8, 12, 12] },
  // Defaults only.
  afmoe: { headDim: 128 },
  apertus: { theta: 1.2e7, rule: llama3 },
  bamba: { partial: 0.5 },
  bitnet: { theta: 5e5 },
  csm: { theta: 5e5 },
  cwm: { theta: 1e6, headDim: 128, rule: { ...llama3, factor: 16 } },
  emu3_text_model: { theta: 1e6 },
  evolla: { theta: 5e5 },
  flex_olmo: { theta: 5e5 },
  hy_v3: { theta: 11158840, headDim: 128 },
  jina_embeddings_v3: { theta: 2e4 },
  lfm2: { theta: 1e6 },
  lfm2_moe: { theta: 1e6 },
  minimax: { theta: 1e6 },
  minimax_m3_vl_text: { theta: 5e6, headDim: 128, rotaryDim: 64 },
  ministral3: { theta: 1e6, headDim: 128, rule: ministral },
  mllama_text_model: { theta: 5e5 },
  nomic_bert: { theta: 1000 },
  seed_oss: { headDim: 128 },
  gemma,
  gemma2: gemma,
  vaultgemma: gemma,
  glm4_moe: { partial: 0.5 },
  gpt_neox: { partial: 0.25 },
  gpt_oss: { theta: 150000, headDim: 64, rule: gptOss },
  minimax_m2: { theta: 5e6, headDim: 128 },
  mixtral: { theta: 1e6 },
  nemotron: { partial: 0.5 },
  persimmon: { partial: 0.5 },
  phi: { partial: 0.5 },
  phimoe: { theta: 1e6 },
  qwen3: { headDim: 128 },
  qwen3_next: { partial: 0.25, headDim: 256 },
  recurrent_gemma: { partial: 0.5 },
  smollm3: { theta: 2e6 },
  stablelm: { partial: 0.25 },
};

/** Model types whose positions fromConfig cannot express, and why. */
const unsupported: Readonly<Record<string, string>> = {
  hunyuan_vl: "the two channels of a pair stand on different axes",
  hunyuan_vl_text: "the two channels of a pair stand on different axes",
  cohere_compass: "its axes reorder the frequencies",
  cohere_compass_text: "its axes reorder the frequencies",
  neomme: "its axes reorder the frequencies",
  gemma4_vision: "each axis turns a block of the head of its own: make one embedding for each, at its rotaryOffset",
  vjepa2: "the two channels of a pair turn at different speeds",
  esmfold2: "its positions are coordinates",
  musicflamingo: "its positions are timestamps",
};

/** The traits of a model type, undefined where it is not listed. */
export function modelTraits(modelType: string | undefined): ModelTraits | undefined {
  return modelType !== undefined && Object.hasOwn(models, modelType) ? models[modelType] : undefined;
}

/** Why a model type cannot be read from its config, undefined where it can. */
export function whyUnsupported(modelType: string): string | undefined {
  if (Object.hasOwn(unsupported, modelType)) return unsupported[modelType];
  return /vision|audio|vqmodel|_vit$/.test(modelType)
    ? "it is an image or audio encoder whose positions this version does not know"
    : undefined;
}
