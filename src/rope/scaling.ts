// The frequency rules as callers name them, and their numbers, checked.
import { argumentError, checkBoolean, describe, quote } from "../arguments.ts";
import { enums } from "../native/layouts.ts";
import type { Rule } from "./frequencies.ts";
import { checkPositive } from "./options.ts";

/** What all rules take. */
export interface CommonScaling {
  /** The base of the frequencies, where `base` is not given. */
  readonly ropeTheta?: number | undefined;
  /**
   * Which part of the head dimension rotates, where `rotaryDim` is not given: R = trunc(dim * factor). Of "proportional": which part of the
   * pairs turns, while R is the whole head.
   */
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

/**
 * Dynamic NTK: beyond the original length theta grows with the context, theta * (factor * L / original - (factor - 1))^(R/(R-2)), so
 * frequencies depend on the `contextLength` L of a call. With `alpha` (HunYuan) theta * alpha^(R/(R-2)) at every length.
 */
export interface DynamicScaling extends CommonScaling {
  /** The rule. */
  readonly ropeType: "dynamic";
  /** How fast theta grows. Not used with alpha, without it needed. */
  readonly factor?: number | undefined;
  /** In place of factor: grows theta once and for all. */
  readonly alpha?: number | undefined;
  /** The length up to which theta stays. Default: maxSeqLen, which is 2048 where it is not given. */
  readonly originalMaxPositionEmbeddings?: number | undefined;
}

/** Fixed NTK, as vLLM has it: (theta * factor)^(-2j/R) / factor^(2/R). */
export interface NtkScaling extends CommonScaling {
  /** The rule. */
  readonly ropeType: "ntk";
  /** How far the longest wavelength is stretched. */
  readonly factor: number;
  /** In place of that: the default frequencies divided by exp(a * (j + 1)^mixedB), a = ln(factor) / (R/2)^mixedB. */
  readonly mixedB?: number | undefined;
}

/** YaRN: long wavelengths stretched by `factor`, short ones kept, a ramp over the pairs between; and an attention factor. */
export interface YarnScaling extends CommonScaling {
  /** The rule. */
  readonly ropeType: "yarn";
  /** How far long wavelengths are stretched. Default or null: maxSeqLen / originalMaxPositionEmbeddings. */
  readonly factor?: number | null | undefined;
  /** The context length the model was first trained with. Default: maxSeqLen, which is 2048 where it is not given. */
  readonly originalMaxPositionEmbeddings?: number | undefined;
  /**
   * Multiplies cos and sin. Default or null: m(mscale) / m(mscaleAllDim) where both are given and not 0, else m(1); m(x) = 0.1 x ln(factor)
   * + 1.
   */
  readonly attentionFactor?: number | null | undefined;
  /** Pairs that turn more often than this within the original length are kept. Default 32. */
  readonly betaFast?: number | undefined;
  /** Pairs that turn less often than this are stretched. At most betaFast. Default 1. */
  readonly betaSlow?: number | undefined;
  /** See attentionFactor. */
  readonly mscale?: number | null | undefined;
  /** See attentionFactor. */
  readonly mscaleAllDim?: number | null | undefined;
  /** Whether the ramp begins and ends at whole pairs. Default true; gpt-oss has false. */
  readonly truncate?: boolean | undefined;
}

/**
 * LongRoPE: the default frequencies divided by a number for each pair, from one list for contexts up to the original length and another
 * beyond it, for all positions of a call at once: frequencies depend on the `contextLength` of a call.
 */
export interface LongRopeScaling extends CommonScaling {
  /** The rule. */
  readonly ropeType: "longrope";
  /** [R/2], up to the original length. */
  readonly shortFactor: ArrayLike<number>;
  /** [R/2], beyond it. */
  readonly longFactor: ArrayLike<number>;
  /** Decides the attention factor. Default or null: maxSeqLen / originalMaxPositionEmbeddings. */
  readonly factor?: number | null | undefined;
  /** The context length the model was first trained with, above 1. Default: maxSeqLen, which is 2048 where it is not given. */
  readonly originalMaxPositionEmbeddings?: number | undefined;
  /** Multiplies cos and sin. Default or null: sqrt(1 + ln(factor) / ln(original)), or 1 where factor is at most 1. */
  readonly attentionFactor?: number | null | undefined;
  /** In place of that default up to the original length (Phi-3.5 MoE). */
  readonly shortMscale?: number | undefined;
  /** In place of that default beyond it. */
  readonly longMscale?: number | undefined;
}

/** Gemma 4's full layers: theta^(-2j/R) / factor for the first part of the pairs, the others stand still. R is the whole head. */
export interface ProportionalScaling extends CommonScaling {
  /** The rule. */
  readonly ropeType: "proportional";
  /** What frequencies are divided by. Default 1. */
  readonly factor?: number | undefined;
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
export type RopeScaling =
  | DefaultScaling
  | LinearScaling
  | DynamicScaling
  | NtkScaling
  | YarnScaling
  | LongRopeScaling
  | Llama3Scaling
  | ProportionalScaling;

const ruleKeys: Record<RopeScaling["ropeType"], readonly string[]> = {
  default: [],
  linear: ["factor"],
  dynamic: ["factor", "alpha", "originalMaxPositionEmbeddings"],
  ntk: ["factor", "mixedB"],
  yarn: [
    ...["factor", "originalMaxPositionEmbeddings", "attentionFactor", "betaFast", "betaSlow", "mscale", "mscaleAllDim", "truncate"],
  ],
  longrope: [
    ...["shortFactor", "longFactor", "factor", "originalMaxPositionEmbeddings", "attentionFactor", "shortMscale", "longMscale"],
  ],
  llama3: ["factor", "lowFreqFactor", "highFreqFactor", "originalMaxPositionEmbeddings"],
  proportional: ["factor"],
};

/** The rules there are, for messages. */
export const supportedRules: readonly string[] = Object.keys(ruleKeys);

/** A rule before its theta and dimensions are known, with its own attention factor: 0 where it says none. */
export type RuleNumbers = Pick<
  Rule,
  "kind" | "factor" | "lowFreqFactor" | "highFreqFactor" | "originalMaxPosition" | "details" | "attentionFactor"
>;

/** The context length of a model that says none. */
export const defaultMaxSeqLen = 2048;

function checkScalingKeys(operation: string, scaling: RopeScaling): void {
  const known = ["ropeType", "ropeTheta", "partialRotaryFactor", ...ruleKeys[scaling.ropeType]];
  for (const key in scaling) {
    const value: unknown = scaling[key as keyof RopeScaling];
    if (known.includes(key) || value === undefined) continue;
    const expected = `absent, for the keys of ${quote(scaling.ropeType)} are ${known.join(", ")}`;
    throw argumentError(operation, `scaling.${key.slice(0, 60)}`, expected, describe(value));
  }
}

/** A positive number, or 0 where there is none; null too is none. */
function optional(operation: string, name: string, value: unknown): number {
  return value === undefined || value === null ? 0 : checkPositive(operation, `scaling.${name}`, value);
}

/** The same where 0 itself means none. */
function optionalScale(operation: string, name: string, value: unknown): number {
  return value === 0 ? 0 : optional(operation, name, value);
}

/** Checks the rule and its numbers. */
export function checkScaling(operation: string, scaling: RopeScaling, maxSeqLen: number | undefined): RuleNumbers {
  if (typeof scaling !== "object" || scaling === null) {
    throw argumentError(operation, "scaling", 'an object such as { ropeType: "linear", factor: 4 }', describe(scaling));
  }
  const type: unknown = scaling.ropeType;
  if (typeof type !== "string" || !supportedRules.includes(type)) {
    const snake = "rope_type" in scaling || "type" in scaling;
    throw argumentError(
      operation,
      "scaling.ropeType",
      `one of ${supportedRules.map(quote).join(", ")}`,
      describe(type),
      snake ? "Keys are in camelCase here; RotaryEmbedding.fromConfig reads those of a config.json." : undefined,
    );
  }
  checkScalingKeys(operation, scaling);
  const positive = (name: string, value: unknown): number => checkPositive(operation, `scaling.${name}`, value);
  const original = (value: number | undefined): number =>
    positive("originalMaxPositionEmbeddings", value === undefined ? maxSeqLen ?? defaultMaxSeqLen : value);
  const plain = {
    kind: enums.RULE_DEFAULT,
    factor: 0,
    lowFreqFactor: 0,
    highFreqFactor: 0,
    originalMaxPosition: 0,
    details: null,
    attentionFactor: 0,
  };
  switch (scaling.ropeType) {
    case "default":
      return plain;
    case "linear":
      return { ...plain, kind: enums.RULE_LINEAR, factor: positive("factor", scaling.factor) };
    case "llama3":
      return { ...plain, ...checkLlama3(operation, scaling), originalMaxPosition: original(scaling.originalMaxPositionEmbeddings) };
    case "dynamic": {
      const originalMaxPosition = original(scaling.originalMaxPositionEmbeddings);
      const alpha = optional(operation, "alpha", scaling.alpha);
      const factor = alpha === 0 ? positive("factor", scaling.factor) : optional(operation, "factor", scaling.factor);
      return { ...plain, kind: enums.RULE_DYNAMIC, factor, originalMaxPosition, details: { alpha } };
    }
    case "ntk": {
      const factor = positive("factor", scaling.factor);
      return { ...plain, kind: enums.RULE_NTK, factor, details: { mixedB: optional(operation, "mixedB", scaling.mixedB) } };
    }
    case "yarn":
      return {
        ...plain,
        ...checkYarn(operation, scaling, maxSeqLen),
        originalMaxPosition: original(scaling.originalMaxPositionEmbeddings),
      };
    case "longrope": {
      const originalMaxPosition = original(scaling.originalMaxPositionEmbeddings);
      if (originalMaxPosition <= 1) {
        throw argumentError(operation, "scaling.originalMaxPositionEmbeddings", "above 1", String(originalMaxPosition));
      }
      return {
        ...plain,
        kind: enums.RULE_LONGROPE,
        factor: optional(operation, "factor", scaling.factor),
        attentionFactor: optional(operation, "attentionFactor", scaling.attentionFactor),
        originalMaxPosition,
        details: {
          maxPosition: maxSeqLen ?? defaultMaxSeqLen,
          shortMscale: optional(operation, "shortMscale", scaling.shortMscale),
          longMscale: optional(operation, "longMscale", scaling.longMscale),
        },
      };
    }
    case "proportional": {
      const part = optional(operation, "partialRotaryFactor", scaling.partialRotaryFactor);
      if (part > 1) throw argumentError(operation, "scaling.partialRotaryFactor", "at most 1", String(part));
      const factor = optional(operation, "factor", scaling.factor);
      return { ...plain, kind: enums.RULE_PROPORTIONAL, factor, details: { partial: part } };
    }
  }
}

function checkLlama3(operation: string, scaling: Llama3Scaling): Pick<RuleNumbers, "kind" | "factor" | "lowFreqFactor" | "highFreqFactor"> {
  const factor = checkPositive(operation, "scaling.factor", scaling.factor);
  const lowFreqFactor = checkPositive(operation, "scaling.lowFreqFactor", scaling.lowFreqFactor);
  const highFreqFactor = checkPositive(operation, "scaling.highFreqFactor", scaling.highFreqFactor);
  if (lowFreqFactor > highFreqFactor) {
    throw argumentError(operation, "scaling.lowFreqFactor", `at most scaling.highFreqFactor, ${highFreqFactor}`, String(lowFreqFactor));
  }
  return { kind: enums.RULE_LLAMA3, factor, lowFreqFactor, highFreqFactor };
}

function checkYarn(
  operation: string,
  scaling: YarnScaling,
  maxSeqLen: number | undefined,
): Pick<RuleNumbers, "kind" | "factor" | "attentionFactor" | "details"> {
  const factor = optional(operation, "factor", scaling.factor);
  if (factor === 0 && maxSeqLen === undefined) {
    const advice = "It defaults to maxSeqLen / scaling.originalMaxPositionEmbeddings.";
    throw argumentError(operation, "scaling.factor", "a positive number where maxSeqLen is not given", describe(scaling.factor), advice);
  }
  const betaFast = optional(operation, "betaFast", scaling.betaFast);
  const betaSlow = optional(operation, "betaSlow", scaling.betaSlow);
  if ((betaFast || 32) < (betaSlow || 1)) {
    throw argumentError(operation, "scaling.betaFast", `at least scaling.betaSlow, ${betaSlow || 1}`, String(betaFast || 32));
  }
  const details = {
    maxPosition: maxSeqLen ?? 0,
    betaFast,
    betaSlow,
    mscale: optionalScale(operation, "mscale", scaling.mscale),
    mscaleAllDim: optionalScale(operation, "mscaleAllDim", scaling.mscaleAllDim),
    noTruncate: checkBoolean(operation, "scaling.truncate", scaling.truncate, true) ? 0 : 1,
  };
  const attentionFactor = optional(operation, "attentionFactor", scaling.attentionFactor);
  return { kind: enums.RULE_YARN, factor, attentionFactor, details };
}
