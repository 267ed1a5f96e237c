// How fast the CPU rotates, beside plain copies of the same bytes: q of 32 and k of 8 heads of 128 channels, as Llama 3.1 8B has them.
//   bun run bench rope [--quick]        or: deno run -A bench/rope.ts [--quick]
// deno-lint-ignore-file no-console
import process from "node:process";
import { main } from "../scripts/support/process.ts";
import { Device, type DType, type Pairing, RotaryEmbedding, Tensor } from "../mod.ts";
import { type CLoop, openCLoop } from "./support/native.ts";
import { machine, quantile, runtime, table, writeResults } from "./support/report.ts";

const heads = 32;
const kvHeads = 8;
const dim = 128;
const quick = process.argv.includes("--quick");
const tokenCounts = quick ? [64, 4096] : [64, 512, 4096, 32768];
const dtypes: readonly DType[] = quick ? ["bfloat16", "float32"] : ["float16", "bfloat16", "float32"];
const pairings: readonly Pairing[] = ["half", "interleaved"];
/** Milliseconds that each way of moving the bytes is measured for. */
const budget = quick ? 40 : 300;

/** One way of moving the bytes. */
interface Way {
  readonly name: string;
  readonly pairing: Pairing | null;
  readonly run: () => void;
}

interface Row {
  readonly dtype: DType;
  readonly tokens: number;
  readonly way: string;
  readonly pairing: Pairing | null;
  readonly medianUs: number;
  readonly p05Us: number;
  readonly p95Us: number;
  /** Bytes read and written, as GB/s. */
  readonly gbPerS: number;
  /** Its bandwidth over that of copyFrom, and over that of memcpy on one thread. */
  readonly ofCopyFrom: number;
  readonly ofMemcpy: number;
}

function measureSize(cLoop: CLoop, device: Device, dtype: DType, tokens: number): Row[] {
  using q = Tensor.random([tokens, heads, dim], { dtype, device });
  using k = Tensor.random([tokens, kvHeads, dim], { dtype, device });
  using qOut = Tensor.zeros(q.shape.slice(), { dtype, device });
  using kOut = Tensor.zeros(k.shape.slice(), { dtype, device });
  const embeddings = pairings.map((pairing) => new RotaryEmbedding({ dim, base: 5e5, pairing, device }));
  const ways: Way[] = [
    {
      name: "memcpy, one thread",
      pairing: null,
      run: () => (cLoop.memcpy(qOut.pointer, q.pointer, q.byteLength, 1), cLoop.memcpy(kOut.pointer, k.pointer, k.byteLength, 1)),
    },
    { name: "copyFrom", pairing: null, run: () => (qOut.copyFrom(q), kOut.copyFrom(k)) },
    ...embeddings.flatMap((rope): Way[] => [
      { name: "rotate", pairing: rope.pairing, run: () => rope.forward(q, k, { out: [qOut, kOut] }) },
      { name: "rotate in place", pairing: rope.pairing, run: () => rope.forwardInplace(qOut, kOut) },
    ]),
  ];
  const times = measureInTurn(ways);
  for (const rope of embeddings) rope.dispose();

  const bytes = 2 * (q.byteLength + k.byteLength);
  const medians = times.map((samples) => quantile(samples, 0.5));
  return ways.map(({ name, pairing }, i) => {
    const [medianUs, samples] = [medians[i] ?? NaN, times[i] ?? []];
    return {
      ...{ dtype, tokens, way: name, pairing, medianUs, p05Us: quantile(samples, 0.05), p95Us: quantile(samples, 0.95) },
      ...{ gbPerS: bytes / medianUs / 1e3, ofMemcpy: (medians[0] ?? NaN) / medianUs, ofCopyFrom: (medians[1] ?? NaN) / medianUs },
    };
  });
}

// Microseconds of a call: all ways in turn, round by round, so that a busy moment of the machine hits them alike. Short calls are timed in
// batches.
function measureInTurn(ways: readonly Way[]): number[][] {
  const batches = ways.map(({ run }) => {
    run(); // memory touched, code compiled
    let batch = 1;
    while (milliseconds(run, batch) < 0.2) batch *= 2;
    return batch;
  });
  const samples: number[][] = ways.map(() => []);
  const end = performance.now() + budget * ways.length;
  do {
    ways.forEach(({ run }, i) => {
      const batch = batches[i] ?? 1;
      samples[i]?.push(milliseconds(run, batch) * 1000 / batch);
    });
  } while (performance.now() < end || (samples[0]?.length ?? 0) < 5);
  return samples;
}

function milliseconds(run: () => void, batch: number): number {
  const start = performance.now();
  for (let i = 0; i < batch; ++i) run();
  return performance.now() - start;
}

await main(async () => {
  const cLoop = await openCLoop();
  const device = Device.open("cpu");
  const here = await machine();
  console.log(`${here.runtime}, ${here.device}: [tokens, ${heads}, ${dim}] and [tokens, ${kvHeads}, ${dim}]`);
  const rows: Row[] = [];
  for (const dtype of dtypes) {
    for (const tokens of tokenCounts) {
      const measured = measureSize(cLoop, device, dtype, tokens);
      device.trim();
      rows.push(...measured);
      console.log(
        `\n${dtype}, ${tokens} tokens, ${
          (tokens * (heads + kvHeads) * dim * (dtype === "float32" ? 4 : 2) / 1e6).toFixed(1)
        } MB read and as much written`,
      );
      console.log(table(
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
  if (!quick) {
    const method =
      "median of rounds in which all ways take turns, caches as the call before left them; bytes: q and k read once and written once";
    console.log(`\nwrote ${writeResults(`rope-cpu-${runtime}`, { benchmark: "rope", method, machine: here, heads, kvHeads, dim, rows })}`);
  }
});
