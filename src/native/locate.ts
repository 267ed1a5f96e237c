// Where librope.so is: ROPE_LIBRARY, else build/librope.so of this package. Never a bare name: the system's search path is nobody's choice.
import { RopeLibraryError } from "../errors.ts";
import { quote } from "../arguments.ts";
import type { Backend } from "./symbols.ts";

/** A found library: its path, and which rule found it. */
export interface Location {
  readonly path: string;
  readonly source: "ROPE_LIBRARY" | "package";
}

const howToBuild =
  "Build it with `bun run build` in the package's folder (it needs the packages cmake and g++), or set ROPE_LIBRARY to a librope.so.";

/** Whether ROPE_LIBRARY is set is not known where it must not be read: a clause, and what to do about it. */
function unnamed(backend: Backend): { readonly clause: string; readonly advice: string } {
  const permission = backend.unreadable("ROPE_LIBRARY");
  if (permission === undefined) return { clause: "ROPE_LIBRARY is not set", advice: "" };
  return { clause: "ROPE_LIBRARY could not be read", advice: ` If ROPE_LIBRARY is set: ${permission}` };
}

/**
 * Finds librope.so or throws a RopeLibraryError that says what was looked for, where, and what to run. `moduleUrl` is that of this file.
 */
export function locate(backend: Backend, moduleUrl: string = import.meta.url): Location {
  const named = backend.environment("ROPE_LIBRARY");
  if (named !== undefined && named !== "") {
    if (!named.startsWith("/")) {
      throw libraryError(
        `ROPE_LIBRARY must be the absolute path of a librope.so, got ${quote(named)}`,
        "Give it from the root: ROPE_LIBRARY=/path/to/librope.so.",
      );
    }
    if (backend.isFile(named) === false) {
      throw libraryError(`there is no librope.so at ${named}, where ROPE_LIBRARY points`, "Correct or unset ROPE_LIBRARY.");
    }
    return { path: named, source: "ROPE_LIBRARY" };
  }
  const built = new URL("../../build/librope.so", moduleUrl);
  if (built.protocol !== "file:") {
    const { clause, advice } = unnamed(backend);
    throw libraryError(
      `there is no librope.so beside ${moduleUrl.slice(0, 200)}, which is no file (${clause})`,
      `Set ROPE_LIBRARY to the absolute path of a librope.so.${advice}`,
    );
  }
  const path = decodeURIComponent(built.pathname);
  if (backend.isFile(path) === false) {
    const { clause, advice } = unnamed(backend);
    throw libraryError(`librope.so was looked for at ${path}, and is not there (${clause})`, howToBuild + advice);
  }
  return { path, source: "package" };
}

/** An error of finding or opening the library. */
export function libraryError(message: string, advice: string, cause?: unknown): RopeLibraryError {
  return new RopeLibraryError({ operation: "librope", message, advice, cause });
}
