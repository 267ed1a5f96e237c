// Norms and row scales, from options to what the pipeline takes.
import { argumentError, checkBoolean, checkChoice, describe } from "../arguments.ts";
import { enums } from "../native/layouts.ts";
import { checkTensor, geometryOf, stateOf } from "../tensor/operations.ts";
import { Tensor } from "../tensor/tensor.ts";
import { checkRecord, normKeys, type NormOptions } from "./options.ts";
import type { ResolvedNorm } from "./pipeline.ts";
import { checkHostArray } from "./positions.ts";

const times = ["before", "after"] as const;
const widths = ["head", "width"] as const;

/** Checks `qNorm` or `kNorm`, which is `argument`. */
export function resolveNorm(operation: string, argument: string, value: unknown): ResolvedNorm {
  const record = checkRecord(operation, argument, value, normKeys, "an object with eps and perhaps a weight");
  const { weight, eps, when, over, unitOffset } = record as Partial<NormOptions>;
  if (typeof eps !== "number" || !(eps >= 0 && eps < Infinity)) {
    const advice = eps === undefined ? "It is the model's rms_norm_eps, 1e-6 for most." : undefined;
    throw argumentError(operation, `${argument}.eps`, "a finite number of at least 0", describe(eps), advice);
  }
  let flags: number = enums.NORM;
  if (when !== undefined && checkChoice(operation, `${argument}.when`, when, times) === "after") flags |= enums.NORM_AFTER;
  if (over !== undefined && checkChoice(operation, `${argument}.over`, over, widths) === "width") flags |= enums.NORM_WIDTH;
  if (checkBoolean(operation, `${argument}.unitOffset`, unitOffset)) {
    if (weight === undefined) throw argumentError(operation, `${argument}.weight`, "given where unitOffset adds 1 to it", "undefined");
    flags |= enums.NORM_UNIT_OFFSET;
  }
  return { flags, weight: weight === undefined ? null : checkTensor(operation, `${argument}.weight`, weight), eps };
}

/** `qScale`: a live tensor as it is, numbers on the host as a temporary one. */
export function resolveRowScale(operation: string, given: unknown, q: Tensor): Tensor {
  const argument = "qScale";
  if (given instanceof Tensor) return checkTensor(operation, argument, given);
  const values = checkHostArray(operation, argument, given, stateOf(q));
  const numbers = new Float32Array(new ArrayBuffer(4 * values.length));
  for (let i = 0; i < numbers.length; ++i) {
    const value: unknown = values[i];
    if (typeof value !== "number") throw argumentError(operation, `${argument}[${i}]`, "a number", describe(value));
    numbers[i] = value;
  }
  const { device } = stateOf(q);
  const { shape } = geometryOf(q);
  const [rows = 0, tokens = 0] = shape.length === 4 ? shape : [1, shape[0]];
  if (numbers.length === tokens) return Tensor.from(numbers, [tokens], { device });
  if (shape.length === 4 && numbers.length === rows * tokens) return Tensor.from(numbers, [rows, tokens], { device });
  const counts = shape.length === 4 && rows !== 1 ? `${tokens} (for all rows) or ${rows * tokens}` : `${tokens}`;
  throw argumentError(operation, argument, `${counts} numbers, one for each token of q`, `${numbers.length}`);
}
