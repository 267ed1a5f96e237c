// What the C library holds in this process: for tests that nothing is left behind.
import { Block } from "../../src/native/block.ts";
import { layouts } from "../../src/native/layouts.ts";

/** Live handles (streams, events, graphs, frequencies, realms) and bytes of native memory, of all realms. */
export function usage(): { handles: number; bytes: number } {
  const block = new Block(layouts.usage_args, "rope_usage");
  block.call("usage");
  return { handles: block.getU64(layouts.usage_args.handles), bytes: block.getU64(layouts.usage_args.bytes) };
}
