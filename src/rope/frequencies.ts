// The frequencies of a rule: an immutable object of the C library, held by a handle. An embedding owns one; the functional calls share a
// small cache, in which the rule used last is found by comparing numbers.
import { Block } from "../native/block.ts";
import { enums, layouts } from "../native/layouts.ts";
import { library } from "../native/library.ts";
import { HandleNet } from "../native/net.ts";
import { realm } from "../native/realm.ts";
import type { FieldNames } from "../native/status.ts";

/** The numbers of rules other than default, linear and llama3; 0 and absent are the default, as in rope.h. */
export interface RuleDetails {
  readonly contextLength?: number;
  readonly maxPosition?: number;
  readonly alpha?: number;
  readonly mixedB?: number;
  readonly betaFast?: number;
  readonly betaSlow?: number;
  readonly mscale?: number;
  readonly mscaleAllDim?: number;
  readonly shortMscale?: number;
  readonly longMscale?: number;
  readonly partial?: number;
  readonly noTruncate?: number;
}

const noDetails: RuleDetails = {};

/** What frequencies are made from: a rope_frequencies_args in checked numbers. */
export interface Rule {
  /** enums.RULE_* */
  readonly kind: number;
  /** R */
  readonly rotaryDim: number;
  readonly axes: number;
  /** 0 where all heads turn alike. */
  readonly heads: number;
  readonly theta: number;
  readonly factor: number;
  readonly lowFreqFactor: number;
  readonly highFreqFactor: number;
  readonly originalMaxPosition: number;
  /** What only some rules have. */
  readonly details: RuleDetails | null;
  /** 0: the rule's own. */
  readonly attentionFactor: number;
  /** RULE_CUSTOM: [axes, heads, R/2], or with axisOfPair [R/2]; radians per position. RULE_LONGROPE: [2, R/2], divisors. */
  readonly custom: Float64Array<ArrayBuffer> | null;
  /** [R/2] */
  readonly axisOfPair: Int32Array<ArrayBuffer> | null;
}

/** What the caller calls the numbers that a rule makes frequencies from, for errors of frequencies that are too high. */
export interface RuleNames {
  /** theta */
  readonly theta: string;
  /** factor */
  readonly factor: string;
  /** LongRoPE's */
  readonly divisors: string;
}

const createLayout = layouts.frequencies_args;
const readLayout = layouts.frequencies_read_args;
const create = new Block(createLayout, "rope_frequencies_create");
const read = new Block(readLayout, "rope_frequencies_read");
const release = new Block(createLayout, "rope_frequencies_release");

/** Where an array lies, for the length of a call; 0 for none. The array is over an ArrayBuffer made on its own, which does not move. */
function addressOf(array: Float64Array<ArrayBuffer> | Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer> | null): number {
  return array === null ? 0 : library().address(new Uint8Array(array.buffer));
}

function releaseHandle(handle: number): void {
  release.u64(createLayout.frequencies, handle);
  release.call("RotaryEmbedding.dispose");
}

const net = new HandleNet("RotaryEmbedding", releaseHandle);

/** What the caller calls the fields of rope_frequencies_create that a rule is made of. */
function namesOf(rule: Rule, names: RuleNames): FieldNames {
  return {
    custom: rule.kind === enums.RULE_CUSTOM ? "frequencies" : names.divisors,
    // C blames theta for every frequency that is too high, but theta^(-2j/R) is at most 1 where theta is at least 1.
    theta: rule.theta >= 1 ? names.factor : names.theta,
  };
}

/** Frequencies that C holds for us until they are released. */
export class Frequencies {
  /** What C knows them by; 0 once released. */
  handle: number;
  /** What cos and sin are multiplied by. */
  readonly attentionFactor: number;
  readonly #count: number;

  /** Makes them. Equal rules share one object in C. */
  constructor(operation: string, rule: Rule, names: RuleNames) {
    create.u32(createLayout.rule, rule.kind);
    create.u64(createLayout.realm, realm());
    create.i64(createLayout.rotary_dim, rule.rotaryDim);
    create.i64(createLayout.axes, rule.axes);
    create.i64(createLayout.heads, rule.heads);
    create.f64(createLayout.theta, rule.theta);
    create.f64(createLayout.factor, rule.factor);
    create.f64(createLayout.low_freq_factor, rule.lowFreqFactor);
    create.f64(createLayout.high_freq_factor, rule.highFreqFactor);
    create.f64(createLayout.original_max_position, rule.originalMaxPosition);
    create.f64(createLayout.attention_factor, rule.attentionFactor);
    create.u64(createLayout.custom, addressOf(rule.custom));
    create.u64(createLayout.custom_count, rule.custom?.length ?? 0);
    create.u64(createLayout.axis_of_pair, addressOf(rule.axisOfPair));
    create.u64(createLayout.axis_of_pair_count, rule.axisOfPair?.length ?? 0);
    const details = rule.details ?? noDetails;
    create.f64(createLayout.context_length, details.contextLength ?? 0);
    create.f64(createLayout.max_position, details.maxPosition ?? 0);
    create.f64(createLayout.alpha, details.alpha ?? 0);
    create.f64(createLayout.mixed_b, details.mixedB ?? 0);
    create.f64(createLayout.beta_fast, details.betaFast ?? 0);
    create.f64(createLayout.beta_slow, details.betaSlow ?? 0);
    create.f64(createLayout.mscale, details.mscale ?? 0);
    create.f64(createLayout.mscale_all_dim, details.mscaleAllDim ?? 0);
    create.f64(createLayout.short_mscale, details.shortMscale ?? 0);
    create.f64(createLayout.long_mscale, details.longMscale ?? 0);
    create.f64(createLayout.partial, details.partial ?? 0);
    create.u32(createLayout.no_truncate, details.noTruncate ?? 0);
    create.call(operation, namesOf(rule, names));
    this.handle = create.getU64(createLayout.frequencies);
    this.attentionFactor = create.getF64(createLayout.chosen_attention_factor);
    this.#count = rule.axes * Math.max(rule.heads, 1) * rule.rotaryDim / 2;
    net.watch(this, this.handle);
  }

  /** Reads them back: radians per position, and Hugging Face's float32 values. [axes, heads, R/2], row-major. */
  read(operation: string): { exact: Float64Array<ArrayBuffer>; invFreq: Float32Array<ArrayBuffer> } {
    const exact = new Float64Array(new ArrayBuffer(8 * this.#count));
    const invFreq = new Float32Array(new ArrayBuffer(4 * this.#count));
    read.u64(readLayout.frequencies, this.handle);
    read.u64(readLayout.exact, addressOf(exact));
    read.u64(readLayout.inv_freq, addressOf(invFreq));
    read.u64(readLayout.count, this.#count);
    read.call(operation);
    return { exact, invFreq };
  }

  /** Gives them up. What was recorded with them keeps its own hold. Twice is harmless. */
  release(): void {
    if (this.handle === 0) return;
    net.forget(this);
    releaseHandle(this.handle);
    this.handle = 0;
  }
}

// ---- the cache of the functional calls ----------------------------------------------------------------------------------------------

const capacity = 64;
const functionalNames: RuleNames = { theta: "ropeTheta", factor: "ropeScale", divisors: "" };
const cache = new Map<string, Frequencies>(); // in order of use, the oldest first

let last: Frequencies | null = null;
let lastKind = 0, lastDim = 0, lastTheta = 0, lastFactor = 0, lastLow = 0, lastHigh = 0, lastOriginal = 0;

/**
 * The handle of a rule on one axis, made where it is new. The numbers are checked; those a kind has no use for are 0. Calls that repeat the
 * last rule, as a model's layers do, compare seven numbers and allocate nothing.
 */
export function cachedFrequencies(
  operation: string,
  kind: number,
  rotaryDim: number,
  theta: number,
  factor: number,
  lowFreqFactor: number,
  highFreqFactor: number,
  originalMaxPosition: number,
): number {
  if (
    last !== null && kind === lastKind && rotaryDim === lastDim && theta === lastTheta && factor === lastFactor &&
    lowFreqFactor === lastLow && highFreqFactor === lastHigh && originalMaxPosition === lastOriginal
  ) return last.handle;
  const key = `${kind} ${rotaryDim} ${theta} ${factor} ${lowFreqFactor} ${highFreqFactor} ${originalMaxPosition}`;
  const numbers = { kind, rotaryDim, theta, factor, lowFreqFactor, highFreqFactor, originalMaxPosition };
  const rest = { axes: 1, heads: 0, details: null, attentionFactor: 0, custom: null, axisOfPair: null };
  const found = cache.get(key) ?? new Frequencies(operation, { ...numbers, ...rest }, functionalNames);
  cache.delete(key);
  cache.set(key, found);
  last = found;
  lastKind = kind;
  lastDim = rotaryDim;
  lastTheta = theta;
  lastFactor = factor;
  lastLow = lowFreqFactor;
  lastHigh = highFreqFactor;
  lastOriginal = originalMaxPosition;
  if (cache.size > capacity) evictOldest();
  return found.handle;
}

function evictOldest(): void {
  for (const [key, oldest] of cache) {
    cache.delete(key);
    oldest.release();
    return;
  }
}
