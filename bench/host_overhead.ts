// What a call from TypeScript costs beyond the C function it calls: rope_rotate on one token of one head, from JavaScript and in a C loop.
//   bun run bench host_overhead [--quick]      in Bun, then in Deno
//   deno run -A bench/host_overhead.ts         in Deno alone
// deno-lint-ignore-file no-console
import process from "node:process";
import { inProject } from "../scripts/support/paths.ts";
import { main, run } from "../scripts/support/process.ts";
import { deno } from "../scripts/support/tools.ts";
import { Device, RotaryEmbedding, Tensor } from "../mod.ts";
import { applyRopeInplace } from "../src/rope/functions.ts";
import { Block } from "../src/native/block.ts";
import { enums, layouts } from "../src/native/layouts.ts";
import { cachedFrequencies } from "../src/rope/frequencies.ts";
import { access } from "../src/tensor/descriptors.ts";
import { openCLoop } from "./support/native.ts";
import { machine, quantile, runtime, table, writeResults } from "./support/report.ts";

const dim = 64;
const batch = 100; // calls between two looks at the clock
/** What a call of an Inplace form may cost beyond its C function, in microseconds. */
const bar = runtime === "bun" ? 0.5 : 1;

interface Form {
  readonly name: string;
  readonly run: () => void;
  readonly held: boolean;
  readonly times: number[];
}

async function measure(calls: number): Promise<boolean> {
  const cLoop = await openCLoop();
  const device = Device.open("cpu");
  using q = Tensor.random([1, 1, dim], { device });
  using k = Tensor.random([1, 1, dim], { device });
  using rope = new RotaryEmbedding({ dim, device });
  const block = new Block(layouts.rotate_args, "rope_rotate");
  fill(block, q, k);

  const form = (name: string, held: boolean, run: () => void): Form => ({ name, held, run, times: [] });
  const forms = [
    form("Block.call, filled before", false, () => block.call("bench")),
    form("applyRopeInplace(q, k)", true, () => applyRopeInplace(q, k)),
    form("applyRopeInplace(q, k, { offset })", true, () => applyRopeInplace(q, k, { offset: 7 })),
    form("embedding.forwardInplace(q, k)", true, () => rope.forwardInplace(q, k)),
    form("embedding.forwardInplace(q, k, { offset })", true, () => rope.forwardInplace(q, k, { offset: 7 })),
    form("embedding.forward(q, k), results disposed of", false, () => {
      const [qRotated, kRotated] = rope.forward(q, k);
      qRotated.dispose();
      kRotated.dispose();
    }),
  ];
  const inC: number[] = [];
  const bytes = blockBytes(q, k);
  for (const { run } of forms) for (let i = 0; i < calls / 5; ++i) run();

  // In rounds, so that a busy moment of the machine does not hit one form alone.
  const rounds = 20;
  for (let round = 0; round < rounds; ++round) {
    const samples = Math.ceil(calls / batch / rounds);
    for (const time of cLoop.call("rope_rotate", bytes, samples, batch)) inC.push(time / 1000);
    for (const { run, times } of forms) {
      for (let sample = 0; sample < samples; ++sample) {
        const start = performance.now();
        for (let i = 0; i < batch; ++i) run();
        times.push((performance.now() - start) * 1000 / batch);
      }
    }
  }
  return await report(calls, inC, forms);
}

async function report(calls: number, inC: readonly number[], forms: readonly Form[]): Promise<boolean> {
  const base = quantile(inC, 0.5);
  const rows = forms.map(({ name, held, times }) => {
    const median = quantile(times, 0.5);
    return {
      form: name,
      medianUs: median,
      p05Us: quantile(times, 0.05),
      p95Us: quantile(times, 0.95),
      overheadUs: median - base,
      barUs: held ? bar : null,
    };
  });
  const here = await machine();
  console.log(`${here.runtime}, ${here.device}: one token, 1 head of ${dim} for q and for k, float32; median of ${calls} calls, us`);
  const us = (value: number): string => value.toFixed(3);
  console.log(table(["", "a call", "beyond C", "may be"], [
    ["rope_rotate in a C loop", us(base), "", ""],
    ...rows.map((row) => [row.form, us(row.medianUs), us(row.overheadUs), row.barUs === null ? "" : us(row.barUs)]),
  ]));
  const met = rows.every((row) => row.barUs === null || row.overheadUs <= row.barUs);
  console.log(met ? "" : "Slower than it may be.\n");
  if (!quick) {
    const cLoopRow = { medianUs: base, p05Us: quantile(inC, 0.05), p95Us: quantile(inC, 0.95) };
    const method =
      `in place on q and k [1, 1, ${dim}] float32; ${calls} calls of each form in batches of ${batch}, in turn; overhead: less the C loop's median`;
    console.log(
      `wrote ${
        writeResults(`host_overhead-${runtime}`, { benchmark: "host_overhead", method, machine: here, cLoop: cLoopRow, forms: rows, met })
      }\n`,
    );
  }
  return met;
}

// The block of applyRopeInplace(q, k), for the form that only calls.
function fill(block: Block, q: Tensor, k: Tensor): void {
  const layout = layouts.rotate_args;
  block.u64(layout.frequencies, frequencies());
  block.tensor(layout.q, q);
  block.tensor(layout.k, k);
  block.tensor(layout.q_out, q);
  block.tensor(layout.k_out, k);
}

// The same for the C loop.
function blockBytes(q: Tensor, k: Tensor): Uint8Array {
  const layout = layouts.rotate_args;
  const words = new Uint32Array(new ArrayBuffer(layout.size));
  words[0] = layout.size;
  words[layout.frequencies / 4] = frequencies() >>> 0;
  words[layout.frequencies / 4 + 1] = Math.floor(frequencies() / 2 ** 32);
  for (const [tensor, ...offsets] of [[q, layout.q, layout.q_out], [k, layout.k, layout.k_out]] as const) {
    for (const offset of offsets) access.reference(tensor, words, offset / 4);
  }
  return new Uint8Array(words.buffer);
}

function frequencies(): number {
  return cachedFrequencies("bench", enums.RULE_DEFAULT, dim, 1e4, 1, 0, 0, 0);
}

const quick = process.argv.includes("--quick");
await main(async () => {
  let met = await measure(quick ? 10_000 : 100_000);
  if (runtime === "bun") {
    const flags = quick ? ["--quick"] : [];
    const child = await run(deno(), ["run", "-A", "--quiet", "--no-check", inProject("bench", "host_overhead.ts"), ...flags], {
      inherit: true,
    });
    met &&= child.code === 0;
  }
  return met ? 0 : 1;
});
