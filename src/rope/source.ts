// Where the functions that also quantise or append take their angles from: an embedding, a table, or a rule named by numbers.
import { argumentError, describe } from "../arguments.ts";
import type { AppendTarget } from "../kv/target.ts";
import { publicName } from "../native/status.ts";
import { geometryOf } from "../tensor/operations.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type RotaryEmbedding, settingAt } from "./embedding.ts";
import { ruleSetting } from "./functional.ts";
import { placementKeys, type PlacementOptions, ropeInplaceKeys, type RopeInplaceOptions } from "./options.ts";
import { type AngleSource, type CosSinTable, tableSource } from "./table.ts";

/**
 * Where the angles come from, and the tokens' positions. At most one of `embedding`, `cosSinCache` and a rule (`ropeTheta`, `ropeScale`)
 * may be given.
 */
export interface SourceOptions extends RopeInplaceOptions, PlacementOptions {
  /** Rotate as this embedding does: it says R, the offset, the pairing and how angles are computed. */
  readonly embedding?: RotaryEmbedding | undefined;
  /** Take cosines and sines from a table, as {@linkcode applyRopeWithCosSinCache} does. R is its own. */
  readonly cosSinCache?: CosSinTable | undefined;
  /** With an `embedding` whose rule depends on the length: the length of the longest sequence, as in {@linkcode ForwardOptions}. */
  readonly contextLength?: number | undefined;
}

/** The keys of {@linkcode SourceOptions}. */
export const sourceKeys: readonly string[] = [...ropeInplaceKeys, ...placementKeys, "embedding", "cosSinCache", "contextLength"];

const rule = ["ropeTheta", "ropeScale", "angles"] as const;
const shape = ["rotaryDim", "rotaryOffset", "pairing"] as const;

function refuse(operation: string, options: SourceOptions, names: readonly (keyof SourceOptions)[], source: string, what: string): void {
  for (const name of names) {
    if (options[name] === undefined) continue;
    throw argumentError(operation, name, `absent where ${source} is given, which has ${what}`, describe(options[name]));
  }
}

/** Refuses an embedding whose channels the heads of q do not all have, or that is not of their dim where `isWhole`. */
function checkFits(operation: string, embedding: RotaryEmbedding, q: Tensor, headDim: number | undefined, isWhole: boolean): void {
  const { shape } = geometryOf(q);
  const dim = shape.length === 2 ? headDim ?? embedding.dim : shape[shape.length - 1];
  if (isWhole && dim !== embedding.dim) {
    throw argumentError(operation, "embedding", `of dim ${dim}, the channels of a head of q`, `one of dim ${embedding.dim}`);
  }
  const end = embedding.rotaryOffset + embedding.rotaryDim;
  if (typeof dim !== "number" || end <= dim) return;
  const name = publicName("q", operation);
  throw argumentError(
    operation,
    "embedding",
    `one that turns no more than the ${dim} channels of a head of ${name}`,
    `one that turns up to ${end}`,
  );
}

/**
 * Checks which source is meant. `where` has the positions of an appending call that is told none; `isWhole` says that a head of q has the
 * channels of the embedding and no more.
 */
export function resolveSource(
  operation: string,
  q: Tensor,
  options: SourceOptions | undefined,
  where: AppendTarget | null,
  isWhole: boolean = false,
): AngleSource {
  if (options?.embedding !== undefined) {
    refuse(operation, options, ["cosSinCache"], "an embedding", "angles of its own");
    refuse(operation, options, [...rule, ...shape], "an embedding", "its own");
    const setting = settingAt(operation, "embedding", options.embedding, q, options, where);
    checkFits(operation, options.embedding, q, options.headDim, isWhole);
    return { setting, cos: null, sin: null, rotaryDim: 0 };
  }
  if (options?.contextLength !== undefined) {
    const advice = "Only the rules of an embedding depend on the length.";
    throw argumentError(operation, "contextLength", "absent without an embedding", describe(options.contextLength), advice);
  }
  if (options?.cosSinCache !== undefined) {
    refuse(operation, options, rule, "a cosSinCache", "the angles");
    return tableSource(operation, "cosSinCache", q, options.cosSinCache, options);
  }
  return { setting: ruleSetting(operation, false, q, options), cos: null, sin: null, rotaryDim: 0 };
}
