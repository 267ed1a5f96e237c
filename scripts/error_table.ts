// Prints how far cos and sin are from the truth, by theta and position: `exact`, `hf`, and the float32 table that a server without librope reads
// (cos and sin of fl32(fl32(position) * fl32(frequency)), which is what `hf` reproduces). The docs quote it. The truth is fixed-point arithmetic of
// 192 bits. Run: bun scripts/error_table.ts
import { RotaryEmbedding } from "../mod.ts";
import { oracleCosSin, oracleFrequency } from "../test/support/oracle.ts";

const thetas = [1e4, 5e5, 1e7];
const ranges = [4095, 32767, 131071, 1048575, 10_000_000, 2 ** 31 - 1];
const rotaryDim = 128;
const pairs = rotaryDim / 2;
const samplesPerRange = 64;

/** Positions of a range: its upper half, evenly, and its end. */
function positionsOf(end: number): number[] {
  return Array.from({ length: samplesPerRange }, (_, i) => Math.floor(end / 2 + (end / 2) * ((i + 1) / samplesPerRange)));
}

function read(rope: RotaryEmbedding, positions: number[]): [Float32Array, Float32Array] {
  const { cos, sin } = rope.cosSin(positions);
  const numbers = [cos.readBlocking(), sin.readBlocking()] as [Float32Array, Float32Array];
  cos.dispose();
  sin.dispose();
  return numbers;
}

const rows = ["| theta | positions up to | exact | hf | float32 table |", "|---|---|---|---|---|"];
for (const theta of thetas) {
  const frequencies = Array.from({ length: pairs }, (_, pair) => oracleFrequency(theta, pair, rotaryDim));
  using exact = new RotaryEmbedding({ dim: rotaryDim, base: theta });
  using hf = new RotaryEmbedding({ dim: rotaryDim, base: theta, angles: "hf" });
  const invFreq = hf.invFreq;
  for (const end of ranges) {
    const positions = positionsOf(end);
    const [exactCos, exactSin] = read(exact, positions);
    const [hfCos, hfSin] = read(hf, positions);
    const worst = { exact: 0, hf: 0, table: 0 };
    positions.forEach((position, row) => {
      frequencies.forEach((frequency, pair) => {
        const want = oracleCosSin(BigInt(position), frequency);
        const error = (cos: number, sin: number): number => Math.max(Math.abs(cos - want.cos), Math.abs(sin - want.sin));
        const at = row * pairs + pair;
        const angle = Math.fround(Math.fround(position) * (invFreq[pair] ?? NaN));
        worst.exact = Math.max(worst.exact, error(exactCos[at] ?? NaN, exactSin[at] ?? NaN));
        worst.hf = Math.max(worst.hf, error(hfCos[at] ?? NaN, hfSin[at] ?? NaN));
        worst.table = Math.max(worst.table, error(Math.fround(Math.cos(angle)), Math.fround(Math.sin(angle))));
      });
    });
    const text = (value: number): string => value.toExponential(1);
    rows.push(`| ${theta} | ${end} | ${text(worst.exact)} | ${text(worst.hf)} | ${text(worst.table)} |`);
  }
}
// deno-lint-ignore no-console
console.log(rows.join("\n"));
