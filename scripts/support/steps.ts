// The steps of `bun run test`, each a function that says how many things passed and failed and what was printed.
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import process from "node:process";
import { readHeader } from "./header.ts";
import { install } from "./install.ts";
import { buildFakeCuda, buildLibrary, buildSanitized, cudaHeaders, library, librarySize } from "./native.ts";
import { pack } from "./pack.ts";
import { filesUnder, inProject } from "./paths.ts";
import { type Finished, run, type RunOptions, runOrThrow, ScriptError } from "./process.ts";
import { bun, cc, clangFormat, cxx, deno, which } from "./tools.ts";

/** What came of a step. Nothing passed and nothing failed: it was skipped, and the note says why. */
export interface Outcome {
  readonly passed: number;
  readonly failed: number;
  readonly output: string;
  /** A few words beside the step's name. */
  readonly note: string;
}

const code = ["mod.ts", "src", "test", "bench", "examples", "scripts"];

/** A step that threw has failed once. */
export function thrown(error: unknown): Outcome {
  const output = error instanceof ScriptError ? error.message : error instanceof Error ? error.stack ?? error.message : String(error);
  return { passed: 0, failed: 1, output, note: "" };
}

function passed(note = ""): Outcome {
  return { passed: 1, failed: 0, output: "", note };
}

async function command(program: string, args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const output = await runOrThrow(program, args, options);
  return { ...passed(), output };
}

// ---- what is needed for the rest -------------------------------------------------------------------------------------------------

export async function installed(): Promise<Outcome> {
  await install();
  return passed();
}

export async function build(): Promise<Outcome> {
  const result = await buildLibrary();
  return passed(`librope.so ${result}, ${librarySize()}`);
}

export function layouts(): Promise<Outcome> {
  return command(process.execPath, [inProject("scripts", "layouts.ts"), "--check"]);
}

// ---- the tests -------------------------------------------------------------------------------------------------------------------

export async function bunTests(files: readonly string[]): Promise<Outcome> {
  await buildLibrary();
  return inBun(files);
}

export async function denoTests(files: readonly string[]): Promise<Outcome> {
  await buildLibrary();
  return inDeno(files);
}

/** The tests of the device layer and what lies on it, on GPUs made of threads; ../../test/support/fake_cuda says how. */
export async function fakeCuda(): Promise<Outcome> {
  const headers = cudaHeaders();
  if (headers === undefined) return withoutHeaders;
  const path = join(await buildFakeCuda(headers), "librope.so");
  // Not what looks at numbers alone, for long: they are the CPU's.
  const files = filesUnder(["test/device", "test/tensor", "test/rope", "test/kv"], /\.test\.ts$/).filter((file) =>
    !/grid|large/.test(file)
  );
  const env = { ROPE_LIBRARY: path, ROPE_TRAP_LIBRARY: path };
  return together({
    "Bun": await inBun(files, env),
    "Deno": await inDeno(["test/device"], env),
    "two slow GPUs": await inBun(["test/device/cuda.test.ts"], { ...env, FAKE_CUDA_DEVICES: "2", FAKE_CUDA_DELAY: "200" }),
  });
}

/** The kernels themselves, run by the CPU, against what it computes; ../../test/support/fake_cuda/emulator.h says how. */
export async function kernels(): Promise<Outcome> {
  const headers = cudaHeaders();
  if (headers === undefined) return withoutHeaders;
  const folder = await buildFakeCuda(headers, { kernels: true });
  const emulated = join(folder, "kernels");
  const files = filesUnder(["test/kv", "test/rope"], /\.test\.ts$/).filter((file) => emulatedTests.test(file));
  const env = { LD_LIBRARY_PATH: emulated };
  const [test, tables, bun] = await Promise.all([
    cudaTest(folder, 150, env),
    replayTables(folder, env),
    inBun(files, { ROPE_LIBRARY: join(emulated, "librope.so") }),
  ]);
  return together({ "cuda_test": test, tables, "Bun": bun });
}

// The quick ones that rotate and that use caches.
const emulatedTests = /kv|append|fused\.|norm|positions|quantize|rotate|table/;

// What pages_test's random tables of pages, hostile ones among them, leave on the CPU, and what a GPU makes of the same calls.
async function replayTables(folder: string, env: Record<string, string>): Promise<Outcome> {
  const calls = join(folder, "tables.bin");
  rmSync(calls, { force: true });
  await runOrThrow(join(folder, "pages_test"), ["2000", "1", "apart"], {
    env: { LD_PRELOAD: join(folder, "librope_recorder.so"), ROPE_RECORD: calls, ROPE_RECORD_ONLY: "rope_rotate" },
  });
  const output = await runOrThrow(join(folder, "replay"), [calls], { env });
  if (!output.includes(" 2000 into pages")) throw new ScriptError(`not every table was recorded\n${output}`);
  return passed("2000 replayed");
}

const withoutHeaders: Outcome = { passed: 0, failed: 0, output: "", note: "the headers of the CUDA toolkit are not there" };

async function inBun(files: readonly string[], env: Record<string, string> = {}): Promise<Outcome> {
  // Bun's own limit of 5 s per test is too short for a slow or busy machine.
  const finished = await run(bun(), ["test", "--timeout", "120000", ...files], { env });
  return counted(finished, /^ *(\d+) pass$/gm, /^ *(\d+) fail$/gm, /^ *(\d+) (?:skip|todo)$/gm);
}

async function inDeno(files: readonly string[], env: Record<string, string> = {}): Promise<Outcome> {
  const writable = inProject("build", "tmp");
  mkdirSync(writable, { recursive: true });
  const permissions = ["--allow-ffi", "--allow-read", "--allow-env", `--allow-write=${writable}`, `--allow-run=${deno()}`];
  const flags = ["test", "--no-prompt", "--no-check", "--reporter=dot", "--v8-flags=--expose-gc", ...permissions];
  const finished = await run(deno(), [...flags, ...files], { env });
  return counted(finished, /\| (\d+) passed/g, /\| (\d+) failed/g, /\| (\d+) ignored/g);
}

// Several outcomes as one, each with its name.
function together(outcomes: Record<string, Outcome>): Outcome {
  const all = Object.entries(outcomes);
  return {
    passed: all.reduce((sum, [, { passed }]) => sum + passed, 0),
    failed: all.reduce((sum, [, { failed }]) => sum + failed, 0),
    output: all.filter(([, { failed }]) => failed > 0).map(([name, { output }]) => `${name}:\n${output}`).join("\n"),
    note: all.map(([name, { note }]) => `${name}: ${note}`).join("; "),
  };
}

// The examples of JSDoc comments and of the README, each a test of its own.
export async function examples(): Promise<Outcome> {
  await buildLibrary();
  const files = ["mod.ts", "src", "README.md", "docs"].filter((path) => existsSync(inProject(path)));
  const strict = `--preload=${inProject("test", "support", "strict_assert.ts")}`;
  const flags = ["test", "--doc", strict, "--no-prompt", "--reporter=dot", "--allow-ffi", "--allow-read", "--allow-env"];
  const finished = await run(deno(), [...flags, ...files]);
  return counted(finished, /\| (\d+) passed/g, /\| (\d+) failed/g, /\| (\d+) ignored/g);
}

// The numbers of a test runner's summary. One that ends badly without having counted a failure (a crash, a file that does not load) has one.
function counted({ code, output }: Finished, pass: RegExp, fail: RegExp, skip: RegExp): Outcome {
  const [passed, failures] = [lastNumber(output, pass), lastNumber(output, fail)];
  const skipped = [...output.slice(-2000).matchAll(skip)].reduce((sum, match) => sum + Number(match[1]), 0);
  const failed = failures > 0 ? failures : code !== 0 || passed === 0 ? 1 : 0;
  const note = `${passed} passed${skipped > 0 ? `, ${skipped} skipped` : ""}${failed > 0 ? `, ${failed} failed` : ""}`;
  return { passed, failed, output: output.replace(/^(\(pass\).*|[.,!])\n/gm, ""), note };
}

function lastNumber(text: string, pattern: RegExp): number {
  return Number([...text.matchAll(pattern)].at(-1)?.[1] ?? 0);
}

/** The README's first command, as far as it is quick. */
export async function demo(): Promise<Outcome> {
  await buildLibrary();
  return command(bun(), [inProject("examples", "demo.ts")], { cwd: inProject("build") });
}

// ---- the text of the sources -----------------------------------------------------------------------------------------------------

export function typesBun(): Promise<Outcome> {
  return command(bun(), ["check", "--no-script"]);
}

export function typesDeno(): Promise<Outcome> {
  return command(deno(), ["check", "--quiet", ...code.filter((path) => existsSync(inProject(path)))]);
}

export function lint(): Promise<Outcome> {
  return command(deno(), ["lint", "--quiet"]);
}

export function format(): Promise<Outcome> {
  return command(deno(), ["fmt", "--check"]);
}

export async function formatC(): Promise<Outcome> {
  const formatter = clangFormat();
  const files = filesUnder(["csrc", "test/c", "test/cuda", "test/support"], /\.(h|c|cpp|cu|cuh)$/);
  if (formatter === undefined) {
    const note = `npm has no clang-format for ${process.platform} ${process.arch}: ${files.length} files not looked at`;
    return { passed: 0, failed: 0, output: "", note };
  }
  const { output } = await run(formatter, ["--dry-run", ...files]);
  const unformatted = new Set([...output.matchAll(/^(.*?):\d+:\d+: warning/gm)].map((match) => match[1]));
  if (unformatted.size > 0) throw new ScriptError(`not formatted (bun run format): ${[...unformatted].join(", ")}`);
  return passed(`${files.length} files`);
}

export function docs(): Promise<Outcome> {
  return command(deno(), ["doc", "--no-npm", "--lint", "mod.ts", "src/testing.ts"]);
}

export function publish(): Promise<Outcome> {
  return command(deno(), ["publish", "--dry-run", "--allow-dirty"]);
}

// ---- the C side ------------------------------------------------------------------------------------------------------------------

/** rope.h is valid C11 and C++11 on its own. */
export async function header(): Promise<Outcome> {
  const [c, cpp] = [cc(), cxx()];
  if (c === undefined || cpp === undefined) throw new ScriptError("no C and C++ compiler on PATH");
  const strict = ["-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only"];
  await runOrThrow(c, [...strict, "-std=c11", "-x", "c", inProject("csrc", "include", "rope.h")]);
  return command(cpp, [...strict, "-std=c++11", "-x", "c++", inProject("csrc", "include", "rope.h")]);
}

/** The library exports exactly the functions of rope.h and needs no library but libc and libm. */
export async function symbols(): Promise<Outcome> {
  await buildLibrary();
  if (process.platform !== "linux") return { passed: 0, failed: 0, output: "", note: "only looked at on Linux" };
  for (const tool of ["nm", "readelf"]) {
    if (which(tool) === undefined) throw new ScriptError(`${tool} is not on PATH. Debian, Ubuntu: sudo apt-get install binutils`);
  }
  const exported = (await runOrThrow("nm", ["-D", "--defined-only", library])).trim().split("\n").map((line) =>
    line.split(" ").at(-1) ?? ""
  );
  const declared = readHeader().functions;
  const dynamic = await runOrThrow("readelf", ["-d", library], { env: { LC_ALL: "C" } });
  const needed = [...dynamic.matchAll(/\(NEEDED\).*\[(.*)\]/g)].map((match) => match[1] ?? "");
  const complaints = [
    ...exported.filter((name) => !declared.includes(name)).map((name) => `exported, but not in rope.h: ${name}`),
    ...declared.filter((name) => !exported.includes(name)).map((name) => `in rope.h, but not exported: ${name}`),
    ...needed.filter((name) => !/^lib[cm]\.so/.test(name)).map((name) => `needs a library beside libc and libm: ${name}`),
  ];
  if (complaints.length > 0) throw new ScriptError(complaints.join("\n"));
  return passed(`${exported.length} functions; needs ${needed.join(", ")}`);
}

const sanitizerOptions = {
  ASAN_OPTIONS: "detect_leaks=1",
  TSAN_OPTIONS: "halt_on_error=1",
  UBSAN_OPTIONS: "print_stacktrace=1:halt_on_error=1",
};

/** The programs of test/c against a library with AddressSanitizer and UndefinedBehaviorSanitizer; each is a test. */
export async function sanitize(): Promise<Outcome> {
  requireAllEntryPoints();
  const programs = await buildSanitized();
  const failures: string[] = [];
  for (const program of programs) {
    const { code, output } = await run(program, [], { env: sanitizerOptions });
    if (code !== 0) failures.push(`${basename(program)} ended with code ${code}\n${output}`);
  }
  if (programs.length === 0) failures.push("there is no program in test/c");
  const [good, bad] = [programs.length - failures.length, failures.length];
  return { passed: Math.max(good, 0), failed: bad, output: failures.join("\n"), note: programs.map((path) => basename(path)).join(", ") };
}

// The list of check.h, from which the C programs take what they call, has every function of rope.h that takes a block.
function requireAllEntryPoints(): void {
  const list = readFileSync(inProject("test", "c", "check.h"), "utf8");
  const listed = new Set([...list.matchAll(/^ *X\((rope_\w+),/gm)].map((match) => match[1]));
  const plain = ["rope_abi_version", "rope_version", "rope_address"];
  const missing = readHeader().functions.filter((name) => !plain.includes(name) && !listed.has(name));
  if (missing.length > 0) throw new ScriptError(`in rope.h, but not in ROPE_ENTRY_POINTS of test/c/check.h: ${missing.join(", ")}`);
}

/** The CUDA backend on a GPU made of threads, driven from C, with each set of sanitizers; both are a test. */
export async function sanitizeCuda(): Promise<Outcome> {
  const headers = cudaHeaders();
  if (headers === undefined) return withoutHeaders;
  const outcomes: Record<string, Outcome> = {};
  for (const sanitizers of ["address,undefined", "thread"]) {
    const folder = await buildFakeCuda(headers, { sanitizers });
    outcomes[sanitizers] = await cudaTest(folder, 50, { ...sanitizerOptions, FAKE_CUDA_DELAY: "20" });
  }
  return together(outcomes);
}

// The cuda_test of a folder, with so many random cases.
async function cudaTest(folder: string, cases: number, env: Record<string, string>): Promise<Outcome> {
  const { code, output } = await run(join(folder, "cuda_test"), [String(cases)], { env });
  const note = /(\d+ checks) passed/.exec(output)?.[1] ?? `ended with code ${code}`;
  return { passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1, output, note };
}

/**
 * Calls that some of the tests make on the CPU, made again on a GPU made of threads, whose memory has guard pages; test/cuda/replay.cpp
 * says what is compared. On a real GPU scripts/gpu-check does that with the calls of nearly all tests.
 */
export async function replay(): Promise<Outcome> {
  const headers = cudaHeaders();
  if (headers === undefined) return withoutHeaders;
  const folder = await buildFakeCuda(headers);
  const calls = join(folder, "calls.bin");
  rmSync(calls, { force: true });
  const recorded = await inBun(recordedTests, {
    ROPE_LIBRARY: join(folder, "librope_recorder.so"),
    ROPE_RECORD: calls,
    ROPE_RECORD_BYTES: String(2 ** 25),
    ROPE_RECORD_CALL_BYTES: String(2 ** 16),
    FAKE_CUDA_DRIVER: "0",
  });
  if (recorded.failed > 0) return recorded;

  const output = await runOrThrow(join(folder, "replay"), [calls]);
  const made = Number(/^replay: (\d+) of \1 calls/m.exec(output)?.[1] ?? 0);
  if (made < fewestCalls) throw new ScriptError(`${made} calls were recorded, of at least ${fewestCalls}\n${output}`);
  // That the comparison sees a difference is shown as well.
  const spoiled = await run(join(folder, "replay"), ["--spoil", "--calls", "400", calls]);
  const seen = /, ([1-9]\d*) calls spoiled; \1 calls differ/.exec(spoiled.output)?.[1];
  if (spoiled.code !== 1 || seen === undefined) throw new ScriptError(`not every spoiled call differs\n${spoiled.output}`);
  return passed(`${made} calls; each of ${seen} spoiled ones is noticed`);
}

// Quick ones that together call every operation. They make about twice as many calls as the fewest.
const recordedTests = ["create", "data", "views"].map((name) => `test/tensor/${name}.test.ts`)
  .concat(["append", "embedding", "exact", "positions", "random", "rotate", "table"].map((name) => `test/rope/${name}.test.ts`))
  .concat(["shift", "tables"].map((name) => `test/kv/${name}.test.ts`));
const fewestCalls = 1500;

// ---- the package -----------------------------------------------------------------------------------------------------------------

/** `bun add` of the packed project into an empty one runs a rotation. */
export async function packaged(): Promise<Outcome> {
  const folder = mkdtempSync(join(tmpdir(), "librope-package-"));
  try {
    const tarball = await pack(folder);
    const project = join(folder, "project");
    mkdirSync(project);
    writeFileSync(join(project, "package.json"), `{ "name": "empty", "type": "module" }\n`);
    writeFileSync(join(project, "rotate.ts"), rotation);
    await runOrThrow(bun(), ["add", tarball], { cwd: project });
    const output = await runOrThrow(bun(), ["rotate.ts"], { cwd: project, env: { ROPE_LIBRARY: "" } });
    if (output.trim() !== "rotated") throw new ScriptError(`rotate.ts printed:\n${output}`);
    return passed(`${basename(tarball)}, ${(statSync(tarball).size / 1e6).toFixed(1)} MB`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const rotation = `import { applyRope, Tensor } from "@librope/rope";
import { referenceRope } from "@librope/rope/testing";

if (typeof referenceRope !== "function") throw new Error("no referenceRope");
const q = Tensor.from(new Float32Array([1, 0]), [1, 1, 2], { device: "cpu" });
const k = Tensor.from(new Float32Array([0, 1]), [1, 1, 2], { device: "cpu" });
const [q1, k1] = applyRope(q, k, { offset: 1 });
const expected = [Math.cos(1), Math.sin(1), -Math.sin(1), Math.cos(1)];
const actual = [...q1.readBlocking(), ...k1.readBlocking()].map(Number);
const error = Math.max(...actual.map((value, index) => Math.abs(value - (expected[index] ?? NaN))));
console.log(error < 1e-6 ? "rotated" : \`off by \${error}: \${actual}\`);
`;
