// Devices: where tensors live and operations run. One object per device and realm.
import { argumentError, describe, notConstructible } from "../arguments.ts";
import { type Fault, RopeDeviceError } from "../errors.ts";
import { Block } from "../native/block.ts";
import { enums, layouts } from "../native/layouts.ts";
import { library } from "../native/library.ts";
import { capture, type Graph } from "./graph.ts";
import { DeviceState } from "./state.ts";
import { createStream, type Stream } from "./stream.ts";

/** How options name a device: the Device itself or its name. "auto", the default, is cuda:0 where it works and the CPU otherwise. */
export type DeviceLike = Device | "auto" | "cpu" | `cuda:${number}`;

/** What a device is. */
export interface DeviceInfo {
  /** "cpu", "cuda:0" */
  readonly name: string;
  /** What sort of device it is. */
  readonly kind: "cpu" | "cuda";
  /** The processor's own name, and which instruction set librope uses of it. */
  readonly description: string;
  /** All the memory it has. */
  readonly memoryBytes: number;
  /** CUDA: the compute capability, as [major, minor]. */
  readonly computeCapability?: [number, number];
  /** Whether librope can use it. */
  readonly usable: boolean;
  /** Why not. */
  readonly reason?: string;
}

/** The counters of a device's memory in this realm (the main thread or a Worker). */
export interface DeviceMemory {
  /** Bytes that live tensors were made with. Arrays borrowed from the caller are not counted. */
  readonly bytesInUse: number;
  /** Bytes the pool holds, in use or free. */
  readonly bytesReserved: number;
  /** The most that bytesInUse has been. */
  readonly peakBytesInUse: number;
  /** Tensors not yet disposed of, views and borrowed ones too. */
  readonly liveTensors: number;
  /** How often new memory was taken from the system. */
  readonly driverAllocations: number;
}

const opened = new Map<string, Device>();
let stateOf: (device: Device) => DeviceState;
let isDevice: (value: unknown) => value is Device;
let construct: (name: string, code: number) => Device;

/**
 * A device. `Device.open()` gives the best there is.
 *
 * @example
 * ```ts
 * import { Device, Tensor } from "@librope/rope";
 *
 * const device = Device.open("cpu");
 * const before = device.memory().bytesInUse;
 * {
 *   using x = Tensor.zeros([1024], { device });
 *   console.assert(device.memory().bytesInUse === before + 4096);
 * }
 * console.assert(device.memory().bytesInUse === before);
 * ```
 */
export class Device {
  readonly #state: DeviceState;
  #info: DeviceInfo | null = null;

  private constructor(name: string, code: number) {
    if (name === undefined) throw notConstructible("Device", "Device.open()");
    this.#state = new DeviceState(this, name, code);
  }

  static {
    stateOf = (device) => device.#state;
    isDevice = (value) => typeof value === "object" && value !== null && #state in value;
    construct = (name, code) => new Device(name, code);
  }

  /**
   * Opens a device by name; opening it again gives the same object.
   *
   * @param name "auto" (the default: cuda:0 where it works, else the CPU), "cpu", "cuda:0", "cuda:1" and so on.
   * @throws RopeArgumentError for any other name; RopeDeviceError where the device is not there; RopeLibraryError where librope.so is not.
   */
  static open(name: "auto" | "cpu" | `cuda:${number}` = "auto"): Device {
    return openDevice("Device.open", "name", name);
  }

  /** The devices of this machine that librope knows, usable or not. */
  static list(): DeviceInfo[] {
    return [openDevice("Device.list", "name", "cpu").info];
  }

  /** "cpu" or "cuda:0". */
  get name(): string {
    return this.#state.name;
  }

  /** What sort of device it is. */
  get kind(): "cpu" | "cuda" {
    return "cpu";
  }

  /** What the device is: its processor, its memory. */
  get info(): DeviceInfo {
    return this.#info ??= readInfo(this.#state);
  }

  /** The default stream. */
  get stream(): Stream {
    return this.#state.defaultStream;
  }

  /** Makes a stream. Dispose of it when it is no longer needed. */
  createStream(): Stream {
    return createStream(this.#state);
  }

  /**
   * Waits until all work of the device is done, without blocking the event loop.
   *
   * @throws RopeFaultError if a kernel met an index out of range; RopeFatalError if the device failed; RopeArgumentError while a graph is
   * being recorded; all as rejections.
   */
  async synchronize(): Promise<void> {
    this.#state.refuseWhileRecording("Device.synchronize", "Waiting");
    await this.stream.synchronize();
  }

  /**
   * Records what `record` calls and runs nothing. Operations called inside use the recording stream, and no other may be given. Tensors made inside
   * belong to the graph: they can be read after each launch and are disposed of with it. Memory that recorded operations touch is kept until
   * then, even where its tensors are disposed of. Positions must be tensors; reading, writing and waiting cannot be recorded.
   *
   * @throws RopeArgumentError inside another capture, for an async function, and for what cannot be recorded; what `record` throws. Either way
   * the recording has ended and nothing of it is left.
   */
  capture(record: (stream: Stream) => void): Graph {
    return capture(this.#state, record);
  }

  /** The memory counters of this device in this realm. */
  memory(): DeviceMemory {
    const { pool, liveTensors } = this.#state;
    return {
      bytesInUse: pool.bytesInUse,
      bytesReserved: pool.bytesReserved,
      peakBytesInUse: pool.peakBytesInUse,
      liveTensors,
      driverAllocations: pool.driverAllocations,
    };
  }

  /** Gives the pool's free buffers back to the system. */
  trim(): void {
    this.#state.pool.trim();
  }

  /**
   * Takes the faults that kernels have met since they were last taken; the next synchronize does not throw them again. On the CPU faults
   * throw from the call itself, so there are none to take.
   */
  faults(): Fault[] {
    return [];
  }

  /** Whether the device works. A failed one stays failed: every later call throws RopeFatalError. */
  health(): { ok: boolean; error?: string } {
    return { ok: true };
  }
}

/** The internal side of a device. */
export function deviceState(device: Device): DeviceState {
  return stateOf(device);
}

/** The device of an option: a Device, a name, or where there is none "auto". */
export function resolveDevice(operation: string, argument: string, value: unknown): DeviceState {
  if (isDevice(value)) return stateOf(value);
  return stateOf(openDevice(operation, argument, value === undefined ? "auto" : value));
}

/** Whether a value names a device, there or not. */
export function isDeviceLike(value: unknown): value is DeviceLike {
  return isDevice(value) || (typeof value === "string" && isDeviceName(value));
}

function isDeviceName(value: string): boolean {
  return value === "auto" || value === "cpu" || /^cuda:(0|[1-9][0-9]{0,8})$/.test(value);
}

function openDevice(operation: string, argument: string, name: unknown): Device {
  if (typeof name !== "string" || !isDeviceName(name)) {
    const forms = operation === "Device.open" ? "" : "a Device, ";
    throw argumentError(operation, argument, `${forms}"auto", "cpu" or "cuda:<number>" ("cuda:0")`, describe(name));
  }
  if (name.startsWith("cuda:")) {
    throw new RopeDeviceError({
      operation,
      argument,
      message: `there is no ${name}: this librope was built without CUDA`,
      advice: 'Use "cpu", or "auto", which takes the best device there is.',
    });
  }
  const known = opened.get("cpu");
  if (known !== undefined) return known;
  library(); // a missing librope.so is reported here, not by the first operation
  const device = construct("cpu", enums.CPU << 8);
  opened.set("cpu", device);
  return device;
}

function readInfo(state: DeviceState): DeviceInfo {
  const layout = layouts.device_info_args;
  const block = new Block(layout, "rope_device_info");
  block.u16(layout.device, state.code);
  block.call("Device.info");
  return Object.freeze({
    name: state.name,
    kind: "cpu",
    description: block.getText(layout.description, layout.size - layout.description),
    memoryBytes: block.getU64(layout.memory_bytes),
    usable: block.getU32(layout.usable) !== 0,
  });
}
