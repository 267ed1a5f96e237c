// A queue of work on a device. Operations run on the device's default stream unless told otherwise.
import { argumentError, describe, notConstructible } from "../arguments.ts";
import { RopeDeviceError, RopeDisposedError, RopeFatalError } from "../errors.ts";
import { Block } from "../native/block.ts";
import { layouts } from "../native/layouts.ts";
import { HandleNet } from "../native/net.ts";
import { realm } from "../native/realm.ts";
import { type DeviceEvent, recordEvent, waitForEvent } from "./event.ts";
import type { DeviceState } from "./state.ts";
import { StreamState } from "./stream_state.ts";
import { finish, finished } from "./waiting.ts";

const layout = layouts.stream_args;
const blocks = {
  create: new Block(layout, "rope_stream_create"),
  destroy: new Block(layout, "rope_stream_destroy"),
};

function destroy(stream: StreamState): void {
  const { state } = stream;
  // What was queued here goes on. The default stream is ordered after it, and inherits the memory that it had.
  if (state.queued) {
    ignoringFailure(() => state.defaultStream.waitFor(stream));
    state.pool.adopt(stream);
  }
  stream.live = false;
  state.streams.delete(stream);
  for (const other of state.streams) other.forget(stream);
  blocks.destroy.u16(layout.device, state.code);
  blocks.destroy.u64(layout.stream, stream.handle);
  blocks.destroy.callUnlessFailed("Stream.dispose");
}

function ignoringFailure(call: () => void): void {
  try {
    call();
  } catch (error) {
    if (!(error instanceof RopeFatalError)) throw error;
  }
}

const net = new HandleNet("Stream", destroy);
let make: (stream: StreamState) => Stream;
let check: (operation: string, argument: string, value: unknown, state: DeviceState) => StreamState;

/**
 * A queue of work on a device, made by `device.createStream()`; `device.stream` is the default one. Work on one stream runs in order, work
 * on several at the same time; a tensor that is used on several is put in order without being asked. On the CPU every operation is done
 * when its call returns; a program written for streams runs there unchanged.
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
  readonly #stream: StreamState;

  private constructor(stream: StreamState) {
    if (stream === undefined) throw notConstructible("Stream", "device.createStream()");
    this.#stream = stream;
  }

  static {
    make = (stream) => new Stream(stream);
    check = (operation, argument, value, state) => {
      if (typeof value !== "object" || value === null || !(#stream in value)) {
        throw argumentError(operation, argument, "a Stream", describe(value), "device.stream is one, device.createStream() makes another.");
      }
      const stream = value.#stream;
      if (stream.state !== state) {
        throw new RopeDeviceError({ operation, argument, expected: `a stream of ${state.name}`, actual: `one of ${stream.state.name}` });
      }
      return checkLive(operation, argument, stream);
    };
  }

  /** The stream's number in the C ABI; 0 is the default stream. */
  get handle(): number {
    return this.#stream.handle;
  }

  /**
   * Waits until the work queued here so far is done, without blocking the event loop. The process stays alive for it.
   *
   * @throws RopeDisposedError; RopeFaultError, once, if a kernel met an index out of range since the last one (of any stream of the
   * device); RopeFatalError if the device failed; all as rejections.
   */
  async synchronize(): Promise<void> {
    const operation = "Stream.synchronize";
    const stream = this.#checkRunning(operation);
    if (stream.state.queued) await finished(operation, stream, 0, "reported");
    else finish(operation, stream, "reported");
  }

  /** Waits until the work queued here is done, and blocks this thread meanwhile. For scripts. Throws what synchronize() rejects with. */
  synchronizeBlocking(): void {
    const operation = "Stream.synchronizeBlocking";
    finish(operation, this.#checkRunning(operation), "reported");
  }

  /**
   * Marks this point in the stream's work.
   *
   * @throws RopeDisposedError; RopeArgumentError while a graph is being recorded.
   */
  record(): DeviceEvent {
    return recordEvent(checkLive("Stream.record", "this stream", this.#stream));
  }

  /**
   * Makes work queued here from now on run after the event, which may be another stream's.
   *
   * @throws RopeDisposedError; RopeArgumentError, also while a graph is being recorded; RopeDeviceError for an event of another device.
   */
  wait(event: DeviceEvent): void {
    waitForEvent(checkLive("Stream.wait", "this stream", this.#stream), event);
  }

  /**
   * Releases the stream. What was queued on it is still done. Harmless when repeated.
   *
   * @throws RopeArgumentError for the default stream and for one that records.
   */
  dispose(): void {
    const stream = this.#stream;
    if (!stream.live) return;
    const operation = "Stream.dispose";
    if (stream.handle === 0) throw argumentError(operation, "this stream", "one that createStream() made", "the device's default stream");
    if (stream.state.recording?.stream === stream) {
      throw argumentError(
        operation,
        "this stream",
        "one that createStream() made",
        "the stream that records a graph",
        "It ends with the capture.",
      );
    }
    net.forget(this);
    destroy(stream);
  }

  /** The same as dispose(), for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #checkRunning(operation: string): StreamState {
    const stream = checkLive(operation, "this stream", this.#stream);
    stream.state.refuseWhileRecording(operation, "Waiting");
    return stream;
  }
}

function checkLive(operation: string, argument: string, stream: StreamState): StreamState {
  if (stream.live) return stream;
  throw new RopeDisposedError({
    operation,
    argument,
    expected: "live",
    actual: "a stream that was disposed of or whose recording has ended",
  });
}

/** The public face of a stream that is not the face's to destroy: the default stream, or the one that records. */
export function streamOf(stream: StreamState): Stream {
  return make(stream);
}

/** A new stream of the device. */
export function createStream(state: DeviceState): Stream {
  const operation = "Device.createStream";
  state.refuseWhileRecording(operation, "Making a stream");
  blocks.create.u16(layout.device, state.code);
  blocks.create.u64(layout.realm, realm());
  blocks.create.call(operation);
  const stream = new StreamState(state, blocks.create.getU64(layout.stream));
  state.streams.add(stream);
  const face = make(stream);
  net.watch(face, stream);
  return face;
}

/**
 * The stream of an operation's `stream` option: where there is none the device's current one. While a graph is being recorded no other than
 * the recording one: the operation would run at once, on memory that is written only when the graph is launched.
 */
export function resolveStream(operation: string, value: unknown, state: DeviceState): StreamState {
  if (value === undefined) return state.current;
  const stream = check(operation, "stream", value, state);
  if (state.recording !== null && state.recording.stream !== stream) {
    const advice = "Operations on other streams cannot run inside a capture: call them before or after it.";
    throw argumentError(operation, "stream", "the stream that records, or none", "another one while a graph is being recorded", advice);
  }
  return stream;
}
