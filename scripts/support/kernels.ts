// What the compiler made of the kernels: registers, stack and spills of each, as a table.
import { readFileSync } from "node:fs";
import { compileKernels } from "./native.ts";
import { filesUnder, inProject } from "./paths.ts";
import { runOrThrow, ScriptError } from "./process.ts";
import { which } from "./tools.ts";

interface Kernel {
  readonly name: string;
  registers: number;
  /** Bytes of memory that a thread has, with that of the functions it calls. */
  stack: number;
  /** Bytes that go to memory and come back for want of registers, here and in functions that are not inlined. */
  stores: number;
  loads: number;
  /** The names of such functions. */
  readonly spilling: string[];
}

/** Compiles the kernels for one architecture. Gives back a table of them and how many spill. */
export async function kernelReport(architecture: string): Promise<{ readonly table: string; readonly spilling: number }> {
  if (which("c++filt") === undefined) throw new ScriptError("c++filt is not on PATH. Debian, Ubuntu: sudo apt-get install binutils");
  const report = await compileKernels(architecture);
  const kernels = parse(await runOrThrow("c++filt", [], { input: report }));
  if (kernels.length === 0) throw new ScriptError(`the compiler reports no kernel:\n${report}`);
  const spilling = kernels.filter(({ spilling }) => spilling.length > 0);
  const rows = kernels.toSorted((a, b) => a.name.localeCompare(b.name, "en", { numeric: true })).map((kernel) => [
    kernel.name,
    ...[kernel.registers, kernel.stack, kernel.stores, kernel.loads].map(String),
    kernel.spilling.map((name) => name === kernel.name ? "itself" : name).join(", "),
  ]);
  const heads = ["kernel", "registers", "stack", "spilled", "read back", "by"];
  return { table: aligned([heads, ...rows]), spilling: spilling.length };
}

// ptxas writes of each kernel its name, then of it and of each function that it calls the stack and spills, and the kernel's registers.
function parse(report: string): Kernel[] {
  const shorten = shortener();
  const kernels: Kernel[] = [];
  let compiled = "";
  for (const line of report.split("\n")) {
    const entry = /Compiling entry function '(.*)' for '/.exec(line)?.[1];
    if (entry !== undefined) kernels.push({ name: shorten(entry), registers: 0, stack: 0, stores: 0, loads: 0, spilling: [] });
    const kernel = kernels.at(-1);
    if (kernel === undefined) continue;
    compiled = /Function properties for (.*)/.exec(line)?.[1] ?? compiled;
    const [frame, stores, loads] = numbers(/(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/, line);
    kernel.stack = Math.max(kernel.stack, frame);
    kernel.stores += stores;
    kernel.loads += loads;
    if (stores + loads > 0) kernel.spilling.push(shorten(compiled));
    kernel.registers = Math.max(kernel.registers, numbers(/Used (\d+) registers/, line)[0]);
    kernel.stack = Math.max(kernel.stack, numbers(/(\d+) bytes cumulative stack size/, line)[0]);
  }
  return kernels;
}

function numbers(pattern: RegExp, line: string): [number, number, number] {
  const [, a = 0, b = 0, c = 0] = pattern.exec(line) ?? [];
  return [Number(a), Number(b), Number(c)];
}

// "void rope::f<float, 4, (rope::Order)1>(rope::P)" is "f<float, 4, interleaved>": names of enum constants are looked up in the sources.
function shortener(): (name: string) => string {
  const sources = filesUnder(["csrc"], /\.(h|cuh|cu)$/).map((path) => readFileSync(inProject(path), "utf8")).join("\n");
  const enums = new Map(
    [...sources.matchAll(/enum class (\w+)[^{;]*\{([^}]*)\}/g)].map(([, name = "", body = ""]) => [name, body.split(",")]),
  );
  return (name) =>
    name.replace(/\((?:\w+::)+(\w+)\)(\d+)/g, (whole, type: string, value: string) => enums.get(type)?.[Number(value)]?.trim() ?? whole)
      .replace(/\(anonymous namespace\)/g, "")
      .replace(/(?:\w*::)+/g, "")
      .replace(/^void |\(.*$/g, "")
      .replaceAll("> >", ">>");
}

function aligned(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
  const pad = (cell: string, column: number): string => {
    const width = widths[column] ?? 0;
    return column === 0 || column === widths.length - 1 ? cell.padEnd(width) : cell.padStart(width);
  };
  return rows.map((row) => row.map(pad).join("  ").trimEnd()).join("\n");
}
