// A Worker that is sent the name of a device, makes tensors, streams, events and graphs there, disposes of none, and says what it sees. Then it answers
// until it is told to close or terminated.
import { Device, Tensor } from "../../mod.ts";

interface WorkerScope {
  postMessage(message: unknown): void;
  close(): void;
  onmessage: ((event: { data: unknown }) => void) | null;
}
const scope = globalThis as unknown as WorkerScope;

// On globalThis, so that nothing is collected before the Worker ends.
const kept: unknown[] = (globalThis as unknown as { kept: unknown[] }).kept = [];
let answer: (() => unknown) | undefined;

function work(device: Device): () => unknown {
  const x = Tensor.full([1000], 3, { device });
  const y = Tensor.zeros([1000], { device });
  const large = Tensor.empty([2 ** 31 + 4096], { dtype: "uint8", device }); // beyond the pool's classes
  kept.push(x, y, large);
  for (let i = 0; i < 5; i++) {
    const stream = device.createStream();
    y.copyFrom(x, { stream });
    kept.push(stream, stream.record(), device.capture(() => y.copyFrom(x)));
  }
  const sum = y.readBlocking().reduce((total, value) => total + value, 0);
  return () => ({ sum, liveTensors: device.memory().liveTensors });
}

scope.onmessage = ({ data }): void => {
  if (data === "close") return scope.close();
  answer ??= work(Device.open(data as "cpu"));
  scope.postMessage(answer());
};
