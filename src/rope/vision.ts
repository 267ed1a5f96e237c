// Image encoders whose patches turn by row and column: half of the pairs by one axis, half by the other. Their configs to the options of an
// embedding. From Hugging Face's model classes.
import { argumentError, describe, quote } from "../arguments.ts";
import { enums } from "../native/layouts.ts";
import { count, find, type Node, operation, positive, word } from "./config_node.ts";
import type { RotaryEmbeddingOptions } from "./embedding.ts";
import { Frequencies } from "./frequencies.ts";
import type { Angles, Pairing } from "./options.ts";

/** What an encoder does beside the rest: pairs in halves, theta 10000, both axes with the frequencies of half a head. */
export interface Encoder {
  readonly pairing?: Pairing;
  readonly theta?: number;
  /** The frequencies of a whole head, which the axes take in turn. */
  readonly takesTurns?: boolean;
  /** Positions are coordinates, whose unit is a whole turn. */
  readonly isInTurns?: boolean;
}

const rows: Encoder = {}; // Qwen2-VL's VisionRotaryEmbedding, and those that are like it
const encoders: Readonly<Record<string, Encoder>> = {
  ernie4_5_vl_moe: rows,
  glm4v: rows,
  glm4v_moe: rows,
  glm_ocr: rows,
  paddleocr_vl: rows,
  qwen2_vl: rows,
  qwen2_5_vl: rows,
  qwen2_5_omni: rows,
  qwen3_vl: rows,
  qwen3_vl_moe: rows,
  qwen3_omni_moe: rows,
  qwen3_5: rows,
  qwen3_5_moe: rows,
  video_llama_3: rows,
  dinov3_vit: { theta: 100, isInTurns: true },
  llama4: { pairing: "interleaved" },
  pixtral: { takesTurns: true },
};
const alone = ["dinov3_vit", "pixtral"]; // names of the encoders themselves; the others' are those of whole models too

const marks = ["patch_size", "embed_dim", "num_heads"]; // keys of theirs

/**
 * The encoder that a config is of. Those of Hugging Face are called qwen3_5_vision, llama4_vision_model, qwen3_omni_moe_vision_encoder;
 * older ones as the whole model is, and are told from its config by what only an encoder has.
 */
export function encoderOf(config: Node, modelType: string | undefined): Encoder | undefined {
  if (modelType === undefined) return undefined;
  const name = modelType.replace(/_vision(_model|_encoder)?$/, "");
  if (!Object.hasOwn(encoders, name)) return undefined;
  const has = (key: string): boolean => Object.hasOwn(config.json, key);
  const isEncoder = name !== modelType || alone.includes(name) || (marks.some(has) && !has("vocab_size"));
  return isEncoder ? encoders[name] : undefined;
}

/** The head dimension: `dim` where it is given, else the config's. */
export function encoderDim(config: Node, dim: number | undefined): number {
  const width = count(config, "embed_dim") ?? count(config, "hidden_size"); // Qwen2-VL's hidden_size is the language model's
  const heads = count(config, "num_heads") ?? count(config, "num_attention_heads");
  const own = dim ?? count(config, "head_dim") ?? (width === undefined || heads === undefined ? undefined : Math.trunc(width / heads));
  if (own === undefined) {
    const absent = width === undefined ? "hidden_size" : "num_heads";
    throw argumentError(operation, `${config.path}.head_dim`, "given, or hidden_size and num_heads", `no ${absent}`, "Give dim.");
  }
  if (own > 0 && own % 4 === 0) return own;
  const path = dim === undefined ? `${config.path}.head_dim` : "dim";
  throw argumentError(operation, path, "a multiple of 4, for two axes have pairs of its channels", String(own));
}

/** What makes the frequencies of an encoder's embedding, and says which pairs go by which axis. */
export function encoderOptions(
  config: Node,
  rule: Node | undefined,
  encoder: Encoder,
  dim: number,
  angles: Angles | undefined,
): Partial<RotaryEmbeddingOptions> {
  const type = rule && word(rule, "rope_type", "type");
  if (type !== undefined && type !== "axial" && type !== "default") {
    throw argumentError(operation, `${rule?.path}.rope_type`, '"axial" or "default" for an image encoder', quote(type));
  }
  const partial = find(config, "partial_rotary_factor") ?? (rule && find(rule, "partial_rotary_factor"));
  if (partial !== undefined && partial.value !== 1) {
    throw argumentError(operation, partial.path, "1 for an image encoder", describe(partial.value));
  }
  const theta = positive(rule, "rope_theta") ?? positive(config, "rope_theta") ?? encoder.theta ?? 10000;
  const each = ruleFrequencies(encoder.takesTurns ? dim : dim / 2, theta, angles);
  const [first, second] = encoder.takesTurns ? [0, 1].map((axis) => each.filter((_, i) => i % 2 === axis)) : [each, each];
  const unit = encoder.isInTurns ? 2 * Math.PI : 1;
  return {
    frequencies: [...first ?? [], ...second ?? []].map((frequency) => frequency * unit),
    axes: 2,
    axisOfPair: Array.from({ length: dim / 2 }, (_, pair) => pair < dim / 4 ? 0 : 1),
    pairing: encoder.pairing,
  };
}

/** theta^(-2j / rotaryDim), of "hf" angles as float32 arithmetic has it. */
function ruleFrequencies(rotaryDim: number, theta: number, angles: Angles | undefined): number[] {
  const numbers = { theta, factor: 1, lowFreqFactor: 0, highFreqFactor: 0, originalMaxPosition: 0, attentionFactor: 0 };
  const rule = { kind: enums.RULE_DEFAULT, rotaryDim, axes: 1, heads: 0, ...numbers, details: null, custom: null, axisOfPair: null };
  const made = new Frequencies(operation, rule, { theta: "config.rope_theta", factor: "", divisors: "" });
  try {
    const { exact, invFreq } = made.read(operation);
    return Array.from(angles === "hf" ? invFreq : exact);
  } finally {
    made.release();
  }
}
