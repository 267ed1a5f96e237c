// The net under forgotten dispose() calls: destroys the C object of a JavaScript object that was collected. Only a net: collection may come late
// or never, and nothing is collected when the process exits.
import { log } from "./trace.ts";

/** A net for one class of objects. */
export class HandleNet {
  readonly #registry: FinalizationRegistry<number>;

  /** `what` names the object in the log, `destroy` is called with the handle. */
  constructor(what: string, destroy: (handle: number) => void) {
    this.#registry = new FinalizationRegistry((handle) => {
      log(`a ${what} was collected that had not been disposed of`);
      try {
        destroy(handle);
      } catch (error) {
        log(`destroying it failed: ${error instanceof Error ? error.message : error}`);
      }
    });
  }

  /** Destroys the handle if `owner` is collected. */
  watch(owner: object, handle: number): void {
    this.#registry.register(owner, handle, owner);
  }

  /** The owner destroys it itself. */
  forget(owner: object): void {
    this.#registry.unregister(owner);
  }
}
