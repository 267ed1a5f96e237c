// The devices that tests run on: every usable one, so that a machine with a GPU runs them there too. `describe.each(devices)("on %s", ...)`.
import { Device, type DeviceLike } from "../../mod.ts";

/** The names of the devices that work here. */
export const devices: readonly DeviceLike[] = Device.list().filter((info) => info.usable).map((info) => info.name as DeviceLike);

/** Those among them that are GPUs. */
export const gpus: readonly `cuda:${number}`[] = devices.filter((name): name is `cuda:${number}` => String(name).startsWith("cuda:"));

/** The device of a name. */
export function open(name: DeviceLike): Device {
  return name instanceof Device ? name : Device.open(name);
}

/** Runs a body and returns how the device's counters of live memory changed: all 0 where nothing leaked. */
export function liveChange(device: Device, body: () => void): { bytesInUse: number; liveTensors: number } {
  const before = device.memory();
  body();
  const after = device.memory();
  return { bytesInUse: after.bytesInUse - before.bytesInUse, liveTensors: after.liveTensors - before.liveTensors };
}

/**
 * The error of a call that meets an index out of range: on the CPU the call throws it when it has finished, on a GPU the next wait does. `call` must
 * dispose of its results.
 */
export function faultOf(device: Device, call: () => unknown): unknown {
  try {
    call();
    device.stream.synchronizeBlocking();
  } catch (error) {
    return error;
  }
  throw new Error("no fault was reported");
}
