// A Hugging Face config.json to the options of an embedding. What it does not know it says; the object is untrusted and only its own keys are read.
import { argumentError, checkInteger, checkOptions, describe, quote } from "../arguments.ts";
import type { DeviceLike } from "../device/device.ts";
import type { RotaryEmbeddingOptions } from "./embedding.ts";
import { type ModelTraits, modelTraits, whyUnsupported } from "./models.ts";
import { type Angles, checkPairing, checkPositive, type Pairing } from "./options.ts";
import { type RopeScaling, supportedRules } from "./rules.ts";

/** What {@linkcode RotaryEmbedding.fromConfig} takes besides the config, which these override. */
export interface FromConfigOptions {
  /** Which layers, where the config has parameters for each type: "full_attention", "sliding_attention", ... */
  readonly layerType?: string | undefined;
  /** As in {@linkcode RotaryEmbeddingOptions}. */
  readonly device?: DeviceLike | undefined;
  /** As in {@linkcode RotaryEmbeddingOptions}. */
  readonly angles?: Angles | undefined;
  /** The head dimension, in place of the config's. */
  readonly dim?: number | undefined;
  /** In place of the model's. */
  readonly pairing?: Pairing | undefined;
  /** In place of the model's. */
  readonly rotaryOffset?: number | undefined;
}

const operation = "RotaryEmbedding.fromConfig";
const optionKeys = ["layerType", "device", "angles", "dim", "pairing", "rotaryOffset"];

/** A JSON object and where it stands in the config, for messages. */
interface Node {
  readonly path: string;
  readonly json: Readonly<Record<string, unknown>>;
}

function node(path: string, json: unknown): Node {
  if (typeof json === "object" && json !== null && !Array.isArray(json)) return { path, json: json as Record<string, unknown> };
  throw argumentError(operation, path, "an object", describe(json));
}

/** The first of some keys that is there and not null. */
function find(at: Node, ...keys: string[]): { readonly path: string; readonly value: unknown } | undefined {
  for (const key of keys) {
    const value = Object.hasOwn(at.json, key) ? at.json[key] : undefined;
    if (value !== undefined && value !== null) return { path: `${at.path}.${key}`, value };
  }
  return undefined;
}

function child(at: Node, ...keys: string[]): Node | undefined {
  const found = find(at, ...keys);
  return found && node(found.path, found.value);
}

function positive(at: Node | undefined, ...keys: string[]): number | undefined {
  const found = at && find(at, ...keys);
  return found && checkPositive(operation, found.path, found.value);
}

function count(at: Node, ...keys: string[]): number | undefined {
  const found = find(at, ...keys);
  return found && checkInteger(operation, found.path, found.value, 1);
}

function word(at: Node, ...keys: string[]): string | undefined {
  const found = find(at, ...keys);
  if (found === undefined || typeof found.value === "string") return found?.value as string | undefined;
  throw argumentError(operation, found.path, "a string", describe(found.value));
}

function flag(at: Node, key: string): boolean | undefined {
  const found = find(at, key);
  if (found === undefined || typeof found.value === "boolean") return found?.value as boolean | undefined;
  throw argumentError(operation, found.path, "true or false", describe(found.value));
}

// ---- which part of the config, and which layers of the model --------------------------------------------------------------------------

/** The part that describes the language model, and its model type. */
function textConfig(root: Node): { config: Node; modelType: string | undefined } {
  let config = root;
  let modelType = word(root, "model_type");
  for (let depth = 0; depth < 4; ++depth) {
    const inner = child(config, "text_config", "llm_config", "language_config", "thinker_config");
    if (inner === undefined) break;
    config = inner;
    modelType = word(inner, "model_type") ?? modelType;
  }
  return { config, modelType };
}

const oldLayerTypes: Readonly<Record<string, string>> = {
  attention: "full_attention",
  full: "full_attention",
  global: "full_attention",
  global_attention: "full_attention",
  local: "sliding_attention",
  local_attention: "sliding_attention",
  sliding: "sliding_attention",
  sliding_window: "sliding_attention",
  swa: "sliding_attention",
};

function currentLayerType(name: string): string {
  return Object.hasOwn(oldLayerTypes, name) ? oldLayerTypes[name] ?? name : name;
}

/** The rope parameters of some layers: the object that names the rule, if there is one, and theta where that has none. */
interface Parameters {
  readonly rule: Node | undefined;
  readonly theta: number | undefined;
}

const ruleWords = ["rope_type", "type"];
const thetaKeys = ["rope_theta", "rotary_emb_base", "global_rope_theta"];
const localThetaKeys = ["rope_local_base_freq", "local_rope_theta", "swa_rope_theta"];
const partialKeys = ["partial_rotary_factor", "rotary_pct", "rope_pct", "rotary_emb_fraction"];

/** The parameters by layer type where layers differ, else under "". null: those layers have no rotary embedding. */
function parametersByLayer(config: Node, traits: ModelTraits): Map<string, Parameters | null> {
  const scaling = child(config, "rope_scaling");
  const parameters = child(config, "rope_parameters");
  const theta = positive(config, ...thetaKeys);
  const layers = new Map<string, Parameters | null>();

  // New style: rope_parameters (sometimes rope_scaling) holds an object for each layer type.
  for (const nested of [parameters, scaling]) {
    for (const key of Object.keys(nested?.json ?? {})) {
      const value = nested?.json[key];
      if (nested !== undefined && isLayerType(config, traits, key)) {
        layers.set(currentLayerType(key), value === null ? null : { rule: node(`${nested.path}.${key}`, value), theta });
      }
    }
    if (layers.size > 0) return layers;
  }

  // Old style: a theta of its own for the local layers, which no scaling touches (but ModernBERT's).
  const localTheta = positive(config, ...localThetaKeys);
  const rule = scaling ?? parameters;
  const known = traits.layers;
  if (known?.["compress"] !== undefined) {
    layers.set("main", { rule: undefined, theta: theta ?? known["main"] });
    layers.set("compress", { rule, theta: positive(config, "compress_rope_theta") ?? known["compress"] });
  } else if (localTheta !== undefined || known !== undefined) {
    const global = theta ?? known?.["full_attention"];
    const shared = known?.["full_attention"] === known?.["sliding_attention"]; // Olmo 3: one theta
    const own = rule ?? (traits.fullRule && node(`${config.path}.rope_parameters.full_attention`, { rope_type: traits.fullRule }));
    layers.set("full_attention", { rule: own || undefined, theta: global });
    layers.set("sliding_attention", {
      rule: find(config, "local_rope_theta") !== undefined ? rule : undefined,
      theta: localTheta ?? (shared ? global : known?.["sliding_attention"]),
    });
  } else layers.set("", { rule, theta });
  return layers;
}

const layerTypeNames = /(_attention|_sparse)$|^(attention|hybrid|hybrid_sliding|main|compress|global|local|full|sliding)$/;

function isLayerType(config: Node, traits: ModelTraits, key: string): boolean {
  const listed = find(config, "layer_types")?.value;
  return layerTypeNames.test(key) || (Array.isArray(listed) && listed.includes(key)) || Object.hasOwn(traits.layers ?? {}, key);
}

function chooseLayer(layers: Map<string, Parameters | null>, config: Node, wanted: unknown): Parameters {
  const names = [...layers.keys()];
  if (wanted !== undefined && typeof wanted !== "string") throw argumentError(operation, "layerType", "a string", describe(wanted));
  const single = layers.get("");
  if (single) {
    const listed = find(config, "layer_types")?.value;
    const known = wanted === undefined || layerTypeNames.test(wanted) || (Array.isArray(listed) && listed.includes(wanted));
    if (known) return single;
    throw argumentError(operation, "layerType", "absent, for all layers of this config rotate alike", quote(wanted));
  }
  const expected = `one of ${names.map(quote).join(", ")}`;
  if (wanted === undefined) {
    throw argumentError(operation, "layerType", expected, "undefined", "This config has rope parameters for each type of layer.");
  }
  const found = layers.get(currentLayerType(wanted));
  if (found === undefined) throw argumentError(operation, "layerType", expected, quote(wanted));
  if (found === null) {
    throw argumentError(
      operation,
      "layerType",
      `${expected} with rope parameters`,
      quote(wanted),
      "Those layers have no rotary embedding.",
    );
  }
  return found;
}

// ---- the rule ---------------------------------------------------------------------------------------------------------------------------

const laterRules = ["dynamic", "ntk", "yarn", "deepseek_yarn", "longrope", "su", "proportional", "axial"];
// What a rule may hold that does not name its type: all of it means the same with every rule.
const typelessKeys = new Set(["rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved", "interleaved"]);
const ruleKeys = new Set([
  ...typelessKeys,
  ...["rope_type", "type", "factor", "original_max_position_embeddings", "attention_factor"],
  ...["low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "alpha", "short_factor"],
  ...["long_factor", "short_mscale", "long_mscale", "finetuned", "llama_4_scaling_beta"],
]);

function scalingOf(rule: Node | undefined, config: Node, maxSeqLen: number | undefined): RopeScaling {
  if (rule === undefined) return { ropeType: "default" };
  const named = word(rule, ...ruleWords);
  const type = named ?? "default";
  const path = find(rule, ...ruleWords)?.path ?? `${rule.path}.rope_type`;
  if (laterRules.includes(type)) {
    throw argumentError(operation, path, `one of ${supportedRules.map(quote).join(", ")}, the rules of this version`, quote(type));
  }
  if (type !== "mrope" && !supportedRules.includes(type)) {
    throw argumentError(
      operation,
      path,
      `one of ${[...supportedRules, "mrope"].map(quote).join(", ")}`,
      quote(type),
      "This rule is not known.",
    );
  }
  for (const key of Object.keys(rule.json)) {
    if (named === undefined && !typelessKeys.has(key) && find(rule, key) !== undefined) {
      const expected = `one of ${supportedRules.map(quote).join(", ")} beside the key ${quote(key)}`;
      throw argumentError(operation, `${rule.path}.rope_type`, expected, "nothing", "Without a type it is not clear which rule is meant.");
    }
    const isStray = key === "interleaved" && find(rule, "mrope_section") === undefined; // of other rules it would mean the pairing
    if (!ruleKeys.has(key) || isStray) throw argumentError(operation, rule.path, "made of keys that are known", `the key ${quote(key)}`);
  }
  if (type === "default" || type === "mrope") return { ropeType: "default" };
  const factor = need(rule, "factor");
  if (type === "linear") return { ropeType: "linear", factor };
  const low = need(rule, "low_freq_factor"), high = need(rule, "high_freq_factor");
  if (low > high) throw argumentError(operation, `${rule.path}.low_freq_factor`, `at most high_freq_factor, ${high}`, String(low));
  const original = positive(config, "original_max_position_embeddings") ?? positive(rule, "original_max_position_embeddings") ?? maxSeqLen;
  if (original === undefined) throw missing(`${rule.path}.original_max_position_embeddings`, "max_position_embeddings would do as well.");
  return {
    ropeType: "llama3",
    factor,
    lowFreqFactor: low,
    highFreqFactor: high,
    originalMaxPositionEmbeddings: original,
  };
}

function need(at: Node, key: string): number {
  const value = positive(at, key);
  if (value === undefined) throw missing(`${at.path}.${key}`, undefined);
  return value;
}

function missing(path: string, advice: string | undefined): Error {
  return argumentError(operation, path, "a positive number", "nothing", advice);
}

// ---- dimensions and axes ------------------------------------------------------------------------------------------------------------------

function headDimOf(config: Node, traits: ModelTraits, isFull: boolean): number {
  const own = (isFull ? count(config, "global_head_dim") : undefined) ?? count(config, "head_dim") ?? traits.headDim;
  if (own !== undefined) return own;
  if (traits.latent) throw argumentError(operation, `${config.path}.qk_rope_head_dim`, "an integer of at least 1", "nothing", "Give dim.");
  const hidden = count(config, "hidden_size", "n_embd", "d_model");
  const heads = count(config, "num_attention_heads", "n_head", "num_heads", "decoder_num_attention_heads");
  if (hidden !== undefined && heads !== undefined && hidden >= heads) return Math.trunc(hidden / heads);
  const absent = hidden === undefined ? "hidden_size" : "num_attention_heads";
  throw argumentError(
    operation,
    `${config.path}.head_dim`,
    `given, or hidden_size and num_attention_heads`,
    `no head_dim and no ${absent}`,
    "Give dim.",
  );
}

/** How many channels rotate, and whether they stand last. */
interface Slice {
  readonly dim: number;
  readonly rotaryDim: number;
  readonly trailing: boolean;
}

function sliceOf(config: Node, traits: ModelTraits, rule: Node | undefined, givenDim: unknown, isFull: boolean): Slice {
  const given = givenDim === undefined ? undefined : checkInteger(operation, "dim", givenDim, 1);
  const latent = traits.trailing ? undefined : count(config, "qk_rope_head_dim"); // MLA: the part that rotates is a tensor of its own
  if (latent !== undefined) {
    return { dim: given ?? latent, rotaryDim: evenPart(`${config.path}.qk_rope_head_dim`, latent, given ?? latent), trailing: true };
  }
  const dim = given ?? headDimOf(config, traits, isFull);
  const trailing = traits.trailing === true;
  const partial = (rule && find(rule, "partial_rotary_factor")) ?? find(config, ...partialKeys);
  if (partial === undefined) {
    const legacy = count(config, ...trailing ? ["qk_rope_head_dim", "rotary_dim"] : ["rotary_dim"]);
    const absent = Object.hasOwn(config.json, "rotary_dim") ? undefined : traits.rotaryDim; // GPT-J's null is the whole head
    const rotaryDim = legacy ?? absent;
    if (rotaryDim !== undefined) return { dim, rotaryDim: evenPart(`${config.path}.rotary_dim`, rotaryDim, dim), trailing };
  }
  const factor = partial === undefined ? traits.partial ?? 1 : checkPositive(operation, partial.path, partial.value);
  const path = partial?.path ?? `${config.path}.partial_rotary_factor`;
  if (factor > 1) throw argumentError(operation, path, "at most 1", String(factor));
  const rotaryDim = Math.trunc(dim * factor);
  if (rotaryDim < 2 || rotaryDim % 2 !== 0) {
    throw argumentError(operation, path, `a factor that gives an even number of channels of ${dim}`, `${factor}, which gives ${rotaryDim}`);
  }
  return { dim, rotaryDim, trailing };
}

/** A number of channels that a config says rotate, of `dim`. */
function evenPart(path: string, channels: number, dim: number): number {
  if (channels % 2 === 0 && channels <= dim) return channels;
  throw argumentError(operation, path, `even and at most ${dim}, the head dimension`, String(channels));
}

/** The first channel that rotates: the caller's, else the model's. */
function offsetOf(given: unknown, slice: Slice): number {
  const most = slice.dim - slice.rotaryDim;
  if (given === undefined) return slice.trailing ? most : 0;
  const rotaryOffset = checkInteger(operation, "rotaryOffset", given, 0);
  if (rotaryOffset <= most) return rotaryOffset;
  const expected = `at most ${most}, for ${slice.rotaryDim} of ${slice.dim} channels rotate`;
  throw argumentError(operation, "rotaryOffset", expected, String(rotaryOffset));
}

function pairingOf(config: Node, traits: ModelTraits, isListed: boolean, given: unknown): Pairing {
  if (given !== undefined) return checkPairing(operation, "pairing", given);
  if (find(config, "position_embedding_type")?.value === "rope_gptj") return "interleaved";
  const interleaved = flag(config, "rotary_emb_interleaved");
  if (interleaved !== undefined) return interleaved ? "interleaved" : "half";
  const interleave = flag(config, "rope_interleave");
  if (interleave && !isListed) {
    const advice = 'Give pairing: "interleaved_to_half" is what DeepSeek V3 does, "interleaved" what GPT-J does.';
    throw argumentError(operation, `${config.path}.rope_interleave`, "false for a model_type that is not listed", "true", advice);
  }
  return traits.pairing === "interleaved_to_half" && interleave === false ? "half" : traits.pairing ?? "half";
}

/** Which axis drives each pair, where positions stand on several: the sections of M-RoPE. */
function axesOf(rule: Node | undefined, traits: ModelTraits, pairs: number): { axes?: number; axisOfPair?: number[] } {
  const found = rule && find(rule, "mrope_section");
  const isMultiAxis = found !== undefined || traits.section !== undefined || (rule && word(rule, ...ruleWords)) === "mrope";
  if (!isMultiAxis) return {};
  const path = found?.path ?? `${rule?.path ?? "config.rope_parameters"}.mrope_section`;
  const section: unknown = found?.value ?? traits.section;
  if (!Array.isArray(section) || section.length < 2 || section.length > 16) {
    throw argumentError(operation, path, "an array of counts", describe(section));
  }
  const counts: number[] = section.map((value: unknown, i) => checkInteger(operation, `${path}[${i}]`, value, 0));
  const sum = counts.reduce((a, b) => a + b, 0);
  if (sum !== pairs) throw argumentError(operation, path, `counts that add up to ${pairs}, the pairs that rotate`, `${sum}`);
  const isInterleaved = rule && (flag(rule, "mrope_interleaved") ?? flag(rule, "interleaved"));
  const order = isInterleaved ? "interleaved" : traits.axes ?? "chunked";
  if (order !== "chunked" && counts.length !== 3) throw argumentError(operation, path, "three counts", `${counts.length}`);
  const [first = 0, second = 0, third = 0] = counts;
  const axisOfPair = Array.from({ length: pairs }, (_, pair): number => {
    // Positions are (time, height, width).
    if (order === "interleaved") return pair % 3 === 1 && pair < 3 * second ? 1 : pair % 3 === 2 && pair < 3 * third ? 2 : 0;
    if (order === "ernie") return pair < first + second ? 1 + pair % 2 : 0;
    let axis = 0;
    for (let end = first; pair >= end; end += counts[axis] ?? pairs) axis++;
    return axis;
  });
  return { axes: counts.length, axisOfPair };
}

/** Options for the constructor of RotaryEmbedding. */
export function optionsFromConfig(json: object, options: FromConfigOptions = {}): RotaryEmbeddingOptions {
  checkOptions(operation, options, optionKeys);
  const root = node("config", json);
  const { config, modelType } = textConfig(root);
  const reason = modelType === undefined ? undefined : whyUnsupported(modelType);
  if (reason !== undefined) {
    throw argumentError(
      operation,
      `${config.path}.model_type`,
      "a model with rotary positions that this reads",
      `${quote(modelType ?? "")}: ${reason}`,
    );
  }
  const known = modelTraits(modelType);
  refuseOtherPositions(config, known !== undefined);
  const traits = known ?? {};
  const hasKeys =
    find(config, "rope_parameters", "rope_scaling", "rotary_dim", ...thetaKeys, ...localThetaKeys, ...partialKeys) !== undefined;
  if (known === undefined && !hasKeys) {
    throw argumentError(
      operation,
      `${config.path}.rope_theta`,
      "given, or rope_parameters, or a model_type with rotary positions that is known",
      modelType === undefined ? "neither" : `the model_type ${quote(modelType)} alone`,
      "If the model rotates (ESM-2 does, with base 10000), make it with new RotaryEmbedding({ dim, base }).",
    );
  }
  const { rule, theta } = chooseLayer(parametersByLayer(config, traits), config, options.layerType);
  const maxSeqLen = count(config, "max_position_embeddings", "n_positions");
  const scaling = scalingOf(rule, config, maxSeqLen); // before the dimensions: a rule that is not here is the first thing to know
  const slice = sliceOf(config, traits, rule, options.dim, currentLayerType(options.layerType ?? "") === "full_attention");
  return {
    dim: slice.dim,
    maxSeqLen,
    base: positive(rule, "rope_theta") ?? theta ?? traits.theta ?? 10000,
    scaling,
    rotaryDim: slice.rotaryDim,
    rotaryOffset: offsetOf(options.rotaryOffset, slice),
    pairing: pairingOf(config, traits, known !== undefined, options.pairing),
    conjugate: traits.conjugate,
    angles: options.angles,
    device: options.device,
    ...axesOf(rule, traits, slice.rotaryDim / 2),
  };
}

// What would turn otherwise than this does: flags that must not be set, flags that must not be cleared, numbers that must be 1, and xPos.
const foreignFlags = ["alibi", "use_alibi", "use_fope", "rope_3d", "no_rope", "use_dynamic_ntk", "use_xpos"];
const rotaryFlags = ["use_rope", "use_rotary", "use_rotary_embedding", "use_rotary_embeddings"];
const foreignFactors = ["rotary_scaling_factor", "rope_scaling_factor", "rope_ratio"];

/** Configs that say themselves that their model does not rotate, or in a way that is not this one. */
function refuseOtherPositions(config: Node, isListed: boolean): void {
  const kind = isListed ? undefined : word(config, "position_embedding_type"); // listed models rotate; ModernBERT's says "absolute"
  if (kind !== undefined && !["rope", "rotary", "rotary_embedding", "rope_gptj"].includes(kind)) {
    throw argumentError(operation, `${config.path}.position_embedding_type`, '"rope" or "rotary"', quote(kind));
  }
  for (const key of foreignFlags) {
    if (flag(config, key)) throw argumentError(operation, `${config.path}.${key}`, "false for rotary positions of this version", "true");
  }
  for (const key of rotaryFlags) {
    if (flag(config, key) === false) {
      throw argumentError(operation, `${config.path}.${key}`, "true for a model with rotary positions", "false");
    }
  }
  for (const key of foreignFactors) {
    const found = find(config, key);
    if (found !== undefined && found.value !== 1) {
      throw argumentError(operation, found.path, "null or 1, for this version does not apply it", describe(found.value));
    }
  }
  const xpos = find(config, "rotary_emb_scale_base");
  if (xpos !== undefined) throw argumentError(operation, xpos.path, "null, for this version has no xPos", describe(xpos.value));
}
