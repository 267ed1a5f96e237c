// From the options of an embedding to the numbers of its rule: how many channels rotate, how fast, on how many axes.
import { argumentError, checkInteger, describe, quote } from "../arguments.ts";
import { enums } from "../native/layouts.ts";
import type { RotaryEmbeddingOptions } from "./embedding.ts";
import type { Rule } from "./frequencies.ts";
import { checkPositive, checkRotaryDim } from "./options.ts";
import { checkScaling, type RopeScaling } from "./scaling.ts";

function resolveRotaryDim(operation: string, options: RotaryEmbeddingOptions, dim: number, rotaryOffset: number): number {
  const most = dim - rotaryOffset;
  if (options.rotaryDim !== undefined) {
    const rotaryDim = checkRotaryDim(operation, "rotaryDim", options.rotaryDim);
    if (rotaryDim <= most) return rotaryDim;
    throw argumentError(operation, "rotaryDim", `at most ${most}, dim less rotaryOffset`, String(rotaryDim));
  }
  if (most < 2) throw argumentError(operation, "rotaryOffset", `at most ${dim - 2}, for dim is ${dim}`, String(rotaryOffset));
  const part = options.scaling?.ropeType === "proportional" ? undefined : options.scaling?.partialRotaryFactor; // that one counts pairs
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

function isList(given: unknown): given is ArrayLike<unknown> {
  if (typeof given !== "object" || given === null || !("length" in given)) return false;
  return Number.isSafeInteger(given.length) && (given.length as number) >= 0;
}

/** LongRoPE's divisors as C takes them: the short ones, then the long ones. */
function copyDivisors(operation: string, scaling: RopeScaling, pairs: number): Float64Array<ArrayBuffer> | null {
  if (scaling.ropeType !== "longrope") return null;
  const copy = new Float64Array(new ArrayBuffer(16 * pairs));
  for (const [i, name] of (["shortFactor", "longFactor"] as const).entries()) {
    const given: unknown = scaling[name];
    if (!isList(given)) throw argumentError(operation, `scaling.${name}`, "an array of numbers", describe(given));
    if (given.length !== pairs) {
      throw argumentError(operation, `scaling.${name}`, `${pairs} numbers, one for each pair that rotates`, `${given.length}`);
    }
    for (let pair = 0; pair < pairs; ++pair) {
      copy[i * pairs + pair] = checkPositive(operation, `scaling.${name}[${pair}]`, given[pair]);
    }
  }
  return copy;
}

const mostHeads = 65536; // of rope_frequencies_create

function copyFrequencies(
  operation: string,
  given: ArrayLike<number>,
  pairs: number,
  axes: number,
  single: boolean,
): Float64Array<ArrayBuffer> {
  if (!isList(given)) throw argumentError(operation, "frequencies", "an array of numbers", describe(given));
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
): Rule {
  const { scaling, base, frequencies } = options;
  const maxSeqLen = options.maxSeqLen === undefined ? undefined : checkInteger(operation, "maxSeqLen", options.maxSeqLen, 1);
  const attentionFactor = options.attentionFactor === undefined ? 0 : checkPositive(operation, "attentionFactor", options.attentionFactor);
  const ruling: RopeScaling = scaling === undefined ? { ropeType: "default" } : scaling;
  const numbers = checkScaling(operation, ruling, maxSeqLen);
  const ropeTheta = scaling?.ropeTheta;
  if (base !== undefined) checkPositive(operation, "base", base);
  if (ropeTheta !== undefined && checkPositive(operation, "scaling.ropeTheta", ropeTheta) !== (base ?? ropeTheta)) {
    throw argumentError(operation, "scaling.ropeTheta", `absent or equal to base, ${base}`, String(ropeTheta));
  }
  if (ruling.ropeType === "yarn" && (base ?? ropeTheta ?? 10000) <= 1) {
    throw argumentError(
      operation,
      base === undefined ? "scaling.ropeTheta" : "base",
      'above 1 for the rule "yarn"',
      String(base ?? ropeTheta),
    );
  }
  const rotaryDim = resolveRotaryDim(operation, options, dim, rotaryOffset);
  if (ruling.ropeType === "dynamic" && rotaryDim === 2) {
    throw argumentError(operation, "rotaryDim", 'at least 4 for the rule "dynamic"', "2", "theta grows by a power of R / (R - 2).");
  }
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
    attentionFactor: attentionFactor || numbers.attentionFactor,
    custom: copyDivisors(operation, ruling, pairs),
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
