// A point in the work of a stream, for other streams to wait for and to measure time between.
import { argumentError, describe, notConstructible } from "../arguments.ts";
import { RopeDeviceError, RopeDisposedError } from "../errors.ts";
import { Block } from "../native/block.ts";
import { layouts } from "../native/layouts.ts";
import { HandleNet } from "../native/net.ts";
import { realm } from "../native/realm.ts";
import type { DeviceState } from "./state.ts";
import type { StreamState } from "./stream_state.ts";
import { finished } from "./waiting.ts";

const layout = layouts.event_args;
const blocks = {
  record: new Block(layout, "rope_event_record"),
  wait: new Block(layout, "rope_event_wait"),
  synchronize: new Block(layout, "rope_event_synchronize"),
  elapsed: new Block(layout, "rope_event_elapsed"),
  destroy: new Block(layout, "rope_event_destroy"),
};

function destroy(handle: number): void {
  blocks.destroy.u64(layout.event, handle);
  blocks.destroy.callUnlessFailed("DeviceEvent.dispose");
}

const net = new HandleNet("DeviceEvent", destroy);
let make: (state: DeviceState, handle: number) => DeviceEvent;
let handleOf: (operation: string, argument: string, value: unknown, state: DeviceState) => number;

/**
 * A point in a stream's work, made by `stream.record()`.
 *
 * @example
 * ```ts
 * import { Device, Tensor } from "@librope/rope";
 *
 * const device = Device.open("cpu");
 * using start = device.stream.record();
 * using x = Tensor.random([64, 64], { device });
 * using end = device.stream.record();
 * console.assert(await end.elapsedMs(start) >= 0);
 * ```
 */
export class DeviceEvent {
  readonly #state: DeviceState;
  readonly #handle: number;
  #disposed = false;

  private constructor(state: DeviceState, handle: number) {
    if (state === undefined) throw notConstructible("DeviceEvent", "stream.record()");
    this.#state = state;
    this.#handle = handle;
    net.watch(this, handle);
  }

  static {
    make = (state, handle) => new DeviceEvent(state, handle);
    handleOf = (operation, argument, value, state) => {
      if (typeof value !== "object" || value === null || !(#handle in value)) {
        throw argumentError(operation, argument, "a DeviceEvent", describe(value), "stream.record() makes one.");
      }
      if (value.#state !== state) {
        throw new RopeDeviceError({ operation, argument, expected: `an event of ${state.name}`, actual: `one of ${value.#state.name}` });
      }
      return value.#check(operation, argument);
    };
  }

  /**
   * Waits until the work before this point is done, without blocking the event loop. The process stays alive for it.
   *
   * @throws RopeDisposedError; RopeFaultError and RopeFatalError as Stream.synchronize; all as rejections.
   */
  async synchronize(): Promise<void> {
    const operation = "DeviceEvent.synchronize";
    this.#check(operation, "this event");
    const state = this.#state;
    state.refuseWhileRecording(operation, "Waiting");
    if (state.queued) return await finished(operation, state.defaultStream, this.#handle, "reported");
    blocks.synchronize.u16(layout.device, state.code);
    blocks.synchronize.u64(layout.event, this.#handle);
    blocks.synchronize.call(operation);
  }

  /**
   * Milliseconds from an earlier event to this one, once both have passed; negative where that one is later.
   *
   * @throws RopeArgumentError, RopeDisposedError, RopeDeviceError (events of two devices) or RopeFatalError, as a rejection.
   */
  async elapsedMs(since: DeviceEvent): Promise<number> {
    const operation = "DeviceEvent.elapsedMs";
    this.#check(operation, "this event");
    const state = this.#state;
    const start = handleOf(operation, "since", since, state);
    state.refuseWhileRecording(operation, "Waiting");
    if (state.queued) await Promise.all([start, this.#handle].map((handle) => finished(operation, state.defaultStream, handle, "left")));
    blocks.elapsed.u16(layout.device, state.code);
    blocks.elapsed.u64(layout.event, this.#handle);
    blocks.elapsed.u64(layout.since, start);
    blocks.elapsed.call(operation);
    return blocks.elapsed.getF64(layout.elapsed_ms);
  }

  /** Releases the event. Harmless when repeated. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    net.forget(this);
    destroy(this.#handle);
  }

  /** The same as dispose(), for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #check(operation: string, argument: string): number {
    if (this.#disposed) throw new RopeDisposedError({ operation, argument, expected: "live", actual: "a disposed one" });
    return this.#handle;
  }
}

/** Records a point in the work of a stream. */
export function recordEvent(stream: StreamState): DeviceEvent {
  const operation = "Stream.record";
  const { state } = stream;
  state.refuseWhileRecording(operation, "An event");
  blocks.record.u16(layout.device, state.code);
  blocks.record.u64(layout.realm, realm());
  blocks.record.stream(layout.stream, stream);
  blocks.record.call(operation);
  return make(state, blocks.record.getU64(layout.event));
}

/** Makes what is queued on the stream from now on run after the event. */
export function waitForEvent(stream: StreamState, event: unknown): void {
  const operation = "Stream.wait";
  const { state } = stream;
  const handle = handleOf(operation, "event", event, state);
  state.refuseWhileRecording(operation, "An event");
  blocks.wait.u16(layout.device, state.code);
  blocks.wait.stream(layout.stream, stream);
  blocks.wait.u64(layout.event, handle);
  blocks.wait.call(operation);
}
