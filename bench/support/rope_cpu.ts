// bench/rope.ts on the CPU: rotations beside copyFrom on all cores and memcpy on one, of q with 32 and k with 8 heads of 128 channels.
import { type Device, type DType, type Pairing, RotaryEmbedding, Tensor } from "../../mod.ts";
import type { CLoop } from "./native.ts";
import { quantile } from "./report.ts";

/** The heads of q and of k, and the channels of each: Llama 3.1 8B's. */
export const shape = { heads: 32, kvHeads: 8, dim: 128 } as const;
const { heads, kvHeads, dim } = shape;
/** The numbers of tokens that are measured unless said otherwise. */
export const tokenCounts: readonly number[] = [64, 512, 4096, 32768];
const pairings: readonly Pairing[] = ["half", "interleaved"];

/** One way of moving the bytes. */
interface Way {
  readonly name: string;
  readonly pairing: Pairing | null;
  readonly run: () => void;
}

/** A way of moving q and k at a number of tokens. */
export interface CpuRow {
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

/** Measures all ways at a number of tokens; `budget` is how many milliseconds each is measured for. */
export function measureCpu(cLoop: CLoop, device: Device, dtype: DType, tokens: number, budget: number): CpuRow[] {
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
  const times = measureInTurn(ways, budget);
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
function measureInTurn(ways: readonly Way[], budget: number): number[][] {
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
