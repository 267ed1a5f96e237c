// From the options of an embedding to the numbers of its rule: how many channels rotate, how fast, on how many axes.
import { argumentError, checkInteger, describe, quote } from "../arguments.ts";
import { enums } from "../native/layouts.ts";
import type { RotaryEmbeddingOptions } from "./embedding.ts";
import type { Rule } from "./frequencies.ts";
import { checkPositive, checkRotaryDim } from "./options.ts";

/** What all rules take. */
export interface CommonScaling {
  /** The base of the frequencies, where `base` is not given. */
  readonly ropeTheta?: number | undefined;
  /** Which part of the head dimension rotates, where `rotaryDim` is not given: R = trunc(dim * factor). */
  readonly partialRotaryFactor?: number | undefined;
}

/** theta^(-2j/R) for pair j. */
export interface DefaultScaling extends CommonScaling {
  /** The rule. */
  readonly ropeType: "default";
}

/** The default frequencies divided by `factor` (position interpolation). */
export interface LinearScaling extends CommonScaling {
  /** The rule. */
  readonly ropeType: "linear";
  /** What positions are divided by. */
  readonly factor: number;
}

/** Llama 3.1's: long wavelengths stretched by `factor`, short ones kept, a ramp between. */
export interface Llama3Scaling extends CommonScaling {
  /** The rule. */
  readonly ropeType: "llama3";
  /** How far long wavelengths are stretched. */
  readonly factor: number;
  /** Wavelengths beyond the original length / lowFreqFactor are stretched. */
  readonly lowFreqFactor: number;
  /** Wavelengths below the original length / highFreqFactor are kept. At least lowFreqFactor; equal to it is a hard step. */
  readonly highFreqFactor: number;
  /** The context length the model was first trained with. Default: maxSeqLen, which is 2048 where it is not given. */
  readonly originalMaxPositionEmbeddings?: number | undefined;
}

/** A frequency rule with Hugging Face's keys in camelCase. */
export type RopeScaling = DefaultScaling | LinearScaling | Llama3Scaling;

const ruleKeys: Record<RopeScaling["ropeType"], readonly string[]> = {
  default: [],
  linear: ["factor"],
  llama3: ["factor", "lowFreqFactor", "highFreqFactor", "originalMaxPositionEmbeddings"],
};

/** The rules of this version, for messages. */
export const supportedRules: readonly string[] = Object.keys(ruleKeys);

// The rule with the options' attention factor, before its theta and dimensions are known.
type Numbers = Pick<Rule, "kind" | "factor" | "lowFreqFactor" | "highFreqFactor" | "originalMaxPosition">;

const defaultMaxSeqLen = 2048;

function checkScalingKeys(operation: string, scaling: RopeScaling): void {
  const known = ["ropeType", "ropeTheta", "partialRotaryFactor", ...ruleKeys[scaling.ropeType]];
  for (const key in scaling) {
    const value: unknown = scaling[key as keyof RopeScaling];
    if (known.includes(key) || value === undefined) continue;
    const expected = `absent, for the keys of ${quote(scaling.ropeType)} are ${known.join(", ")}`;
    throw argumentError(operation, `scaling.${key.slice(0, 60)}`, expected, describe(value));
  }
}

function checkScaling(operation: string, scaling: RopeScaling, maxSeqLen: number | undefined): Numbers {
  if (typeof scaling !== "object" || scaling === null) {
    throw argumentError(operation, "scaling", 'an object such as { ropeType: "linear", factor: 4 }', describe(scaling));
  }
  const type: unknown = scaling.ropeType;
  if (typeof type !== "string" || !supportedRules.includes(type)) {
    const snake = "rope_type" in scaling || "type" in scaling;
    throw argumentError(
      operation,
      "scaling.ropeType",
      `one of ${supportedRules.map(quote).join(", ")}, the rules of this version`,
      describe(type),
      snake ? "Keys are in camelCase here; RotaryEmbedding.fromConfig reads those of a config.json." : undefined,
    );
  }
  checkScalingKeys(operation, scaling);
  const plain = { kind: enums.RULE_DEFAULT, factor: 0, lowFreqFactor: 0, highFreqFactor: 0, originalMaxPosition: 0 };
  if (scaling.ropeType === "default") return plain;
  const factor = checkPositive(operation, "scaling.factor", scaling.factor);
  if (scaling.ropeType === "linear") return { ...plain, kind: enums.RULE_LINEAR, factor };
  const lowFreqFactor = checkPositive(operation, "scaling.lowFreqFactor", scaling.lowFreqFactor);
  const highFreqFactor = checkPositive(operation, "scaling.highFreqFactor", scaling.highFreqFactor);
  if (lowFreqFactor > highFreqFactor) {
    throw argumentError(operation, "scaling.lowFreqFactor", `at most scaling.highFreqFactor, ${highFreqFactor}`, String(lowFreqFactor));
  }
  const given = scaling.originalMaxPositionEmbeddings;
  const original = given === undefined ? maxSeqLen ?? defaultMaxSeqLen : given;
  const originalMaxPosition = checkPositive(operation, "scaling.originalMaxPositionEmbeddings", original);
  return { kind: enums.RULE_LLAMA3, factor, lowFreqFactor, highFreqFactor, originalMaxPosition };
}

function resolveRotaryDim(operation: string, options: RotaryEmbeddingOptions, dim: number, rotaryOffset: number): number {
  const most = dim - rotaryOffset;
  if (options.rotaryDim !== undefined) {
    const rotaryDim = checkRotaryDim(operation, "rotaryDim", options.rotaryDim);
    if (rotaryDim <= most) return rotaryDim;
    throw argumentError(operation, "rotaryDim", `at most ${most}, dim less rotaryOffset`, String(rotaryDim));
  }
  if (most < 2) throw argumentError(operation, "rotaryOffset", `at most ${dim - 2}, for dim is ${dim}`, String(rotaryOffset));
  const part = options.scaling?.partialRotaryFactor;
  if (part === undefined) {
    if (most % 2 === 0) return most;
    throw argumentError(
      operation,
      "rotaryDim",
      "given where dim less rotaryOffset is odd",
      `undefined, with ${most}`,
      "Channels rotate in pairs.",
    );
  }
  const name = "scaling.partialRotaryFactor";
  if (checkPositive(operation, name, part) > 1) throw argumentError(operation, name, "at most 1", String(part));
  const rotaryDim = Math.trunc(dim * part);
  if (rotaryDim % 2 !== 0 || rotaryDim < 2) {
    throw argumentError(operation, name, `a factor that gives an even number of channels of ${dim}`, `${part}, which gives ${rotaryDim}`);
  }
  if (rotaryDim > most) {
    throw argumentError(operation, name, `a factor that gives at most ${most} channels`, `${part}, which gives ${rotaryDim}`);
  }
  return rotaryDim;
}

function resolveAxisOfPair(operation: string, options: RotaryEmbeddingOptions, pairs: number): Int32Array<ArrayBuffer> | null {
  const given: unknown = options.axisOfPair;
  if (given === undefined) return null;
  if (!Array.isArray(given) && !(given instanceof Int32Array)) {
    throw argumentError(operation, "axisOfPair", "an array of numbers", describe(given));
  }
  if (given.length !== pairs) throw argumentError(operation, "axisOfPair", `${pairs} numbers, an axis for each pair`, `${given.length}`);
  const most = (options.axes ?? 16) - 1;
  const axisOfPair = new Int32Array(new ArrayBuffer(4 * pairs));
  for (let pair = 0; pair < pairs; ++pair) axisOfPair[pair] = checkInteger(operation, `axisOfPair[${pair}]`, given[pair], 0, most);
  return axisOfPair;
}

const mostHeads = 65536; // of rope_frequencies_create

function copyFrequencies(
  operation: string,
  given: ArrayLike<number>,
  pairs: number,
  axes: number,
  single: boolean,
): Float64Array<ArrayBuffer> {
  const isList = typeof given === "object" && given !== null && Number.isSafeInteger(given.length) && given.length >= 0;
  if (!isList) throw argumentError(operation, "frequencies", "an array of numbers", describe(given));
  const each = single ? pairs : axes * pairs;
  const heads = given.length / each;
  if (heads !== 1 && (single || !Number.isInteger(heads) || heads < 1 || heads > mostHeads)) {
    const shapes = single
      ? `${pairs} numbers, [R/2]`
      : `${each} numbers, [${axes === 1 ? "" : "axes, "}R/2], or a multiple for [axes, heads, R/2]`;
    throw argumentError(operation, "frequencies", `${shapes} with R = ${2 * pairs}`, `${given.length}`);
  }
  const copy = new Float64Array(new ArrayBuffer(8 * given.length));
  for (let i = 0; i < copy.length; ++i) {
    const value: unknown = given[i];
    if (typeof value !== "number" || !Number.isFinite(value)) {
      throw argumentError(operation, `frequencies[${i}]`, "a finite number", describe(value));
    }
    copy[i] = value;
  }
  return copy;
}

/** Checks everything that decides the frequencies. */
export function resolveRule(
  operation: string,
  options: RotaryEmbeddingOptions,
  dim: number,
  rotaryOffset: number,
  attentionFactor: number,
): Rule {
  const { scaling, base, frequencies } = options;
  const maxSeqLen = options.maxSeqLen === undefined ? undefined : checkInteger(operation, "maxSeqLen", options.maxSeqLen, 1);
  const numbers = checkScaling(operation, scaling === undefined ? { ropeType: "default" } : scaling, maxSeqLen);
  const ropeTheta = scaling?.ropeTheta;
  if (base !== undefined) checkPositive(operation, "base", base);
  if (ropeTheta !== undefined && checkPositive(operation, "scaling.ropeTheta", ropeTheta) !== (base ?? ropeTheta)) {
    throw argumentError(operation, "scaling.ropeTheta", `absent or equal to base, ${base}`, String(ropeTheta));
  }
  const rotaryDim = resolveRotaryDim(operation, options, dim, rotaryOffset);
  const pairs = rotaryDim / 2;
  if (options.axes !== undefined) checkInteger(operation, "axes", options.axes, 1, 16);
  const axisOfPair = resolveAxisOfPair(operation, options, pairs);
  const axes = options.axes ?? (axisOfPair === null ? 1 : Math.max(...axisOfPair) + 1);
  const rule: Rule = {
    ...numbers,
    rotaryDim,
    axes,
    heads: 0,
    theta: base ?? ropeTheta ?? 10000,
    attentionFactor,
    custom: null,
    axisOfPair,
  };
  if (frequencies === undefined) {
    if (axes === 1 || axisOfPair !== null) return rule;
    throw argumentError(
      operation,
      "axisOfPair",
      "given where a rule drives several axes",
      "undefined",
      "It says which axis drives each pair.",
    );
  }
  if (scaling !== undefined && scaling.ropeType !== "default") {
    throw argumentError(operation, "scaling", "absent where frequencies are given", `the rule ${quote(scaling.ropeType)}`);
  }
  const theta = base ?? ropeTheta;
  if (theta !== undefined) {
    throw argumentError(operation, base === undefined ? "scaling.ropeTheta" : "base", "absent where frequencies are given", String(theta));
  }
  const custom = copyFrequencies(operation, frequencies, pairs, axes, axisOfPair !== null);
  const heads = custom.length / ((axisOfPair === null ? axes : 1) * pairs);
  return { ...rule, kind: enums.RULE_CUSTOM, custom, heads: heads === 1 ? 0 : heads };
}
