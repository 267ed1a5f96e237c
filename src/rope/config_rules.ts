// The frequency rule of a config: its keys, old names and new, to the scaling of an embedding.
import { argumentError, checkBoolean, describe, quote } from "../arguments.ts";
import { find, missing, need, type Node, operation, positive, positiveOrNone, unread, word } from "./config_node.ts";
import { checkPositive } from "./options.ts";
import { type LongRopeScaling, type RopeScaling, supportedRules, type YarnScaling } from "./scaling.ts";

/** How a rule names its type. */
export const ruleWords: readonly string[] = ["rope_type", "type"];

// Other names of rules there are.
const aliases: Readonly<Record<string, string>> = { su: "longrope", deepseek_yarn: "yarn", mrope: "default" };

// What means nothing without a type: the keys of rules.
const typedKeys: readonly string[] = [
  ...["factor", "original_max_position_embeddings", "attention_factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"],
  ...["mscale", "mscale_all_dim", "truncate", "alpha", "mixed_b", "short_factor", "long_factor", "short_mscale", "long_mscale"],
];

/** The type that a rule names, under the name it has here; "default" where it names none. */
export function ruleType(rule: Node | undefined): string {
  const named = rule && word(rule, ...ruleWords);
  if (rule === undefined || named === undefined) return "default";
  const type = Object.hasOwn(aliases, named) ? aliases[named] ?? named : named;
  return type === "yarn" && find(rule, "short_factor") !== undefined ? "longrope" : type; // Phi-3's old name for it
}

/** The scaling that a rule means. `maxSeqLen` is the config's max_position_embeddings. */
export function scalingOf(rule: Node | undefined, config: Node, maxSeqLen: number | undefined): RopeScaling {
  if (rule === undefined) return { ropeType: "default" };
  const type = ruleType(rule);
  if (!supportedRules.includes(type)) {
    const known = [...supportedRules, ...Object.keys(aliases)].map(quote).join(", ");
    const path = find(rule, ...ruleWords)?.path ?? `${rule.path}.rope_type`;
    throw argumentError(operation, path, `one of ${known}`, quote(type), "This rule is not known.");
  }
  if (word(rule, ...ruleWords) === undefined) refuseTyped(rule);
  switch (type as RopeScaling["ropeType"]) {
    case "default":
      return { ropeType: "default" };
    case "linear":
      return { ropeType: "linear", factor: need(rule, "factor") };
    case "dynamic":
      return dynamicOf(rule, config, maxSeqLen);
    case "ntk":
      return { ropeType: "ntk", factor: need(rule, "factor"), mixedB: positive(rule, "mixed_b") };
    case "yarn":
      return yarnOf(rule, config, maxSeqLen);
    case "longrope":
      return longropeOf(rule, config, maxSeqLen);
    case "llama3":
      return llama3Of(rule, config, maxSeqLen);
    case "proportional":
      return { ropeType: "proportional", factor: positive(rule, "factor") };
  }
}

/** Refuses the keys of a rule that does not say which it is. */
function refuseTyped(rule: Node): void {
  for (const key of typedKeys) {
    if (find(rule, key) === undefined) continue;
    const expected = `one of ${supportedRules.map(quote).join(", ")} beside the key ${quote(key)}`;
    throw argumentError(operation, `${rule.path}.rope_type`, expected, "nothing", "Without a type it is not clear which rule is meant.");
  }
}

/** The length a model was first trained with: what the config says itself wins, then the rule, then max_position_embeddings. */
export function originalOf(rule: Node, config: Node, maxSeqLen: number | undefined): number {
  const key = "original_max_position_embeddings";
  const inner = positive(rule, key);
  const original = positive(config, key) ?? inner ?? maxSeqLen;
  if (original === undefined) throw missing(`${rule.path}.${key}`, "max_position_embeddings would do as well.");
  return original;
}

function llama3Of(rule: Node, config: Node, maxSeqLen: number | undefined): RopeScaling {
  const factor = need(rule, "factor");
  const low = need(rule, "low_freq_factor"), high = need(rule, "high_freq_factor");
  if (low > high) throw argumentError(operation, `${rule.path}.low_freq_factor`, `at most high_freq_factor, ${high}`, String(low));
  const originalMaxPositionEmbeddings = originalOf(rule, config, maxSeqLen);
  return { ropeType: "llama3", factor, lowFreqFactor: low, highFreqFactor: high, originalMaxPositionEmbeddings };
}

function dynamicOf(rule: Node, config: Node, maxSeqLen: number | undefined): RopeScaling {
  const alpha = positiveOrNone(rule, "alpha");
  const factor = alpha === undefined ? need(rule, "factor") : positive(rule, "factor");
  if (alpha !== undefined) return { ropeType: "dynamic", factor, alpha };
  if (maxSeqLen === undefined) throw missing(`${config.path}.max_position_embeddings`, "The rule grows theta beyond that length.");
  return { ropeType: "dynamic", factor, originalMaxPositionEmbeddings: maxSeqLen };
}

function yarnOf(rule: Node, config: Node, maxSeqLen: number | undefined): YarnScaling {
  const factor = positive(rule, "factor");
  find(rule, "max_position_embeddings"); // Ministral repeats it here
  if (factor === undefined && maxSeqLen === undefined) {
    throw missing(`${rule.path}.factor`, "max_position_embeddings would do as well.");
  }
  const betaFast = positiveOrNone(rule, "beta_fast"), betaSlow = positiveOrNone(rule, "beta_slow");
  const fast = betaFast ?? 32, slow = betaSlow ?? 1;
  if (fast < slow) throw argumentError(operation, `${rule.path}.beta_fast`, `at least beta_slow, ${slow}`, String(fast));
  return {
    ropeType: "yarn",
    factor,
    betaFast,
    betaSlow,
    originalMaxPositionEmbeddings: originalOf(rule, config, maxSeqLen),
    attentionFactor: positive(rule, "attention_factor"),
    mscale: positiveOrNone(rule, "mscale"),
    mscaleAllDim: positiveOrNone(rule, "mscale_all_dim"),
    truncate: checkBoolean(operation, `${rule.path}.truncate`, find(rule, "truncate")?.value, true),
  };
}

function longropeOf(rule: Node, config: Node, maxSeqLen: number | undefined): LongRopeScaling {
  const originalMaxPositionEmbeddings = originalOf(rule, config, maxSeqLen);
  if (originalMaxPositionEmbeddings <= 1) {
    const path = `${rule.path}.original_max_position_embeddings`;
    throw argumentError(operation, path, "above 1", String(originalMaxPositionEmbeddings));
  }
  return {
    ropeType: "longrope",
    shortFactor: divisors(rule, "short_factor"),
    longFactor: divisors(rule, "long_factor"),
    factor: positive(rule, "factor"),
    originalMaxPositionEmbeddings,
    attentionFactor: positiveOrNone(rule, "attention_factor"),
    shortMscale: positiveOrNone(rule, "short_mscale"),
    longMscale: positiveOrNone(rule, "long_mscale"),
  };
}

function divisors(rule: Node, key: string): number[] {
  const path = `${rule.path}.${key}`;
  const value = find(rule, key)?.value;
  if (!Array.isArray(value)) throw argumentError(operation, path, "an array of numbers", value === undefined ? "nothing" : describe(value));
  return value.map((entry: unknown, i) => checkPositive(operation, `${path}[${i}]`, entry));
}

/** LongRoPE has a divisor for each pair. */
export function checkDivisors(scaling: RopeScaling, rule: Node | undefined, pairs: number): void {
  if (scaling.ropeType !== "longrope" || rule === undefined) return;
  for (const [key, list] of [["short_factor", scaling.shortFactor], ["long_factor", scaling.longFactor]] as const) {
    if (list.length === pairs) continue;
    throw argumentError(operation, `${rule.path}.${key}`, `${pairs} numbers, one for each pair that rotates`, `${list.length}`);
  }
}

// Of the keys beside a rule those that look as if they were of rotary positions.
const telling = /(^|_)(m?rope|rotary|yarn)(_|$)/;

/** What a config says of rotary positions that nobody read; "" where there is nothing. */
export function unreadText(rule: Node | undefined, config: Node): string {
  const within = rule === undefined ? [] : unread(rule).map((key) => `${rule.path}.${key}`);
  const beside = unread(config).filter((key) => telling.test(key)).map((key) => `${config.path}.${key}`);
  const keys = [...within, ...beside].map((path) => quote(path).slice(1, -1));
  if (keys.length === 0) return "";
  const shown = keys.length > 8 ? `${keys.slice(0, 8).join(", ")} and ${keys.length - 8} more` : keys.join(", ");
  return `${operation} does not read ${shown}; the embedding is made as if ${keys.length === 1 ? "it were" : "they were"} not there.`;
}
