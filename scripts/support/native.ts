// Builds librope.so, when it is stale, the sanitized copy with the C test programs, and the copies over a CUDA runtime made of threads;
// compiles the kernels alone.
import { existsSync, mkdirSync, readFileSync, realpathSync, rmSync, statSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { filesUnder, fingerprint, inProject, readIfThere, root } from "./paths.ts";
import { run, runOrThrow, ScriptError } from "./process.ts";
import { requireBuildTools, which } from "./tools.ts";

/** The release build that src/native/locate.ts finds. */
export const library: string = inProject("build", "librope.so");

/** Builds build/librope.so unless it was made from exactly these sources. Says whether anything was built. */
export async function buildLibrary(): Promise<"built" | "up to date"> {
  const stamp = inProject("build", ".librope-built");
  const wanted = fingerprint(["CMakeLists.txt", ...filesUnder(["csrc"], /\.(cpp|cu|cuh|h|inc|map)$/)]);
  if (existsSync(library) && readIfThere(stamp) === wanted) return "up to date";
  rmSync(stamp, { force: true });
  await cmake(inProject("build"), ["-DCMAKE_BUILD_TYPE=Release"]);
  writeFileSync(stamp, wanted);
  return "built";
}

/** Builds the library and test/c with AddressSanitizer and UndefinedBehaviorSanitizer. Gives back the programs. */
export async function buildSanitized(): Promise<string[]> {
  const folder = inProject("build", "sanitize");
  await cmake(folder, ["-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DROPE_SANITIZE=ON", "-DROPE_BUILD_TESTS=ON"]);
  return filesUnder(["test/c"], /\.c(pp)?$/).flatMap((path) => {
    const name = path.replace(/^.*\/(.*)\..*$/, "$1");
    return (path.endsWith(".c") ? [name, `${name}_as_cpp`] : [name]).map((program) => join(folder, "test", program));
  });
}

/** Where the headers of the CUDA toolkit are, or undefined. */
export function cudaHeaders(): string | undefined {
  const nvcc = which("nvcc");
  const homes = [process.env["CUDA_HOME"], "/usr/local/cuda", nvcc === undefined ? undefined : dirname(dirname(realpathSync(nvcc)))];
  const folders = homes.filter((home) => home !== undefined).map((home) => join(home, "include"));
  return folders.find((folder) => existsSync(join(folder, "cuda_runtime_api.h")));
}

/**
 * Builds librope.so and the programs that go with it over the CUDA runtime of test/support/fake_cuda, which needs no GPU, and gives back
 * their folder. `sanitizers` is what -fsanitize is given. With `kernels` its folder "kernels" has a librope.so that runs the kernels themselves.
 */
export async function buildFakeCuda(headers: string, options: { sanitizers?: string; kernels?: boolean } = {}): Promise<string> {
  const { sanitizers = "", kernels = false } = options;
  const folder = inProject("build", ["fake_cuda", ...sanitizers.split(",")].filter((part) => part !== "").join("_"));
  const settings = [`-DCUDA_HEADERS=${headers}`, `-DROPE_SANITIZERS=${sanitizers}`, "-DROPE_KERNELS=OFF"];
  await cmake(folder, settings, inProject("test", "support", "fake_cuda"), kernels ? ["all", "rope_kernels"] : []);
  return folder;
}

/**
 * Compiles the kernels for one architecture, named as CMake does ("90a-real"), to nothing but machine code. Gives back what the compiler says
 * of each.
 */
export async function compileKernels(architecture: string): Promise<string> {
  const folder = inProject("build", "kernels");
  await configure(folder, ["-DCMAKE_BUILD_TYPE=Release", "-DROPE_KERNEL_REPORT=ON", `-DROPE_CUDA_ARCHITECTURES=${architecture}`]);
  const all = JSON.parse(readFileSync(join(folder, "compile_commands.json"), "utf8")) as { command: string; file: string }[];
  const commands = all.filter(({ file }) => file.endsWith(".cu")).map(({ command }) => command.replace(" -c ", " -cubin "));
  if (commands.length === 0) throw new ScriptError("Kernels need nvcc, of the CUDA toolkit: on PATH, or CUDA_HOME names its folder");
  const outputs: string[] = [];
  const compile = async (): Promise<void> => {
    for (let command = commands.pop(); command !== undefined; command = commands.pop()) {
      mkdirSync(join(folder, dirname(/ -o (\S+)/.exec(command)?.[1] ?? "")), { recursive: true });
      outputs.push(await runOrThrow("sh", ["-c", command], { cwd: folder }));
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, compile));
  return outputs.join("");
}

/** "1.2 MB" */
export function librarySize(): string {
  return `${(statSync(library).size / 1e6).toFixed(1)} MB`;
}

async function cmake(folder: string, options: readonly string[], source: string = root, targets: readonly string[] = []): Promise<void> {
  await configure(folder, options, source);
  const wanted = targets.length > 0 ? ["--target", ...targets] : [];
  await step("cmake", ["--build", folder, "--parallel", String(availableParallelism()), ...wanted]);
}

async function configure(folder: string, options: readonly string[], source: string = root): Promise<void> {
  requireBuildTools();
  mkdirSync(folder, { recursive: true });
  const cache = join(folder, "CMakeCache.txt");
  // CMake refuses the cache of a checkout that was moved or copied.
  const home = /^CMAKE_HOME_DIRECTORY:INTERNAL=(.*)$/m.exec(readIfThere(cache) ?? "")?.[1];
  if (home !== undefined && home !== source) {
    rmSync(cache);
    rmSync(join(folder, "CMakeFiles"), { recursive: true, force: true });
  }
  const generator = existsSync(cache) || which("ninja") === undefined ? [] : ["-G", "Ninja"];
  await step("cmake", ["-S", source, "-B", folder, ...generator, ...options]);
}

async function step(program: string, args: readonly string[]): Promise<void> {
  const { code, output } = await run(program, args);
  if (code === 0) return;
  const telling = output.replace(/^\[[ \d/%]+\] (?!Linking).*\n/gm, ""); // without the progress of ninja and make
  throw new ScriptError(`${telling.trimEnd()}\n\nThe build of librope failed: ${program} ${args.join(" ")}`);
}
