// Where the functions that also quantise or append take their angles from: an embedding, a table, or a rule named by numbers.
import { argumentError, describe } from "../arguments.ts";
import type { AppendTarget } from "../kv/target.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type RotaryEmbedding, settingAt } from "./embedding.ts";
import { ruleSetting } from "./functional.ts";
import { placementKeys, type PlacementOptions, ropeInplaceKeys, type RopeInplaceOptions } from "./options.ts";
import { type AngleSource, type CosSinTable, tableSource } from "./table.ts";

/** Where the angles come from, and the tokens' positions. At most one of `embedding`, `cosSinCache` and a rule (`ropeTheta`, `ropeScale`) may be given. */
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

/** Checks which source is meant. `where` has the positions of an appending call that is told none. */
export function resolveSource(operation: string, q: Tensor, options: SourceOptions | undefined, where: AppendTarget | null): AngleSource {
  if (options?.embedding !== undefined) {
    refuse(operation, options, ["cosSinCache"], "an embedding", "angles of its own");
    refuse(operation, options, [...rule, ...shape], "an embedding", "its own");
    const setting = settingAt(operation, "embedding", options.embedding, q, options, where);
    return { setting, cos: null, sin: null, rotaryDim: 0 };
  }
  if (options?.contextLength !== undefined) {
    const advice = "Only the rules of an embedding depend on the length.";
    throw argumentError(operation, "contextLength", "absent without an embedding", describe(options.contextLength), advice);
  }
  if (options?.cosSinCache !== undefined) {
    refuse(operation, options, rule, "a cosSinCache", "the angles");
    return tableSource(operation, "cosSinCache", options.cosSinCache, options);
  }
  return { setting: ruleSetting(operation, false, q, options), cos: null, sin: null, rotaryDim: 0 };
}
