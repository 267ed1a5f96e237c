// What the library knows of an open device. The public Device is a face of this; streams, storages and tensors refer to it directly.
import { argumentError } from "../arguments.ts";
import type { Device } from "./device.ts";
import type { Recording } from "./graph.ts";
import { CpuPool } from "./pool.ts";
import { makeStream, type Stream } from "./stream.ts";

/** An open device of this realm. */
export class DeviceState {
  /** The device's number in rope.h: kind * 256 + index. */
  readonly code: number;
  /** "cpu" */
  readonly name: string;
  /** Its public face. */
  readonly device: Device;
  /** Where its memory comes from. */
  readonly pool: CpuPool;
  /** Live Tensors, views and borrowed ones too. */
  liveTensors: number = 0;
  /** The graph being recorded, if one is. */
  recording: Recording | null = null;
  /** Handle 0: there from the start and never disposed of. */
  readonly defaultStream: Stream;
  /** Where operations run that are not told: the default stream, while recording the one that records. */
  current: Stream;

  /** One per device and realm, made by Device.open. */
  constructor(device: Device, name: string, code: number) {
    this.device = device;
    this.name = name;
    this.code = code;
    this.pool = new CpuPool(this);
    this.defaultStream = makeStream(this, 0);
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
