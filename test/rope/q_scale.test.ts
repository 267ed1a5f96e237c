// The factors of queries that some models have: from a config, from the constructor, for positions of every kind, and who is told of them.
// deno-lint-ignore-file no-console
import { describe, expect, test } from "bun:test";
import { RopeArgumentError, RopeDisposedError, type RopeError, RotaryEmbedding, Tensor } from "../../mod.ts";
import { devices, errorOf, numbersOf, open } from "./support.ts";

const ministral = {
  model_type: "ministral3",
  rope_parameters: {
    ...{ type: "yarn", rope_theta: 1e6, factor: 16, original_max_position_embeddings: 16384, beta_fast: 32, beta_slow: 1 },
    ...{ mscale: 1, mscale_all_dim: 1, max_position_embeddings: 262144, llama_4_scaling_beta: 0.1 },
  },
};
const llama4 = {
  model_type: "llama4_text",
  head_dim: 128,
  rope_theta: 500000,
  floor_scale: 8192,
  attn_scale: 0.1,
  attn_temperature_tuning: 4,
};
const qScaling = { beta: 0.5, length: 10 };

const factor = (beta: number, step: number): number => Math.fround(1 + beta * Math.log(1 + step));

function scalesOf(rope: RotaryEmbedding, positions: Parameters<RotaryEmbedding["qScale"]>[0]): number[] | undefined {
  using scales = rope.qScale(positions);
  return scales && [...numbersOf(scales)];
}

describe("from a config", () => {
  test.each<[string, Record<string, unknown>, string | undefined, [number, number][] | undefined]>([
    ["Ministral 3", ministral, undefined, [[0, 0], [16383, 0], [16384, 1], [131071, 7]]],
    ["Ministral 3's defaults", { model_type: "ministral3" }, undefined, [[16383, 0], [16384, 1]]],
    ["the length beside the rule", { ...ministral, original_max_position_embeddings: 8192 }, undefined, [[8191, 0], [8192, 1]]],
    [
      "a beta of 0 is none",
      { ...ministral, rope_parameters: { ...ministral.rope_parameters, llama_4_scaling_beta: 0 } },
      undefined,
      undefined,
    ],
    ["Mistral 4's defaults", { model_type: "mistral4" }, undefined, [[8191, 0], [16384, 2]]],
    ["Llama 4's layers that turn", llama4, undefined, undefined],
    ["Llama 4's other layers", llama4, "full_attention", [[8190, 0], [8191, 1], [131071, 16]]],
    ["Llama 4, by its defaults", { model_type: "llama4_text" }, "full_attention", [[8190, 0], [8191, 1]]],
    ["Llama 4, switched off", { ...llama4, attn_temperature_tuning: false }, "full_attention", undefined],
    ["Llama 3", { model_type: "llama", head_dim: 128 }, undefined, undefined],
  ])("%s", (_name, config, layerType, steps) => {
    using rope = RotaryEmbedding.fromConfig(config, { layerType, device: "cpu" });
    const want = steps?.map(([, step]) => factor(0.1, step));
    expect(scalesOf(rope, steps?.map(([position]) => position) ?? [5])).toEqual(want as number[]);
  });

  test("Llama 4's layers of full attention turn nothing", () => {
    using still = RotaryEmbedding.fromConfig(llama4, { layerType: "full_attention", device: "cpu" });
    using turning = RotaryEmbedding.fromConfig(llama4, { layerType: "chunked_attention", device: "cpu" });
    expect([still.dim, still.rotaryDim, still.pairing]).toEqual([turning.dim, turning.rotaryDim, turning.pairing]);
    using q = Tensor.random([4, 2, 128], { dtype: "bfloat16", device: "cpu" });
    using same = still.rotate(q, { positions: [0, 5, 10000, -1] });
    expect([...numbersOf(same)]).toEqual([...numbersOf(q)]);
  });

  test("errors name the key", () => {
    const cases: [Record<string, unknown>, string, string | undefined][] = [
      [{ ...ministral, rope_parameters: { ...ministral.rope_parameters, llama_4_scaling_beta: "0.1" } }, "llama_4_scaling_beta", undefined],
      [{ ...llama4, floor_scale: 0 }, "floor_scale", "full_attention"],
      [{ ...llama4, attn_scale: -1 }, "attn_scale", "full_attention"],
    ];
    for (const [config, key, layerType] of cases) {
      const error = errorOf(() => RotaryEmbedding.fromConfig(config, { layerType })) as RopeError;
      expect(error).toBeInstanceOf(RopeArgumentError);
      expect(error.argument).toContain(key);
    }
  });
});

describe.each(devices)("for positions on %s", (name) => {
  const device = open(name);

  test("of every kind, and as it goes into a call", () => {
    using rope = new RotaryEmbedding({ dim: 4, qScaling, device });
    const want = [1, factor(0.5, 1), factor(0.5, 2), 1];
    expect(scalesOf(rope, [9, 10, 29.5, -1])).toEqual(want);
    expect(scalesOf(rope, new Int32Array([9, 10, 29, -7]))).toEqual(want);
    expect(scalesOf(rope, new BigInt64Array([9n, 10n, 29n, -1n]))).toEqual(want);
    expect(scalesOf(rope, new Float32Array([9, 19.99, 20, NaN]))).toEqual(want);
    expect(scalesOf(rope, [])).toEqual([]);
    using batched = Tensor.from([9, 10, 29, -1], [2, 2], { dtype: "int64", device: "cpu" });
    using scales = rope.qScale(batched);
    expect([scales?.shape, scales?.dtype, scales?.device.name]).toEqual([[2, 2], "float32", "cpu"]);
    using host = rope.qScale([1]);
    expect(host?.device).toBe(device);

    using q = Tensor.full([4, 1, 4], 1, { device });
    using qScale = rope.qScale([9, 10, 29, -1]);
    using out = rope.rotate(q, { positions: [9, 10, 29, -1], qScale });
    const norms = Array.from({ length: 4 }, (_, t) => Math.hypot(...numbersOf(out).subarray(4 * t, 4 * t + 4)) / 2);
    norms.forEach((norm, t) => expect(Math.abs(norm - (want[t] ?? NaN))).toBeLessThan(1e-6));
  });

  test("shift, and what cannot be", () => {
    using shifted = new RotaryEmbedding({ dim: 4, qScaling: { ...qScaling, shift: 1 }, device });
    expect(scalesOf(shifted, [8, 9])).toEqual([1, factor(0.5, 1)]);
    for (
      const value of [null, 1, "beta", [], {}, { beta: 1 }, { length: 1 }, { beta: NaN, length: 1 }, { beta: 1, length: 0 }, {
        ...qScaling,
        start: 1,
      }, { ...qScaling, shift: "1" }]
    ) {
      const error = errorOf(() => new RotaryEmbedding({ dim: 4, qScaling: value as never })) as RopeError;
      expect(error).toBeInstanceOf(RopeArgumentError);
      expect(error.argument).toMatch(/^qScaling/);
    }
    for (const value of [undefined, null, 5, "5", {}, ["5"]]) {
      const error = errorOf(() => shifted.qScale(value as never)) as RopeError;
      expect(error).toBeInstanceOf(RopeArgumentError);
      expect([error.operation, error.argument]).toEqual(["RotaryEmbedding.qScale", Array.isArray(value) ? "positions[0]" : "positions"]);
    }
    using positions = Tensor.from([1, 2], [2], { dtype: "int32", device });
    if (device.kind === "cuda") {
      expect((errorOf(() => shifted.qScale(positions)) as RopeError).message).toContain("would wait for the device");
    }
    let recorded: unknown;
    device.capture(() => {
      recorded = errorOf(() => shifted.qScale(positions));
    }).dispose();
    expect(recorded).toBeInstanceOf(RopeArgumentError);
    shifted.dispose();
    expect(errorOf(() => shifted.qScale([1]))).toBeInstanceOf(RopeDisposedError);
  });

  test("who rotates q and k without them is told once", () => {
    const { warn } = console;
    const written: unknown[] = [];
    console.warn = (text: unknown): void => {
      written.push(text);
    };
    try {
      using q = Tensor.zeros([2, 1, 4], { device });
      using rope = new RotaryEmbedding({ dim: 4, qScaling, device });
      using plain = new RotaryEmbedding({ dim: 4, device });
      using knowing = new RotaryEmbedding({ dim: 4, qScaling, device });
      using _scale = knowing.qScale([0, 1]);
      using k = Tensor.zeros([2, 1, 4], { device });
      plain.forwardInplace(q, k);
      knowing.forwardInplace(q, k);
      rope.forwardInplace(k, null); // a k, perhaps
      rope.forwardInplace(q, k, { qScale: [1, 1] });
      expect(written).toEqual([]);
      rope.forwardInplace(q, k);
      rope.forwardInplace(q, k);
      expect(written.length).toBe(1);
      expect(String(written[0])).toContain("give qScale: rope.qScale(positions)");
    } finally {
      console.warn = warn;
    }
  });
});
