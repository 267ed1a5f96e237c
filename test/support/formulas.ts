// Hugging Face's frequency rules in its own order of float32 steps (reference/rope_formulas.py's freqs_hf32, in TypeScript): what invFreq is
// compared with, bit for bit.
const f32 = Math.fround;

/** The rules that this version of the library has, as a config's rope_parameters. */
export interface RopeParameters {
  readonly rope_type?: string;
  readonly rope_theta: number;
  readonly partial_rotary_factor?: number;
  readonly factor?: number;
  readonly low_freq_factor?: number;
  readonly high_freq_factor?: number;
  readonly original_max_position_embeddings?: number;
}

/** inv_freq of a head of `dim` channels. */
export function hfInvFreq(parameters: RopeParameters, dim: number): Float32Array {
  const { rope_type: type = "default", factor = 1, low_freq_factor: low = 1, high_freq_factor: high = 1 } = parameters;
  const rotaryDim = Math.trunc(dim * (parameters.partial_rotary_factor ?? 1));
  const theta = f32(parameters.rope_theta);
  return Float32Array.from({ length: rotaryDim / 2 }, (_, pair) => {
    const plain = f32(1 / f32(theta ** f32(f32(2 * pair) / rotaryDim)));
    if (type === "linear") return f32(plain / f32(factor));
    if (type !== "llama3") return plain;
    const original = parameters.original_max_position_embeddings ?? NaN;
    const wavelength = f32(f32(2 * Math.PI) * f32(1 / plain));
    if (wavelength > original / low) return f32(plain / f32(factor));
    if (wavelength < original / high) return plain;
    const smooth = f32(f32(f32(f32(1 / wavelength) * original) - low) / f32(high - low));
    return f32(f32(f32(f32(1 - smooth) * plain) / f32(factor)) + f32(smooth * plain));
  });
}
