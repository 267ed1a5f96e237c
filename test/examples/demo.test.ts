// The examples as a reader runs them: child processes of the runtime that runs the tests.
import { describe, expect, test } from "bun:test";
import { copyFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fromBfloat16 } from "../../mod.ts";
import { type Ended, root, runFile, temporaryFolder } from "../support/runtime.ts";

const permissions = ["--allow-ffi", "--allow-read", "--allow-env", "--allow-write"];
const data = (name: string): string => join(root, "examples", "data", name);

function demo(folder: string, ...args: string[]): Promise<Ended> {
  return runFile(join(root, "examples", "demo.ts"), { args, cwd: folder, permissions });
}

// A config in a new folder; its path is relative to that.
function writeConfig(text: string): string {
  const folder = temporaryFolder();
  writeFileSync(join(folder, "config.json"), text);
  return folder;
}

const small = {
  model_type: "llama",
  num_attention_heads: 2,
  num_key_value_heads: 1,
  head_dim: 32,
  max_position_embeddings: 4096,
  rope_theta: 10000,
};

/** Throws unless every tag is closed in its order and one element holds everything. */
function checkWellFormed(xml: string): void {
  const open: string[] = [];
  let roots = 0;
  const rest = xml.replace(
    /<(\/?)([a-zA-Z][\w:-]*)((?:\s+[\w:-]+="[^"<]*")*)\s*(\/?)>/g,
    (_, close: string, name: string, _attributes, empty: string) => {
      if (close === "/") expect(open.pop()).toBe(name);
      else {
        if (open.length === 0) ++roots;
        if (empty === "") open.push(name);
      }
      return "";
    },
  );
  expect(open).toEqual([]);
  expect(roots).toBe(1);
  expect(rest).not.toMatch(/[<>]/);
}

describe("demo", () => {
  test.each([
    [
      "llama-3.1-8b",
      "llama, 32 query and 8 key heads of 128 channels, bfloat16",
      "all 128 channels in pairs (j, j + 64); rule llama3, factor 8",
    ],
    ["glm-4-9b-chat", "glm, 32 query and 2 key heads of 128 channels, bfloat16", "64 of 128 channels in pairs (2j, 2j + 1); rule default"],
  ])("%s: rotates, checks and draws", async (name, shape, rotation) => {
    const folder = temporaryFolder();
    const { code, stdout, stderr } = await demo(folder, ...(name === "llama-3.1-8b" ? [] : [data(`${name}.json`)]));
    expect(stderr).toBe("");
    expect(code).toBe(0);
    expect(stdout).toContain(shape);
    expect(stdout).toContain(rotation);
    expect(stdout).toMatch(/^prompt +cpu +4096 x \(32 \+ [28]\) x 128 +bfloat16 +\d.* ulp$/m);
    expect(stdout).toMatch(/^decode +cpu +1 x \(32 \+ [28]\) x 128 +bfloat16 +\d.* ulp$/m);
    expect(stdout).toMatch(/^ok +golden vector of Hugging Face, float32 with its angles: /m);
    expect(stdout).toMatch(/^ok +golden vector of Hugging Face, bfloat16: /m);
    expect(stdout).toMatch(/^ok +q·k depends on the distance only, /m);
    expect(stdout).not.toContain("FAILED");
    expect(stdout).toContain("Read next: README.md");

    const svg = readFileSync(join(folder, "rope-rotation.svg"), "utf8");
    checkWellFormed(svg);
    expect(svg).toContain(`How ${name} rotates`);
    expect(svg.match(/<path /g)?.length).toBeGreaterThan(1000);
    expect(svg).not.toMatch(/NaN|undefined/);
    expect(Math.max(...stdout.split("\n").map((line) => line.length))).toBeLessThanOrEqual(110);
  });

  test("a config of the user's own is compared with the reference, and it says so", async () => {
    const { code, stdout } = await demo(writeConfig(JSON.stringify({ ...small, torch_dtype: "float32" })), "config.json");
    expect(stdout).toContain("compared with the reference alone");
    expect(stdout).toMatch(/^ok +the float64 reference/m);
    expect(code).toBe(0);
  });

  test("a model with several positions a token", async () => {
    const scaling = { type: "mrope", mrope_section: [4, 6, 6] };
    const { code, stdout } = await demo(
      writeConfig(JSON.stringify({ ...small, model_type: "qwen2_vl", rope_scaling: scaling })),
      "config.json",
    );
    expect(stdout).not.toContain("FAILED");
    expect(code).toBe(0);
  });

  test("layers that rotate differently are named, and one of them can be chosen", async () => {
    const folder = writeConfig(JSON.stringify({ ...small, model_type: "gemma3_text", rope_local_base_freq: 100 }));
    const unnamed = await demo(folder, "config.json");
    expect(unnamed.code).toBe(1);
    expect(unnamed.stderr).toContain("sliding_attention");
    const { code, stdout } = await demo(folder, "config.json", "sliding_attention");
    expect(stdout).not.toContain("FAILED");
    expect(code).toBe(0);
  });

  test("rules that depend on the length: the whole sequence turns as a short one", async () => {
    const divisors = (step: number): number[] => Array.from({ length: 32 }, (_, i) => 1 + step * i);
    for (
      const rope_scaling of [
        { rope_type: "dynamic", factor: 2 },
        {
          rope_type: "longrope",
          short_factor: divisors(0.1),
          long_factor: divisors(1),
          factor: 4,
          original_max_position_embeddings: 64,
        },
      ]
    ) {
      const config = { ...small, head_dim: 64, max_position_embeddings: 64, rope_scaling };
      const { code, stdout } = await demo(writeConfig(JSON.stringify(config)), "config.json");
      expect(stdout).not.toContain("FAILED");
      expect(code).toBe(0);
    }
  });

  test("a result that is not the golden one ends with code 1", async () => {
    const folder = writeConfig(readFileSync(data("glm-4-9b-chat.json"), "utf8").replace('"rope_theta": 10000.0', '"rope_theta": 10100.0'));
    copyFileSync(data("glm-4-9b-chat.golden.json"), join(folder, "config.golden.json"));
    const { code, stdout } = await demo(folder, "config.json");
    expect(stdout).toMatch(/^FAILED +golden vector of Hugging Face, float32 /m);
    expect(code).toBe(1);
  });

  test.each([
    ["a file that is not there", null, /config\.json cannot be read: /],
    ["text that is not JSON", '{"model_type": ', /config\.json is not JSON: /],
    ["JSON that is no object", "[1, 2]", /holds no JSON object/],
    ["no config of a language model", "{}", /num_attention_heads, .* is missing/],
    [
      "a rule that is not known",
      JSON.stringify({ ...small, rope_scaling: { rope_type: "hyperbolic", factor: 4 } }),
      /rope_scaling\.rope_type must be .*"hyperbolic"/,
    ],
    ["heads that are none", JSON.stringify({ ...small, num_attention_heads: -1 }), /num_attention_heads.* is -1/],
    ["a dtype it does not know", JSON.stringify({ ...small, torch_dtype: "int8" }), /torch_dtype is "int8"/],
  ])("%s: one paragraph and code 1", async (_, text, message) => {
    const folder = text === null ? temporaryFolder() : writeConfig(text);
    const { code, stdout, stderr } = await demo(folder, "config.json");
    expect(code).toBe(1);
    expect(stdout).toBe("");
    expect(stderr.replaceAll("\n", " ")).toMatch(message);
    expect(stderr).toMatch(/^demo: /);
    expect(stderr).not.toMatch(/\n\s+at /);
    expect(existsSync(join(folder, "rope-rotation.svg"))).toBe(false);
  });
});

test.each(["quickstart.ts", "packed_qkv.ts", "paged_decode.ts"])("examples/%s runs with the permissions that it names", async (name) => {
  const path = join(root, "examples", name);
  const named = /^\/\/ {3}deno run (.*) examples\//m.exec(readFileSync(path, "utf8"))?.[1]?.split(" ");
  const { code, stdout, stderr } = await runFile(path, { permissions: named ?? [] });
  expect(stderr).toBe("");
  expect(stdout).not.toBe("");
  expect(stdout).not.toContain("FAILED");
  expect(code).toBe(0);
});

// ---- examples/data/*.golden.json are cut from test/golden -------------------------------------------------------------------------------

interface Golden {
  positions: number[];
  q?: string;
  k?: string;
  qRotated?: string;
  kRotated?: string;
}

interface Entries {
  entries: { name: string; positions?: number[][]; tensors: Record<string, { offset: number; nbytes: number }> }[];
}

test.each([["llama-3.1-8b", "llama31_8b"], ["glm-4-9b-chat", "glm4_9b"]])(
  "the golden vector of %s is the entry %s of test/golden",
  (file, name) => {
    const golden = JSON.parse(readFileSync(data(`${file}.golden.json`), "utf8")) as Golden;
    const { entries } = JSON.parse(readFileSync(join(root, "test", "golden", "transformers.json"), "utf8")) as Entries;
    const entry = entries.find((entry) => entry.name === name);
    const blob = readFileSync(join(root, "test", "golden", "transformers.bin"));
    const bytes = (tensor: string): number[] => {
      const { offset, nbytes } = entry?.tensors[tensor] ?? { offset: 0, nbytes: 0 };
      return [...blob.subarray(offset, offset + nbytes)];
    };
    const decoded = (base64: string | undefined): Uint8Array<ArrayBuffer> =>
      Uint8Array.from(atob(base64 ?? ""), (character) => character.charCodeAt(0));
    expect(entry?.positions?.[0]).toEqual(golden.positions);
    for (const side of ["q", "k"] as const) {
      expect([...decoded(golden[`${side}Rotated`])]).toEqual(bytes(`${side}_out`));
      const input = fromBfloat16(new Uint16Array(decoded(golden[side]).buffer));
      expect([...new Uint8Array(input.buffer, input.byteOffset, input.byteLength)]).toEqual(bytes(`${side}_in`));
    }
  },
);
