// What the checks of positions and of indptr cost on a GPU: bench/rope.ts with this library and with one that lacks them, in turn.
//   scripts/support/unchecked.sh BUILD ARCHITECTURE FOLDER && bun bench/checks.ts FOLDER/librope.so [--json]
// deno-lint-ignore-file no-console
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import process from "node:process";
import { inProject } from "../scripts/support/paths.ts";
import { main, runOrThrow, ScriptError } from "../scripts/support/process.ts";
import { libraryInfo } from "../mod.ts";
import { type Machine, quantile, table, writeResults } from "./support/report.ts";
import type { CudaRow } from "./support/rope_cuda.ts";

const forms = ["out of place, half", "in place, half", "indptr, one request"];
const tokens = [1024, 2048, 8192, 32768, 131072];
const rounds = 5;

async function measure(library: string): Promise<{ machine: Machine; rows: CudaRow[] }> {
  const rows: CudaRow[] = [];
  let machine: Machine | undefined;
  for (const form of forms) {
    const args = [inProject("bench", "rope.ts"), "--json", "--device", "cuda:0", "--filter", form, "--tokens", tokens.join()];
    const output = await runOrThrow(process.execPath, args, { env: { ROPE_LIBRARY: library } });
    const results = JSON.parse(output.slice(output.indexOf("{\n"))) as { machine: Machine; rows: CudaRow[] };
    rows.push(...results.rows);
    machine = results.machine;
  }
  if (machine === undefined) throw new ScriptError("nothing was measured");
  return { machine, rows };
}

await main(async () => {
  const given = process.argv[2];
  if (given === undefined || !existsSync(given)) throw new ScriptError("bun bench/checks.ts <librope.so without checks> [--json]");
  const libraries = { checked: libraryInfo().path, unchecked: resolve(given) };
  const found = { checked: [] as CudaRow[], unchecked: [] as CudaRow[] };
  let here: Machine | undefined;
  for (let round = 0; round < rounds; ++round) {
    for (const which of ["checked", "unchecked"] as const) {
      const { machine, rows } = await measure(libraries[which]);
      found[which].push(...rows);
      here ??= machine;
    }
  }
  const median = (rows: readonly CudaRow[], form: string, count: number): number =>
    quantile(rows.filter((row) => row.form === form && row.tokens === count).map((row) => row.us), 0.5);
  const rows = forms.flatMap((form) =>
    tokens.map((count) => {
      const checkedUs = median(found.checked, form, count), uncheckedUs = median(found.unchecked, form, count);
      return { form, tokens: count, checkedUs, uncheckedUs, cost: checkedUs / uncheckedUs - 1 };
    })
  );
  const method = `bench/rope.ts with and without checks in turn, medians of ${rounds} runs`;
  const results = { benchmark: "checks", machine: here, method, rows };
  if (process.argv.includes("--json")) return void console.log(JSON.stringify(results, null, 1));
  console.log(table(
    ["", ...tokens.map(String)],
    forms.map((form) => [form, ...rows.filter((row) => row.form === form).map((row) => `${(100 * row.cost).toFixed(1)} %`)]),
  ));
  console.log(`\nwrote ${writeResults("checks", results)}`);
});
