// Devices: where tensors live and operations run. One object per device and realm.
import { argumentError, describe, notConstructible } from "../arguments.ts";
import { type Fault, RopeDeviceError } from "../errors.ts";
import { enums } from "../native/layouts.ts";
import { library } from "../native/library.ts";
import { capture, type Graph } from "./graph.ts";
import { failureOf, requireHealthy, takeFault } from "./health.ts";
import { cudaCode, type DeviceInfo, isAbsence, listGpus, readInfo } from "./info.ts";
import { DeviceState } from "./state.ts";
import { createStream, type Stream, streamOf } from "./stream.ts";
import { finish, finished } from "./waiting.ts";

/** How options name a device: the Device itself or its name. "auto", the default, is cuda:0 where it works and the CPU otherwise. */
export type DeviceLike = Device | "auto" | "cpu" | `cuda:${number}`;

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
  /** How often memory was taken from the system or the GPU's driver. In a steady state it stays what it is. */
  readonly driverAllocations: number;
}

const cpuCode = enums.CPU << 8;
const opened = new Map<unknown, Device>();
let stateOf: (device: Device) => DeviceState;
let isDevice: (value: unknown) => value is Device;
let construct: (info: DeviceInfo, code: number) => Device;

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
  readonly #info: DeviceInfo;
  readonly #stream: Stream;

  private constructor(info: DeviceInfo, code: number) {
    if (info === undefined) throw notConstructible("Device", "Device.open()");
    this.#state = new DeviceState(this, info.name, code);
    this.#info = info;
    this.#stream = streamOf(this.#state.defaultStream);
  }

  static {
    stateOf = (device) => device.#state;
    isDevice = (value) => typeof value === "object" && value !== null && #state in value;
    construct = (info, code) => new Device(info, code);
  }

  /**
   * Opens a device by name; opening it again gives the same object.
   *
   * @param name "auto" (the default: cuda:0 where it works, else the CPU), "cpu", "cuda:0", "cuda:1" and so on.
   * @throws RopeArgumentError for any other name; RopeDeviceError where the device is not there or cannot be used, of "auto" too where
   * there is a GPU's driver that does not work; RopeLibraryError where librope.so is not there.
   */
  static open(name: "auto" | "cpu" | `cuda:${number}` = "auto"): Device {
    return openDevice("Device.open", "name", name);
  }

  /** The devices of this machine that librope knows, usable or not. */
  static list(): DeviceInfo[] {
    const operation = "Device.list";
    return [openDevice(operation, "name", "cpu").info, ...listGpus(operation)];
  }

  /** "cpu" or "cuda:0". */
  get name(): string {
    return this.#state.name;
  }

  /** What sort of device it is. */
  get kind(): "cpu" | "cuda" {
    return this.#info.kind;
  }

  /** What the device is: its processor, its memory. */
  get info(): DeviceInfo {
    return this.#info;
  }

  /** The default stream. */
  get stream(): Stream {
    return this.#stream;
  }

  /** Makes a stream. Dispose of it when it is no longer needed. */
  createStream(): Stream {
    return createStream(this.#state);
  }

  /**
   * Waits until the work of all streams of the device is done, as far as it was queued before this call, without blocking the event loop.
   * The process stays alive for it.
   *
   * @throws RopeFaultError, once, if a kernel met an index out of range since the last one; RopeFatalError if the device failed;
   * RopeArgumentError while a graph is being recorded; all as rejections.
   */
  async synchronize(): Promise<void> {
    const operation = "Device.synchronize";
    const { defaultStream, queued, streams } = this.#state;
    this.#state.refuseWhileRecording(operation, "Waiting");
    if (!queued) return finish(operation, defaultStream, "reported");
    const others = [...streams].filter((stream) => stream !== defaultStream);
    if (others.length > 0) await Promise.all(others.map((stream) => finished(operation, stream, 0, "left")));
    await finished(operation, defaultStream, 0, "reported"); // now the fault of any stream is known
  }

  /**
   * Records what `record` calls and runs nothing. Operations called inside use the recording stream, and no other may be given. Tensors
   * made inside belong to the graph: they can be read after each launch and are disposed of with it. Memory that recorded operations touch
   * is kept until then, even where its tensors are disposed of. Positions must be tensors; reading, writing and waiting cannot be recorded.
   *
   * @throws RopeArgumentError inside another capture, for an async function, and for what cannot be recorded; what `record` throws. Either
   * way the recording has ended and nothing of it is left.
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

  /**
   * Gives the pool's free buffers back to the system, or to the GPU's driver.
   *
   * @throws RopeArgumentError while a graph is being recorded; RopeFatalError.
   */
  trim(): void {
    this.#state.refuseWhileRecording("Device.trim", "Trimming");
    this.#state.pool.trim();
  }

  /**
   * Takes the fault that kernels have met since one was last taken or reported, the first if there were several; the next synchronize does
   * not report it again. Waits for nothing. On the CPU faults throw from the call itself, so there are none to take.
   */
  faults(): Fault[] {
    if (!this.#state.queued) return [];
    const fault = takeFault(this.#state, "Device.faults");
    return fault === undefined ? [] : [fault];
  }

  /** Whether the device works, as far as is known without waiting. A failed one stays failed: every later call throws RopeFatalError. */
  health(): { ok: boolean; error?: string } {
    const error = this.#state.queued ? failureOf(this.#state, "Device.health") : undefined;
    return error === undefined ? { ok: true } : { ok: false, error };
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
  const known = opened.get(name);
  if (known !== undefined) return known;
  if (typeof name !== "string" || !isDeviceName(name)) {
    const forms = operation === "Device.open" ? "" : "a Device, ";
    throw argumentError(operation, argument, `${forms}"auto", "cpu" or "cuda:<number>" ("cuda:0")`, describe(name));
  }
  library(); // a missing librope.so is reported here, not by the first operation
  const device = name === "auto"
    ? openBest(operation)
    : name === "cpu"
    ? construct(readInfo(operation, name, cpuCode), cpuCode)
    : openGpu(operation, argument, name);
  opened.set(name, device);
  return device;
}

function openBest(operation: string): Device {
  try {
    if (readInfo(operation, "cuda:0", cudaCode(0)).usable) return openDevice(operation, "name", "cuda:0");
  } catch (error) {
    if (!isAbsence(error)) throw error;
  }
  return openDevice(operation, "name", "cpu");
}

function openGpu(operation: string, argument: string, name: string): Device {
  const index = Number(name.slice("cuda:".length));
  if (index > 255) throw new RopeDeviceError({ operation, argument, expected: "one of those that Device.list() names", actual: name });
  const code = cudaCode(index);
  const info = readInfo(operation, name, code);
  if (!info.usable) {
    throw new RopeDeviceError({
      operation,
      argument,
      message: `${name} (${info.description}) cannot be used: ${info.reason ?? "it does not work"}`,
    });
  }
  const device = construct(info, code);
  requireHealthy(stateOf(device), operation); // opens its context: what is wrong with it is reported here
  takeFault(stateOf(device), operation); // from now on this realm is told of faults; one from before is not its own
  return device;
}
