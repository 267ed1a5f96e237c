// A stream as the rest of librope knows it; the public Stream is a face of this. Storages and pools refer to it directly, so that a Stream
// that nobody holds any more can be collected while memory is still ordered on its queue.
import { Block } from "../native/block.ts";
import { layouts } from "../native/layouts.ts";
import type { DeviceState } from "./state.ts";
import type { Storage } from "./storage.ts";

const layout = layouts.order_args;
const order = new Block(layout, "rope_stream_order");

/** A queue of work on a device. */
export class StreamState {
  readonly state: DeviceState;
  /** The stream's number in the C ABI; 0 is the default stream. */
  readonly handle: number;
  /** False once it has ended. The default stream was ordered after it then, and stands in for it wherever it is still named. */
  live: boolean = true;
  /** Calls queued here so far: what another stream that has waited for this one needs to know. */
  calls: number = 0;
  /** CUDA: blocks that may be used again in the order of this stream, by size class. */
  readonly free: Storage[][] = [];
  readonly #waited: Map<StreamState, number> = new Map();

  /** Made with its device, by createStream() and by capture(). */
  constructor(state: DeviceState, handle: number) {
    this.state = state;
    this.handle = handle;
  }

  /** Makes what is queued here from now on run after what is queued on another stream so far. Nothing is called where it does already. */
  waitFor(other: StreamState): void {
    const first = other.live ? other : other.state.defaultStream;
    if (first === this || this.#waited.get(first) === first.calls) return;
    order.u16(layout.device, this.state.code);
    order.stream(layout.stream, this);
    order.u64(layout.after, first.handle);
    order.call("Stream.wait");
    this.#waited.set(first, first.calls);
  }

  /** Forgets a stream that has ended. */
  forget(other: StreamState): void {
    this.#waited.delete(other);
  }
}
