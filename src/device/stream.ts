// A queue of work on a device. Operations run on the device's default stream unless told otherwise.
import { argumentError, describe, notConstructible } from "../arguments.ts";
import { RopeDeviceError, RopeDisposedError } from "../errors.ts";
import { Block } from "../native/block.ts";
import { layouts } from "../native/layouts.ts";
import { HandleNet } from "../native/net.ts";
import { realm } from "../native/realm.ts";
import { type DeviceEvent, recordEvent, waitForEvent } from "./event.ts";
import type { DeviceState } from "./state.ts";

const layout = layouts.stream_args;
const blocks = {
  create: new Block(layout, "rope_stream_create"),
  destroy: new Block(layout, "rope_stream_destroy"),
  synchronize: new Block(layout, "rope_stream_synchronize"),
};

function destroy(handle: number): void {
  blocks.destroy.u64(layout.stream, handle);
  blocks.destroy.call("Stream.dispose");
}

const net = new HandleNet("Stream", destroy);
let make: (state: DeviceState, handle: number) => Stream;
let check: (operation: string, argument: string, value: unknown, state: DeviceState) => Stream;
let retire: (stream: Stream) => void;

/**
 * A queue of work on a device, made by `device.createStream()`; `device.stream` is the default one. Work on one stream runs in order. On the CPU
 * every operation is done when its call returns; a program written for streams runs there unchanged.
 *
 * @example
 * ```ts
 * import { Device, Tensor } from "@librope/rope";
 *
 * using stream = Device.open("cpu").createStream();
 * using x = Tensor.full([4], 1, { device: "cpu" });
 * using y = Tensor.empty([4], { device: "cpu" });
 * y.copyFrom(x, { stream });
 * await stream.synchronize();
 * console.assert(y.readBlocking()[3] === 1);
 * ```
 */
export class Stream {
  readonly #state: DeviceState;
  readonly #handle: number;
  #disposed = false;

  private constructor(state: DeviceState, handle: number) {
    if (state === undefined) throw notConstructible("Stream", "device.createStream()");
    this.#state = state;
    this.#handle = handle;
  }

  static {
    make = (state, handle) => new Stream(state, handle);
    check = (operation, argument, value, state) => {
      if (typeof value !== "object" || value === null || !(#handle in value)) {
        throw argumentError(operation, argument, "a Stream", describe(value), "device.stream is one, device.createStream() makes another.");
      }
      if (value.#state !== state) {
        throw new RopeDeviceError({ operation, argument, expected: `a stream of ${state.name}`, actual: `one of ${value.#state.name}` });
      }
      value.#checkLive(operation, argument);
      return value;
    };
    retire = (stream) => {
      stream.#disposed = true;
    };
  }

  /** The stream's number in the C ABI; 0 is the default stream. */
  get handle(): number {
    return this.#handle;
  }

  /**
   * Waits until the work queued here is done, without blocking the event loop.
   *
   * @throws RopeDisposedError; RopeFaultError if a kernel met an index out of range; RopeFatalError if the device failed; all as rejections.
   */
  // deno-lint-ignore require-await
  async synchronize(): Promise<void> {
    this.#synchronize("Stream.synchronize");
  }

  /** Waits until the work queued here is done, and blocks this thread meanwhile. For scripts. Throws what synchronize() rejects with. */
  synchronizeBlocking(): void {
    this.#synchronize("Stream.synchronizeBlocking");
  }

  /**
   * Marks this point in the stream's work.
   *
   * @throws RopeDisposedError; RopeArgumentError while a graph is being recorded.
   */
  record(): DeviceEvent {
    this.#checkLive("Stream.record", "this stream");
    return recordEvent(this.#state, this);
  }

  /**
   * Makes work queued here from now on run after the event, which may be another stream's.
   *
   * @throws RopeDisposedError, RopeArgumentError; RopeDeviceError for an event of another device.
   */
  wait(event: DeviceEvent): void {
    this.#checkLive("Stream.wait", "this stream");
    waitForEvent(this.#state, this, event);
  }

  /**
   * Releases the stream. Harmless when repeated.
   *
   * @throws RopeArgumentError for the default stream and for one that records.
   */
  dispose(): void {
    if (this.#disposed) return;
    const operation = "Stream.dispose";
    if (this.#handle === 0) throw argumentError(operation, "this stream", "one that createStream() made", "the device's default stream");
    if (this.#state.recording?.stream === this) {
      throw argumentError(
        operation,
        "this stream",
        "one that createStream() made",
        "the stream that records a graph",
        "It ends with the capture.",
      );
    }
    this.#disposed = true;
    net.forget(this);
    destroy(this.#handle);
  }

  /** The same as dispose(), for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #synchronize(operation: string): void {
    this.#checkLive(operation, "this stream");
    this.#state.refuseWhileRecording(operation, "Waiting");
    blocks.synchronize.u16(layout.device, this.#state.code);
    blocks.synchronize.u64(layout.stream, this.#handle);
    blocks.synchronize.call(operation);
  }

  #checkLive(operation: string, argument: string): void {
    if (this.#disposed) {
      throw new RopeDisposedError({
        operation,
        argument,
        expected: "live",
        actual: "a stream that was disposed of or whose recording has ended",
      });
    }
  }
}

/** A Stream for a handle that is not its own to destroy: the default stream, or the one that records. */
export function makeStream(state: DeviceState, handle: number): Stream {
  return make(state, handle);
}

/** Ends the use of a stream that C has already released. */
export function retireStream(stream: Stream): void {
  retire(stream);
}

/** A new stream of the device. */
export function createStream(state: DeviceState): Stream {
  const operation = "Device.createStream";
  state.refuseWhileRecording(operation, "Making a stream");
  blocks.create.u16(layout.device, state.code);
  blocks.create.u64(layout.realm, realm());
  blocks.create.call(operation);
  const handle = blocks.create.getU64(layout.stream);
  const stream = make(state, handle);
  net.watch(stream, handle);
  return stream;
}

/**
 * The stream of an operation's `stream` option: where there is none the device's current one. While a graph is being recorded no other than the
 * recording one: the operation would run at once, on memory that is written only when the graph is launched.
 */
export function resolveStream(operation: string, value: unknown, state: DeviceState): Stream {
  if (value === undefined) return state.current;
  const stream = check(operation, "stream", value, state);
  if (state.recording !== null && state.recording.stream !== stream) {
    const advice = "Operations on other streams cannot run inside a capture: call them before or after it.";
    throw argumentError(operation, "stream", "the stream that records, or none", "another one while a graph is being recorded", advice);
  }
  return stream;
}
