// Devices that are not there, do not work, or fail for good; and realms that end in the middle of a wait. Each in a process of its own. What needs a
// GPU is skipped where there is none, and the trapping kernel where it was not built (../support/trap.cu).
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { describe, expect, test } from "bun:test";
import { Device, RopeError, RopeFaultError, RotaryEmbedding, Tensor } from "../../mod.ts";
import { gpus, open } from "../support/devices.ts";
import { projectUrl, root, runProgram, runtime, temporaryFolder } from "../support/runtime.ts";
import { usage } from "../support/usage.ts";

const opening = `
  import { Device } from "${projectUrl("mod.ts")}";
  const open = (name) => {
    try { return Device.open(name).name; } catch (error) { return error.constructor.name + ": " + error.message; }
  };
  console.log(JSON.stringify({ auto: open(), cuda: open("cuda:0"), list: Device.list().map(({ name, usable, reason }) => ({ name, usable, reason })) }));`;

interface Opened {
  readonly auto: string;
  readonly cuda: string;
  readonly list: { name: string; usable: boolean; reason?: string }[];
}

async function opened(env: Record<string, string>): Promise<Opened> {
  const { stdout, stderr, code } = await runProgram(opening, { env });
  if (code !== 0) throw new Error(stderr);
  return JSON.parse(stdout) as Opened;
}

describe("a GPU that cannot be used", () => {
  test("is not taken by auto, is an error by its name, and is not listed, where there is none", async () => {
    const { auto, cuda, list } = await opened({ CUDA_VISIBLE_DEVICES: "", FAKE_CUDA_DEVICES: "0" });
    expect(auto).toBe("cpu");
    expect(cuda).toMatch(/^RopeDeviceError: Device\.open: device must be .*, got cuda:0/);
    expect(list.map(({ name }) => name)).toEqual(["cpu"]);
  });

  // A driver without a single function. Deno hands LD_LIBRARY_PATH on to no child.
  test.skipIf(runtime === "deno" || !builtWithCuda())("is an error of auto too where its driver does not work", async () => {
    const folder = temporaryFolder();
    execFileSync("cc", ["-shared", "-o", join(folder, "libcuda.so.1"), "-x", "c", "/dev/null"]);
    const { auto, cuda, list } = await opened({ LD_LIBRARY_PATH: folder, FAKE_CUDA_DRIVER: "12000" });
    for (const error of [auto, cuda]) expect(error).toMatch(/^RopeDeviceError: Device\.open: driver must be .*[.] .*driver/);
    expect(list[1]).toMatchObject({ name: "cuda:0", usable: false });
    expect(list[1]?.reason).toMatch(/^driver must be /);
  });
});

function builtWithCuda(): boolean {
  if (gpus.length > 0) return true;
  try {
    Device.open("cuda:0");
  } catch (error) {
    return error instanceof RopeError && !error.message.includes("built without CUDA");
  }
  return true;
}

const trap = process.env["ROPE_TRAP_LIBRARY"] ?? join(root, "build", "test", "libtrap.so");

describe.skipIf(gpus.length === 0)("on a GPU", () => {
  const [name = "cuda:0" as const] = gpus;

  test.skipIf(!existsSync(trap))("a kernel that traps rejects within a second, and every later call says so", async () => {
    const { stdout, stderr, code } = await runProgram(
      `
      import process from "node:process";
      import { Device, Tensor } from "${projectUrl("mod.ts")}";
      import { Load } from "${projectUrl("test/support/load.ts")}";
      const trap = "Bun" in globalThis
        ? process.getBuiltinModule("bun:ffi").dlopen("${trap}", { trap: { args: ["i32"], returns: "i32" } }).symbols.trap
        : Deno.dlopen("${trap}", { trap: { parameters: ["i32"], result: "i32" } }).symbols.trap;
      const device = Device.open("${name}");
      const load = await Load.of(device);
      const stream = device.createStream();
      const x = Tensor.zeros([1000], { device });
      const event = stream.record();
      const graph = device.capture(() => void x.clone());
      const ended = [];
      const note = (promise) => promise.then(() => ended.push("resolved"), (error) => ended.push(error.constructor.name));
      load.on(stream, 500);
      const waits = [stream.synchronize(), device.synchronize()].map(note);
      const start = performance.now();
      if (trap(0) !== 0) throw new Error("no trap");
      await Promise.all(waits);
      for (let i = 0; i < 500 && device.health().ok; i++) {
        await note(device.synchronize());
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
      const elapsed = performance.now() - start;
      const later = {};
      const check = async (operation, use) => {
        try { await use(); later[operation] = "nothing"; } catch (error) { later[operation] = error.constructor.name; }
      };
      await check("zeros", () => Tensor.zeros([1000], { device }));
      await check("clone", () => x.clone());
      await check("write", () => x.write(new Float32Array(1000)));
      await check("read", () => x.read());
      await check("readBlocking", () => x.readBlocking());
      await check("createStream", () => device.createStream());
      await check("record", () => stream.record());
      await check("synchronize", () => device.synchronize());
      await check("synchronizeBlocking", () => stream.synchronizeBlocking());
      await check("event", () => event.synchronize());
      await check("launch", () => graph.launch());
      await check("capture", () => device.capture(() => {}));
      await check("trim", () => device.trim());
      const health = device.health();
      for (const each of [x, graph, event, stream]) each.dispose();
      const host = Tensor.full([3], 2, { device: "cpu" });
      console.log(JSON.stringify({ elapsed, last: ended.at(-1), later, health, host: host.data.join() }));`,
    );
    expect(stderr).toBe("");
    const { elapsed, last, later, health, host } = JSON.parse(stdout) as {
      elapsed: number;
      last: string;
      later: Record<string, string>;
      health: { ok: boolean; error?: string };
      host: string;
    };
    expect(last).toBe("RopeFatalError");
    expect(elapsed).toBeLessThan(1000);
    expect(new Set(Object.values(later))).toEqual(new Set(["RopeFatalError"]));
    expect(health.ok).toBe(false);
    expect((health.error ?? "").length).toBeGreaterThan(5);
    expect(host).toBe("2,2,2"); // the CPU works on
    expect(code).toBe(0);
  });

  test("every realm that has the device open is told of a fault, once", async () => {
    const device = open(name);
    const worker = new Worker(new URL("../support/fault_worker.ts", import.meta.url), { type: "module" });
    const ask = (what: string): Promise<unknown> =>
      new Promise((resolve, reject) => {
        worker.onmessage = ({ data }): void => resolve(data);
        worker.onerror = (event): void => reject(new Error(event.message));
        worker.postMessage(what);
      });
    expect(await ask(name)).toBe("opened");
    using rope = new RotaryEmbedding({ dim: 8, device });
    using x = Tensor.zeros([2, 1, 8], { device });
    rope.rotate(x, { positions: [1, 2 ** 39] }).dispose();
    await expect(device.synchronize()).rejects.toThrow(RopeFaultError);
    await device.synchronize();
    expect(await ask("synchronize")).toBe("RopeFaultError 1");
    expect(await ask("synchronize")).toBe("nothing");
    worker.terminate();
  });

  test("a Worker that is terminated while it waits does no harm", async () => {
    const device = open(name);
    await device.synchronize(); // this realm and its queue are there
    const before = usage();
    const workers = [1, 2, 3].map(() => new Worker(new URL("../support/hanging_worker.ts", import.meta.url), { type: "module" }));
    await Promise.all(workers.map((worker) =>
      new Promise((resolve, reject) => {
        worker.onmessage = resolve;
        worker.onerror = (event): void => reject(new Error(event.message));
        worker.postMessage(name);
      })
    ));
    for (const worker of workers) worker.terminate();
    await device.synchronize();
    for (let i = 0; i < 400 && usage().handles > before.handles; i++) await new Promise((resolve) => setTimeout(resolve, 25));
    expect(usage().handles).toBeLessThanOrEqual(before.handles);
    await device.synchronize();
  });
});
