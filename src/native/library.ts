// Opens librope.so once per realm (the main thread or a Worker), at first use. Importing this file does nothing.
import { bunBackend } from "./bun.ts";
import { denoBackend } from "./deno.ts";
import { enums } from "./layouts.ts";
import { libraryError, locate, type Location } from "./locate.ts";
import type { Backend, NativeFunctions, NativeLibrary } from "./symbols.ts";
import { configureLog, log, traced } from "./trace.ts";

/** The version of this package. */
export const version: string = "0.1.0";

/** The open library. */
export interface Library {
  readonly path: string;
  readonly abi: number;
  readonly version: string;
  readonly functions: NativeFunctions;
  /**
   * Where the memory of a view lies. Its buffer must have been made, or read as `.buffer`, before: Bun moves small typed arrays until then.
   */
  readonly address: (memory: Uint8Array) => number;
  /** Calls `wake` when something was posted to a completion queue. */
  readonly whenPosted: NativeLibrary["whenPosted"];
  /** Native memory as an ArrayBuffer that aliases it. On Deno this needs an unscoped --allow-ffi. */
  readonly view: (address: number, bytes: number) => ArrayBuffer;
}

let opened: Library | null = null;

/** The library, opened by the first call. Throws RopeLibraryError where that fails; the next call then tries again. */
export function library(): Library {
  return opened ??= openLibrary(backend());
}

/** Opens the library through a backend other than the runtime's own, before anything else has opened it. For tests. */
export function openWith(runtime: Backend): void {
  opened = openLibrary(runtime);
}

function backend(): Backend {
  if ("Bun" in globalThis) return bunBackend();
  if ("Deno" in globalThis) return denoBackend();
  throw libraryError("this runtime has no FFI that librope knows", "Run it with Bun or with Deno.");
}

/** Finds, checks and opens the library through a runtime's FFI. */
export function openLibrary(runtime: Backend): Library {
  configureLog(runtime);
  const location = locate(runtime);
  const { path, source } = location;
  let found;
  try {
    found = runtime.probe(path);
  } catch (cause) {
    throw cannotOpen(runtime, location, cause);
  }
  const foundVersion = versionText(found.version);
  if (found.abi !== enums.ABI_VERSION || foundVersion !== version) {
    throw libraryError(
      `this package is version ${version} with ABI ${enums.ABI_VERSION}, and ${path} is version ${foundVersion} with ABI ${found.abi}`,
      source === "ROPE_LIBRARY"
        ? "Correct ROPE_LIBRARY to name a librope.so of this version, or unset it."
        : "Build the library again with `bun run build`, or install package and library of one version.",
    );
  }
  let native;
  try {
    native = runtime.open(path);
  } catch (cause) {
    throw cannotOpen(runtime, location, cause);
  }
  log(`opened ${path} (${source}), version ${foundVersion}, ABI ${found.abi}`);
  return {
    path,
    abi: found.abi,
    version: foundVersion,
    functions: traced(runtime, native.functions),
    address: native.address,
    whenPosted: native.whenPosted,
    view(address, bytes): ArrayBuffer {
      try {
        return runtime.view(address, bytes);
      } catch (cause) {
        const permission = runtime.denied(cause);
        if (permission !== undefined) throw libraryError("an ArrayBuffer over native memory is not permitted", permission, cause);
        throw cause;
      }
    },
  };
}

function cannotOpen(runtime: Backend, { path, source }: Location, cause: unknown): Error {
  const permission = runtime.denied(cause, path);
  if (permission !== undefined) return libraryError(`opening ${path} is not permitted`, permission, cause);
  const reason = cause instanceof Error ? cause.message : String(cause);
  return libraryError(
    `${path} cannot be opened as librope: ${reason}`,
    source === "ROPE_LIBRARY"
      ? "Correct ROPE_LIBRARY to name a librope.so that was built for this machine, or unset it."
      : "Build it again with `bun run build` (it needs the packages cmake and g++) on this machine.",
    cause,
  );
}

function versionText(packed: number): string {
  return `${Math.floor(packed / 1e6)}.${Math.floor(packed / 1e3) % 1000}.${packed % 1000}`;
}
