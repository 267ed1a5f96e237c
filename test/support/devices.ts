// The devices that tests run on: every usable one, so that a machine with a GPU runs them there too. `describe.each(devices)("on %s", ...)`.
import { Device, type DeviceLike } from "../../mod.ts";

/** The names of the devices that work here. */
export const devices: readonly DeviceLike[] = Device.list().filter((info) => info.usable).map((info) => info.name as DeviceLike);

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
