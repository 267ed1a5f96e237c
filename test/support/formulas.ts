// Every frequency rule in plain TypeScript (reference formulas of modeling_rope_utils.py, and of vLLM's ntk_scaling_rope.py), twice: in float64, what
// `frequencies` is compared with; and in Hugging Face's own order of float32 steps, what `invFreq` is compared with, bit for bit.
const f32 = Math.fround;

/** A rule, as a config's rope_parameters. */
export interface RopeParameters {
  readonly rope_type?: string;
  readonly rope_theta: number;
  readonly partial_rotary_factor?: number;
  readonly factor?: number | null;
  readonly low_freq_factor?: number;
  readonly high_freq_factor?: number;
  readonly original_max_position_embeddings?: number;
  readonly alpha?: number;
  readonly mixed_b?: number;
  readonly attention_factor?: number | null;
  readonly mscale?: number;
  readonly mscale_all_dim?: number;
  readonly beta_fast?: number;
  readonly beta_slow?: number;
  readonly truncate?: boolean;
  readonly short_factor?: readonly number[];
  readonly long_factor?: readonly number[];
}

/** What a rule needs besides its parameters: max_position_embeddings, and how long the context is. */
export interface Lengths {
  readonly maxPosition?: number | undefined;
  readonly seqLen?: number | undefined;
}

/** R of a head of `dim` channels. */
export function rotaryDimOf(parameters: RopeParameters, dim: number): number {
  return parameters.rope_type === "proportional" ? dim : Math.trunc(dim * (parameters.partial_rotary_factor ?? 1));
}

function originalOf(parameters: RopeParameters, { maxPosition = NaN }: Lengths): number {
  return parameters.original_max_position_embeddings ?? maxPosition;
}

function factorOf(parameters: RopeParameters, lengths: Lengths): number {
  return parameters.factor ?? (lengths.maxPosition ?? NaN) / originalOf(parameters, lengths);
}

/** The divisors of LongRoPE for a context. */
function divisorsOf(parameters: RopeParameters, lengths: Lengths): readonly number[] {
  const isLong = (lengths.seqLen ?? 0) > originalOf(parameters, lengths);
  return (isLong ? parameters.long_factor : parameters.short_factor) ?? [];
}

function magnitude(factor: number, scale: number): number {
  return factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1;
}

/** What cos and sin are multiplied by. */
export function attentionFactorOf(parameters: RopeParameters, lengths: Lengths = {}): number {
  const { rope_type: type, attention_factor: given, mscale, mscale_all_dim: all } = parameters;
  if (type !== "yarn" && type !== "longrope") return 1;
  if (given !== undefined && given !== null) return given;
  const factor = factorOf(parameters, lengths);
  if (type === "yarn") return mscale && all ? magnitude(factor, mscale) / magnitude(factor, all) : magnitude(factor, 1);
  return factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalOf(parameters, lengths)));
}

/** Where YaRN's ramp begins and ends, in pairs. */
function rampOf(parameters: RopeParameters, rotaryDim: number, original: number): [number, number] {
  const place = (turns: number): number => rotaryDim * Math.log(original / (turns * 2 * Math.PI)) / (2 * Math.log(parameters.rope_theta));
  let low = place(parameters.beta_fast || 32);
  let high = place(parameters.beta_slow || 1);
  if (parameters.truncate ?? true) [low, high] = [Math.floor(low), Math.ceil(high)];
  low = Math.max(low, 0);
  high = Math.min(high, rotaryDim - 1);
  return [low, low === high ? high + 0.001 : high];
}

const clamp = (x: number): number => Math.min(Math.max(x, 0), 1);

/** Radians per position of a head of `dim` channels. */
export function exactFrequencies(parameters: RopeParameters, dim: number, lengths: Lengths = {}): Float64Array {
  const { rope_type: type = "default" } = parameters;
  const rotaryDim = rotaryDimOf(parameters, dim);
  const pairs = rotaryDim / 2;
  const original = originalOf(parameters, lengths);
  const factor = parameters.factor ?? 1;
  let theta = parameters.rope_theta;
  if (type === "dynamic" && parameters.alpha) theta *= parameters.alpha ** (rotaryDim / (rotaryDim - 2));
  else if (type === "dynamic") {
    const length = Math.max(lengths.seqLen ?? original, original);
    theta *= (factor * length / original - (factor - 1)) ** (rotaryDim / (rotaryDim - 2));
  } else if (type === "ntk" && !parameters.mixed_b) theta *= factor;
  return Float64Array.from({ length: pairs }, (_, pair) => {
    const plain = theta ** (-2 * pair / rotaryDim);
    switch (type) {
      case "linear":
        return plain / factor;
      case "ntk": {
        const { mixed_b: b } = parameters;
        return plain / (b ? Math.exp(Math.log(factor) / pairs ** b * (pair + 1) ** b) : factor ** (2 / rotaryDim));
      }
      case "yarn": {
        const [low, high] = rampOf(parameters, rotaryDim, original);
        const ramp = clamp((pair - low) / (high - low));
        return plain / factorOf(parameters, lengths) * ramp + plain * (1 - ramp);
      }
      case "longrope":
        return plain / (divisorsOf(parameters, lengths)[pair] ?? NaN);
      case "proportional":
        return pair < Math.floor((parameters.partial_rotary_factor ?? 1) * dim / 2) ? plain / factor : 0;
      case "llama3": {
        const { low_freq_factor: low = 1, high_freq_factor: high = 1 } = parameters;
        const wavelength = 2 * Math.PI / plain;
        if (wavelength > original / low) return plain / factor;
        if (wavelength < original / high) return plain;
        const smooth = (original / wavelength - low) / (high - low);
        return (1 - smooth) * plain / factor + smooth * plain;
      }
      default:
        return plain;
    }
  });
}

/** inv_freq of a head of `dim` channels, in float32 steps. */
export function hfInvFreq(parameters: RopeParameters, dim: number, lengths: Lengths = {}): Float32Array {
  const { rope_type: type = "default", low_freq_factor: low = 1, high_freq_factor: high = 1 } = parameters;
  const rotaryDim = rotaryDimOf(parameters, dim);
  const pairs = rotaryDim / 2;
  const original = originalOf(parameters, lengths);
  const factor = parameters.factor ?? 1;
  const { seqLen = 0 } = lengths;
  let theta = parameters.rope_theta;
  if (type === "dynamic" && parameters.alpha) theta *= parameters.alpha ** (rotaryDim / (rotaryDim - 2));
  else if (type === "dynamic" && seqLen > original) { // the length is a tensor there, so the base is float32
    const base = f32(f32(f32(factor * seqLen) / original) - (factor - 1));
    theta *= f32(base ** (rotaryDim / (rotaryDim - 2)));
  } else if (type === "ntk" && !parameters.mixed_b) theta *= factor;
  theta = f32(theta);
  return Float32Array.from({ length: pairs }, (_, pair) => {
    const power = f32(theta ** f32(f32(2 * pair) / rotaryDim));
    const plain = f32(1 / power);
    switch (type) {
      case "linear":
        return f32(plain / f32(factor));
      case "ntk": {
        const { mixed_b: b } = parameters;
        if (!b) return f32(plain / f32(factor ** (2 / rotaryDim)));
        const lambda = f32(Math.exp(f32(f32(Math.log(factor) / pairs ** b) * f32((pair + 1) ** f32(b)))));
        return f32(plain / lambda);
      }
      case "yarn": {
        const [begin, end] = rampOf(parameters, rotaryDim, original);
        const kept = f32(1 - clamp(f32(f32(pair - f32(begin)) / f32(end - begin))));
        const stretched = f32(1 / f32(f32(factorOf(parameters, lengths)) * power));
        return f32(f32(stretched * f32(1 - kept)) + f32(plain * kept));
      }
      case "longrope":
        return f32(1 / f32(f32(divisorsOf(parameters, lengths)[pair] ?? NaN) * power));
      case "proportional":
        return pair < Math.floor((parameters.partial_rotary_factor ?? 1) * dim / 2) ? f32(plain / f32(factor)) : 0;
      case "llama3": {
        const wavelength = f32(f32(2 * Math.PI) * f32(1 / plain));
        if (wavelength > original / low) return f32(plain / f32(factor));
        if (wavelength < original / high) return plain;
        const smooth = f32(f32(f32(f32(1 / wavelength) * original) - low) / f32(high - low));
        return f32(f32(f32(f32(1 - smooth) * plain) / f32(factor)) + f32(smooth * plain));
      }
      default:
        return plain;
    }
  });
}
