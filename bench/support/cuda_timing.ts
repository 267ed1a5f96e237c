// Time on a GPU: a graph of some work over a graph of device-to-device copies of the same bytes.
//
// Both are recorded once for each of many buffers, together larger than twice any GPU's L2, so that each node finds its rows in memory; the two graphs
// are launched in turn and timed by events. The work's time is its graph's over its nodes: what a model's layers cost in a row.
import type { Device, Graph } from "../../mod.ts";
import { quantile } from "./report.ts";

/** What was measured. */
export interface CudaTiming {
  /** Microseconds of a node, and of a copy: medians, and between which values nine of ten lie. */
  readonly us: number;
  readonly p05Us: number;
  readonly p95Us: number;
  readonly copyUs: number;
  /** us / copyUs. */
  readonly ratio: number;
  /** Bytes read and written by the work, and by the copy, as GB/s. */
  readonly gbPerS: number;
  readonly copyGbPerS: number;
  readonly bytes: number;
  readonly buffers: number;
  readonly nodes: number;
}

/** Bytes read over all buffers, at least: beyond twice the L2 of an H100 or H200 (50 MB), of a B200 (126 MB) with what is written. */
const footprint = 128 * 2 ** 20;
const shortestGraphUs = 1000;

/** How many buffers a piece of work that reads so many bytes needs. */
export function buffersFor(bytesRead: number): number {
  return Math.max(2, Math.ceil(footprint / bytesRead));
}

/** What is measured: `work` and `copy` take the number of a buffer; `bytes` are read and written by either. */
export interface CudaWork {
  readonly bytes: number;
  readonly buffers: number;
  readonly work: (buffer: number) => void;
  readonly copy: (buffer: number) => void;
  /** Each node is a copy and the work, whose own time is what is left. */
  readonly afterCopy?: boolean;
}

/** Measures a piece of work. */
export async function measure(
  device: Device,
  { bytes, buffers, work, copy, afterCopy = false }: CudaWork,
  rounds: number,
): Promise<CudaTiming> {
  const nodes = Math.max(buffers, Math.ceil(shortestGraphUs / (1 + bytes / 4e6)));
  const record = (node: (buffer: number) => void): Graph =>
    device.capture(() => {
      for (let i = 0; i < nodes; ++i) node(i % buffers);
    });
  using copies = record(copy);
  using works = record((buffer) => {
    if (afterCopy) copy((buffer + (buffers >> 1)) % buffers);
    work(buffer);
  });
  const times: { copies: number[]; works: number[] } = { copies: [], works: [] };
  for (let round = -2; round < rounds; ++round) {
    const copyUs = await timed(device, copies) / nodes, us = await timed(device, works) / nodes;
    if (round < 0) continue; // warm up
    times.copies.push(copyUs);
    times.works.push(afterCopy ? us - copyUs : us);
  }
  const us = quantile(times.works, 0.5), copyUs = quantile(times.copies, 0.5);
  const [p05Us, p95Us] = [quantile(times.works, 0.05), quantile(times.works, 0.95)];
  const speeds = { gbPerS: bytes / us / 1e3, copyGbPerS: bytes / copyUs / 1e3 };
  return { us, p05Us, p95Us, copyUs, ratio: us / copyUs, ...speeds, bytes, buffers, nodes };
}

// Microseconds of a graph.
async function timed(device: Device, graph: Graph): Promise<number> {
  using start = device.stream.record();
  graph.launch();
  using end = device.stream.record();
  return await end.elapsedMs(start) * 1000;
}
