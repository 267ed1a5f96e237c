// A Worker that is sent the name of a device and opens it; with every later message it synchronizes it and says which fault it was told of.
import { Device, type RopeFaultError } from "../../mod.ts";

interface WorkerScope {
  postMessage(message: unknown): void;
  onmessage: ((event: { data: unknown }) => void) | null;
}
const scope = globalThis as unknown as WorkerScope;

let device: Device | undefined;
scope.onmessage = async ({ data }): Promise<void> => {
  if (device === undefined) {
    device = Device.open(data as "cpu");
    return scope.postMessage("opened");
  }
  try {
    await device.synchronize();
    scope.postMessage("nothing");
  } catch (error) {
    scope.postMessage(`${(error as Error).name} ${(error as RopeFaultError).fault.index}`);
  }
};
