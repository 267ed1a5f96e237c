// The realm of this JavaScript thread: the owner, in C, of its streams, events, graphs, frequencies and memory. What it holds is released
// when the thread ends, at the latest.
import { Block } from "./block.ts";
import { layouts } from "./layouts.ts";

let handle = 0;

/** The handle of this thread's realm, opened by the first call. */
export function realm(): number {
  if (handle === 0) {
    const block = new Block(layouts.realm_args, "rope_realm_open");
    block.call("librope");
    handle = block.getU64(layouts.realm_args.realm);
  }
  return handle;
}
