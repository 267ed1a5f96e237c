// Random input that can be had again: a failure prints its seed, and ROPE_SEED=<seed> runs that one alone.
import process from "node:process";

/** A small generator (mulberry32): the same numbers from the same seed everywhere. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** Uniform in [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  /** An integer of [least, most]. */
  integer(least: number, most: number): number {
    return least + Math.floor(this.next() * (most - least + 1));
  }

  /** One of a list. */
  pick<Item>(list: readonly Item[]): Item {
    const item = list[this.integer(0, list.length - 1)];
    if (item === undefined) throw new Error("nothing to pick from");
    return item;
  }

  /** A shape of a rank, its lengths from `least` to `most`. */
  shape(rank: number, least: number, most: number): number[] {
    return Array.from({ length: rank }, () => this.integer(least, most));
  }
}

/** A test's body that runs `runs` times with seeds of its own. */
export function seeded(runs: number, body: (random: Random) => unknown): () => Promise<void> {
  return async () => {
    const only = process.env["ROPE_SEED"];
    const first = only === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(only);
    for (let seed = first; seed < first + (only === undefined ? runs : 1); seed++) {
      try {
        await body(new Random(seed));
      } catch (error) {
        // deno-lint-ignore no-console
        console.error(`failed with ROPE_SEED=${seed}`);
        throw error;
      }
    }
  };
}
