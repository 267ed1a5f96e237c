// `bun:test` for Deno: deno.json maps the name to this file, so that the tests are written once. It offers the part that the tests use;
// matchers are Jest's, from npm. Every test becomes one Deno.test whose name is the path of its describes.
import { expect } from "expect";

export { expect };

/** What a test, a hook or a describe runs. */
export type Body = () => unknown;
/** The limit of one test in milliseconds; 0: none. */
export type Options = number | { readonly timeout?: number };

/** `each` of test and describe: rows that are arrays are spread over the arguments. */
export interface Each {
  <Row extends readonly [unknown, ...unknown[]]>(
    table: readonly Row[],
  ): (name: string, body: (...row: [...Row]) => unknown, options?: Options) => void;
  <Value>(table: readonly Value[]): (name: string, body: (value: Value) => unknown, options?: Options) => void;
}

/** Registers one test or group of tests. */
export interface Register {
  (name: string, body?: Body, options?: Options): void;
  readonly each: Each;
  skipIf(condition: boolean): Register;
  todoIf(condition: boolean): Register;
  if(condition: boolean): Register;
}

/** `test`, `it` and `describe`. */
export interface Registrar extends Register {
  readonly skip: Register;
  readonly todo: Register;
  readonly only: Register;
}

type Mode = "run" | "skip" | "todo" | "only";
type Hook = "beforeAll" | "afterAll" | "beforeEach" | "afterEach";

interface DenoTest {
  (definition: { name: string; ignore: boolean; only: boolean; fn: () => Promise<void> }): void;
  afterAll(body: () => Promise<void>): void;
}
const denoTest = (globalThis as unknown as { Deno: { test: DenoTest } }).Deno.test;

// A describe, or the file itself: its hooks, and how many of its tests have not run yet.
class Scope {
  readonly hooks: Record<Hook, Body[]> = { beforeAll: [], afterAll: [], beforeEach: [], afterEach: [] };
  readonly chain: readonly Scope[];
  readonly name: string;
  readonly mode: Mode;
  pending = 0;
  #started: Promise<void> | undefined;
  #finished = false;

  constructor(name: string, mode: Mode, parent: Scope | undefined) {
    this.name = name;
    this.mode = mode;
    this.chain = parent === undefined ? [this] : [...parent.chain, this];
  }

  // beforeAll, once; its failure is the failure of every test.
  start(): Promise<void> {
    return this.#started ??= runAll(this.hooks.beforeAll);
  }

  // afterAll, once, if anything ran.
  async finish(): Promise<void> {
    if (this.#started === undefined || this.#finished) return;
    this.#finished = true;
    await runAll(this.hooks.afterAll);
  }
}

const file = new Scope("", "run", undefined);
const scopes = [file];
let current = file;
let defaultTimeout = 60_000;

// A scope of which only some tests ran (--filter, only) never counts down to its afterAll.
denoTest.afterAll(async () => {
  for (const scope of scopes.toReversed()) await scope.finish();
});

function addTest(name: string, body: Body | undefined, mode: Mode, options: Options | undefined): void {
  const chain = current.chain;
  const modes = [...chain.map((scope) => scope.mode), mode];
  const ignore = body === undefined || modes.includes("skip") || modes.includes("todo");
  for (const scope of ignore ? [] : chain) ++scope.pending;
  const timeout = (typeof options === "number" ? options : options?.timeout) ?? defaultTimeout;
  denoTest({
    name: [...chain.slice(1).map((scope) => scope.name), name].join(" > "),
    ignore,
    only: modes.includes("only"),
    fn: () => runTest(chain, body ?? ((): void => {}), timeout),
  });
}

function addScope(name: string, body: Body | undefined, mode: Mode): void {
  const outer = current;
  current = new Scope(name, mode, outer);
  scopes.push(current);
  try {
    if (body?.() instanceof Promise) throw new TypeError(`describe("${name}") must register its tests synchronously`);
  } finally {
    current = outer;
  }
}

async function runTest(chain: readonly Scope[], body: Body, timeout: number): Promise<void> {
  const inwards = chain;
  const outwards = chain.toReversed();
  try {
    for (const scope of inwards) await scope.start();
    try {
      for (const scope of inwards) await runAll(scope.hooks.beforeEach);
      expect.extractExpectedAssertionsErrors(); // forgets what a failed test before this one counted
      await limited(body, timeout);
      const [unmet] = expect.extractExpectedAssertionsErrors();
      if (unmet !== undefined) throw unmet.error;
    } finally {
      for (const scope of outwards) await runAll(scope.hooks.afterEach);
    }
  } finally {
    for (const scope of outwards) {
      if (--scope.pending === 0) await scope.finish();
    }
  }
}

async function runAll(hooks: readonly Body[]): Promise<void> {
  for (const hook of hooks) await hook();
}

async function limited(body: Body, timeout: number): Promise<void> {
  const result = body();
  if (!(result instanceof Promise) || timeout === 0 || timeout === Infinity) return void await result;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`the test took longer than ${timeout} ms`)), timeout);
  });
  try {
    await Promise.race([result, late]);
  } finally {
    clearTimeout(timer);
  }
}

// "%s %i %j" take the row's values in turn, "$key" a property of the row, "%#" its index.
function title(name: string, row: unknown, index: number): string {
  const values = Array.isArray(row) ? [...row] : [row];
  const property = (key: string): unknown => typeof row === "object" && row !== null ? (row as Record<string, unknown>)[key] : undefined;
  return name.replace(/%[sdifjoOp#%]|\$(\w+)/g, (mark: string, key: string | undefined) => {
    if (key !== undefined) return property(key) === undefined ? mark : show(property(key));
    if (mark === "%%") return "%";
    if (mark === "%#") return String(index);
    return values.length > 0 ? show(values.shift()) : mark;
  });
}

function show(value: unknown): string {
  return typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);
}

type Add = (name: string, body: Body | undefined, mode: Mode, options: Options | undefined) => void;

function register(add: Add, mode: Mode): Register {
  const each = (table: readonly unknown[]) => (name: string, body: (...row: unknown[]) => unknown, options?: Options): void =>
    table.forEach((row, index) => add(title(name, row, index), () => Array.isArray(row) ? body(...row) : body(row), mode, options));
  return Object.assign((name: string, body?: Body, options?: Options): void => add(name, body, mode, options), {
    each: each as Each,
    skipIf: (condition: boolean): Register => register(add, condition ? "skip" : mode),
    todoIf: (condition: boolean): Register => register(add, condition ? "todo" : mode),
    if: (condition: boolean): Register => register(add, condition ? mode : "skip"),
  });
}

function registrar(add: Add): Registrar {
  return Object.assign(register(add, "run"), {
    skip: register(add, "skip"),
    todo: register(add, "todo"),
    only: register(add, "only"),
  });
}

/** Registers a test. */
export const test: Registrar = registrar(addTest);
/** Registers a test. */
export const it: Registrar = test;
/** Groups tests. */
export const describe: Registrar = registrar(addScope);

/** Runs once before the first test of the group. */
export function beforeAll(body: Body): void {
  current.hooks.beforeAll.push(body);
}

/** Runs once after the last test of the group. */
export function afterAll(body: Body): void {
  current.hooks.afterAll.push(body);
}

/** Runs before every test of the group. */
export function beforeEach(body: Body): void {
  current.hooks.beforeEach.push(body);
}

/** Runs after every test of the group. */
export function afterEach(body: Body): void {
  current.hooks.afterEach.push(body);
}

/** The limit of tests that name none, in milliseconds. */
export function setDefaultTimeout(milliseconds: number): void {
  defaultTimeout = milliseconds;
}
