// CUDA's memory: blocks of the driver's stream-ordered pool, kept in free lists of each stream. A block in the list of a stream may be used
// there at once, because whatever used it before was queued on that stream or has been ordered before what is queued there next.
import { RopeFatalError } from "../errors.ts";
import { Block } from "../native/block.ts";
import { layouts } from "../native/layouts.ts";
import { sawFailure } from "../native/status.ts";
import { requireHealthy } from "./health.ts";
import { classBytes, listOf, Pool, sizeClass } from "./pool.ts";
import type { Storage } from "./storage.ts";
import type { StreamState } from "./stream_state.ts";

const layout = layouts.memory_args;
const trimBlock = new Block(layout, "rope_memory_trim");

/** The pool of a GPU in one realm. */
export class CudaPool extends Pool {
  override acquire(bytes: number, operation: string, stream: StreamState): Storage {
    if (sawFailure()) requireHealthy(this.state, operation); // also where a free block would do without asking the device
    // A graph may be launched on any stream. Its memory is the default stream's, and each launch is ordered after that.
    const home = this.state.recording?.stream === stream ? this.state.defaultStream : stream;
    const storage = super.acquire(bytes, operation, home);
    storage.begin(home);
    return storage;
  }

  /** Gives every free block back to the driver, and has the driver give back what it keeps. */
  trim(): void {
    for (const stream of this.state.streams) {
      for (const list of stream.free) {
        for (const storage of list) this.releaseNative(storage, stream);
        list.length = 0;
      }
    }
    this.state.staging?.trim();
    trimBlock.u16(layout.device, this.state.code);
    trimBlock.call("Device.trim");
  }

  adopt(stream: StreamState): void {
    for (const [index, list] of stream.free.entries()) {
      const target = listOf(this.state.defaultStream.free, index);
      for (const storage of list) target.push(storage);
    }
    stream.free.length = 0;
  }

  protected pooled(index: number, operation: string, stream: StreamState): Storage {
    return listOf(stream.free, index).pop() ?? this.native("pooled", classBytes(index), operation, stream);
  }

  protected reclaim(storage: Storage): void {
    let home;
    try {
      home = storage.settle();
    } catch (error) {
      if (!(error instanceof RopeFatalError)) throw error;
      this.bytesReserved -= storage.capacity; // the memory went with the device
      return;
    }
    if (storage.kind === "native") this.releaseNative(storage, home);
    else listOf(home.free, sizeClass(storage.capacity)).push(storage);
  }
}
