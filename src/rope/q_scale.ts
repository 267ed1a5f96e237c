// The factors by which some models multiply their queries beside the rotation: Llama 4's temperature, Ministral 3's scale.
import { argumentError, checkFinite, checkOptions, describe } from "../arguments.ts";
import type { DeviceState } from "../device/state.ts";
import { checkTensor, geometryOf, stateOf } from "../tensor/operations.ts";
import { Tensor } from "../tensor/tensor.ts";
import { checkPositive, type Indices } from "./options.ts";
import { checkHostArray } from "./positions.ts";

/** A factor for each query: 1 + beta ln(1 + floor((position + shift) / length)), 1 before the first step. */
export interface QScaling {
  /** How much it grows: `llama_4_scaling_beta`, `attn_scale`. */
  readonly beta: number;
  /** Positions from step to step: `original_max_position_embeddings`, `floor_scale`. */
  readonly length: number;
  /** Added to each position; Llama 4 has 1. Default 0. */
  readonly shift?: number | undefined;
}

/** The same, checked. */
export type QFactors = { readonly [key in keyof QScaling]-?: number };

/** A checked `qScaling`; null where there is none. */
export function checkQScaling(operation: string, value: unknown): QFactors | null {
  if (value === undefined) return null;
  const argument = "qScaling";
  if (typeof value !== "object" || value === null) {
    throw argumentError(operation, argument, "an object with beta and length", describe(value));
  }
  checkOptions(operation, value, ["beta", "length", "shift"], argument);
  const { beta, length, shift } = value as Partial<QScaling>;
  return {
    beta: checkFinite(operation, `${argument}.beta`, beta),
    length: checkPositive(operation, `${argument}.length`, length),
    shift: shift === undefined ? 0 : checkFinite(operation, `${argument}.shift`, shift),
  };
}

/** The factors of positions that the host can read: float32 of their shape. Of positions below 0 and padding they are 1. */
export function qScaleAt(operation: string, scaling: QFactors, positions: Indices, state: DeviceState): Tensor {
  const { beta, length, shift } = scaling;
  let shape: readonly number[];
  let values: ArrayLike<number | bigint>;
  let target = state;
  if (positions instanceof Tensor) {
    target = stateOf(checkTensor(operation, "positions", positions));
    const expected = "numbers on the host, or a tensor on the CPU outside of a recording";
    const advice = "To read it would wait for the device: make the factors of the numbers that it was made of.";
    if (target.device.kind !== "cpu" || target.recording !== null) {
      const actual = target.recording === null ? `a tensor on ${target.device.name}` : "a tensor while a graph is recorded";
      throw argumentError(operation, "positions", expected, actual, advice);
    }
    shape = geometryOf(positions).shape;
    values = positions.readBlocking();
  } else {
    values = checkHostArray(operation, "positions", positions, state);
    shape = [values.length];
  }
  const factors = new Float32Array(new ArrayBuffer(4 * values.length));
  for (let i = 0; i < factors.length; ++i) {
    const value: unknown = values[i];
    if (typeof value !== "number" && typeof value !== "bigint") {
      throw argumentError(operation, `positions[${i}]`, "a number", describe(value));
    }
    const position = Number(value);
    const step = position >= 0 ? Math.floor((position + shift) / length) : 0;
    factors[i] = step > 0 ? 1 + beta * Math.log(1 + step) : 1;
  }
  return Tensor.from(factors, [...shape], { device: target.device });
}
