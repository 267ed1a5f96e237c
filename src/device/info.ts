// What the C library says of devices, and of itself: names, memory, versions, and why a GPU cannot be used.
import { RopeDeviceError, RopeError } from "../errors.ts";
import { Block } from "../native/block.ts";
import { enums, layouts } from "../native/layouts.ts";
import { library } from "../native/library.ts";

/** What a device is. */
export interface DeviceInfo {
  /** "cpu", "cuda:0" */
  readonly name: string;
  /** What sort of device it is. */
  readonly kind: "cpu" | "cuda";
  /** The processor's own name; of a CPU also which instruction set librope uses of it. */
  readonly description: string;
  /** All the memory it has. */
  readonly memoryBytes: number;
  /** CUDA: the compute capability, as [major, minor]. */
  readonly computeCapability?: [number, number];
  /** Whether librope can use it. */
  readonly usable: boolean;
  /** Why not. */
  readonly reason?: string;
}

/** What libraryInfo() tells. */
export interface LibraryInfo {
  /** The absolute path of librope.so. */
  readonly path: string;
  /** Its version, which is that of this package. */
  readonly version: string;
  /** The version of its C ABI. */
  readonly abi: number;
  /**
   * Where it was built with CUDA: the versions of its runtime and of the driver ("none" where there is no working one), and the
   * architectures it has kernels for.
   */
  readonly cuda?: { readonly runtime: string; readonly driver: string; readonly architectures: readonly string[] };
}

const infoLayout = layouts.device_info_args;
const abiLayout = layouts.abi_args;
const block = { info: new Block(infoLayout, "rope_device_info"), abi: new Block(abiLayout, "rope_abi") };

/** The number of a GPU in rope.h. */
export function cudaCode(index: number): number {
  return (enums.CUDA << 8) | index;
}

/**
 * What a device is. Throws what the library says where there is none; where a GPU's driver is there and does not work, or is too old, the
 * error's argument is "driver".
 */
export function readInfo(operation: string, name: string, code: number): DeviceInfo {
  const { info } = block;
  info.u16(infoLayout.device, code);
  info.call(operation);
  const common = {
    name,
    description: info.getText(infoLayout.description, infoLayout.size - infoLayout.description),
    memoryBytes: info.getU64(infoLayout.memory_bytes),
  };
  const usable = info.getU32(infoLayout.usable) !== 0;
  if (code >>> 8 === enums.CPU) return Object.freeze({ ...common, kind: "cpu", usable });
  const capability = info.getU32(infoLayout.capability);
  const computeCapability: [number, number] = [Math.floor(capability / 10), capability % 10];
  const reason = `its compute capability is ${computeCapability.join(".")}, and librope needs 8.0 or newer`;
  return Object.freeze({ ...common, kind: "cuda", computeCapability, usable, ...usable ? {} : { reason } });
}

/** Whether an error of readInfo() says that there is no GPU, rather than one that should work. */
export function isAbsence(error: unknown): boolean {
  return error instanceof RopeDeviceError && error.argument !== "driver";
}

/** The GPUs of this machine, usable or not; a driver that does not work is told of as cuda:0. */
export function listGpus(operation: string): DeviceInfo[] {
  const all: DeviceInfo[] = [];
  for (let index = 0, count = 1; index < count; index++) {
    const name = `cuda:${index}`;
    try {
      all.push(readInfo(operation, name, cudaCode(index)));
      count = Math.min(block.info.getU32(infoLayout.count), 256);
    } catch (error) {
      if (!(error instanceof RopeError)) throw error;
      if (isAbsence(error)) return all;
      const reason = error.message.slice(operation.length + 2);
      all.push(Object.freeze({ name, kind: "cuda", description: "an NVIDIA GPU", memoryBytes: 0, usable: false, reason }));
    }
  }
  return all;
}

/**
 * Which librope.so is in use: its path, its version, the version of its C ABI, and what it has of CUDA. Opens the library where nothing has
 * yet.
 *
 * @throws RopeLibraryError where there is none or it cannot be opened.
 * @example
 * ```ts
 * import { libraryInfo, version } from "@librope/rope";
 *
 * console.assert(libraryInfo().version === version);
 * ```
 */
export function libraryInfo(): LibraryInfo {
  const { path, version, abi } = library();
  const built = cudaOfBuild();
  if (built === undefined) return { path, version, abi };
  let driver = "none";
  try {
    readInfo("libraryInfo", "cuda:0", cudaCode(0));
    driver = cudaVersion(block.info.getU32(infoLayout.cuda_driver));
  } catch (error) {
    if (!(error instanceof RopeError)) throw error;
  }
  return { path, version, abi, cuda: { runtime: cudaVersion(built.runtime), driver, architectures: built.architectures } };
}

// The library's description of its ABI tells how it was built, on a machine without a GPU too.
function cudaOfBuild(): { readonly runtime: number; readonly architectures: readonly string[] } | undefined {
  const { abi } = block;
  const read = (capacity: number): Uint8Array => {
    const text = new Uint8Array(new ArrayBuffer(capacity));
    abi.u64(abiLayout.text, capacity === 0 ? 0 : library().address(text));
    abi.u64(abiLayout.capacity, capacity);
    abi.call("libraryInfo");
    return text;
  };
  read(0);
  const text = read(abi.getU64(abiLayout.length));
  return (JSON.parse(new TextDecoder().decode(text)) as { cuda?: { runtime: number; architectures: string[] } }).cuda;
}

/** 13020 is CUDA 13.2. */
function cudaVersion(packed: number): string {
  return `${Math.floor(packed / 1000)}.${Math.floor(packed % 1000 / 10)}`;
}
