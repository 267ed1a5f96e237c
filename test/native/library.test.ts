// Finding and opening librope.so: nothing at import, every failure with what was looked for and what to do, the switches of the environment.
import { describe, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { libraryInfo, RopeLibraryError, version } from "../../mod.ts";
import { enums } from "../../src/native/layouts.ts";
import { openLibrary } from "../../src/native/library.ts";
import { locate } from "../../src/native/locate.ts";
import type { Backend } from "../../src/native/symbols.ts";
import { projectUrl, root, runProgram, runtime, temporaryFolder } from "../support/runtime.ts";

const importing = `import { Device, RopeError, Tensor } from "${projectUrl("mod.ts")}";`;
const using = `${importing}
try { console.log("opened", Device.open("cpu").name); } catch (error) { console.log(error.constructor.name, error.code, error.message); }`;

/** A backend of a machine that has only what is said here. */
function backend(
  parts: { env?: Record<string, string>; unreadable?: string; files?: string[]; abi?: number; version?: number; fails?: Error },
): Backend {
  const unused = (): never => {
    throw parts.fails ?? new Error("not to be called");
  };
  return {
    environment: (name) => parts.env?.[name],
    unreadable: () => parts.unreadable,
    isFile: (path) => parts.files === undefined ? undefined : parts.files.includes(path),
    probe: () => parts.abi === undefined ? unused() : { abi: parts.abi, version: parts.version ?? 0 },
    open: unused,
    view: unused,
    denied: () => undefined,
  };
}

describe("locate", () => {
  const here = "file:///a%20b/rope/src/native/locate.ts";

  test("takes ROPE_LIBRARY first, then build/librope.so of the package", () => {
    const files = ["/x/librope.so", "/a b/rope/build/librope.so"];
    expect(locate(backend({ env: { ROPE_LIBRARY: "/x/librope.so" }, files }), here)).toEqual({
      path: "/x/librope.so",
      source: "ROPE_LIBRARY",
    });
    expect(locate(backend({ files }), here)).toEqual({ path: "/a b/rope/build/librope.so", source: "package" });
    expect(locate(backend({ env: { ROPE_LIBRARY: "" }, files }), here).source).toBe("package");
  });

  test("goes on where files must not be looked at", () => {
    expect(locate(backend({}), here).path).toBe("/a b/rope/build/librope.so");
  });

  test("never falls back from a ROPE_LIBRARY that is wrong", () => {
    const files = ["/a b/rope/build/librope.so"];
    expect(() => locate(backend({ env: { ROPE_LIBRARY: "librope.so" }, files }), here)).toThrow(
      'librope: ROPE_LIBRARY must be the absolute path of a librope.so, got "librope.so". Give it from the root',
    );
    expect(() => locate(backend({ env: { ROPE_LIBRARY: "/y/librope.so" }, files }), here)).toThrow(
      /there is no librope\.so at \/y\/librope\.so/,
    );
  });

  test("says where it looked and what to run", () => {
    const missing = (): unknown => locate(backend({ files: [] }), here);
    expect(missing).toThrow(RopeLibraryError);
    expect(missing).toThrow(
      /looked for at \/a b\/rope\/build\/librope\.so, and is not there \(ROPE_LIBRARY is not set\)\..*`bun run build`.*cmake and g\+\+/,
    );
    expect(() => locate(backend({ files: [] }), "https://example.com/src/native/locate.ts")).toThrow(/Set ROPE_LIBRARY/);
  });

  test("does not say that ROPE_LIBRARY is not set where it must not be read", () => {
    const hidden = backend({ files: [], unreadable: "Ask the administrator." });
    for (const url of [here, "https://example.com/src/native/locate.ts"]) {
      expect(() => locate(hidden, url)).toThrow(/\(ROPE_LIBRARY could not be read\)\. .* If ROPE_LIBRARY is set: Ask the administrator\.$/);
    }
  });
});

describe("opening", () => {
  test("libraryInfo names the library, its version and its ABI", () => {
    const info = libraryInfo();
    expect(info.path.startsWith("/")).toBe(true);
    expect(info.version).toBe(version);
    expect(info.abi).toBe(enums.ABI_VERSION);
    const { version: packaged } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string };
    expect(version).toBe(packaged);
  });

  test("a library of another version or ABI is refused, and both are named", () => {
    const files = ["/x/librope.so"];
    const env = { ROPE_LIBRARY: "/x/librope.so" };
    expect(() => openLibrary(backend({ env, files, abi: 7, version: 1_002_003 }))).toThrow(
      `this package is version ${version} with ABI ${enums.ABI_VERSION}, and /x/librope.so is version 1.2.3 with ABI 7. Correct ROPE_LIBRARY`,
    );
    expect(() => openLibrary(backend({ abi: 7, version: 1_002_003 }))).toThrow(/ with ABI 7\. Build the library again/);
    expect(() => openLibrary(backend({ env, files, abi: enums.ABI_VERSION, version: 1_002_003 }))).toThrow(RopeLibraryError);
  });

  test("what the system says is passed on", () => {
    const fails = new Error("wrong ELF class");
    try {
      openLibrary(backend({ env: { ROPE_LIBRARY: "/x/librope.so" }, files: ["/x/librope.so"], fails }));
      throw new Error("nothing was thrown");
    } catch (error) {
      expect(error).toBeInstanceOf(RopeLibraryError);
      expect((error as Error).message).toContain("/x/librope.so cannot be opened as librope: wrong ELF class. Correct ROPE_LIBRARY");
      expect((error as Error).cause).toBe(fails);
    }
    expect(() => openLibrary(backend({ fails }))).toThrow(/wrong ELF class\. Build it again with `bun run build`/);
  });

  test("import does nothing; the first use reports a library that is not there", async () => {
    const env = { ROPE_LIBRARY: "/nowhere/librope.so" };
    const imported = await runProgram(`${importing} console.log("imported", typeof Tensor.from, typeof RopeError, typeof Device.open);`, {
      env,
    });
    expect([imported.code, imported.stdout.trim(), imported.stderr]).toEqual([0, "imported function function function", ""]);
    const used = await runProgram(using, { env });
    expect(used.stdout).toMatch(
      /^RopeLibraryError ROPE_LIBRARY librope: there is no librope\.so at \/nowhere\/librope\.so, where ROPE_LIBRARY points/,
    );
    expect(used.code).toBe(0);
  });

  test("a file that is no library, and a relative path", async () => {
    const path = join(temporaryFolder(), "librope.so");
    writeFileSync(path, "not a library");
    const text = await runProgram(using, { env: { ROPE_LIBRARY: path } });
    expect(text.stdout).toMatch(
      /^RopeLibraryError ROPE_LIBRARY librope: .* cannot be opened as librope: .*Correct ROPE_LIBRARY to name a librope\.so/s,
    );
    const relative = await runProgram(using, { env: { ROPE_LIBRARY: "build/librope.so" } });
    expect(relative.stdout).toMatch(/^RopeLibraryError .*absolute path/);
  });

  test("a failure is not remembered: the next use tries again", async () => {
    const program = `${importing}
      const set = (value) => "Bun" in globalThis ? process.env.ROPE_LIBRARY = value : Deno.env.set("ROPE_LIBRARY", value);
      set("/nowhere/librope.so");
      try { Tensor.zeros([1]); } catch (error) { console.log(error.constructor.name); }
      set("${libraryInfo().path}");
      console.log(Tensor.full([1], 2, { device: "cpu" }).data[0]);`;
    const { stdout } = await runProgram(program);
    expect(stdout.trim().split("\n")).toEqual(["RopeLibraryError", "2"]);
  });
});

describe("ROPE_LOG and ROPE_TRACE", () => {
  const program = `${importing} Tensor.zeros([4], { device: "cpu" }).dispose();`;

  test("off, nothing is printed", async () => {
    const { stdout, stderr } = await runProgram(program);
    expect([stdout, stderr]).toEqual(["", ""]);
  });

  test("ROPE_LOG=1 says what was opened, and what was leaked", async () => {
    const opened = await runProgram(program, { env: { ROPE_LOG: "1" } });
    expect(opened.stderr).toMatch(/^librope: opened \/.*librope\.so \((package|ROPE_LIBRARY)\), version \d+\.\d+\.\d+, ABI \d+\n$/);
    const leaking = `${importing}
      (() => { for (let i = 0; i < 50; i++) Tensor.zeros([4], { device: "cpu" }); })();
      for (let i = 0; i < 10; i++) { globalThis.Bun ? Bun.gc(true) : gc(); await new Promise((resolve) => setTimeout(resolve, 10)); }`;
    const leaked = await runProgram(leaking, { env: { ROPE_LOG: "1" } });
    expect(leaked.stderr).toContain("librope: a Tensor on cpu (16 bytes of pooled memory) was collected that had not been disposed of\n");
  });

  test("ROPE_TRACE=1 logs every native call with its duration and its failure", async () => {
    const { stderr } = await runProgram(`${program} try { Tensor.empty([2 ** 48], { device: "cpu" }); } catch {}`, {
      env: { ROPE_TRACE: "1" },
    });
    expect(stderr).toMatch(/^librope: rope_fill \d+\.\d us$/m);
    expect(stderr).toMatch(/^librope: rope_memory_allocate \d+\.\d us, status 5$/m);
  });
});

describe.skipIf(runtime !== "deno")("Deno's permissions", () => {
  const work = `${importing}
    const x = Tensor.from([1, 2, 3, 4], [2, 2], { dtype: "float16", device: "cpu" });
    const y = x.transpose(0, 1).to("float32");
    console.log([...y.readBlocking()].join(), [...x.data].join(), Tensor.cat([x, x], 0).shape.join());`;
  const path = libraryInfo().path;

  test("an --allow-ffi for librope.so alone is enough, with or without the others", async () => {
    for (const permissions of [[`--allow-ffi=${path}`, "--allow-read"], [`--allow-ffi=${path}`]]) {
      const { stdout, stderr, code } = await runProgram(work, { permissions });
      expect([stdout, stderr, code]).toEqual(["1,3,2,4 1,2,3,4 4,2\n", "", 0]);
    }
  });

  test("a ROPE_LIBRARY that must not be read is not taken for one that is not set", async () => {
    const program = `import { denoBackend } from "${projectUrl("src/native/deno.ts")}";
      import { locate } from "${projectUrl("src/native/locate.ts")}";
      try { locate(denoBackend(), "file:///nowhere/src/native/locate.ts"); } catch (error) { console.log(error.message); }`;
    const env = { ROPE_LIBRARY: path };
    const hidden = await runProgram(program, { env, permissions: ["--allow-read"] });
    expect(hidden.stdout).toMatch(/\(ROPE_LIBRARY could not be read\).*Run deno with --allow-env=ROPE_LIBRARY\.\n$/);
    const readable = await runProgram(program, { env, permissions: ["--allow-read", "--allow-env=ROPE_LIBRARY"] });
    expect(readable.stdout).toBe("");
  });

  test("without it the error names the flag", async () => {
    const { stdout } = await runProgram(using, { permissions: ["--allow-read"] });
    expect(stdout).toBe(
      `RopeLibraryError ROPE_LIBRARY librope: opening ${path} is not permitted. Run deno with --allow-ffi=${path}, or with --allow-ffi.\n`,
    );
  });

  test("views of native memory need the flag for every path, and say so", async () => {
    const program = `${importing}
      const base = Tensor.from([1, 2], [2], { device: "cpu" });
      const x = Tensor.fromPointer(base.pointer, [2], { dtype: "float32", device: "cpu" });
      console.log([...x.readBlocking()].join());
      try { x.data; } catch (error) { console.log(error.constructor.name, error.message); }`;
    const { stdout } = await runProgram(program, { permissions: [`--allow-ffi=${path}`, "--allow-read"] });
    expect(stdout).toBe(
      "1,2\nRopeLibraryError librope: an ArrayBuffer over native memory is not permitted. Run deno with --allow-ffi, for every path.\n",
    );
  });
});
