// Loaded before the tests under `bun test`: Bun's own limit of 5 s per test is too short for a slow or busy machine.
import { setDefaultTimeout } from "bun:test";

setDefaultTimeout(60_000);
