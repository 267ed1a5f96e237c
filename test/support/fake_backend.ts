// A librope.so that only keeps a diary: its functions do nothing but what a caller on CUDA depends on (handles, addresses, completions), and note in
// words what they were asked for. With it the pool, the order of streams and the waits can be looked at call by call, on every machine.
import { enums, layouts } from "../../src/native/layouts.ts";
import { type Backend, type NativeFunctions, type NativeLibrary, type SymbolName, symbols } from "../../src/native/symbols.ts";

type Layout = Readonly<Record<string, number>>;

/** A block's fields by name. */
class Fields {
  readonly #view: DataView;
  readonly #layout: Layout;

  constructor(block: Uint8Array, layout: Layout) {
    this.#view = new DataView(block.buffer, block.byteOffset);
    this.#layout = layout;
  }

  #at(field: string): number {
    const offset = this.#layout[field];
    if (offset === undefined) throw new Error(`no field ${field}`);
    return offset;
  }

  u16(field: string): number {
    return this.#view.getUint16(this.#at(field), true);
  }

  get(field: string): number {
    return Number(this.#view.getBigUint64(this.#at(field), true));
  }

  set(field: string, value: number): void {
    this.#view.setBigUint64(this.#at(field), BigInt(value), true);
  }

  set16(field: string, value: number): void {
    this.#view.setUint16(this.#at(field), value, true);
  }

  set32(field: string, value: number): void {
    this.#view.setUint32(this.#at(field), value, true);
  }

  text(field: string, value: string): void {
    const bytes = new TextEncoder().encode(`${value}\0`);
    bytes.forEach((byte, i) => this.#view.setUint8(this.#at(field) + i, byte));
  }
}

/** What a wait ends with: a rope_status, and the record of a failure. */
interface Ending {
  readonly status: number;
  readonly expected: string;
}

const word = (block: Uint8Array, offset: number): number => Number(new DataView(block.buffer, block.byteOffset).getBigUint64(offset, true));

/** The diary and what the tests set. */
export class FakeBackend implements Backend {
  /** One line for each call that matters, oldest first. */
  diary: string[] = [];
  /** Blocks that the device still has; Infinity: no end of them. */
  blocksLeft: number = Infinity;
  /** Blocks that the next trim finds. */
  blocksToTrim: number = 0;
  /** Whether the device has failed for good. */
  failed: boolean = false;
  /** The driver: absent, broken or good. */
  driver: "absent" | "broken" | "good" = "good";

  #handles = 100;
  #addresses = 2 ** 40;
  #memory = 4096;
  readonly #waits: number[] = [];
  readonly #posted: (Ending & { readonly ticket: number })[] = [];
  #wake: (() => void) | null = null;

  /** Takes what was noted so far. */
  take(): string[] {
    const lines = this.diary;
    this.diary = [];
    return lines;
  }

  /** How many waits have not ended. */
  get waits(): number {
    return this.#waits.length;
  }

  /** Whether the event loop listens. */
  get listened(): boolean {
    return this.#wake !== null;
  }

  /** Ends the oldest waits. */
  post(count: number, status: number = enums.OK, expected: string = ""): void {
    for (const ticket of this.#waits.splice(0, count)) this.#posted.push({ ticket, status, expected });
    const wake = this.#wake;
    this.#wake = null;
    if (wake !== null) setTimeout(wake, 1);
  }

  environment(name: string): string | undefined {
    return name === "ROPE_LIBRARY" ? "/fake/librope.so" : undefined;
  }

  unreadable(): undefined {}

  isFile(): boolean {
    return true;
  }

  probe(): { abi: number; version: number } {
    return { abi: enums.ABI_VERSION, version: enums.VERSION_MAJOR * 1e6 + enums.VERSION_MINOR * 1e3 + enums.VERSION_PATCH };
  }

  denied(): undefined {}

  view(): ArrayBuffer {
    throw new Error("nothing of this is native memory");
  }

  open(): NativeLibrary {
    const functions = {} as NativeFunctions;
    for (const symbol of symbols) functions[symbol] = (block, error) => this.#call(symbol, block, error);
    return {
      functions,
      address: () => this.#memory += 4096 * 1024,
      whenPosted: (_fd, _queue, wake) => {
        if (this.#wake !== null) throw new Error("somebody listens already");
        if (this.#posted.length > 0) setTimeout(wake, 1);
        else this.#wake = wake;
      },
    };
  }

  #fail(error: Uint8Array, status: number, expected: string, argument: string = "device"): number {
    const record = new Fields(error, layouts.error);
    record.text("argument", argument);
    record.text("expected", expected);
    record.text("actual", "something else");
    record.text("advice", "");
    return status;
  }

  #call(symbol: SymbolName, block: Uint8Array, error: Uint8Array): number {
    const note = (line: string): void => void this.diary.push(line);
    const isCuda = (fields: Fields): boolean => fields.u16("device") >>> 8 === enums.CUDA;
    switch (symbol) {
      case "rope_realm_open":
        new Fields(block, layouts.realm_args).set("realm", 7);
        return enums.OK;
      case "rope_device_info": {
        const info = new Fields(block, layouts.device_info_args);
        if (isCuda(info) && this.driver === "absent") return this.#fail(error, enums.DEVICE, "cpu, for this machine has no GPU");
        if (isCuda(info) && this.driver === "broken") return this.#fail(error, enums.DEVICE, "one that works", "driver");
        info.set32("usable", 1);
        info.set32("count", 1);
        info.set32("capability", 90);
        info.text("description", "a diary");
        return enums.OK;
      }
      case "rope_device_health": {
        const health = new Fields(block, layouts.health_args);
        health.set16("failed", this.failed ? 1 : 0);
        health.set32("fault", 0);
        health.text("reason", "it was told to");
        return enums.OK;
      }
    }
    if (this.failed) return this.#fail(error, enums.FATAL, "a device in working order");
    switch (symbol) {
      case "rope_memory_allocate": {
        const memory = new Fields(block, layouts.memory_args);
        if (!isCuda(memory)) break;
        const kind = memory.u16("kind") === enums.MEMORY_PINNED ? " pinned" : ` on ${memory.get("stream")}`;
        if (this.blocksLeft === 0) {
          note(`no memory for ${memory.get("bytes")}`);
          return this.#fail(error, enums.OUT_OF_MEMORY, "");
        }
        this.blocksLeft--;
        memory.set("address", this.#addresses += 4096);
        note(`allocate ${memory.get("bytes")}${kind}`);
        break;
      }
      case "rope_memory_release": {
        const memory = new Fields(block, layouts.memory_args);
        if (isCuda(memory)) note(memory.u16("kind") === enums.MEMORY_PINNED ? "release pinned" : `release on ${memory.get("stream")}`);
        break;
      }
      case "rope_memory_trim":
        note("trim");
        this.blocksLeft += this.blocksToTrim;
        break;
      case "rope_stream_create":
        new Fields(block, layouts.stream_args).set("stream", ++this.#handles);
        break;
      case "rope_stream_destroy":
        note(`destroy ${new Fields(block, layouts.stream_args).get("stream")}`);
        break;
      case "rope_stream_order": {
        const order = new Fields(block, layouts.order_args);
        note(`${order.get("stream")} after ${order.get("after")}`);
        break;
      }
      case "rope_graph_begin":
        new Fields(block, layouts.graph_args).set("stream", ++this.#handles);
        note(`record on ${this.#handles}`);
        break;
      case "rope_graph_end":
        new Fields(block, layouts.graph_args).set("graph", ++this.#handles);
        note("recorded");
        break;
      case "rope_graph_launch":
        note(`launch on ${new Fields(block, layouts.graph_args).get("stream")}`);
        break;
      case "rope_graph_destroy":
        note("destroy graph");
        break;
      case "rope_copy":
        note(`copy on ${word(block, layouts.copy_args.stream)}`);
        break;
      case "rope_fill":
        note(`fill on ${word(block, layouts.fill_args.stream)}`);
        break;
      case "rope_rotate":
        note(`rotate on ${word(block, layouts.rotate_args.stream)}`);
        break;
      case "rope_transfer": {
        const transfer = new Fields(block, layouts.transfer_args);
        const way = !isCuda(transfer) ? "host" : transfer.get("source") >= 2 ** 40 ? "down" : "up";
        note(`transfer ${transfer.get("bytes")} ${way} on ${transfer.get("stream")}`);
        break;
      }
      case "rope_stream_synchronize":
        note(`synchronize ${new Fields(block, layouts.stream_args).get("stream")}`);
        break;
      case "rope_queue_notify": {
        const wait = new Fields(block, layouts.notify_args);
        const what = wait.get("event") === 0 ? `stream ${wait.get("stream")}` : "event";
        note(`wait for ${what}, ${wait.get("realm") === 7 ? "with" : "without"} faults`);
        this.#waits.push(wait.get("ticket"));
        break;
      }
      case "rope_queue_open":
        new Fields(block, layouts.queue_args).set("queue", ++this.#handles);
        break;
      case "rope_queue_take": {
        const queue = new Fields(block, layouts.queue_args);
        const ended = this.#posted.shift();
        queue.set("ticket", ended?.ticket ?? 0);
        queue.set32("status", ended?.status ?? 0);
        if (ended !== undefined) this.#fail(error, ended.status, ended.expected);
        break;
      }
      case "rope_event_record":
        new Fields(block, layouts.event_args).set("event", ++this.#handles);
        break;
      case "rope_frequencies_create":
        new Fields(block, layouts.frequencies_args).set("frequencies", ++this.#handles);
        break;
    }
    return enums.OK;
  }
}
