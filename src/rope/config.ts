// A Hugging Face config.json to the options of an embedding. What it does not know it says; the object is untrusted and only its own keys
// are read.
import { argumentError, checkInteger, checkOptions, describe, quote } from "../arguments.ts";
import type { DeviceLike } from "../device/device.ts";
import { warn } from "../native/trace.ts";
import { child, count, find, flag, type Node, node, operation, positive, positiveOrNone, word } from "./config_node.ts";
import { checkDivisors, originalOf, ruleType, ruleWords, scalingOf, unreadText } from "./config_rules.ts";
import type { RotaryEmbeddingOptions } from "./embedding.ts";
import { type ModelTraits, modelTraits, whyUnsupported } from "./models.ts";
import { type Angles, checkAngles, checkPairing, checkPositive, type Pairing } from "./options.ts";
import type { QScaling } from "./q_scale.ts";
import { type Encoder, encoderDim, encoderOf, encoderOptions } from "./vision.ts";

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

const optionKeys = ["layerType", "device", "angles", "dim", "pairing", "rotaryOffset"];

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
  /** theta is of these layers, and that of the rule of others. */
  readonly hasOwnTheta?: boolean;
}

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
  const own = rule ?? (traits.rule && node(`${config.path}.rope_parameters`, traits.rule));
  if (known?.["compress"] !== undefined) { // DeepSeek V4: the scaling is of the compressed layers, the theta beside it of the others
    layers.set("main", { rule: undefined, theta: positive(rule, "rope_theta") ?? theta ?? known["main"] });
    layers.set("compress", { rule, theta: positive(config, "compress_rope_theta") ?? known["compress"], hasOwnTheta: true });
  } else if (localTheta !== undefined || known !== undefined) {
    const global = theta ?? known?.["full_attention"];
    const shared = known?.["full_attention"] === known?.["sliding_attention"]; // Olmo 3: one theta
    layers.set("full_attention", { rule: own, theta: global });
    layers.set("sliding_attention", {
      rule: find(config, "local_rope_theta") !== undefined ? rule : undefined,
      theta: localTheta ?? (shared ? global : known?.["sliding_attention"]),
    });
  } else layers.set("", { rule: own, theta });
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

// ---- dimensions and axes ----------------------------------------------------------------------------------------------------------------

function headDimOf(config: Node, traits: ModelTraits, isFull: boolean): number {
  const own = (isFull ? count(config, "global_head_dim") ?? traits.globalHeadDim : undefined) ?? count(config, "head_dim") ??
    traits.headDim;
  if (own !== undefined) return own;
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
  const latent = traits.trailing ? undefined : latentOf(config, traits);
  const partial = (rule && find(rule, "partial_rotary_factor")) ?? find(config, ...partialKeys);
  if (latent !== undefined) {
    return { dim: given ?? latent, rotaryDim: evenPart(`${config.path}.qk_rope_head_dim`, latent, given ?? latent), trailing: true };
  }
  const dim = given ?? headDimOf(config, traits, isFull);
  const trailing = traits.trailing === true;
  if (ruleType(rule) === "proportional") return { dim, rotaryDim: evenPart(`${config.path}.head_dim`, dim, dim), trailing }; // of the pairs
  if (partial === undefined) {
    const legacy = count(config, ...trailing ? ["qk_rope_head_dim", "rotary_dim"] : ["rotary_dim"]);
    const absent = Object.hasOwn(config.json, "rotary_dim") ? undefined : traits.rotaryDim; // GPT-J's null is the whole head
    const rotaryDim = legacy ?? absent;
    if (rotaryDim !== undefined) return { dim, rotaryDim: evenPart(`${config.path}.rotary_dim`, rotaryDim, dim), trailing };
  }
  const factor = partial === undefined ? traits.partial ?? 1 : checkPart(partial);
  const path = partial?.path ?? `${config.path}.partial_rotary_factor`;
  const rotaryDim = Math.trunc(dim * factor);
  if (rotaryDim < 2 || rotaryDim % 2 !== 0) {
    throw argumentError(operation, path, `a factor that gives an even number of channels of ${dim}`, `${factor}, which gives ${rotaryDim}`);
  }
  return { dim, rotaryDim, trailing };
}

/** Multi-head latent attention: the channels of the part that rotates, which is a tensor of its own. */
function latentOf(config: Node, traits: ModelTraits): number | undefined {
  const own = count(config, "qk_rope_head_dim");
  return own ?? (traits.latent === undefined ? undefined : count(config, "head_dim") ?? traits.latent);
}

/** A partial_rotary_factor: positive, at most 1. */
function checkPart({ path, value }: { readonly path: string; readonly value: unknown }): number {
  const factor = checkPositive(operation, path, value);
  if (factor > 1) throw argumentError(operation, path, "at most 1", String(factor));
  return factor;
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
  if (!isMultiAxis) {
    const stray = rule && find(rule, "interleaved"); // of other rules it would mean the pairing
    if (rule === undefined || stray === undefined) return {};
    throw argumentError(operation, rule.path, "made of keys that are known", 'the key "interleaved" without mrope_section');
  }
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
  const encoder = encoderOf(config, modelType);
  if (encoder !== undefined) return optionsFromEncoder(json, config, encoder, options);
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
  const { rule, theta, hasOwnTheta } = chooseLayer(parametersByLayer(config, traits), config, options.layerType);
  const maxSeqLen = count(config, "max_position_embeddings", "n_positions");
  const given = scalingOf(rule, config, maxSeqLen); // before the dimensions: a rule that is not here is the first thing to know
  const layer = currentLayerType(options.layerType ?? "");
  const temperature = temperatureOf(config, traits);
  if (temperature !== undefined && layer === "full_attention") return stillOptions(json, rule, config, traits, temperature, options);
  const slice = sliceOf(config, traits, rule, options.dim, layer === "full_attention");
  checkDivisors(given, rule, slice.rotaryDim / 2);
  const own = rule && positive(rule, "rope_theta");
  let scaling = given;
  if (given.ropeType === "proportional") {
    const partial = (rule && find(rule, "partial_rotary_factor")) ?? find(config, ...partialKeys);
    scaling = { ...given, partialRotaryFactor: partial && checkPart(partial) };
  } else if (given.ropeType === "yarn" && layer === "compress") scaling = { ...given, attentionFactor: 1 }; // DeepSeek V4 forces it
  const made = {
    dim: slice.dim,
    maxSeqLen,
    base: (hasOwnTheta ? theta : own ?? theta) ?? traits.theta ?? 10000,
    scaling,
    rotaryDim: slice.rotaryDim,
    rotaryOffset: offsetOf(options.rotaryOffset, slice),
    pairing: pairingOf(config, traits, known !== undefined, options.pairing),
    conjugate: traits.conjugate,
    qScaling: qScalingOf(rule, config, maxSeqLen),
    angles: options.angles,
    device: options.device,
    ...axesOf(rule, traits, slice.rotaryDim / 2),
  };
  warnOfUnread(json, rule, config);
  return made;
}

/** Ministral 3's factor for each query. */
function qScalingOf(rule: Node | undefined, config: Node, maxSeqLen: number | undefined): QScaling | undefined {
  const key = "llama_4_scaling_beta";
  const beta = (rule && positiveOrNone(rule, key)) ?? positiveOrNone(config, key);
  return beta === undefined ? undefined : { beta, length: originalOf(rule ?? config, config, maxSeqLen) };
}

/** Llama 4's, of its layers that do not turn; undefined for other models. `scale` is undefined where the config switches it off. */
function temperatureOf(config: Node, traits: ModelTraits): { readonly scale: QScaling | undefined } | undefined {
  if (traits.temperature !== true) return undefined;
  const tuning = find(config, "attn_temperature_tuning")?.value; // true, or 4 in configs of its first days
  if (tuning === false || tuning === 0) return { scale: undefined };
  return { scale: { beta: positiveOrNone(config, "attn_scale") ?? 0.1, length: positive(config, "floor_scale") ?? 8192, shift: 1 } };
}

/** Layers that turn nothing, and multiply each query by a factor of its position. */
function stillOptions(
  json: object,
  rule: Node | undefined,
  config: Node,
  traits: ModelTraits,
  temperature: { readonly scale: QScaling | undefined },
  options: FromConfigOptions,
): RotaryEmbeddingOptions {
  const slice = sliceOf(config, traits, rule, options.dim, true);
  const pairing = pairingOf(config, traits, true, options.pairing);
  warnOfUnread(json, rule, config);
  return {
    dim: slice.dim,
    rotaryDim: slice.rotaryDim,
    rotaryOffset: offsetOf(options.rotaryOffset, slice),
    frequencies: new Array<number>(slice.rotaryDim / 2).fill(0),
    pairing,
    qScaling: temperature.scale,
    angles: options.angles,
    device: options.device,
  };
}

/** The same of the config of an image encoder. */
function optionsFromEncoder(json: object, config: Node, encoder: Encoder, options: FromConfigOptions): RotaryEmbeddingOptions {
  const { layerType, rotaryOffset, angles, device } = options;
  if (layerType !== undefined) {
    throw argumentError(operation, "layerType", "absent, for all layers of an image encoder rotate alike", describe(layerType));
  }
  const dim = encoderDim(config, options.dim === undefined ? undefined : checkInteger(operation, "dim", options.dim, 1));
  offsetOf(rotaryOffset, { dim, rotaryDim: dim, trailing: false });
  if (angles !== undefined) checkAngles(operation, "angles", angles);
  const rule = child(config, "rope_parameters", "rope_scaling");
  const made = encoderOptions(config, rule, encoder, dim, angles);
  const pairing = options.pairing === undefined ? made.pairing : checkPairing(operation, "pairing", options.pairing);
  warnOfUnread(json, rule, config);
  return { ...made, dim, pairing, angles, device };
}

const warned = new WeakSet<object>(); // a config is read once for each of its layer types

/** One warning for a config that says more of rotary positions than is read. */
function warnOfUnread(json: object, rule: Node | undefined, config: Node): void {
  find(config, ...rotaryKeys);
  const text = unreadText(rule, config);
  if (text === "" || warned.has(json)) return;
  warned.add(json);
  warn(text);
}

// What would turn otherwise than this does: flags that must not be set, flags that must not be cleared, numbers that must be 1, and xPos.
const foreignFlags = ["alibi", "use_alibi", "use_fope", "rope_3d", "no_rope", "use_dynamic_ntk", "use_xpos"];
const rotaryFlags = ["use_rope", "use_rotary", "use_rotary_embedding", "use_rotary_embeddings"];
const foreignFactors = ["rotary_scaling_factor", "rope_scaling_factor", "rope_ratio"];
// What is read from some configs only, and what says which layers rotate.
const rotaryKeys = [
  ...[...thetaKeys, ...localThetaKeys, ...partialKeys, "rotary_dim", "qk_rope_head_dim", "rope_interleave", "rotary_emb_interleaved"],
  ...["compress_rope_theta", "no_rope_layers", "no_rope_layer_interval", "rotary"],
];

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
