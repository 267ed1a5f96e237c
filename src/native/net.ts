// The net under forgotten dispose() calls: destroys the C object of a JavaScript object that was collected. Only a net: collection may come
// late or never, and nothing is collected when the process exits.
import { log } from "./trace.ts";

/** A net for one class of objects. `Held` is what its C object is known by: most often its handle. */
export class HandleNet<Held = number> {
  readonly #registry: FinalizationRegistry<Held>;

  /** `what` names the object in the log, `destroy` is called with what it was known by. */
  constructor(what: string, destroy: (held: Held) => void) {
    this.#registry = new FinalizationRegistry((held) => {
      log(`a ${what} was collected that had not been disposed of`);
      try {
        destroy(held);
      } catch (error) {
        log(`destroying it failed: ${error instanceof Error ? error.message : error}`);
      }
    });
  }

  /** Destroys what is held if `owner` is collected. */
  watch(owner: object, held: Held): void {
    this.#registry.register(owner, held, owner);
  }

  /** The owner destroys it itself. */
  forget(owner: object): void {
    this.#registry.unregister(owner);
  }
}
