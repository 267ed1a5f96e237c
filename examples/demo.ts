// The main job of librope on real input: reads a Hugging Face config.json, rotates queries and keys of that model's shape for a prompt and
// then token by token as a decoder does, checks the result, and draws the rotation.
//   bun run demo [config.json [layer type]]
// deno-lint-ignore-file no-console
import { writeFileSync } from "node:fs";
import { relative, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { RopeError, type RotaryEmbedding, Tensor, version } from "@librope/rope";
import { allowedUlps, type Check, checkGolden, checkRelativeLaw, errorAgainstReference, placement, readGolden } from "./support/checks.ts";
import { DemoError, type Model, readModel } from "./support/model.ts";
import type { Rotation } from "./support/picture.ts";
import { table, wrap } from "./support/text.ts";

const promptTokens = 4096;
const decodeSteps = 256;
const picturePath = "rope-rotation.svg";

/** What a part of the run took, beside copies of the same bytes. */
interface Measured {
  readonly name: string;
  readonly tokens: number;
  /** Milliseconds of one call. */
  readonly time: number;
  /** Milliseconds of copying its q and k. */
  readonly copyTime: number;
  /** In ulp of the dtype. */
  readonly error: number;
}

async function main(path: string, layerType: string | undefined): Promise<boolean> {
  const model = readModel(path, layerType);
  const { rope, heads, kvHeads, dtype } = model;
  const device = rope.device;
  console.log(`librope ${version} on ${device.name}: ${device.info.description}`);
  console.log(`${path}: ${model.type}, ${heads} query and ${kvHeads} key heads of ${rope.dim} channels, ${dtype}`);
  console.log(`rotates ${channels(rope)}; rule ${model.rule}${model.theta === undefined ? "" : `, theta ${model.theta}`}\n`);

  const all = promptTokens + decodeSteps;
  using q = Tensor.random([all, heads, rope.dim], { dtype, seed: 1, device });
  using k = Tensor.random([all, kvHeads, rope.dim], { dtype, seed: 2, device });
  const [qWhole, kWhole] = rope.forward(q, k, placement(rope, 0, all)); // everything in one call, to compare with

  const checks: Check[] = [];
  const prompt = await runPrompt(rope, q, k);
  const decode = await runDecoder(rope, q, k, qWhole, kWhole, checks);
  printMeasured(model, [prompt, decode]);

  const worst = Math.max(prompt.error, decode.error);
  const allowed = allowedUlps(dtype);
  checks.unshift({
    ok: worst <= allowed,
    what: "the float64 reference of @librope/rope/testing",
    result: `${worst.toFixed(4)} ulp of ${dtype}, allowed ${allowed.toFixed(4)}`,
  });
  const golden = readGolden(path);
  if (golden !== undefined) checks.unshift(...await checkGolden(model, golden));
  checks.push(await checkRelativeLaw(rope));
  qWhole.dispose();
  kWhole.dispose();
  for (const { ok, what, result } of checks) console.log(`${ok ? "ok    " : "FAILED"}  ${what}: ${result}`);
  if (golden === undefined) console.log("(No golden vector of Hugging Face stands beside this config: compared with the reference alone.)");

  const { drawnPositions, drawRotation } = await import("./support/picture.ts"); // loads Vega
  const lastPosition = Math.max(1024, Math.min(model.contextLength ?? 32768, 1 << 20));
  writeFileSync(picturePath, await drawRotation(await picture(model, drawnPositions(lastPosition))));
  console.log(`\nThe rotation as a picture: ${resolve(picturePath)}`);
  rope.dispose();
  model.hfRope.dispose();
  return checks.every((check) => check.ok);
}

// The prompt in one call, its results in memory from the pool.
async function runPrompt(rope: RotaryEmbedding, q: Tensor, k: Tensor): Promise<Measured> {
  using qPrompt = q.slice(0, 0, promptTokens);
  using kPrompt = k.slice(0, 0, promptTokens);
  const options = placement(rope, 0, promptTokens);
  const [qOut, kOut] = rope.forward(qPrompt, kPrompt, options);
  const rows = Array.from({ length: 32 }, (_, i) => Math.round((promptTokens - 1) * i / 31));
  const error = Math.max(
    await errorAgainstReference(rope, qPrompt, qOut, rows, 0),
    await errorAgainstReference(rope, kPrompt, kOut, rows, 0),
  );

  const { time, copyTime } = compare(15, () => rope.forward(qPrompt, kPrompt, { ...options, out: [qOut, kOut] }), () => {
    qOut.copyFrom(qPrompt);
    kOut.copyFrom(kPrompt);
  });
  qOut.dispose();
  kOut.dispose();
  return { name: "prompt", tokens: promptTokens, time, copyTime, error };
}

// As a decoder does: every step brings one q and one k, which are rotated where they are, at the offset the sequence has reached, and kept.
async function runDecoder(rope: RotaryEmbedding, q: Tensor, k: Tensor, qWhole: Tensor, kWhole: Tensor, checks: Check[]): Promise<Measured> {
  const { dtype, device } = q;
  using qKept = Tensor.zeros([decodeSteps, ...q.shape.slice(1)], { dtype, device });
  using kKept = Tensor.zeros([decodeSteps, ...k.shape.slice(1)], { dtype, device });
  const before = rope.device.memory().driverAllocations;
  const times: number[] = [];
  const copyTimes: number[] = [];
  for (let step = 0; step < decodeSteps; ++step) {
    const position = promptTokens + step;
    using qStep = q.slice(0, position, position + 1).clone(); // a model's projections would give these
    using kStep = k.slice(0, position, position + 1).clone();
    const options = placement(rope, position, 1);
    times.push(milliseconds(() => rope.forwardInplace(qStep, kStep, options)));
    using qPlace = qKept.slice(0, step, step + 1);
    using kPlace = kKept.slice(0, step, step + 1);
    copyTimes.push(milliseconds(() => {
      qPlace.copyFrom(qStep);
      kPlace.copyFrom(kStep);
    }));
  }
  const fresh = rope.device.memory().driverAllocations - before;
  checks.push({
    ok: fresh <= 8,
    what: "memory of the steps comes from the pool",
    result: `${fresh} new allocations in ${decodeSteps} steps`,
  });

  using qDecoded = q.slice(0, promptTokens, q.shape[0]);
  using qAtOnce = qWhole.slice(0, promptTokens, q.shape[0]);
  using kAtOnce = kWhole.slice(0, promptTokens, k.shape[0]);
  const same = equalBytes(qKept, qAtOnce) && equalBytes(kKept, kAtOnce);
  checks.push({
    ok: same,
    what: "token by token equals all in one call",
    result: `${same ? "" : "not "}bit for bit, ${decodeSteps} steps`,
  });
  const error = await errorAgainstReference(rope, qDecoded, qKept, [0, 1, 100, decodeSteps - 1], promptTokens);
  return { name: "decode", tokens: 1, time: median(times), copyTime: median(copyTimes), error };
}

function equalBytes(a: Tensor, b: Tensor): boolean {
  const [x, y] = [a, b].map((tensor) => {
    const { buffer, byteOffset, byteLength } = tensor.readBlocking();
    return new Uint8Array(buffer, byteOffset, byteLength);
  });
  return x !== undefined && x.every((byte, i) => byte === y?.[i]);
}

function printMeasured({ rope, heads, kvHeads, dtype }: Model, parts: readonly Measured[]): void {
  const bytesPerElement = dtype === "float32" ? 4 : 2;
  // GB/s, of bytes read and written.
  const rate = (tokens: number, time: number): number => 2 * tokens * (heads + kvHeads) * rope.dim * bytesPerElement / time / 1e6;
  const rows = parts.map(({ name, tokens, time, copyTime, error }) => [
    name,
    rope.device.name,
    `${tokens} x (${heads} + ${kvHeads}) x ${rope.dim}`,
    dtype,
    time >= 1 ? `${time.toFixed(2)} ms` : `${(time * 1000).toFixed(2)} us`,
    `${rate(tokens, time).toFixed(1)} GB/s`,
    `${rate(tokens, copyTime).toFixed(1)} GB/s`,
    (copyTime / time).toFixed(2),
    `${error.toFixed(3)} ulp`,
  ]);
  console.log(table(["", "device", "shape of q + k", "dtype", "time", "rotation", "copy", "ratio", "error"], rows, 4));
}

// Two functions in turn, so that a busy moment hits both; the median time of each.
function compare(rounds: number, run: () => void, copy: () => void): { time: number; copyTime: number } {
  const times: number[] = [];
  const copyTimes: number[] = [];
  for (let round = 0; round < rounds; ++round) {
    copyTimes.push(milliseconds(copy));
    times.push(milliseconds(run));
  }
  return { time: median(times), copyTime: median(copyTimes) };
}

function milliseconds(run: () => void): number {
  const start = performance.now();
  run();
  return performance.now() - start;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN;
}

function channels(rope: RotaryEmbedding): string {
  const { dim, rotaryDim, rotaryOffset: first, pairing } = rope;
  const half = rotaryDim / 2;
  const pairs = pairing === "interleaved"
    ? "(2j, 2j + 1)"
    : pairing === "half"
    ? `(j, j + ${half})`
    : `(2j, 2j + 1), written to (j, j + ${half})`;
  const part = rotaryDim === dim ? `all ${dim} channels` : `${rotaryDim} of ${dim} channels${first === 0 ? "" : `, from ${first} on`}`;
  return `${part} in pairs ${pairs}`;
}

async function picture(model: Model, positions: readonly number[]): Promise<Rotation> {
  const { rope, contextLength, originalContextLength, theta } = model;
  const pairs = rope.rotaryDim / 2;
  const { cos, sin } = rope.cosSin(Array.from({ length: rope.axes }, () => positions).flat());
  const [c, s] = [await cos.toFloat32(), await sin.toFloat32()];
  cos.dispose();
  sin.dispose();
  const plain = theta === undefined ? undefined : Array.from({ length: pairs }, (_, pair) => theta ** (-pair / pairs));
  const frequencies = rope.frequencies.slice(0, pairs);
  const changed = plain?.some((frequency, pair) => Math.abs(frequency / (frequencies[pair] ?? NaN) - 1) > 1e-6);
  return {
    title: `How ${model.name} rotates`,
    subtitle: `${channels(rope)} of every head; rule ${model.rule}${theta === undefined ? "" : `, θ = ${theta.toLocaleString("en")}`}`,
    positions,
    angles: Float64Array.from(c, (x, i) => Math.atan2(s[i] ?? 0, x)),
    frequencies,
    unscaled: changed ? plain : undefined,
    marks: [
      ...(originalContextLength === undefined
        ? []
        : [{ label: `first trained at ${originalContextLength.toLocaleString("en")}`, position: originalContextLength }]),
      ...(contextLength === undefined ? [] : [{ label: `context ${contextLength.toLocaleString("en")}`, position: contextLength }]),
    ],
  };
}

const next = `
Read next: README.md, and docs/semantics.md for angles, pairings and positions. In your own code:

  using rope = RotaryEmbedding.fromConfig(JSON.parse(readFileSync("config.json", "utf8")));
  rope.forwardInplace(q, k, { offset }); // q [tokens, heads, dim] and k, Tensors of "@librope/rope"
`;

const shipped = relative(process.cwd(), fileURLToPath(new URL("data/llama-3.1-8b.json", import.meta.url)));
const [path = shipped, layerType] = process.argv.slice(2);
try {
  const ok = await main(path, layerType);
  console.log(ok ? next : "\nA check has failed. Please report this output.");
  process.exitCode = ok ? 0 : 1;
} catch (error) {
  if (!(error instanceof DemoError || error instanceof RopeError)) throw error;
  console.error(wrap(`demo: ${error.message}`));
  process.exitCode = 1;
}
