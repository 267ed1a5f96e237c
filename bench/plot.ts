// Draws what bench/results holds: for every rope-<gpu>-<runtime>.json an SVG beside it, bandwidth by tokens.
//   bun run bench:plot
// deno-lint-ignore-file no-console
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import type { TopLevelSpec } from "vega-lite";
import { inProject } from "../scripts/support/paths.ts";
import { look, svg, titleLook } from "../scripts/support/pictures.ts";
import { main, ScriptError } from "../scripts/support/process.ts";
import type { Machine } from "./support/report.ts";
import type { CudaRow } from "./support/rope_cuda.ts";

const drawn = ["out of place, half", "in place, half", "indptr, one request", "after a copy"];
const colours = ["#6f6b80", "#b8405e", "#2c4a8a", "#3f8fc0", "#d98a3d"];

interface Results {
  readonly machine: Machine;
  readonly rows: readonly CudaRow[];
}

function specification({ machine, rows }: Results): TopLevelSpec {
  const shown = rows.filter((row) => drawn.includes(row.form));
  const copies = rows.filter((row) => row.form === drawn[0]).map((row) => ({
    form: "copy",
    tokens: row.tokens,
    gbPerS: row.copyGbPerS,
    ratio: 1,
  }));
  const panel = (field: "gbPerS" | "ratio", title: string, scale: object): object => ({
    width: 420,
    height: 300,
    mark: { type: "line", point: true, strokeWidth: 2 },
    encoding: {
      x: {
        field: "tokens",
        type: "quantitative",
        scale: { type: "log", base: 2 },
        axis: { title: "tokens", values: [...new Set(copies.map((row) => row.tokens))], labelOverlap: true },
      },
      y: { field, type: "quantitative", scale, axis: { title } },
      color: { field: "form", type: "nominal", scale: { domain: ["copy", ...drawn], range: colours }, legend: { title: null } },
    },
  });
  return {
    ...look,
    title: {
      text: "A rotation beside a copy of the same bytes",
      subtitle: `${machine.device}, bfloat16, 32 query and 8 key heads of 128 channels; graph replays, data not in the L2`,
      ...titleLook,
    },
    data: { values: [...copies, ...shown] },
    hconcat: [
      panel("gbPerS", "GB/s read and written", { type: "log" }),
      panel("ratio", "time over the copy", { zero: false }),
    ],
  } as TopLevelSpec;
}

await main(async () => {
  const folder = inProject("bench", "results");
  const names = readdirSync(folder).filter((name) => /^rope-(?!cpu).*\.json$/.test(name)).sort();
  if (names.length === 0) {
    throw new ScriptError("bench/results holds no rope-<gpu>-<runtime>.json: bun run bench rope makes one on a machine with a GPU");
  }
  for (const name of names) {
    const results = JSON.parse(readFileSync(`${folder}/${name}`, "utf8")) as Results;
    const path = `${folder}/${name.replace(/\.json$/, ".svg")}`;
    writeFileSync(path, await svg(specification(results)));
    console.log(`wrote ${path}`);
  }
});
