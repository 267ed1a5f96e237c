// Reads a Hugging Face config.json: what of it the demo needs besides the rotary embedding, which librope reads itself.
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { type DType, RopeError, RotaryEmbedding } from "@librope/rope";

/** A failure whose message is all that the user needs. */
export class DemoError extends Error {}

/** The shape of a model's queries and keys. */
export interface Model {
  /** The file's name without its ending. */
  readonly name: string;
  readonly type: string;
  readonly rope: RotaryEmbedding;
  /** The same with Hugging Face's float32 angles, for comparing with its results. */
  readonly hfRope: RotaryEmbedding;
  readonly heads: number;
  readonly kvHeads: number;
  readonly dtype: DType;
  /** The frequency rule in words: "default", "llama3, factor 8". */
  readonly rule: string;
  /** The base of the frequencies, where the config names one. */
  readonly theta: number | undefined;
  readonly contextLength: number | undefined;
  readonly originalContextLength: number | undefined;
}

type Json = Readonly<Record<string, unknown>>;

/** Reads a model. `layerType` chooses among layers that rotate differently. Throws DemoError. */
export function readModel(path: string, layerType: string | undefined): Model {
  const root = parse(path);
  const config = [root["text_config"], root["llm_config"], root["language_config"]].find(isObject) ?? root;
  const heads = count(path, config, "num_attention_heads", "n_head");
  const isMla = config["qk_rope_head_dim"] !== undefined && config["qk_rope_head_dim"] !== null;
  const kvHeads = isMla ? 1 : count(path, config, "num_key_value_heads", "num_attention_heads", "n_head");
  const rule = [config["rope_parameters"], config["rope_scaling"]].find(isObject) ?? {};
  const options = layerType === undefined ? {} : { layerType };
  const rope = fromConfig(path, root, options);
  return {
    name: basename(path).replace(/\.json$/, ""),
    type: String(config["model_type"] ?? "model"),
    rope,
    hfRope: fromConfig(path, root, { ...options, angles: "hf" }),
    heads,
    kvHeads,
    dtype: storage(path, config["torch_dtype"] ?? config["dtype"] ?? root["torch_dtype"] ?? root["dtype"]),
    rule: `${rule["rope_type"] ?? rule["type"] ?? "default"}${isNumber(rule["factor"]) ? `, factor ${rule["factor"]}` : ""}`,
    theta: [config["rope_theta"], rule["rope_theta"]].find(isNumber),
    contextLength: [config["max_position_embeddings"]].find(isNumber),
    originalContextLength: [rule["original_max_position_embeddings"]].find(isNumber),
  };
}

function parse(path: string): Json {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw new DemoError(
      `${path} cannot be read: ${error instanceof Error ? error.message : error}. Give the path of a Hugging Face config.json.`,
    );
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new DemoError(
      `${path} is not JSON: ${error instanceof Error ? error.message : error}. Give the path of a Hugging Face config.json.`,
    );
  }
  if (!isObject(value)) throw new DemoError(`${path} holds no JSON object. Give the path of a Hugging Face config.json.`);
  return value;
}

function fromConfig(path: string, config: Json, options: { layerType?: string; angles?: "hf" }): RotaryEmbedding {
  try {
    return RotaryEmbedding.fromConfig(config, options);
  } catch (error) {
    if (!(error instanceof RopeError) || error.code !== "ROPE_ARGUMENT") throw error;
    const hint = error.argument === "layerType" ? ` Name the layers after the path: bun run demo ${path} full_attention` : "";
    throw new DemoError(`${path}: ${error.message}${hint}`);
  }
}

function count(path: string, config: Json, ...keys: string[]): number {
  const value = keys.map((key) => config[key]).find((value) => value !== undefined && value !== null);
  if (isNumber(value) && Number.isInteger(value) && value > 0 && value <= 4096) return value;
  const found = value === undefined ? "is missing" : `is ${JSON.stringify(value)?.slice(0, 40)}`;
  throw new DemoError(`${path}: ${keys[0]}, a number of attention heads, ${found}. Is it the config.json of a language model?`);
}

function storage(path: string, name: unknown): DType {
  if (name === undefined || name === null) return "bfloat16";
  if (name === "bfloat16" || name === "float16" || name === "float32") return name;
  throw new DemoError(`${path}: torch_dtype is ${JSON.stringify(name)?.slice(0, 40)}; the demo knows bfloat16, float16 and float32.`);
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isNumber(value: unknown): value is number {
  return typeof value === "number";
}
