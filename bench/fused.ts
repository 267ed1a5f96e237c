// How fast fused forms are on a GPU (rotate and quantise, rotate and append, norm and rotate and append, append), over copies of the same bytes.
//   bun run bench fused [options]        or: deno run -A bench/fused.ts [options]
//     --tokens 1,64      numbers of tokens
//     --filter text      only the forms whose name contains it
//     --quick            a few sizes, for a few moments
//     --json             all numbers as JSON to standard output, and no file
// A run of everything writes bench/results/fused-<machine>-<runtime>.json.
// deno-lint-ignore-file no-console
import process from "node:process";
import { parseArgs } from "node:util";
import { Device } from "../mod.ts";
import { main, ScriptError } from "../scripts/support/process.ts";
import { formNames, type FusedRow, measureFused, tokenCounts } from "./support/fused_cuda.ts";
import { machine, runtime, shortName, table, writeResults } from "./support/report.ts";

/** Progress, which is not part of the JSON. */
function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

await main(async () => {
  const { values } = parseArgs({
    args: process.argv.slice(2),
    options: {
      tokens: { type: "string" },
      filter: { type: "string", default: "" },
      quick: { type: "boolean", default: false },
      json: { type: "boolean", default: false },
    },
  });
  const { quick, filter, json } = values;
  const tokens = values.tokens?.split(",").map(Number);
  if (tokens?.some((count) => !Number.isSafeInteger(count) || count < 1)) {
    throw new ScriptError(`--tokens takes 1,8,64, not ${values.tokens}`);
  }
  const device = Device.open("cuda:0");
  const here = await machine(device);
  say(`${here.runtime}, ${here.device}${here.driver === undefined ? "" : `, driver ${here.driver}`}`);
  const counts = tokens ?? (quick ? [1, 1024] : tokenCounts);
  const rows: FusedRow[] = [];
  const head = ["time over the copy (us), tokens:", ...counts.map((count) => `${count}`.padStart(13))];
  say(table(head, []));
  for (const form of formNames.filter((name) => name.includes(filter))) {
    const cells: string[] = [];
    for (const count of counts) {
      const row = await measureFused(device, form, count, quick ? 5 : 15);
      device.trim();
      if (row !== undefined) rows.push(row);
      cells.push(row === undefined ? "-" : `${row.ratio.toFixed(2)} (${row.us.toFixed(1)})`);
    }
    say(table(head, [[form, ...cells]]).split("\n")[1] ?? "");
  }
  const method =
    "graphs of calls and of copies over buffers larger than twice the L2, launched in turn; medians of 15, of each graph's time over " +
    "its nodes; a copy moves half of the bytes that the call reads and writes; bfloat16, 32 and 8 heads of 128 channels, pages of 16 in disorder, " +
    "up to 256 tokens one for each request, beyond requests of up to 1024";
  const results = { benchmark: "fused", machine: here, method, rows };
  if (json) return void console.log(JSON.stringify(results, null, 1));
  if (!quick && filter === "" && tokens === undefined) say(`\nwrote ${writeResults(`fused-${shortName(device)}-${runtime}`, results)}`);
});
