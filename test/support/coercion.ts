// Values that FFI and JavaScript would coerce silently: no parameter of librope may take one of them for a count, a tensor or an object.

/** A value, and a name for the test's title. */
export interface Wrong {
  readonly name: string;
  readonly value: unknown;
}

function named(values: readonly unknown[]): Wrong[] {
  return values.map((value) => ({ name: typeof value === "string" ? JSON.stringify(value) : name(value), value }));
}

function name(value: unknown): string {
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "symbol" || typeof value === "function") return `a ${typeof value}`;
  return Array.isArray(value) ? JSON.stringify(value) : value instanceof Object ? value.constructor.name : String(value);
}

const strange = [null, "", "2", "two", true, 2n, {}, [], [2], new Date(0), Symbol("two"), (): number => 2];

/** What is no integer that a float64 holds exactly. `undefined` is left out where it means "not given". */
export const notIntegers: readonly Wrong[] = named([undefined, NaN, Infinity, -Infinity, 1.9, 2 ** 53, -(2 ** 53), ...strange]);

/** What is no count. */
export const notCounts: readonly Wrong[] = [...notIntegers, ...named([-1, -0.5])];

/** What is no number at all. */
export const notNumbers: readonly Wrong[] = named([undefined, ...strange]);

/** What is no object of librope. */
export const notObjects: readonly Wrong[] = named([undefined, 0, 1, NaN, ...strange, new Float32Array(2)]);

/** What is no object of options. */
export const notOptions: readonly Wrong[] = named([null, 0, 1.5, "cpu", true, 1n, [], new Float32Array(1), (): void => {}]);
