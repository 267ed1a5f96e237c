// docs/models.md: every golden case, how the library makes its rotation, and how close it comes. scripts/models.ts writes it, a test compares it.
import type { Device } from "../../mod.ts";
import {
  type Closeness,
  closeness,
  closenessToTable,
  diffusers,
  formulaOf,
  inParts,
  lengthOf,
  prefixOf,
  rotate,
  ruled,
  scaled,
  slackOf,
  transformers,
  worse,
} from "./golden_rotations.ts";
import { type Golden, turningOf } from "./goldens.ts";

/** A line of the table. */
export interface Row {
  readonly name: string;
  readonly cells: readonly string[];
  readonly passes: boolean;
}

const heading = ["case", "model", "made by", "rule", "pairing", "axes", "R of D", "largest error", "of the bound", "result"];

/** How a transformers case is rotated, and how close it comes. */
function measured(golden: Golden, device: Device): [string, Closeness] {
  const part = inParts.find(([name]) => name === golden.name);
  if (part !== undefined) return ["parts of several rotations", part[1](device)];
  const factor = scaled.find(([name]) => name === golden.name);
  if (factor !== undefined) return [factor[1], factor[2](device)];
  using rope = ruled(golden, device);
  const skip = prefixOf(golden);
  const isQuirk = golden.name === "phi35_moe_hf_quirk";
  const { q, k } = rotate(rope, golden, "float32", skip, isQuirk ? lengthOf(golden) : undefined);
  const want = Float32Array.from(turningOf(transformers, golden).frequencies);
  const own = golden.axes === 1 ? formulaOf(golden, rope.rotaryDim) : rope.invFreq;
  const off = (pair: number): number => Math.abs((own[pair] ?? NaN) - (want[pair] ?? NaN)) + slackOf(golden);
  let result = closeness(golden, "q", q, skip, off);
  if (k !== null) result = worse(result, closeness(golden, "k", k, skip, off));
  const layer = golden.layer_type ? ` (${golden.layer_type})` : "";
  return [isQuirk ? "fromConfig, contextLength 4096" : `fromConfig${layer}`, result];
}

function rowOf(golden: Golden, device: Device, isDiffuser: boolean): Row {
  const [how, { error, ofBound }] = isDiffuser ? ["frequencies", closenessToTable(golden, device)] as const : measured(golden, device);
  const rule = isDiffuser ? "own" : String(golden.rope_parameters?.["rope_type"] ?? (golden.name === "dinov3_vits16" ? "own" : "default"));
  const form = golden.pairing === null || golden.pairing === undefined
    ? ["", "", "", ""]
    : [rule, golden.pairing, String(golden.axes), `${golden.rotary_dim} of ${golden.head_dim}`];
  const model = golden.model.replace("transformers.models.", "").replace("diffusers ", "");
  const passes = ofBound <= 1;
  return {
    name: golden.name,
    passes,
    cells: [golden.name, model, how, ...form, error.toExponential(1), `${Math.ceil(100 * ofBound)} %`, passes ? "pass" : "FAIL"],
  };
}

/** All lines, on a device. */
export function rowsOf(device: Device): { readonly transformers: Row[]; readonly diffusers: Row[] } {
  return {
    transformers: transformers.entries.map((golden) => rowOf(golden, device, false)),
    diffusers: diffusers.entries.map((golden) => rowOf(golden, device, true)),
  };
}

function table(rows: readonly Row[]): string {
  const lines = [heading, ...rows.map((row) => row.cells)];
  const widths = heading.map((_, column) => Math.max(3, ...lines.map((cells) => (cells[column] ?? "").length)));
  const line = (cells: readonly string[]): string => `| ${widths.map((width, i) => (cells[i] ?? "").padEnd(width)).join(" | ")} |`;
  return [line(heading), line(widths.map((width) => "-".repeat(width))), ...lines.slice(1).map(line)].join("\n");
}

/** The page. */
export function page(device: Device): string {
  const rows = rowsOf(device);
  const all = [...rows.transformers, ...rows.diffusers];
  const passed = all.filter((row) => row.passes).length;
  const fromConfig = rows.transformers.filter((row) => row.cells[2]?.startsWith("fromConfig")).length;
  return `# Models

What real models compute, and how close librope comes: ${passed} of ${all.length} cases pass. Made by \`bun run models\` on the CPU; a test fails where
this page is not what it would write, so a case cannot stop passing unseen. CUDA gives the same bits.

The cases are q and k of the model's own shapes at chosen positions (most up to 131 071), rotated by Hugging Face transformers ${transformers.version} in float32, and by
diffusers. ${fromConfig} start from the model's config alone, through \`RotaryEmbedding.fromConfig\` with \`angles: "hf"\`; \`frequencies\` are the model's own numbers
(no config of diffusers describes them); parts of several rotations are said below.

## Transformers

The error is over the larger of the two products that are added, x cos and y sin. The bound is three float32 ulp (3 * 2^-23) of it; where
torch's float32 power is a last bit off, and with it a frequency, what that bit turns at the position is allowed besides.

${table(rows.transformers)}

- \`phi35_moe_hf_quirk\`: Hugging Face's PhiMoE class does not tell the rule how long the context is, so it never takes \`long_factor\`. With
  \`contextLength: 4096\` librope does the same; without it, it takes the long divisors beyond the original length, as the model was trained.
- \`gemma4_vit\`: half pairs within the block of each axis: one rotation for each block, at its \`rotaryOffset\`.
- \`hunyuan_vl_mrope\`: the two channels of a pair stand on different axes. The first half of the head is that of a rotation by axes 0 and 1,
  the second that of one by axes 2 and 3.
- \`vjepa2_axis_block\`: the tables are tiled and the pairs interleaved, so the two channels of a pair have frequencies of their own. Even channels
  are those of one rotation, odd ones of another.
- \`ernie45_vl_3d\`: the config's \`mrope_section\` is (height, width, time), positions are (time, height, width).
- \`dinov3_vits16\`: the first token is a prefix and is not rotated. Positions are the centres of the patches, (y, x) from -1 to 1.
- \`qwen2_vl_vit\`, \`llama4_vision\`: positions are (row, column), and of Llama 4 (column + 1, row + 1), 0 for the class token.
- \`ministral3_q_scale\`: after the rotation each query is multiplied by 1 + beta ln(1 + floor(p / L)), p its position: \`qScale\`, from the
  embedding's \`qScale(positions)\`. The error is over the product.
- \`llama4_nope_temperature\`: in layers that do not rotate each query is multiplied by 1 + 0.1 ln(1 + floor((p + 1) / 8192)). With
  \`layerType: "full_attention"\` the embedding turns nothing, and \`qScale(positions)\` are these factors.

## Diffusers

The error is over |x| + |y|; the bound is what the model's own table is off by, and float32 ulp as above. LTX's angles go up to 15 000 in float32,
so its table is off by 3.6e-3 itself.

${table(rows.diffusers)}
`;
}
