// Checks of what callers pass. FFI turns undefined into NULL and 1.9 into 1, so every value is checked here before it reaches a block; what
// it means together with the other arguments (shapes, dtypes, overlap) is checked by the C library.
import { RopeArgumentError } from "./errors.ts";

/** "librope" in quotes, shortened where it is long: texts of callers in messages. */
export function quote(text: string): string {
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 57)}...` : text);
}

/** A value in words, for the `actual` of an error: `"two"`, `1.5`, `a Float32Array of 12`, `a Map`. */
export function describe(value: unknown): string {
  switch (typeof value) {
    case "string":
      return quote(value);
    case "bigint":
      return `the bigint ${quote(String(value)).slice(1, -1)}n`;
    case "symbol":
      return "a symbol";
    case "function":
      return "a function";
    case "object":
      break;
    default:
      return Object.is(value, -0) ? "-0" : String(value);
  }
  if (value === null) return "null";
  if (Array.isArray(value)) return `an array of ${value.length}`;
  const tag: unknown = Object.getPrototypeOf(value)?.constructor?.name;
  const name = typeof tag === "string" && tag !== "" ? tag : "Object";
  if (ArrayBuffer.isView(value) && "length" in value) return `${article(name)} of ${value.length}`;
  return article(name === "Object" ? "object" : name.slice(0, 60));
}

function article(noun: string): string {
  return `${/^[aeiou]/i.test(noun) && !/^uint/i.test(noun) ? "an" : "a"} ${noun}`;
}

/** The error of an argument that cannot be. `expected` and `actual` are noun phrases, `advice` a sentence. */
export function argumentError(operation: string, argument: string, expected: string, actual: string, advice?: string): RopeArgumentError {
  return new RopeArgumentError({ operation, argument, expected, actual, advice });
}

/** The error of calling the constructor of a class whose objects librope makes. */
export function notConstructible(name: string, how: string): RopeArgumentError {
  return new RopeArgumentError({ operation: name, message: "the constructor is not for callers", advice: `Use ${how}.` });
}

/** Refuses an options value that is not an object, and keys that nobody knows. A key whose value is undefined counts as not given. */
export function checkOptions(operation: string, options: unknown, known: readonly string[], argument: string = "options"): void {
  if (options === undefined) return;
  if (typeof options !== "object" || options === null || Array.isArray(options) || ArrayBuffer.isView(options)) {
    throw argumentError(operation, argument, "an object", describe(options), `Its keys are ${known.join(", ")}.`);
  }
  for (const key in options) {
    if (known.includes(key) || (options as Record<string, unknown>)[key] === undefined) continue;
    const given = describe(options); // an object of a class is one that stands in the wrong place
    const actual = given === "an object" ? `the key ${quote(key)}` : given;
    throw argumentError(operation, argument, `an object with the keys ${known.join(", ")}`, actual);
  }
}

/** An integer that a float64 holds exactly, within [least, most]. */
export function checkInteger(
  operation: string,
  argument: string,
  value: unknown,
  least: number = Number.MIN_SAFE_INTEGER,
  most: number = Number.MAX_SAFE_INTEGER,
): number {
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= least && value <= most) return value + 0; // -0 becomes 0
  let expected = "an integer";
  if (least > Number.MIN_SAFE_INTEGER && most < Number.MAX_SAFE_INTEGER) expected += ` from ${least} to ${most}`;
  else if (least > Number.MIN_SAFE_INTEGER) expected += ` of at least ${least}`;
  else if (most < Number.MAX_SAFE_INTEGER) expected += ` of at most ${most}`;
  // Only an integer that no bound excludes needs to be told why it is none here.
  if (typeof value === "number" && Number.isInteger(value) && Math.abs(value) > Number.MAX_SAFE_INTEGER) {
    const unbounded = value > 0 ? most === Number.MAX_SAFE_INTEGER : least === Number.MIN_SAFE_INTEGER;
    if (unbounded) expected += " and below 2^53 in size";
  }
  throw argumentError(operation, argument, expected, describe(value));
}

/** A count: an integer from 0 (or `least`) up. */
export function checkCount(operation: string, argument: string, value: unknown, least: number = 0): number {
  return checkInteger(operation, argument, value, least);
}

/** A finite number. */
export function checkFinite(operation: string, argument: string, value: unknown): number {
  if (typeof value === "number" && Number.isFinite(value)) return value;
  throw argumentError(operation, argument, "a finite number", describe(value));
}

/** true or false; undefined reads as `absent`. */
export function checkBoolean(operation: string, argument: string, value: unknown, absent: boolean = false): boolean {
  if (typeof value === "boolean") return value;
  if (value === undefined) return absent;
  throw argumentError(operation, argument, "true or false", describe(value));
}

/** One of a few words. */
export function checkChoice<Choice extends string>(
  operation: string,
  argument: string,
  value: unknown,
  choices: readonly Choice[],
): Choice {
  if (typeof value === "string" && (choices as readonly string[]).includes(value)) return value as Choice;
  throw argumentError(
    operation,
    argument,
    choices.length === 1 ? quote(`${choices[0]}`) : `one of ${choices.map(quote).join(", ")}`,
    describe(value),
  );
}
