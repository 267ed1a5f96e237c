// docs/pictures/wavelengths.svg: for every frequency rule a panel, the wavelength of each pair before and after scaling. scripts/wavelengths.ts
// writes it, a test compares it.
import type { TopLevelSpec } from "vega-lite";
import { Device, RotaryEmbedding } from "../../mod.ts";
import { type Golden, Goldens } from "../../test/rope/goldens.ts";
import { look, svg, titleLook } from "./pictures.ts";

const before = "before scaling";
const after = "after scaling";
const afterShort = "after, short context";
const afterMixed = "after, with mixedB";

/** A model whose rule is drawn. What its golden config does not say is said here. */
interface Panel {
  readonly rule: string;
  /** The model and the rule's numbers, a line each. Short ones: without fonts Vega takes text for wider than it is, and spaces panels by that. */
  readonly about: readonly string[];
  /** A case of test/golden/transformers.json, whose config is taken. */
  readonly golden: string;
  /** In place of the rule of that config. */
  readonly scaling?: object;
  /** The context length before. Default: the config's, if it has one. */
  readonly original?: number;
  /** The context length after. Default: the config's. */
  readonly extended?: number;
  /** A second curve. */
  readonly second?: { readonly form: string; readonly contextLength?: number; readonly scaling?: object };
}

const ntk = { rope_type: "ntk", factor: 8 };

const panels: readonly Panel[] = [
  // 32 768: the Gemma 3 report, arXiv 2503.19786.
  { rule: "linear", about: ["Gemma 3 4B, full layers", "factor 8"], golden: "gemma3_4b_global", original: 32768 },
  {
    rule: "dynamic",
    about: ["a Llama of 2048 positions", "factor 2, at 16384"],
    golden: "dynamic_ntk_short",
    original: 2048,
    extended: 16384,
    second: { form: afterShort, contextLength: 2048 },
  },
  { rule: "dynamic, alpha", about: ["HunYuan dense", "alpha 1000"], golden: "hunyuan_dense_alpha" },
  {
    rule: "ntk",
    about: ["theta of Llama 2 7B", "factor 8; mixedB 0.625"],
    golden: "llama2_7b",
    scaling: ntk,
    original: 4096,
    extended: 32768,
    second: { form: afterMixed, scaling: { ...ntk, mixed_b: 0.625 } },
  },
  { rule: "yarn", about: ["DeepSeek V3", "factor 40"], golden: "deepseek_v3_rope" },
  { rule: "yarn", about: ["gpt-oss 20B", "factor 32, truncate false"], golden: "gpt_oss_20b" },
  {
    rule: "longrope",
    about: ["Phi-3 mini 128K", "a divisor for each pair"],
    golden: "phi3_mini_128k_long",
    second: { form: afterShort, contextLength: 4096 },
  },
  { rule: "llama3", about: ["Llama 3.1 8B", "factor 8"], golden: "llama31_8b" },
  { rule: "proportional", about: ["Gemma 4, full layers", "a quarter of the pairs"], golden: "gemma4_full_proportional" },
];

/** A point of a curve. */
interface Point {
  readonly form: string;
  readonly pair: number;
  readonly wavelength: number;
}

function embeddingOf(golden: Golden, scaling: object | undefined, device: Device): RotaryEmbedding {
  const config = { model_type: golden.model.replace("transformers.models.", ""), ...golden.config };
  const options = { device, layerType: golden.layer_type ?? undefined };
  return RotaryEmbedding.fromConfig(scaling === undefined ? config : { ...config, rope_scaling: scaling }, options);
}

/** The curve of an embedding in a context of that length. A pair that stands still has no wavelength and is left out. */
function curve(form: string, rope: RotaryEmbedding, contextLength: number): Point[] {
  // At position 1 a pair has turned by its frequency. The attention factor, which is in both, is not in their quotient.
  const { cos, sin } = rope.cosSin([1], { contextLength });
  const [x, y] = [cos.readBlocking() as Float32Array, sin.readBlocking() as Float32Array];
  cos.dispose();
  sin.dispose();
  return Array.from(x, (_, pair) => {
    const frequency = Math.atan2(y[pair] ?? NaN, x[pair] ?? NaN);
    return { form, pair, wavelength: 2 * Math.PI / frequency };
  }).filter(({ wavelength }) => Number.isFinite(wavelength));
}

function curvesOf(panel: Panel, golden: Golden, extended: number, device: Device): Point[] {
  using rope = embeddingOf(golden, panel.scaling, device);
  using unscaled = new RotaryEmbedding({ dim: rope.rotaryDim, base: Number(golden.rope_parameters?.["rope_theta"]), device });
  const points = [...curve(before, unscaled, extended), ...curve(after, rope, extended)];
  if (panel.second === undefined) return points;
  const { form, scaling, contextLength } = panel.second;
  using second = embeddingOf(golden, scaling ?? panel.scaling, device);
  return [...points, ...curve(form, second, contextLength ?? extended)];
}

const grey = "#5d5d6b";
const forms = [before, after, afterShort, afterMixed];
const legend = { title: null, orient: "top", symbolStrokeWidth: 3, symbolSize: 300, labelFontSize: 12, labelLimit: 300 };
const color = { field: "form", type: "nominal", scale: { domain: forms, range: ["#c3c2cf", "#2c4a8a", "#d9722c", "#b8405e"] }, legend };
const strokeDash = { field: "form", type: "nominal", scale: { domain: forms, range: [[1, 0], [1, 0], [4, 3], [4, 3]] }, legend };
const columns = 3;

/** What is drawn of a rule, and the numbers of which. */
function panelOf(panel: Panel, index: number, goldens: Goldens, device: Device): object {
  const golden = goldens.entries.find(({ name }) => name === panel.golden);
  if (golden === undefined) throw new Error(`there is no golden ${panel.golden}`);
  const original = panel.original ?? golden.rope_parameters?.["original_max_position_embeddings"];
  const extended = panel.extended ?? Number(golden.config["max_position_embeddings"]);
  const points = curvesOf(panel, golden, extended, device);
  const contexts = [{ length: extended, text: typeof original === "number" ? `extended: ${extended}` : `context: ${extended}`, dy: -5 }];
  if (typeof original === "number") contexts.push({ length: original, text: `original: ${original}`, dy: 8 });
  const pairs = points.filter(({ form }) => form === before).length;
  const still = pairs - points.filter(({ form }) => form === after).length;
  const x = {
    field: "pair",
    type: "quantitative",
    scale: { domain: [0, pairs], nice: false },
    axis: { title: "pair", grid: false, tickCount: 4 },
  };
  const y = { type: "quantitative", scale: { type: "log", domain: [5, 1e8], nice: false } };
  const axis = { title: index % columns === 0 ? "wavelength in positions" : null, values: [10, 1e3, 1e5, 1e7], format: "~s", grid: false };
  const lines = (values: readonly Point[], strokeWidth: number): object => ({
    data: { values },
    mark: { type: "line", strokeWidth },
    encoding: { x, y: { ...y, field: "wavelength", axis }, color, strokeDash },
  });
  return {
    title: { text: panel.rule, subtitle: panel.about, anchor: "start", frame: "group", fontSize: 13, subtitleFontSize: 11, offset: 8 },
    width: 240,
    height: 200,
    layer: [
      lines(points.filter(({ form }) => form === before), 5),
      lines(points.filter(({ form }) => form !== before), 2),
      ...contexts.flatMap(({ length, text, dy }) => [
        {
          data: { values: [{ length }] },
          mark: { type: "rule", color: grey, strokeWidth: 0.8 },
          encoding: { y: { ...y, field: "length" } },
        },
        {
          data: { values: [{ length, text }] },
          mark: { type: "text", align: "left", dx: 4, dy, color: grey, fontSize: 10 },
          encoding: { x: { value: 0 }, y: { ...y, field: "length" }, text: { field: "text" } },
        },
      ]),
      ...still === 0 ? [] : [{
        data: { values: [{ text: `pairs ${pairs - still} to ${pairs - 1} stand still` }] },
        mark: { type: "text", align: "right", dx: -4, dy: -10, color: "#2c4a8a", fontSize: 10 },
        encoding: { x: { value: "width" }, y: { value: "height" }, text: { field: "text" } },
      }],
    ],
  };
}

/** The picture, as SVG. */
export async function wavelengths(): Promise<string> {
  const device = Device.open("cpu");
  const goldens = new Goldens("transformers");
  const drawn = await svg({
    ...look,
    title: {
      text: "Wavelength of each pair, before and after scaling",
      subtitle: "2 pi / frequency in positions, on a log scale; the lines across are context lengths",
      ...titleLook,
    },
    columns,
    spacing: 28,
    concat: panels.map((panel, index) => panelOf(panel, index, goldens, device)),
  } as TopLevelSpec);
  // The last digits of a logarithm are not the same in every runtime.
  const rounded = drawn.replace(/\d+\.\d{4,}/g, (number) => String(Number(Number(number).toFixed(3))));
  return `<!-- deno-fmt-ignore-file: made by bun run wavelengths -->\n${rounded}\n`;
}
