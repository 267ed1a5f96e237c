// Work that keeps a stream of a GPU busy for a while: copies of a large tensor, as many as take the time. On the CPU it is done when queued.
import { type Device, type Stream, Tensor } from "../../mod.ts";

/** A load, made once and put on streams. */
export class Load {
  readonly #from: Tensor;
  readonly #to: Tensor;
  readonly #milliseconds: number;

  private constructor(from: Tensor, to: Tensor, milliseconds: number) {
    this.#from = from;
    this.#to = to;
    this.#milliseconds = milliseconds;
  }

  /** Makes tensors whose copy takes long enough for a thousand of them to be queued without anyone waiting. */
  static async of(device: Device): Promise<Load> {
    for (let bytes = 2 ** 24;; bytes *= 4) {
      const from = Tensor.zeros([bytes], { dtype: "uint8", device });
      const to = Tensor.zeros([bytes], { dtype: "uint8", device });
      using start = device.stream.record();
      for (let i = 0; i < 4; i++) to.copyFrom(from);
      using end = device.stream.record();
      const milliseconds = await end.elapsedMs(start) / 4;
      if (milliseconds > 0.3 || bytes >= 2 ** 30) return new Load(from, to, milliseconds);
      from.dispose();
      to.dispose();
    }
  }

  /** Keeps a stream busy for about as long. */
  on(stream: Stream, milliseconds: number): void {
    const copies = Math.min(Math.ceil(milliseconds / this.#milliseconds), 900);
    for (let i = 0; i < copies; i++) this.#to.copyFrom(this.#from, { stream });
  }

  [Symbol.dispose](): void {
    this.#from.dispose();
    this.#to.dispose();
  }
}
