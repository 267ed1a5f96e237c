// The golden vectors: what Hugging Face's models and diffusers compute, and the frequencies they use.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fromBfloat16, type Pairing } from "../../mod.ts";
import { root } from "../support/runtime.ts";

interface Stored {
  readonly offset: number;
  readonly nbytes: number;
  readonly dtype: "f32" | "f64" | "u16_bf16";
  readonly shape: number[];
}

/** One case of the JSON file. */
export interface Golden {
  readonly name: string;
  readonly model: string;
  readonly config: Record<string, unknown>;
  readonly layer_type?: string | null;
  readonly rope_parameters?: Record<string, unknown> | null;
  readonly head_dim: number;
  readonly rotary_dim: number;
  readonly rotary_offset: number;
  readonly pairing: Pairing | "axis_half" | "untied_half" | "untied_interleaved" | null;
  readonly axes: number;
  readonly positions?: number[][];
  readonly axis_of_pair?: number[] | string | null;
  readonly attention_scaling: number;
  readonly inverse?: boolean;
  readonly cos_sin_dtype_in_bf16_model?: "bf16" | "f32";
  readonly Hq: number;
  readonly Hk: number;
  readonly max_err?: number;
  readonly tensors: Record<string, Stored>;
}

/** The cases of a file, and their tensors. */
export class Goldens {
  readonly entries: Golden[];
  /** Of transformers, which made them. */
  readonly version: string;
  readonly #blob: Uint8Array;

  constructor(name: "transformers" | "diffusers") {
    const folder = join(root, "test", "golden");
    const stored = JSON.parse(readFileSync(join(folder, `${name}.json`), "utf8")) as { entries: Golden[]; transformers: string };
    this.entries = stored.entries;
    this.version = stored.transformers;
    this.#blob = new Uint8Array(readFileSync(join(folder, `${name}.bin`))); // a Buffer's slice is no copy
  }

  /** Its numbers. */
  numbers(golden: Golden, name: string): Float64Array {
    const stored = golden.tensors[name];
    if (stored === undefined) throw new Error(`${golden.name} has no ${name}`);
    const bytes = this.#blob.slice(stored.offset, stored.offset + stored.nbytes).buffer;
    if (stored.dtype === "u16_bf16") return Float64Array.from(fromBfloat16(new Uint16Array(bytes)));
    return stored.dtype === "f64" ? new Float64Array(bytes) : Float64Array.from(new Float32Array(bytes));
  }

  /** inv_freq as it is stored. */
  invFreq(golden: Golden): Float32Array {
    return Float32Array.from(this.numbers(golden, "inv_freq"));
  }
}

/** What the rotation of a case takes in place of a rule. */
export interface Turning {
  readonly frequencies: Float64Array;
  readonly axes: number;
  readonly axisOfPair?: number[];
}

/** The frequencies of a transformers case, as the library takes them: [R/2] with an axis for each pair, or [axes, R/2]. */
export function turningOf(goldens: Goldens, golden: Golden): Turning {
  const pairs = golden.rotary_dim / 2;
  const { axes, axis_of_pair: axisOfPair } = golden;
  if (golden.name === "llama4_vision") {
    const each = Float32Array.from({ length: pairs / 2 }, (_, j) => 1 / Math.fround(10000 ** Math.fround((2 * j) / pairs)));
    return byAxis(Float64Array.from(each));
  }
  const invFreq = goldens.numbers(golden, "inv_freq");
  if (golden.name === "dinov3_vits16") return byAxis(invFreq.map((f) => 2 * Math.PI * f));
  if (golden.name === "ernie45_vl_3d") { // stored as h, w, t; the pairs take h and w in turn
    const own = invFreq.map((_, pair) => invFreq[pair >= 44 ? pair : pair % 2 === 0 ? pair / 2 : 22 + (pair - 1) / 2] ?? NaN);
    return { frequencies: own, axes, axisOfPair: axisOfPair as number[] };
  }
  if (axes === 1) return { frequencies: invFreq, axes };
  if (Array.isArray(axisOfPair)) return { frequencies: invFreq, axes, axisOfPair };
  return byAxis(invFreq);
}

// The first half of the pairs turns with axis 0, the second with axis 1.
function byAxis(each: Float64Array): Turning {
  const pairs = 2 * each.length;
  return {
    frequencies: Float64Array.from([...each, ...each]),
    axes: 2,
    axisOfPair: Array.from({ length: pairs }, (_, pair) => pair < each.length ? 0 : 1),
  };
}
