// A Worker that is sent the name of a device, queues a second's work on it, waits for that, and says so before it has come.
import { Device, Tensor } from "../../mod.ts";
import { Load } from "./load.ts";

interface WorkerScope {
  postMessage(message: unknown): void;
  onmessage: ((event: { data: unknown }) => void) | null;
}
const scope = globalThis as unknown as WorkerScope;

scope.onmessage = async ({ data }): Promise<void> => {
  const device = Device.open(data as "cpu");
  const load = await Load.of(device);
  const x = Tensor.full([1000], 1, { device });
  const stream = device.createStream();
  load.on(stream, 1000);
  const waits = [stream.synchronize(), device.synchronize(), x.read()];
  scope.postMessage("waiting");
  await Promise.all(waits);
  scope.postMessage("done");
};
