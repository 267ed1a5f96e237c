// A Worker that makes tensors, streams, events and graphs, disposes of none, and says what it sees. It ends when it is told to or terminated.
import { Device, Tensor } from "../../mod.ts";

interface WorkerScope {
  postMessage(message: unknown): void;
  close(): void;
  onmessage: ((event: { data: unknown }) => void) | null;
}
const scope = globalThis as unknown as WorkerScope;

const device = Device.open("cpu");
// On globalThis, so that nothing is collected before the Worker ends.
const kept: unknown[] = (globalThis as unknown as { kept: unknown[] }).kept = [];
const x = Tensor.full([1000], 3, { device });
const y = Tensor.zeros([1000], { device });
const large = Tensor.empty([2 ** 31 + 4096], { dtype: "uint8", device }); // native memory
kept.push(x, y, large);
for (let i = 0; i < 5; i++) {
  const stream = device.createStream();
  y.copyFrom(x, { stream });
  kept.push(stream, stream.record(), device.capture(() => y.copyFrom(x)));
}
const sum = y.readBlocking().reduce((total, value) => total + value, 0);
scope.onmessage = ({ data }): void => {
  if (data === "close") scope.close();
  else scope.postMessage({ sum: data, liveTensors: device.memory().liveTensors });
};
scope.postMessage({ sum, liveTensors: device.memory().liveTensors });
