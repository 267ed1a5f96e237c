// Waiting for queued work. Blocking is one call. Not blocking: the C library posts a ticket to this realm's completion queue when the work
// is done or has failed, and the queue's eventfd wakes the event loop. It is listened to only while something is waited for, so that a wait
// keeps the process alive, and nothing else does. On the CPU there is never anything to wait for.
import { Block } from "../native/block.ts";
import { enums, layouts } from "../native/layouts.ts";
import { library } from "../native/library.ts";
import { realm } from "../native/realm.ts";
import { nativeError } from "../native/status.ts";
import type { StreamState } from "./stream_state.ts";

const streamLayout = layouts.stream_args;
const queueLayout = layouts.queue_args;
const notifyLayout = layouts.notify_args;
const blocks = {
  synchronize: new Block(streamLayout, "rope_stream_synchronize"),
  open: new Block(queueLayout, "rope_queue_open"),
  take: new Block(queueLayout, "rope_queue_take"),
  wait: new Block(queueLayout, "rope_queue_wait"),
  notify: new Block(notifyLayout, "rope_queue_notify"),
};

/**
 * Whether a wait reports the fault that a kernel has met. One that is not asked for order or time but for data does not: the next
 * synchronize does.
 */
export type Faults = "reported" | "left";

interface Waiting {
  readonly operation: string;
  readonly faults: Faults;
  resolve(): void;
  reject(error: unknown): void;
}

const waiting = new Map<number, Waiting>();
let queue = 0;
let wakeFd = -1;
let lastTicket = 0;
let listening = false;

// Faults are kept for each realm. Those of realm 0, which is no thread's, nobody misses.
function realmFor(faults: Faults): number {
  return faults === "reported" ? realm() : 0;
}

/** Waits until what is queued on the stream is done, blocking this thread. */
export function finish(operation: string, stream: StreamState, faults: Faults): void {
  const block = blocks.synchronize;
  block.u16(streamLayout.device, stream.state.code);
  block.u64(streamLayout.realm, realmFor(faults));
  block.u64(streamLayout.stream, stream.handle);
  if (faults === "reported") block.call(operation);
  else block.callIgnoringFaults(operation);
}

/**
 * Waits until what is queued on the stream so far is done, or an event of the device where one is given (0: none), without blocking the
 * thread. Whatever goes wrong is a rejection.
 */
export async function finished(operation: string, stream: StreamState, event: number, faults: Faults): Promise<void> {
  if (queue === 0) openQueue(operation);
  const ticket = ++lastTicket;
  const block = blocks.notify;
  block.u16(notifyLayout.device, stream.state.code);
  block.u64(notifyLayout.realm, realmFor(faults));
  block.u64(notifyLayout.queue, queue);
  block.u64(notifyLayout.ticket, ticket);
  block.u64(notifyLayout.stream, stream.handle);
  block.u64(notifyLayout.event, event);
  block.call(operation);
  await new Promise<void>((resolve, reject) => {
    waiting.set(ticket, { operation, faults, resolve, reject });
    listen();
  });
}

function openQueue(operation: string): void {
  blocks.open.u64(queueLayout.realm, realm());
  blocks.open.call(operation);
  queue = blocks.open.getU64(queueLayout.queue);
  wakeFd = blocks.open.getU32(queueLayout.wake_fd);
  blocks.take.u64(queueLayout.queue, queue);
  blocks.wait.u64(queueLayout.queue, queue);
}

function listen(): void {
  if (listening || waiting.size === 0) return;
  listening = true;
  library().whenPosted(wakeFd, blocks.wait.bytes, awake);
}

function awake(): void {
  listening = false;
  try {
    while (takeOne());
  } catch (error) {
    // The queue itself fails: nobody who waits will ever hear.
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  }
  listen();
}

function takeOne(): boolean {
  blocks.take.call("librope");
  const ticket = blocks.take.getU64(queueLayout.ticket);
  if (ticket === 0) return false;
  const one = waiting.get(ticket);
  waiting.delete(ticket);
  const status = blocks.take.getU32(queueLayout.status);
  if (status === enums.OK || (status === enums.FAULT && one?.faults === "left")) one?.resolve();
  else one?.reject(nativeError(status, one.operation));
  return true;
}
