// What every benchmark does with its numbers: medians, a table, and a JSON file that names the machine.
import { mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, release } from "node:os";
import process from "node:process";
import { inProject } from "../../scripts/support/paths.ts";
import { run } from "../../scripts/support/process.ts";
import { which } from "../../scripts/support/tools.ts";
import { Device, libraryInfo, version } from "../../mod.ts";

/** "bun" or "deno". */
export const runtime: "bun" | "deno" = "Bun" in globalThis ? "bun" : "deno";

/** Where and of what the numbers are. */
export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly device: string;
  /** Of a GPU: the version of its driver, the clocks it may reach and runs at in MHz, and the CUDA runtime's version. */
  readonly driver?: string;
  readonly clocks?: string;
  readonly cuda?: string;
  readonly kernel: string;
  readonly runtime: string;
  readonly librope: string;
  /** The commit, "+" where the checkout had changes. ROPE_COMMIT says it for a copy that is no checkout. */
  readonly commit: string;
  readonly date: string;
}

/** This machine, and the device that is measured. */
export async function machine(device: Device = Device.open("cpu")): Promise<Machine> {
  const commit = await run("git", ["rev-parse", "--short=12", "HEAD"]);
  const changes = await run("git", ["status", "--porcelain", "--", "csrc", "src", "bench"]);
  const versions = process.versions as Record<string, string | undefined>;
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: availableParallelism(),
    device: device.info.description,
    ...device.kind === "cuda" ? await gpu() : {},
    kernel: `${process.platform} ${release()}`,
    runtime: `${runtime} ${versions[runtime] ?? "unknown"}`,
    librope: version,
    commit: process.env["ROPE_COMMIT"] ??
      (commit.code === 0 ? commit.output.trim() + (changes.output.trim() === "" ? "" : "+") : "unknown"),
    date: new Date().toISOString().slice(0, 10),
  };
}

// What nvidia-smi says of the first GPU; less where it is missing.
async function gpu(): Promise<Partial<Machine>> {
  const cuda = libraryInfo().cuda?.runtime ?? "unknown";
  if (which("nvidia-smi") === undefined) return { cuda };
  const fields = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem";
  const { output } = await run("nvidia-smi", ["-i", "0", `--query-gpu=${fields}`, "--format=csv,noheader,nounits"]);
  const [driver = "unknown", sm, maxSm, memory, maxMemory] = output.trim().split(", ");
  return { driver, cuda, clocks: `SM ${sm} of ${maxSm}, memory ${memory} of ${maxMemory}` };
}

/** What results are named after: "cpu", "h200". */
export function shortName(device: Device): string {
  if (device.kind === "cpu") return "cpu";
  return device.info.description.replace(/NVIDIA |GeForce /g, "").split(" ")[0]?.toLowerCase() ?? "cuda";
}

/** Writes bench/results/<name>.json and gives back its path. */
export function writeResults(name: string, results: object): string {
  const path = inProject("bench", "results", `${name}.json`);
  mkdirSync(inProject("bench", "results"), { recursive: true });
  writeFileSync(path, `${JSON.stringify(results, null, 1)}\n`);
  return path;
}

/** The value below which a part of the values lie; 0.5 is the median. */
export function quantile(values: ArrayLike<number>, part: number): number {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))] ?? NaN;
}

/** Rows of text as a table: the first column to the left, the others to the right. */
export function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = [header, ...rows];
  const widths = header.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)));
  return lines.map((line) =>
    line.map((entry, column) => column === 0 ? entry.padEnd(widths[0] ?? 0) : entry.padStart(widths[column] ?? 0)).join("  ").trimEnd()
  ).join("\n");
}
