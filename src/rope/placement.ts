// Checks of where the tokens of a call stand that the short way (rotate.ts) and the pipeline (fused.ts) share.
import { argumentError, checkInteger, describe } from "../arguments.ts";
import { geometryOf } from "../tensor/operations.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type Indices, placementKeys, type PlacementOptions } from "./options.ts";

/** Whether any option says where the tokens stand. */
export function isPlaced(options: PlacementOptions | undefined): boolean {
  return options !== undefined &&
    (options.positions !== undefined || options.offset !== undefined || options.indptr !== undefined || options.offsets !== undefined);
}

/** `offset`, or 0, where no more than one of positions, offset and indptr/offsets is given; `positions` are the call's. */
export function checkOffset(operation: string, positions: Indices | undefined, options: PlacementOptions): number {
  const { offset } = options;
  const isRagged = options.indptr !== undefined || options.offsets !== undefined;
  if (offset !== undefined ? positions !== undefined || isRagged : positions !== undefined && isRagged) {
    throw severalPlacements(operation, options);
  }
  return offset === undefined ? 0 : checkInteger(operation, "offset", offset);
}

/** The error of more than one of them. */
function severalPlacements(operation: string, options: PlacementOptions): Error {
  const given = placementKeys.filter((name) => options[name as keyof PlacementOptions] !== undefined);
  if (given[0] !== "positions" && given.length < 2) given.unshift("positions");
  return argumentError(
    operation,
    "options",
    "an object with only one of positions, offset and indptr/offsets",
    `one with ${given.join(" and ")}`,
  );
}

/** `seqLen`, which only has to be q's. */
export function checkSeqLen(operation: string, value: unknown, q: Tensor): void {
  const seqLen = checkInteger(operation, "seqLen", value, 0);
  const { shape } = geometryOf(q);
  const length = shape.length === 4 ? shape[1] : shape[0];
  if (seqLen !== length) throw argumentError(operation, "seqLen", `${length}, the length of q`, String(seqLen));
}

/** With several axes only positions say where a token stands. */
export function checkAxesPlacement(operation: string, axes: number, options: PlacementOptions | undefined): void {
  const several = `for the embedding has ${axes} axes`;
  for (const name of ["offset", "indptr", "offsets"] as const) {
    const value: unknown = options?.[name];
    if (value === undefined) continue;
    const advice = `offset, indptr and offsets count along one axis: give positions [${axes}, ...].`;
    throw argumentError(operation, name, `absent, ${several}`, describe(value), advice);
  }
  if (options?.positions === undefined) {
    throw argumentError(operation, "positions", `given as [${axes}, ...], ${several}`, "undefined");
  }
}
