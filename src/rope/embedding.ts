// A rotary embedding: frequencies that stay, and what a model adds to them.
import { argumentError, checkBoolean, checkInteger, checkOptions, describe } from "../arguments.ts";
import { type Device, type DeviceLike, resolveDevice } from "../device/device.ts";
import type { DeviceState } from "../device/state.ts";
import { RopeDisposedError } from "../errors.ts";
import type { PagedKVCache } from "../kv/cache.ts";
import type { AppendTarget } from "../kv/target.ts";
import { enums } from "../native/layouts.ts";
import { publicName } from "../native/status.ts";
import { warn } from "../native/trace.ts";
import { checkTensor, geometryOf } from "../tensor/operations.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { appendRotated } from "./appending.ts";
import { type FromConfigOptions, optionsFromConfig } from "./config.ts";
import { checkCacheDType, checkRowCount, cosSinAt, type CosSinCacheOptions, type CosSinOptions, cosSinTable } from "./cos_sin.ts";
import { Frequencies } from "./frequencies.ts";
import { contextLengthOf, dependsOnLength, FrequenciesByLength } from "./lengths.ts";
import {
  type Angles,
  anglesCode,
  appendKeys,
  type AppendOptions,
  checkAngles,
  checkCallOptions,
  checkPairing,
  checkQueryKey,
  forwardKeys,
  type ForwardOptions,
  type Indices,
  inplaceKeys,
  type InplaceOptions,
  type Pairing,
  pairingCode,
  refuseOut,
} from "./options.ts";
import { checkAxesPlacement, isPlaced } from "./placement.ts";
import { checkQScaling, type QFactors, qScaleAt, type QScaling } from "./q_scale.ts";
import { outOfPlace, rotateInto, type Setting } from "./rotate.ts";
import { resolveRule } from "./rules.ts";
import { defaultMaxSeqLen, type RopeScaling } from "./scaling.ts";

/** What a {@linkcode RotaryEmbedding} is made from. */
export interface RotaryEmbeddingOptions {
  /** The head dimension D of q and k. */
  readonly dim: number;
  /**
   * The context length of the model: rules without an original length of their own start from it, and those that depend on the length take
   * it where no call says otherwise. Never a limit on positions. Default 2048.
   */
  readonly maxSeqLen?: number | undefined;
  /** The base of the frequencies, theta. Default 10000. */
  readonly base?: number | undefined;
  /** The frequency rule, with Hugging Face's keys in camelCase. Default `{ ropeType: "default" }`. */
  readonly scaling?: RopeScaling | undefined;
  /** R, the channels that rotate. Even. Default D - rotaryOffset, or trunc(D * scaling.partialRotaryFactor). */
  readonly rotaryDim?: number | undefined;
  /** The first channel that rotates. Default 0. */
  readonly rotaryOffset?: number | undefined;
  /** Default "half". */
  readonly pairing?: Pairing | undefined;
  /** Default "exact". */
  readonly angles?: Angles | undefined;
  /** Frequencies in place of a rule, in radians per position: [R/2], [axes, R/2] or [axes, heads, R/2], row-major. */
  readonly frequencies?: ArrayLike<number> | undefined;
  /** How many positions a token has. Default 1, or as many as `axisOfPair` names. */
  readonly axes?: number | undefined;
  /** Which axis drives each of the R/2 pairs (M-RoPE); with a rule, or with [R/2] frequencies. */
  readonly axisOfPair?: readonly number[] | undefined;
  /** Multiplies cos and sin, in place of the rule's. Default: the rule's, which is 1 but for "yarn" and "longrope". */
  readonly attentionFactor?: number | undefined;
  /** Negate sin (nanochat). Default false. */
  readonly conjugate?: boolean | undefined;
  /** By what the model multiplies its queries besides; see {@linkcode RotaryEmbedding.qScale}. Default: by nothing. */
  readonly qScaling?: QScaling | undefined;
  /** The device of `cosSin` results. Default "auto". q and k may be on any. */
  readonly device?: DeviceLike | undefined;
}

const optionKeys = [
  "dim",
  "maxSeqLen",
  "base",
  "scaling",
  "rotaryDim",
  "rotaryOffset",
  "pairing",
  "angles",
  "frequencies",
  "axes",
  "axisOfPair",
  "attentionFactor",
  "conjugate",
  "qScaling",
  "device",
];

const constructing = "RotaryEmbedding";
const readingConfig = "RotaryEmbedding.fromConfig";

interface Access {
  make(operation: string, options: RotaryEmbeddingOptions): RotaryEmbedding;
  check(operation: string, argument: string, value: unknown): RotaryEmbedding;
  setting(embedding: RotaryEmbedding, operation: string, contextLength: number | undefined): Setting;
  settingAt(
    embedding: RotaryEmbedding,
    operation: string,
    q: Tensor,
    options: InplaceOptions | undefined,
    where: AppendTarget | null,
  ): Setting;
}
const access: Access = {} as Access; // filled by the class, whose fields are private

/** An embedding for another operation, whose errors carry that one's name. */
export function embeddingFor(operation: string, options: RotaryEmbeddingOptions): RotaryEmbedding {
  return access.make(operation, options);
}

/** How an embedding rotates, for a call that is no method of it; without a contextLength by the frequencies of the original length. */
export function settingOf(operation: string, argument: string, value: unknown, contextLength?: number): Setting {
  return access.setting(access.check(operation, argument, value), operation, contextLength);
}

/** The same for the tokens of q, that go to `where` in an appending call: with the frequencies of their context's length. */
export function settingAt(
  operation: string,
  argument: string,
  value: unknown,
  q: Tensor,
  options: InplaceOptions | undefined,
  where: AppendTarget | null,
): Setting {
  return access.settingAt(access.check(operation, argument, value), operation, q, options, where);
}

/**
 * Rotary position embeddings of one model: the frequencies are made once, every call only rotates.
 *
 * @example
 * ```ts
 * import { RotaryEmbedding, Tensor } from "@librope/rope";
 *
 * using rope = new RotaryEmbedding({ dim: 64, base: 500_000 });
 * using q = Tensor.random([1, 16, 8, 64]); // [B, S, Hq, D]
 * using k = Tensor.random([1, 16, 2, 64]);
 * const [qRotated, kRotated] = rope.forward(q, k, { offset: 100 });
 * qRotated.dispose();
 * kRotated.dispose();
 * ```
 */
export class RotaryEmbedding {
  /** The head dimension D. */
  readonly dim: number;
  /** R, the channels that rotate. */
  readonly rotaryDim: number;
  /** The first channel that rotates. */
  readonly rotaryOffset: number;
  /** Which channels form a pair. */
  readonly pairing: Pairing;
  /** How many positions a token has. */
  readonly axes: number;
  /** What cos and sin are multiplied by; of a rule that depends on the length, up to the original length. */
  readonly attentionFactor: number;

  // What errors call the making of an embedding: that of a fromConfig, or of another call that makes one.
  static #making = constructing;

  readonly #state: DeviceState;
  readonly #frequencies: Frequencies; // of the original length
  readonly #byLength: FrequenciesByLength | null; // where they depend on it
  readonly #maxSeqLen: number;
  readonly #setting: Setting;
  readonly #heads: number;
  readonly #axisOfPair: Int32Array<ArrayBuffer> | null;
  readonly #qScaling: QFactors | null;
  #isScaleKnown = false; // that there are such factors has been said
  #values: { exact: Float64Array<ArrayBuffer>; invFreq: Float32Array<ArrayBuffer> } | null = null;

  static {
    access.make = (operation, options) => {
      RotaryEmbedding.#making = operation;
      try {
        return new RotaryEmbedding(options);
      } finally {
        RotaryEmbedding.#making = constructing;
      }
    };
    access.check = (operation, argument, value) => {
      if (typeof value !== "object" || value === null || !(#setting in value)) {
        throw argumentError(operation, argument, "a RotaryEmbedding", describe(value));
      }
      value.#alive(operation, argument);
      return value;
    };
    access.setting = (embedding, operation, contextLength) => embedding.#settingOf(operation, contextLength);
    access.settingAt = (embedding, operation, q, options, where) => embedding.#settingAt(operation, q, options, where);
  }

  /**
   * Makes the frequencies.
   *
   * @throws RopeArgumentError for an option that cannot be.
   * @example
   * ```ts
   * import { RotaryEmbedding } from "@librope/rope";
   *
   * // gpt-oss: YaRN, whose attention factor follows from its factor.
   * const scaling = { ropeType: "yarn", factor: 32, originalMaxPositionEmbeddings: 4096, truncate: false } as const;
   * using rope = new RotaryEmbedding({ dim: 64, base: 150_000, scaling });
   * console.assert(Math.abs(rope.attentionFactor - (0.1 * Math.log(32) + 1)) < 1e-15);
   * ```
   */
  constructor(options: RotaryEmbeddingOptions) {
    const operation = RotaryEmbedding.#making;
    if (options === undefined) throw argumentError(operation, "options", "an object with at least dim", "undefined");
    checkOptions(operation, options, optionKeys);
    this.dim = checkInteger(operation, "dim", options.dim, 1);
    this.rotaryOffset = options.rotaryOffset === undefined ? 0 : checkInteger(operation, "rotaryOffset", options.rotaryOffset, 0);
    this.pairing = checkPairing(operation, "pairing", options.pairing);
    const angles = checkAngles(operation, "angles", options.angles);
    const conjugate = checkBoolean(operation, "conjugate", options.conjugate);
    this.#qScaling = checkQScaling(operation, options.qScaling);
    const rule = resolveRule(operation, options, this.dim, this.rotaryOffset);
    this.rotaryDim = rule.rotaryDim;
    this.axes = rule.axes;
    this.#heads = rule.heads;
    this.#axisOfPair = rule.axisOfPair;
    this.#state = resolveDevice(operation, "device", options.device);
    const names = operation === readingConfig
      ? { theta: "config.rope_theta", factor: "config.rope_scaling.factor", divisors: "config.rope_scaling.short_factor" }
      : { theta: options.base === undefined ? "scaling.ropeTheta" : "base", factor: "scaling.factor", divisors: "scaling.shortFactor" };
    this.#frequencies = new Frequencies(operation, rule, names);
    this.#byLength = dependsOnLength(rule) ? new FrequenciesByLength(rule, names, this.#frequencies) : null;
    this.#maxSeqLen = options.maxSeqLen ?? defaultMaxSeqLen;
    this.attentionFactor = this.#frequencies.attentionFactor;
    this.#setting = {
      frequencies: this.#frequencies.handle,
      pairing: pairingCode(this.pairing),
      angles: anglesCode(angles),
      rotaryOffset: this.rotaryOffset,
      axes: this.axes,
      flags: conjugate ? enums.CONJUGATE : 0,
      headDim: this.dim,
    };
  }

  /**
   * The embedding that a Hugging Face config.json, parsed, describes: `rope_scaling` or `rope_parameters`, top-level or in its
   * `text_config`. `model_type` decides what the keys do not say; `options` override it. A model_type that librope does not list is read by
   * its keys alone: it pairs "half" unless they say otherwise (`rotary_emb_interleaved`, `position_embedding_type: "rope_gptj"`), so give
   * `pairing` where it does not. Where only some layers rotate (SmolLM3, Llama 4), this is the embedding of those; of Llama 4's
   * "full_attention" layers it is one that turns nothing and has their {@linkcode RotaryEmbedding.qScale}. Rules and rotations that this
   * version does not have are errors; other keys of rotary positions that nobody reads give one warning for each config.
   *
   * The `vision_config` of an image encoder whose patches turn by row and column (Qwen-VL's, Pixtral, Llama 4, DINOv3) makes an embedding
   * of two axes: positions [2, n], (row, column), of Llama 4 (column + 1, row + 1), of DINOv3 the patches' centres (y, x) from -1 to 1.
   *
   * @throws RopeArgumentError naming the key that is wrong, missing or not known, and the layer types where the config has parameters for
   * each.
   * @example
   * ```ts
   * import { RotaryEmbedding } from "@librope/rope";
   *
   * using rope = RotaryEmbedding.fromConfig({
   *   model_type: "llama",
   *   hidden_size: 4096,
   *   num_attention_heads: 32,
   *   max_position_embeddings: 131072,
   *   rope_theta: 500000,
   *   rope_scaling: { rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 },
   * });
   * console.assert(rope.dim === 128);
   *
   * // Layers that differ: say which.
   * const rope_scaling = { rope_type: "linear", factor: 8 };
   * const gemma = { model_type: "gemma3_text", rope_theta: 1e6, rope_local_base_freq: 1e4, rope_scaling };
   * using sliding = RotaryEmbedding.fromConfig(gemma, { layerType: "sliding_attention" });
   * console.assert(sliding.dim === 256 && sliding.frequencies[0] === 1);
   * ```
   */
  static fromConfig(config: object, options?: FromConfigOptions): RotaryEmbedding {
    return access.make(readingConfig, optionsFromConfig(config, options));
  }

  /**
   * q and k, rotated.
   *
   * @param q [B, S, Hq, D], [nnz, Hq, D] or [nnz, Hq * D]; float64, float32, float16 or bfloat16; any strides but the last, which is 1.
   * @param k The same with Hk heads, or null.
   * @param options Where the tokens stand; without any, 0 .. S-1 in every batch row.
   * @returns New tensors of the shapes and dtypes of q and k, or those of `options.out`.
   * @throws RopeArgumentError, RopeDisposedError, RopeDeviceError: nothing has been written. RopeFaultError: a position beyond 2^38; the
   * other rows of `options.out` have been written.
   * @example
   * ```ts
   * import { RotaryEmbedding, Tensor } from "@librope/rope";
   *
   * using rope = new RotaryEmbedding({ dim: 64 });
   * using q = Tensor.random([4, 8, 64]); // [nnz, Hq, D]
   * const [rotated] = rope.forward(q, null, { positions: [0, 1, 7, -1] }); // the last token is padding
   * rotated.dispose();
   * ```
   */
  forward(q: Tensor, k: Tensor, options?: ForwardOptions): [Tensor, Tensor];
  /** The same with k absent, perhaps. */
  forward(q: Tensor, k: Tensor | null, options?: ForwardOptions): [Tensor, Tensor | null];
  forward(q: Tensor, k: Tensor | null, options?: ForwardOptions): [Tensor, Tensor | null] {
    const operation = "RotaryEmbedding.forward";
    this.#check(operation, q, k, options, forwardKeys);
    return outOfPlace(operation, rotateInto, this.#setting, q, k, options?.positions, options?.out, options);
  }

  /**
   * Rotates q and k where they are, so `options.out` is an error. Otherwise as {@linkcode RotaryEmbedding.forward}.
   *
   * @example
   * ```ts
   * import { RotaryEmbedding, Tensor } from "@librope/rope";
   *
   * using rope = new RotaryEmbedding({ dim: 64 });
   * using qkv = Tensor.random([16, 12, 64]); // 8 heads of q, 2 of k, 2 of v, packed
   * rope.forwardInplace(qkv.slice(1, 0, 8), qkv.slice(1, 8, 10));
   * ```
   */
  forwardInplace(q: Tensor, k: Tensor | null, options?: ForwardOptions): void {
    const operation = "RotaryEmbedding.forwardInplace";
    refuseOut(operation, options);
    this.#check(operation, q, k, options, inplaceKeys);
    rotateInto(operation, this.#setting, q, k, q, k, options?.positions, options);
  }

  /**
   * One tensor, rotated: {@linkcode RotaryEmbedding.forward} for a q without a k. `options.out` is one tensor here.
   *
   * @example
   * ```ts
   * import { RotaryEmbedding, Tensor } from "@librope/rope";
   *
   * using rope = new RotaryEmbedding({ dim: 64 });
   * using x = Tensor.random([4, 8, 64]);
   * using rotated = rope.rotate(x, { offset: 3 });
   * using back = rope.rotate(rotated, { offset: 3, inverse: true });
   * ```
   */
  rotate(x: Tensor, options?: ForwardOptions): Tensor {
    const operation = "RotaryEmbedding.rotate";
    checkTensor(operation, "x", x);
    this.#check(operation, x, null, options, forwardKeys);
    if (options?.out === undefined) {
      return outOfPlace(operation, rotateInto, this.#setting, x, null, options?.positions, undefined, options)[0];
    }
    const out = checkTensor(operation, "out", options.out);
    rotateInto(operation, this.#setting, x, null, out, null, options.positions, options);
    return out;
  }

  /**
   * Rotates q, and k on its way into a paged cache; v goes there too. One launch, with norms and the quantising of a float8 cache where
   * they are asked for: a layer's norm, rotate and append. What it writes is what {@linkcode RotaryEmbedding.forward} and {@linkcode
   * appendPagedKVCache} would, but for roundings between.
   *
   * @param q [B, S, Hq, D], [nnz, Hq, D] or [nnz, Hq * D]; float32, float16 or bfloat16; any strides but the last, which is 1.
   * @param k The same with the cache's Hk heads.
   * @param v The same with the cache's headDimV channels; null leaves the cache's values as they are.
   * @param where Where the tokens go. They are rotated by its `positions` unless the options say where they stand; with `slotMapping` they
   * must. Padding (-1) among the positions, and tokens that `where` skips, are not stored.
   * @param options Those of forward, `out` being one tensor, and how to quantise.
   * @returns The rotated q: a new tensor, or that of `options.out`.
   * @throws RopeArgumentError, RopeDisposedError, RopeDeviceError: nothing has been written. RopeFaultError: a position, request, page,
   * place or slot out of range; that token has not been written, the others have.
   * @example
   * ```ts
   * import { PagedKVCache, RotaryEmbedding, Tensor } from "@librope/rope";
   *
   * using rope = new RotaryEmbedding({ dim: 64 });
   * using cache = new PagedKVCache({ numPages: 8, pageSize: 16, numKVHeads: 2, headDim: 64, dtype: "float16" });
   * using q = Tensor.random([3, 8, 64], { dtype: "float16" }); // a token of request 0 and two of request 1
   * using k = Tensor.random([3, 2, 64], { dtype: "float16" });
   * using v = Tensor.random([3, 2, 64], { dtype: "float16" });
   * const where = { indptr: [0, 1, 3], indices: [5, 2, 7], batchIndices: [0, 1, 1], positions: [4, 20, 21] };
   * using rotated = rope.append(q, k, v, cache, where, { qNorm: { eps: 1e-6 }, kNorm: { eps: 1e-6 } });
   * ```
   */
  append(q: Tensor, k: Tensor, v: Tensor | null, cache: PagedKVCache, where: AppendTarget, options?: AppendOptions): Tensor {
    const operation = "RotaryEmbedding.append";
    this.#check(operation, q, k, options, appendKeys, where);
    return appendRotated(operation, { setting: this.#setting, cos: null, sin: null, rotaryDim: 0 }, q, k, v, cache, where, options);
  }

  /**
   * The cosines and sines that a rotation uses, attention factor included; 1 and 0 for padding. Those of a `conjugate` embedding are cos
   * and -sin.
   *
   * @param positions [n], with several axes [axes, n] (numbers axis by axis); as in {@linkcode ForwardOptions}.
   * @returns Two float32 tensors [n, R/2], with frequencies per head [n, heads, R/2].
   * @example
   * ```ts
   * import { RotaryEmbedding } from "@librope/rope";
   *
   * using rope = new RotaryEmbedding({ dim: 64 });
   * const { cos, sin } = rope.cosSin([0, 1, 2]);
   * console.assert(cos.shape[0] === 3 && cos.shape[1] === 32);
   * cos.dispose();
   * sin.dispose();
   * ```
   */
  cosSin(positions: Indices, options?: CosSinOptions): { cos: Tensor; sin: Tensor } {
    const operation = "RotaryEmbedding.cosSin";
    this.#alive(operation);
    checkCallOptions(operation, options, ["contextLength"]);
    const setting = this.#settingOf(operation, options?.contextLength);
    return cosSinAt(operation, setting, this.#heads, this.rotaryDim / 2, positions, this.#state);
  }

  /**
   * The factors by which the model multiplies its queries beside the rotation, for `qScale` of {@linkcode ForwardOptions}: no rotation does
   * it by itself. Ministral 3 and Mistral 4 have them, and Llama 4 in its layers that do not rotate.
   *
   * @param positions Those of the rotation, as numbers on the host or a tensor on the CPU.
   * @returns float32 of the shape of the positions, 1 for padding; undefined where the model has none.
   * @example
   * ```ts
   * import { RotaryEmbedding, Tensor } from "@librope/rope";
   *
   * using rope = RotaryEmbedding.fromConfig({ model_type: "ministral3" });
   * using q = Tensor.random([2, 32, 128]);
   * using qScale = rope.qScale([16383, 16384]);
   * using rotated = rope.rotate(q, { positions: [16383, 16384], qScale });
   * console.assert(qScale?.readBlocking()[0] === 1);
   * ```
   */
  qScale(positions: Indices): Tensor<"float32"> | undefined {
    const operation = "RotaryEmbedding.qScale";
    this.#alive(operation);
    this.#isScaleKnown = true;
    if (this.#qScaling === null) return undefined;
    return qScaleAt(operation, this.#qScaling, positions, this.#state) as Tensor<"float32">;
  }

  /**
   * The table of a context in the layout of FlashInfer and vLLM: in each row the cosines of a position, then its sines, attention factor
   * included.
   *
   * @param maxPosition The number of rows, for positions 0 .. maxPosition - 1. Default maxSeqLen.
   * @returns [maxPosition, R], float32 unless `options.dtype` says otherwise.
   * @throws RopeArgumentError where the embedding has several axes or frequencies per head, which no such table can hold;
   * RopeDisposedError.
   * @example
   * ```ts
   * import { RotaryEmbedding } from "@librope/rope";
   *
   * using rope = new RotaryEmbedding({ dim: 64, maxSeqLen: 4096 });
   * using cache = rope.cosSinCache(128, { dtype: "bfloat16" });
   * console.assert(cache.shape.join() === "128,64");
   * ```
   */
  cosSinCache(maxPosition?: number, options?: CosSinCacheOptions): Tensor {
    const operation = "RotaryEmbedding.cosSinCache";
    this.#alive(operation);
    checkCallOptions(operation, options, ["dtype", "contextLength"]);
    const rows = maxPosition === undefined ? this.#maxSeqLen : checkRowCount(operation, "maxPosition", maxPosition);
    const dtype = checkCacheDType(operation, "dtype", options?.dtype);
    if (this.axes > 1 || this.#heads > 0) {
      const actual = this.axes > 1 ? `one of ${this.axes} axes` : "one with frequencies per head";
      throw argumentError(
        operation,
        "this",
        "an embedding of one axis whose heads turn alike",
        actual,
        "cosSin has their cosines and sines.",
      );
    }
    return cosSinTable(operation, this.#settingOf(operation, options?.contextLength), this.rotaryDim / 2, rows, dtype, this.#state);
  }

  /** The device of `cosSin` results. */
  get device(): Device {
    return this.#state.device;
  }

  /**
   * Radians per position of every pair, a new copy: [R/2], with several axes [axes, R/2] or [axes, heads, R/2], row-major. With
   * `axisOfPair` [R/2]. Of a rule that depends on the length ("dynamic", "longrope") those of the original length.
   */
  get frequencies(): Float64Array {
    const { exact } = this.#read("RotaryEmbedding.frequencies");
    return this.#axisOfPair === null
      ? exact.slice()
      : exact.slice(0, this.#axisOfPair.length).map((_, pair) => exact[this.#index(pair)] ?? 0);
  }

  /**
   * The same as Hugging Face's float32 values, bit for bit, but where torch's own pow is not rounded correctly: those are off by a last bit
   * there. Of the caller's frequencies, those rounded. In the order of the pairs: Hugging Face's Ernie 4.5 VL stores its own by axis
   * (height, width, time).
   */
  get invFreq(): Float32Array {
    const { invFreq } = this.#read("RotaryEmbedding.invFreq");
    return this.#axisOfPair === null
      ? invFreq.slice()
      : invFreq.slice(0, this.#axisOfPair.length).map((_, pair) => invFreq[this.#index(pair)] ?? 0);
  }

  /** Gives the frequencies up. Using the embedding afterwards is a RopeDisposedError; disposing of it twice is harmless. */
  dispose(): void {
    this.#byLength?.release();
    this.#frequencies.release();
  }

  /** {@linkcode RotaryEmbedding.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #index(pair: number): number {
    return (this.#axisOfPair?.[pair] ?? 0) * (this.rotaryDim / 2) + pair;
  }

  /** How it rotates, without a contextLength by the frequencies of the original length. */
  #settingOf(operation: string, contextLength: number | undefined): Setting {
    const length = contextLength === undefined ? 1 : checkInteger(operation, "contextLength", contextLength, 1);
    return { ...this.#setting, frequencies: (this.#byLength?.at(operation, length) ?? this.#frequencies).handle };
  }

  #read(operation: string): { exact: Float64Array<ArrayBuffer>; invFreq: Float32Array<ArrayBuffer> } {
    this.#alive(operation);
    return this.#values ??= this.#frequencies.read(operation);
  }

  #alive(operation: string, argument: string = "this"): void {
    if (this.#frequencies.handle === 0) {
      throw new RopeDisposedError({
        operation,
        argument,
        expected: "a live RotaryEmbedding",
        actual: "one that was disposed of",
        advice: "Make a new one; equal ones share their frequencies.",
      });
    }
  }

  #check(
    operation: string,
    q: Tensor,
    k: Tensor | null,
    options: InplaceOptions | undefined,
    keys: readonly string[],
    where: AppendTarget | null = null,
  ): void {
    this.#alive(operation);
    checkQueryKey(operation, q, k);
    if (options !== undefined) {
      checkCallOptions(operation, options, keys);
      if (options.headDim !== undefined && options.headDim !== this.dim) {
        throw argumentError(operation, "headDim", `${this.dim}, the dim of the embedding`, describe(options.headDim));
      }
    }
    this.#settingAt(operation, q, options, where);
    if (this.#qScaling !== null && k !== null && options?.qScale === undefined) this.#tellOfScale(operation);
    const { shape } = geometryOf(q);
    if (shape.length > 2 && shape[shape.length - 1] !== this.dim) {
      throw argumentError(
        operation,
        publicName("q", operation),
        `a tensor whose last dimension is ${this.dim}, the dim of the embedding`,
        `the shape [${shape.join(", ")}]`,
      );
    }
  }

  /** How it rotates the tokens of q, until the next call. */
  #settingAt(operation: string, q: Tensor, options: InplaceOptions | undefined, where: AppendTarget | null): Setting {
    if (this.axes > 1) checkAxesPlacement(operation, this.axes, options);
    if (this.#byLength !== null) {
      const placed = isPlaced(options) || !where ? options : { positions: where.positions, contextLength: options?.contextLength };
      const length = contextLengthOf(operation, q, placed, this.#maxSeqLen);
      this.#setting.frequencies = this.#byLength.at(operation, length).handle;
    }
    return this.#setting;
  }

  #tellOfScale(operation: string): void {
    if (this.#isScaleKnown) return;
    this.#isScaleKnown = true;
    warn(`${operation}: this model multiplies its queries by a factor of their positions besides; give qScale: rope.qScale(positions).`);
  }
}
