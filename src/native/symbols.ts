// The functions of rope.h that take a block, in its order. The table that both runtimes open the library with.

/** Every operation of the C ABI: int32_t (block, error). */
export const symbols = [
  "rope_abi",
  "rope_realm_open",
  "rope_realm_close",
  "rope_usage",
  "rope_device_info",
  "rope_memory_allocate",
  "rope_memory_release",
  "rope_memory_trim",
  "rope_transfer",
  "rope_stream_create",
  "rope_stream_destroy",
  "rope_stream_synchronize",
  "rope_stream_order",
  "rope_event_record",
  "rope_event_wait",
  "rope_event_synchronize",
  "rope_event_elapsed",
  "rope_event_destroy",
  "rope_graph_begin",
  "rope_graph_end",
  "rope_graph_cancel",
  "rope_graph_launch",
  "rope_graph_destroy",
  "rope_queue_open",
  "rope_queue_take",
  "rope_queue_wait",
  "rope_queue_notify",
  "rope_device_health",
  "rope_copy",
  "rope_fill",
  "rope_frequencies_create",
  "rope_frequencies_read",
  "rope_frequencies_release",
  "rope_rotate",
  "rope_cos_sin",
  "rope_shift",
  "rope_seq_lens",
  "rope_batch_indices",
] as const;

/** The name of an operation of the C ABI. */
export type SymbolName = typeof symbols[number];

/** An operation as a runtime's FFI exposes it: the block, the error record, and back a rope_status. */
export type NativeFunction = (block: Uint8Array, error: Uint8Array) => number;

/** The operations of an open library by name. */
export type NativeFunctions = Record<SymbolName, NativeFunction>;

/** What a runtime makes of librope.so. */
export interface NativeLibrary {
  readonly functions: NativeFunctions;
  /** Where the memory of a view lies. */
  readonly address: (memory: Uint8Array) => number;
  /**
   * Calls `wake` when something was posted to a completion queue, and keeps the process alive until then, without blocking this thread. The
   * queue is told by its eventfd and as a rope_queue_args: a runtime needs one of them.
   */
  readonly whenPosted: (wakeFd: number, queue: Uint8Array, wake: () => void) => void;
}

/** What is specific to a runtime. bun.ts and deno.ts implement it and are the only files that know one. */
export interface Backend {
  /** The value of an environment variable; undefined where it is not set or must not be read. Never prompts. */
  environment(name: string): string | undefined;
  /** What to change where an environment variable must not be read; undefined where it may be. */
  unreadable(name: string): string | undefined;
  /** Whether there is a file; undefined where it must not be looked at. Never prompts. */
  isFile(path: string): boolean | undefined;
  /** Opens the two symbols that never change. */
  probe(path: string): { readonly abi: number; readonly version: number };
  /** Opens every operation. */
  open(path: string): NativeLibrary;
  /** Native memory as an ArrayBuffer that aliases it and never frees it. */
  view(address: number, bytes: number): ArrayBuffer;
  /**
   * What to change where opening `path`, or a view, failed because of a missing permission; undefined where it failed for another reason.
   */
  denied(error: unknown, path?: string): string | undefined;
}
