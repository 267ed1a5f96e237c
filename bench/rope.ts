// How fast rotations are, over copies of the same bytes in the same run.
//   bun run bench rope [options]        or: deno run -A bench/rope.ts [options]
//     --device cpu       where; cuda:0 if there is one
//     --tokens 1,8       numbers of tokens
//     --filter text      only the forms (of the CPU: the dtypes) whose name contains it
//     --quick            a few sizes, for a few moments
//     --json             all numbers as JSON to standard output, and no file
// A run of everything writes bench/results/rope-<machine>-<runtime>.json.
// deno-lint-ignore-file no-console
import process from "node:process";
import { parseArgs } from "node:util";
import { main, ScriptError } from "../scripts/support/process.ts";
import { Device, type DType } from "../mod.ts";
import { openCLoop } from "./support/native.ts";
import { type Machine, machine, runtime, shortName, table, writeResults } from "./support/report.ts";
import * as cpu from "./support/rope_cpu.ts";
import * as cuda from "./support/rope_cuda.ts";

interface Options {
  readonly device: Device;
  readonly quick: boolean;
  readonly filter: string;
  readonly tokens: readonly number[] | undefined;
}

/** Progress, which is not part of the JSON. */
function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

async function onCpu({ device, quick, filter, tokens }: Options): Promise<object> {
  const cLoop = await openCLoop();
  const dtypes: readonly DType[] = quick ? ["bfloat16", "float32"] : ["float16", "bfloat16", "float32"];
  const { heads, kvHeads, dim } = cpu.shape;
  const rows: cpu.CpuRow[] = [];
  for (const dtype of dtypes.filter((name) => name.includes(filter))) {
    for (const count of tokens ?? (quick ? [64, 4096] : cpu.tokenCounts)) {
      const measured = cpu.measureCpu(cLoop, device, dtype, count, quick ? 40 : 300);
      device.trim();
      rows.push(...measured);
      const megabytes = count * (heads + kvHeads) * dim * (dtype === "float32" ? 4 : 2) / 1e6;
      say(`\n${dtype}, ${count} tokens, ${megabytes.toFixed(1)} MB read and as much written`);
      say(table(
        ["", "time", "GB/s", "of copyFrom", "of memcpy"],
        measured.map((row) => [
          row.pairing === null ? row.way : `${row.way}, ${row.pairing}`,
          row.medianUs < 1000 ? `${row.medianUs.toFixed(1)} us` : `${(row.medianUs / 1000).toFixed(2)} ms`,
          row.gbPerS.toFixed(1),
          row.ofCopyFrom.toFixed(2),
          row.ofMemcpy.toFixed(2),
        ]),
      ));
    }
  }
  const method =
    "median of rounds in which all ways take turns, caches as the call before left them; bytes: q and k read once and written once";
  return { method, ...cpu.shape, rows };
}

async function onCuda({ device, quick, filter, tokens }: Options): Promise<object> {
  const forms = cuda.formNames.filter((name) => name.includes(filter));
  const counts = tokens ?? (quick ? [1, 1024] : cuda.tokenCounts);
  const rows: cuda.CudaRow[] = [];
  say(table(["time over the copy, tokens:", ...counts.map(String)], []));
  for (const form of forms) {
    const ratios: string[] = [];
    for (const count of counts) {
      const row = await cuda.measureCuda(device, form, count, quick ? 5 : 15);
      device.trim();
      if (row !== undefined) rows.push(row);
      ratios.push(row?.ratio.toFixed(2) ?? "-");
    }
    say(table(["time over the copy, tokens:", ...counts.map(String)], [[form, ...ratios]]).split("\n")[1] ?? "");
  }
  const method =
    "graphs of rotations and of copies over buffers larger than twice the L2, launched in turn; medians of 15, of each graph's time " +
    "over its nodes; bfloat16, 32 and 8 heads of 128 channels, positions by ids, out of place unless the form says otherwise";
  return { method, rows };
}

await main(async () => {
  const { values } = parseArgs({
    args: process.argv.slice(2),
    options: {
      device: { type: "string" },
      tokens: { type: "string" },
      filter: { type: "string", default: "" },
      quick: { type: "boolean", default: false },
      json: { type: "boolean", default: false },
    },
  });
  const device = Device.open(values.device as Parameters<typeof Device.open>[0]); // which says what it takes
  const { quick, filter, json } = values;
  const tokens = values.tokens?.split(",").map(Number);
  if (tokens?.some((count) => !Number.isSafeInteger(count) || count < 1)) {
    throw new ScriptError(`--tokens takes 1,8,64, not ${values.tokens}`);
  }
  const here: Machine = await machine(device);
  say(`${here.runtime}, ${here.device}${here.driver === undefined ? "" : `, driver ${here.driver}`}`);
  const found = await (device.kind === "cpu" ? onCpu : onCuda)({ device, quick, filter, tokens });
  const results = { benchmark: "rope", machine: here, ...found };
  if (json) return void console.log(JSON.stringify(results, null, 1));
  const whole = !quick && filter === "" && tokens === undefined;
  if (whole) say(`\nwrote ${writeResults(`rope-${shortName(device)}-${runtime}`, results)}`);
});
