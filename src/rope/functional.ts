// What the functional calls have in common: a rule named by numbers in each call, and how it is applied.
import { argumentError, checkInteger } from "../arguments.ts";
import { enums } from "../native/layouts.ts";
import { publicName } from "../native/status.ts";
import { shapeText } from "../tensor/geometry.ts";
import { geometryOf } from "../tensor/operations.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { cachedFrequencies } from "./frequencies.ts";
import {
  type Angles,
  anglesCode,
  checkAngles,
  checkPairing,
  checkPositive,
  checkRotaryDim,
  type Llama31Options,
  type Pairing,
  pairingCode,
  type RopeInplaceOptions,
} from "./options.ts";
import type { Setting } from "./rotate.ts";

// Every call fills this one again before it uses it.
const setting: Setting = { frequencies: 0, pairing: 0, angles: 0, rotaryOffset: 0, axes: 1, flags: 0, headDim: 0 };

/** The head dimension of q: its last one, or headDim where the heads lie side by side in it. */
function headDimOf(operation: string, q: Tensor, headDim: number | undefined): number {
  const { shape } = geometryOf(q);
  const dim = shape[shape.length - 1] ?? 0;
  if (shape.length > 2) {
    if (dim >= 2) return dim;
    const expected = "a tensor whose last dimension, the head dimension, is at least 2";
    throw argumentError(operation, publicName("q", operation), expected, `the shape ${shapeText(shape)}`, "Channels rotate in pairs.");
  }
  if (headDim !== undefined) return checkInteger(operation, "headDim", headDim, 2);
  const such = `a ${publicName("q", operation)} of`;
  throw argumentError(operation, "headDim", `given for ${such} rank 2`, "undefined", `It is the D of ${such} shape [nnz, H * D].`);
}

/** Checks the options of a rule, Llama 3.1's or the plain one. What it returns is good until the next call. */
export function ruleSetting(
  operation: string,
  llama31: boolean,
  q: Tensor,
  o: (RopeInplaceOptions & Llama31Options) | undefined,
): Setting {
  let rotaryOffset = 0;
  let pairing: Pairing = "half";
  let angles: Angles = "exact";
  let scale = llama31 ? 8 : 1;
  let theta = llama31 ? 5e5 : 1e4;
  let low = 1, high = 4, original = 8192;
  let givenDim: number | undefined;
  let headDim: number | undefined;
  if (o !== undefined) {
    if (o.rotaryOffset !== undefined) rotaryOffset = checkInteger(operation, "rotaryOffset", o.rotaryOffset, 0);
    if (o.pairing !== undefined) pairing = checkPairing(operation, "pairing", o.pairing);
    if (o.angles !== undefined) angles = checkAngles(operation, "angles", o.angles);
    if (o.ropeScale !== undefined) scale = checkPositive(operation, "ropeScale", o.ropeScale);
    if (o.ropeTheta !== undefined) theta = checkPositive(operation, "ropeTheta", o.ropeTheta);
    if (llama31) {
      if (o.lowFreqFactor !== undefined) low = checkPositive(operation, "lowFreqFactor", o.lowFreqFactor);
      if (o.highFreqFactor !== undefined) high = checkPositive(operation, "highFreqFactor", o.highFreqFactor);
      if (o.oldContextLen !== undefined) original = checkPositive(operation, "oldContextLen", o.oldContextLen);
      if (low > high) throw argumentError(operation, "lowFreqFactor", `at most highFreqFactor, ${high}`, String(low));
    }
    if (o.rotaryDim !== undefined) givenDim = checkRotaryDim(operation, "rotaryDim", o.rotaryDim);
    headDim = o.headDim;
  }
  const dim = headDimOf(operation, q, headDim);
  const rotaryDim = givenDim ?? dim - rotaryOffset;
  if (rotaryDim < 2 || rotaryDim % 2 !== 0 || rotaryOffset + rotaryDim > dim) throw badSlice(operation, dim, givenDim, rotaryOffset);
  setting.frequencies = llama31
    ? cachedFrequencies(operation, enums.RULE_LLAMA3, rotaryDim, theta, scale, low, high, original)
    : cachedFrequencies(operation, scale === 1 ? enums.RULE_DEFAULT : enums.RULE_LINEAR, rotaryDim, theta, scale, 0, 0, 0);
  setting.pairing = pairingCode(pairing);
  setting.angles = anglesCode(angles);
  setting.rotaryOffset = rotaryOffset;
  return setting;
}

function badSlice(operation: string, dim: number, rotaryDim: number | undefined, rotaryOffset: number): Error {
  if (rotaryDim !== undefined) {
    return argumentError(operation, "rotaryDim", `at most ${dim - rotaryOffset}, the head dimension less rotaryOffset`, String(rotaryDim));
  }
  if (rotaryOffset >= dim && rotaryOffset > 0) {
    return argumentError(operation, "rotaryOffset", `below the head dimension, ${dim}`, String(rotaryOffset));
  }
  return argumentError(
    operation,
    "rotaryDim",
    "given where an odd number of channels is left to rotate",
    `undefined, with ${dim - rotaryOffset} channels`,
    "Channels rotate in pairs.",
  );
}
