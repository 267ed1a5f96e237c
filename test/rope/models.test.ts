// docs/models.md says what is so, and nothing that passed has stopped passing.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../support/runtime.ts";
import { page, rowsOf } from "./models.ts";
import { devices, open } from "./support.ts";

test("docs/models.md is what the goldens say: otherwise run bun run models", () => {
  expect(page(open("cpu")).split("\n")).toEqual(readFileSync(join(root, "docs", "models.md"), "utf8").split("\n"));
});

describe.each(devices)("models on %s", (name) => {
  test("every case passes", () => {
    const rows = rowsOf(open(name));
    const failing = [...rows.transformers, ...rows.diffusers].filter((row) => !row.passes).map((row) => row.name);
    expect(failing).toEqual([]);
    expect(rows.transformers.length + rows.diffusers.length).toBe(50);
  });
});
