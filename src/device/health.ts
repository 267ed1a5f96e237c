// What the C library knows of a device's state: whether it has failed for good, and the fault that waits to be reported.
import { type Fault, RopeFatalError } from "../errors.ts";
import { Block } from "../native/block.ts";
import { layouts } from "../native/layouts.ts";
import { realm } from "../native/realm.ts";
import { publicOperation, readFault } from "../native/status.ts";
import type { DeviceState } from "./state.ts";

const layout = layouts.health_args;
const block = new Block(layout, "rope_device_health");

function ask(state: DeviceState, operation: string, realm: number): void {
  block.u16(layout.device, state.code);
  block.u64(layout.realm, realm);
  block.call(operation);
}

/** Why the device has failed for good; undefined where it works. Opens the device's context where nothing has yet. */
export function failureOf(state: DeviceState, operation: string): string | undefined {
  ask(state, operation, 0); // no realm of ours: its fault stays where it is
  return block.getU16(layout.failed) === 0 ? undefined : block.getText(layout.reason, layout.size - layout.reason);
}

/** Throws where the device has failed for good. */
export function requireHealthy(state: DeviceState, operation: string): void {
  const reason = failureOf(state, operation);
  if (reason === undefined) return;
  throw new RopeFatalError({
    operation,
    argument: "device",
    expected: `${state.name} in working order`,
    actual: `failed (${reason})`,
    advice: "Its memory is lost. Start the process again.",
  });
}

/** Takes the fault that this realm has not been told of, if there is one. */
export function takeFault(state: DeviceState, operation: string): Fault | undefined {
  ask(state, operation, realm());
  if (block.getU32(layout.fault) === 0) return undefined;
  const met = block.getText(layout.operation, layout.reason - layout.operation);
  return readFault(new DataView(block.bytes.buffer), layout.first, publicOperation(met));
}
