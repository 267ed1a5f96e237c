// A Worker that is sent the name of a device, queues work on eight streams of it, waits for that 64 times at once, and says what came of it.
import { Device, Tensor } from "../../mod.ts";
import { deviceState } from "../../src/device/device.ts";
import { finished } from "../../src/device/waiting.ts";

interface WorkerScope {
  postMessage(message: unknown): void;
  onmessage: ((event: { data: unknown }) => void) | null;
}
const scope = globalThis as unknown as WorkerScope;

async function work(device: Device): Promise<unknown> {
  const streams = Array.from({ length: 8 }, () => device.createStream());
  const source = Tensor.full([2 ** 20], 3, { device });
  const targets = streams.map((stream) => Tensor.zeros([2 ** 20], { device }).copyFrom(source, { stream }));
  const state = deviceState(device);
  const all = [...state.streams];
  const waits = Array.from({ length: 64 }, (_, i) => finished("test", all[i % all.length] ?? state.defaultStream, 0, "reported"));
  await Promise.all(waits);
  const right = targets.filter((target) => target.readBlocking()[2 ** 20 - 1] === 3).length;
  for (const each of [source, ...targets, ...streams]) each.dispose();
  return { waits: waits.length, right };
}

scope.onmessage = ({ data }): void => {
  const answer = (message: unknown): void => scope.postMessage(message);
  work(Device.open(data as "cpu")).then(answer, (error) => answer(String(error)));
};
