// Rules whose frequencies depend on how long the context is: which length a call has, and the frequencies of that length.
import { checkInteger } from "../arguments.ts";
import { enums } from "../native/layouts.ts";
import { checkTensor, geometryOf, stateOf } from "../tensor/operations.ts";
import { Tensor } from "../tensor/tensor.ts";
import { Frequencies, type Rule, type RuleNames } from "./frequencies.ts";
import type { ForwardOptions } from "./options.ts";

/** Whether a rule's frequencies depend on the context's length. */
export function dependsOnLength(rule: Rule): boolean {
  return rule.kind === enums.RULE_LONGROPE || (rule.kind === enums.RULE_DYNAMIC && (rule.details?.alpha ?? 0) === 0);
}

const capacity = 4; // decoding with "dynamic" makes new ones at every step

/**
 * The frequencies of such a rule by context length: those beyond the original length are made when they are asked for, and the last few
 * kept.
 */
export class FrequenciesByLength {
  readonly #rule: Rule;
  readonly #names: RuleNames;
  readonly #original: Frequencies;
  readonly #longer = new Map<number, Frequencies>(); // in order of use, the oldest first

  /** `original`: those of the original length, which stay the caller's. */
  constructor(rule: Rule, names: RuleNames, original: Frequencies) {
    this.#rule = rule;
    this.#names = names;
    this.#original = original;
  }

  /** Those of a length, live until the next few calls. */
  at(operation: string, contextLength: number): Frequencies {
    const { kind, originalMaxPosition, details } = this.#rule;
    if (contextLength <= originalMaxPosition) return this.#original;
    const length = kind === enums.RULE_LONGROPE ? Math.floor(originalMaxPosition) + 1 : contextLength; // all long contexts are alike
    const found = this.#longer.get(length) ??
      new Frequencies(operation, { ...this.#rule, details: { ...details, contextLength: length } }, this.#names);
    this.#longer.delete(length);
    this.#longer.set(length, found);
    if (this.#longer.size > capacity) {
      for (const [oldest, frequencies] of this.#longer) {
        this.#longer.delete(oldest);
        frequencies.release();
        break;
      }
    }
    return found;
  }

  /** Gives up all but the original ones. */
  release(): void {
    for (const frequencies of this.#longer.values()) frequencies.release();
    this.#longer.clear();
  }
}

const furthest = 2 ** 38; // positions beyond it are faults, and no context

/**
 * The largest of some indices that the host can see; undefined where it cannot, -Infinity where there are none. Entries that are no numbers
 * are skipped.
 */
function largest(operation: string, argument: string, given: unknown): number | undefined {
  const values = numbersOnHost(operation, argument, given);
  if (values === undefined) return undefined;
  let most = -Infinity;
  for (let i = 0; i < values.length; ++i) {
    const value = numberAt(values, i);
    if (value > most && value <= furthest) most = value;
  }
  return most;
}

function numberAt(values: ArrayLike<unknown>, index: number): number {
  const value = values[index];
  return typeof value === "number" || typeof value === "bigint" ? Number(value) : NaN;
}

/** An array as it is, a tensor on the CPU read, unless a graph is recorded: it will be launched with other contents. */
function numbersOnHost(operation: string, argument: string, given: unknown): ArrayLike<unknown> | undefined {
  if (given instanceof Tensor) {
    const tensor = checkTensor(operation, argument, given);
    if (tensor.device.kind !== "cpu" || stateOf(tensor).recording !== null) return undefined;
    return tensor.readBlocking();
  }
  return typeof given === "object" && given !== null && "length" in given ? given as ArrayLike<unknown> : [];
}

/** The last position of the longest request: offsets[b] + tokens of b - 1. */
function lastOfRequests(operation: string, indptr: unknown, offsets: unknown): number | undefined {
  const ends = numbersOnHost(operation, "indptr", indptr);
  const starts = offsets === undefined ? [] : numbersOnHost(operation, "offsets", offsets);
  if (ends === undefined || starts === undefined) return undefined;
  let most = -Infinity;
  for (let request = 0; request + 1 < ends.length; ++request) {
    const tokens = numberAt(ends, request + 1) - numberAt(ends, request);
    const last = (offsets === undefined ? 0 : numberAt(starts, request)) + tokens - 1;
    if (tokens > 0 && last > most && last <= furthest) most = last;
  }
  return most;
}

/** The last position of a call; undefined where only the device knows it. */
function lastPosition(operation: string, q: Tensor, options: ForwardOptions | undefined): number | undefined {
  const { shape } = geometryOf(q);
  const tokens = (shape.length === 4 ? shape[1] : shape[0]) ?? 0;
  if (options?.positions !== undefined) return largest(operation, "positions", options.positions);
  if (options?.indptr !== undefined) return lastOfRequests(operation, options.indptr, options.offsets);
  if (options?.offsets === undefined) return (options?.offset ?? 0) + tokens - 1;
  const start = largest(operation, "offsets", options.offsets);
  return start === undefined ? undefined : start + tokens - 1;
}

/** The context length of a call: the caller's, else the largest position known on the host + 1, else that of the model. */
export function contextLengthOf(operation: string, q: Tensor, options: ForwardOptions | undefined, maxSeqLen: number): number {
  if (options?.contextLength !== undefined) return checkInteger(operation, "contextLength", options.contextLength, 1);
  const last = lastPosition(operation, q, options);
  if (last === undefined || Number.isNaN(last)) return maxSeqLen;
  return Math.max(1, Math.floor(Math.min(last, furthest)) + 1);
}
