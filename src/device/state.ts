// What the library knows of an open device. The public Device is a face of this; streams, storages and tensors refer to it directly.
import { argumentError } from "../arguments.ts";
import { enums } from "../native/layouts.ts";
import { CpuPool } from "./cpu_pool.ts";
import { CudaPool } from "./cuda_pool.ts";
import type { Device } from "./device.ts";
import type { Recording } from "./graph.ts";
import type { Pool } from "./pool.ts";
import { Staging } from "./staging.ts";
import { StreamState } from "./stream_state.ts";

/** An open device of this realm. */
export class DeviceState {
  /** The device's number in rope.h: kind * 256 + index. */
  readonly code: number;
  /** "cpu", "cuda:0" */
  readonly name: string;
  /** Its public face. */
  readonly device: Device;
  /** Whether calls return before their work is done: CUDA. On the CPU nothing ever has to be waited for. */
  readonly queued: boolean;
  /** Where its memory comes from. */
  readonly pool: Pool;
  /** Where it copies to for the host; null on the CPU. */
  readonly staging: Staging | null;
  /** Live Tensors, views and borrowed ones too. */
  liveTensors: number = 0;
  /** The graph being recorded, if one is. */
  recording: Recording | null = null;
  /** Handle 0: there from the start and never disposed of. */
  readonly defaultStream: StreamState;
  /** The default stream and those made by createStream() that are still there. */
  readonly streams: Set<StreamState>;
  /** Where operations run that are not told: the default stream, while recording the one that records, within a rotation its own. */
  current: StreamState;

  /** One per device and realm, made by Device.open. */
  constructor(device: Device, name: string, code: number) {
    this.device = device;
    this.name = name;
    this.code = code;
    this.queued = code >>> 8 !== enums.CPU;
    this.pool = this.queued ? new CudaPool(this) : new CpuPool(this);
    this.staging = this.queued ? new Staging(this) : null;
    this.defaultStream = new StreamState(this, 0);
    this.streams = new Set([this.defaultStream]);
    this.current = this.defaultStream;
  }

  /** Throws where a graph is being recorded: `what` cannot be part of one. */
  refuseWhileRecording(operation: string, what: string): void {
    if (this.recording !== null) {
      throw argumentError(
        operation,
        "device",
        "one that is not recording",
        `${this.name}, which records a graph`,
        `${what} cannot be recorded: do it before or after the capture.`,
      );
    }
  }
}
