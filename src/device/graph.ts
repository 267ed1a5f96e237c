// Operations recorded once and launched often. A graph keeps the memory that it touches alive, and the tensors that were made while
// recording.
import { argumentError, describe, notConstructible } from "../arguments.ts";
import { RopeDisposedError } from "../errors.ts";
import { Block } from "../native/block.ts";
import { layouts } from "../native/layouts.ts";
import { realm } from "../native/realm.ts";
import { log } from "../native/trace.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { DeviceState } from "./state.ts";
import type { Storage } from "./storage.ts";
import { resolveStream, type Stream, streamOf } from "./stream.ts";
import { StreamState } from "./stream_state.ts";

const layout = layouts.graph_args;
const blocks = {
  begin: new Block(layout, "rope_graph_begin"),
  end: new Block(layout, "rope_graph_end"),
  cancel: new Block(layout, "rope_graph_cancel"),
  launch: new Block(layout, "rope_graph_launch"),
  destroy: new Block(layout, "rope_graph_destroy"),
};

/** What a capture gathers: the memory that recorded operations touch, and the tensors made meanwhile. */
export class Recording {
  /** The stream that records. */
  readonly stream: StreamState;
  /** The memory that the recorded operations touch, and whether one of them writes it. */
  readonly storages: Storage[] = [];
  readonly written: boolean[] = [];
  readonly #places: Map<Storage, number> = new Map();
  readonly #tensors: Tensor[] = [];
  readonly #deferred: Storage[] = [];

  /** Made by capture(). */
  constructor(stream: StreamState) {
    this.stream = stream;
  }

  /** Keeps memory alive as long as the graph. */
  keep(storage: Storage, written: boolean): void {
    const place = this.#places.get(storage);
    if (place !== undefined) {
      if (written) this.written[place] = true;
      return;
    }
    this.#places.set(storage, this.storages.length);
    this.storages.push(storage);
    this.written.push(written);
    storage.retain();
  }

  /** Notes a tensor made while recording. */
  own(tensor: Tensor): void {
    this.#tensors.push(tensor);
  }

  /** Puts the return of memory to the pool off until the recording has ended: its streams would have to be put in order for that. */
  defer(storage: Storage): void {
    this.#deferred.push(storage);
  }

  /** The recording has ended. */
  end(): void {
    for (const storage of this.#deferred) storage.state.pool.recycle(storage);
    this.#deferred.length = 0;
    this.#places.clear();
  }

  /** Lets the memory go. */
  release(): void {
    for (const storage of this.storages) storage.release();
    this.storages.length = 0;
  }

  /** Disposes of the tensors made while recording, too. */
  dispose(): void {
    for (const tensor of this.#tensors) tensor.dispose();
    this.#tensors.length = 0;
    this.release();
  }
}

interface Held {
  readonly handle: number;
  /** Operations recorded: kernels and copies. */
  readonly nodes: number;
  readonly recording: Recording;
}

function destroy(handle: number): void {
  blocks.destroy.u64(layout.graph, handle);
  blocks.destroy.callUnlessFailed("Graph.dispose");
}

// A net of its own: a collected graph lets its memory go, but tensors that were made while recording may still be in someone's hands.
const net = new FinalizationRegistry<Held>(({ handle, recording }) => {
  log("a Graph was collected that had not been disposed of");
  destroy(handle);
  recording.release();
});

let make: (state: DeviceState, held: Held) => Graph;
let count: (graph: Graph) => number;

/** How many operations a graph has recorded: what is one launch counts once. */
export function nodesOf(graph: Graph): number {
  return count(graph);
}

/**
 * Recorded operations, made by `device.capture()`. Launching it runs them all again, on the same memory.
 *
 * @example
 * ```ts
 * import { Device, Tensor } from "@librope/rope";
 *
 * const device = Device.open("cpu");
 * using source = Tensor.zeros([4], { device });
 * using target = Tensor.zeros([4], { device });
 * using graph = device.capture(() => target.copyFrom(source));
 * source.write([1, 2, 3, 4]);
 * graph.launch();
 * console.assert(target.readBlocking()[3] === 4);
 * ```
 */
export class Graph {
  readonly #state: DeviceState;
  readonly #held: Held;
  #disposed = false;

  private constructor(state: DeviceState, held: Held) {
    if (state === undefined) throw notConstructible("Graph", "device.capture()");
    this.#state = state;
    this.#held = held;
    net.register(this, held, held);
  }

  static {
    make = (state, held) => new Graph(state, held);
    count = (graph) => graph.#held.nodes;
  }

  /**
   * Queues all recorded operations on a stream, by default the device's.
   *
   * @throws RopeDisposedError for a graph, stream or borrowed array that is gone; RopeArgumentError while a graph is being recorded;
   * RopeFaultError, on the CPU, for the first index out of range that an operation met (`fault.operation` names it); on CUDA the next
   * synchronize rejects with it.
   */
  launch(stream?: Stream): void {
    const operation = "Graph.launch";
    if (this.#disposed) throw new RopeDisposedError({ operation, argument: "this graph", expected: "live", actual: "a disposed one" });
    this.#state.refuseWhileRecording(operation, "A graph");
    const where = resolveStream(operation, stream, this.#state);
    const { storages, written } = this.#held.recording;
    for (let i = 0; i < storages.length; i++) {
      const storage = storages[i];
      if (storage === undefined) continue;
      if (storage.detached) {
        throw new RopeDisposedError({
          operation,
          argument: "this graph",
          expected: "one whose memory is all there",
          actual: "one that uses a typed array whose buffer was transferred or detached",
          advice: "Do not transfer an array while a graph uses it.",
        });
      }
      storage.use(where, written[i] ?? true);
    }
    blocks.launch.stream(layout.stream, where);
    blocks.launch.u64(layout.graph, this.#held.handle);
    blocks.launch.call(operation);
  }

  /** Releases the graph and disposes of the tensors that were made while recording. Harmless when repeated. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    net.unregister(this.#held);
    destroy(this.#held.handle);
    this.#held.recording.dispose();
  }

  /** The same as dispose(), for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Records what `record` calls. See Device.capture. */
export function capture(state: DeviceState, record: unknown): Graph {
  const operation = "Device.capture";
  if (typeof record !== "function") throw argumentError(operation, "record", "a function", describe(record));
  state.refuseWhileRecording(operation, "A capture");
  blocks.begin.u16(layout.device, state.code);
  blocks.begin.u64(layout.realm, realm());
  blocks.begin.call(operation);
  const stream = new StreamState(state, blocks.begin.getU64(layout.stream));
  const recording = new Recording(stream);
  state.recording = recording;
  state.current = stream;
  let handle = 0;
  let nodes = 0;
  let recorded = false;
  try {
    refusePromise(operation, record(streamOf(stream)));
    recorded = true;
    blocks.end.u64(layout.realm, realm());
    blocks.end.u64(layout.stream, stream.handle);
    blocks.end.call(operation);
    handle = blocks.end.getU64(layout.graph);
    nodes = blocks.end.getU64(layout.nodes);
  } finally {
    state.recording = null;
    state.current = state.defaultStream;
    stream.live = false;
    try {
      if (!recorded) {
        blocks.cancel.u64(layout.stream, stream.handle);
        blocks.cancel.callUnlessFailed(operation);
      }
    } finally {
      recording.end();
      if (handle === 0) recording.dispose();
    }
  }
  return make(state, { handle, nodes, recording });
}

function refusePromise(operation: string, result: unknown): void {
  if (typeof result !== "object" || result === null || !("then" in result) || typeof result.then !== "function") return;
  const ignore = () => {};
  result.then(ignore, ignore); // a later rejection is nobody's: the error below is what the caller gets
  throw argumentError(
    operation,
    "record",
    "a function that is done when it returns",
    "one that returned a promise",
    "Await what is needed before the capture; what `record` calls is only recorded.",
  );
}
