// The programs that the scripts call: runtimes and formatters from node_modules by the path of their binaries (npm's launchers would need
// Node), compilers from PATH. What is missing is named together with the package that brings it.
import { accessSync, constants, existsSync, readdirSync, statSync } from "node:fs";
import { delimiter, join } from "node:path";
import process from "node:process";
import { inProject } from "./paths.ts";
import { ScriptError } from "./process.ts";

/** The path of a program on PATH. */
export function which(name: string): string | undefined {
  const folders = name.includes("/") ? [""] : (process.env["PATH"] ?? "").split(delimiter);
  return folders.map((folder) => join(folder, name)).find(isProgram);
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** The Bun that bun.lock names, or else the one that runs this script. */
export function bun(): string {
  const pinned = inProject("node_modules", "bun", "bin", "bun.exe"); // so named on every system
  return isProgram(pinned) && statSync(pinned).size > 1_000_000 ? pinned : process.execPath;
}

/** The Deno that bun.lock names. Its npm launcher wants a postinstall script, which Bun does not run. */
export function deno(): string {
  const folder = inProject("node_modules", "@deno");
  const found = existsSync(folder) ? readdirSync(folder).map((platform) => join(folder, platform, "deno")).find(isProgram) : undefined;
  const path = found ?? which("deno");
  if (path !== undefined) return path;
  throw new ScriptError(`There is no Deno for ${process.platform} ${process.arch} in node_modules and none on PATH.`);
}

/** clang-format of node_modules; undefined where npm has no binary for this machine (another version would format differently). */
export function clangFormat(): string | undefined {
  const path = inProject("node_modules", "clang-format", "bin", `${process.platform}_${process.arch}`, "clang-format");
  return isProgram(path) ? path : undefined;
}

/** The C++ compiler that CMake takes too. */
export function cxx(): string | undefined {
  return first(cxxNames());
}

/** The C compiler that CMake takes too. */
export function cc(): string | undefined {
  return first([process.env["CC"] ?? "cc", "gcc", "clang"]);
}

function cxxNames(): string[] {
  return [process.env["CXX"] ?? "c++", "g++", "clang++"];
}

function first(programs: readonly string[]): string | undefined {
  return programs.map(which).find((path) => path !== undefined);
}

interface Needed {
  readonly name: string;
  readonly programs: readonly string[];
  readonly debian: string;
  readonly fedora: string;
  readonly brew: string;
}

const buildTools: readonly Needed[] = [
  { name: "cmake", programs: ["cmake"], debian: "cmake", fedora: "cmake", brew: "brew install cmake" },
  {
    name: "a C++ compiler (c++, g++ or clang++)",
    programs: cxxNames(),
    debian: "g++",
    fedora: "gcc-c++",
    brew: "xcode-select --install",
  },
  { name: "make or ninja", programs: ["make", "ninja"], debian: "make", fedora: "make", brew: "xcode-select --install" },
];

/** Throws unless CMake, a C++ compiler and make or ninja are there; the message says what to install. */
export function requireBuildTools(): void {
  const missing = buildTools.filter((tool) => first(tool.programs) === undefined);
  if (missing.length === 0) return;
  throw new ScriptError(
    [
      `librope's C++ part cannot be built. Not found on PATH: ${missing.map((tool) => tool.name).join("; ")}.`,
      `  Debian, Ubuntu:  sudo apt-get install ${missing.map((tool) => tool.debian).join(" ")}`,
      `  Fedora:          sudo dnf install ${missing.map((tool) => tool.fedora).join(" ")}`,
      `  macOS:           ${[...new Set(missing.map((tool) => tool.brew))].join(" && ")}`,
    ].join("\n"),
  );
}
