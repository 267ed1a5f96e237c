// A config.json as untrusted data: only its own keys are read, each is checked under its path, and which were read is remembered.
import { argumentError, checkInteger, describe } from "../arguments.ts";
import { checkPositive } from "./options.ts";

/** What errors call the reading of a config. */
export const operation = "RotaryEmbedding.fromConfig";

/** A JSON object and where it stands in the config, for messages. */
export interface Node {
  readonly path: string;
  readonly json: Readonly<Record<string, unknown>>;
  /** The keys that were looked for, there or not. */
  readonly read: Set<string>;
}

/** A value of a config that has to be an object. */
export function node(path: string, json: unknown): Node {
  if (typeof json === "object" && json !== null && !Array.isArray(json)) {
    return { path, json: json as Record<string, unknown>, read: new Set() };
  }
  throw argumentError(operation, path, "an object", describe(json), typeof json === "string" ? "Parse the text: JSON.parse()." : undefined);
}

/** The first of some keys that is there and not null. All of them count as read: they are spellings of one thing. */
export function find(at: Node, ...keys: string[]): { readonly path: string; readonly value: unknown } | undefined {
  for (const key of keys) at.read.add(key);
  for (const key of keys) {
    const value = Object.hasOwn(at.json, key) ? at.json[key] : undefined;
    if (value !== undefined && value !== null) return { path: `${at.path}.${key}`, value };
  }
  return undefined;
}

/** An object within. */
export function child(at: Node, ...keys: string[]): Node | undefined {
  const found = find(at, ...keys);
  return found && node(found.path, found.value);
}

/** A positive number. */
export function positive(at: Node | undefined, ...keys: string[]): number | undefined {
  const found = at && find(at, ...keys);
  return found && checkPositive(operation, found.path, found.value);
}

/** An integer of at least 1. */
export function count(at: Node, ...keys: string[]): number | undefined {
  const found = find(at, ...keys);
  return found && checkInteger(operation, found.path, found.value, 1);
}

/** A string. */
export function word(at: Node, ...keys: string[]): string | undefined {
  const found = find(at, ...keys);
  if (found === undefined || typeof found.value === "string") return found?.value as string | undefined;
  throw argumentError(operation, found.path, "a string", describe(found.value));
}

/** true or false. */
export function flag(at: Node, key: string): boolean | undefined {
  const found = find(at, key);
  if (found === undefined || typeof found.value === "boolean") return found?.value as boolean | undefined;
  throw argumentError(operation, found.path, "true or false", describe(found.value));
}

/** A number that is positive, or none: 0 reads as absent, as Hugging Face's `or` does. */
export function positiveOrNone(at: Node, key: string): number | undefined {
  return find(at, key)?.value === 0 ? undefined : positive(at, key);
}

/** A positive number that has to be there. */
export function need(at: Node, key: string): number {
  const value = positive(at, key);
  if (value === undefined) throw missing(`${at.path}.${key}`, undefined);
  return value;
}

/** The error of a number that is not there. */
export function missing(path: string, advice: string | undefined): Error {
  return argumentError(operation, path, "a positive number", "nothing", advice);
}

/** The keys that are there, not null, and that nobody looked for. */
export function unread(at: Node): string[] {
  return Object.keys(at.json).filter((key) => !at.read.has(key) && at.json[key] !== null && at.json[key] !== undefined);
}
