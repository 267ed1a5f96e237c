// The picture of the rules in docs/semantics.md shows the rules as they are.
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { wavelengths } from "../../scripts/support/wavelengths.ts";
import { root } from "../support/runtime.ts";

test("docs/pictures/wavelengths.svg is what the rules say: otherwise run bun run wavelengths", async () => {
  const there = readFileSync(join(root, "docs", "pictures", "wavelengths.svg"), "utf8");
  expect((await wavelengths()).split("<")).toEqual(there.split("<"));
});
