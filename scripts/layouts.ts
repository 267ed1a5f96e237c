// bun run layouts: makes, from csrc/include/rope.h,
//   csrc/core/abi_table.inc   the names of its structs, fields and constants, from which rope_abi() reports the real numbers,
//   src/native/layouts.ts     those numbers, read back from the library.
// With --check it writes nothing and fails if a file differs. The header is the only place where a layout is written by hand.
// deno-lint-ignore-file no-console
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import process from "node:process";
import { type Header, readHeader } from "./support/header.ts";
import { install } from "./support/install.ts";
import { readAbi } from "./support/abi.ts";
import { buildLibrary } from "./support/native.ts";
import { inProject, readIfThere } from "./support/paths.ts";
import { main, runOrThrow, ScriptError } from "./support/process.ts";
import { deno } from "./support/tools.ts";

const check = process.argv.includes("--check");

await main(async () => {
  await install();
  const header = readHeader();
  checkVersions(header);
  settle("csrc/core/abi_table.inc", abiTable(header));
  await buildLibrary();
  settle("src/native/layouts.ts", await formatted(layoutsModule(header)));
});

// The table of names as macro lines.
function abiTable(header: Header): string {
  const structs = [...header.structs].flatMap(([name, fields]) => [
    `ROPE_ABI_STRUCT(${name})`,
    ...fields.map((field) => `ROPE_ABI_FIELD(${name}, ${field})`),
  ]);
  return [
    "// Made by `bun run layouts` from csrc/include/rope.h; see abi.cpp. Do not edit.",
    ...structs,
    ...header.constants.map((name) => `ROPE_ABI_CONSTANT(${name})`),
    "",
  ].join("\n");
}

// The numbers as a TypeScript module.
function layoutsModule(header: Header): string {
  const abi = readAbi();
  const layouts = [...header.structs.keys()].map((name) => {
    const struct = abi.structs[name];
    if (struct === undefined) throw new ScriptError(`rope_abi() does not know ${name}: is build/librope.so of this checkout?`);
    const fields = Object.entries(struct.fields).filter(([field, { offset }]) => {
      if (field === "size" && offset !== 0) throw new ScriptError(`rope.h: ${name}.size must be the first field`);
      return field !== "size";
    });
    return `${short(name)}: { size: ${struct.size}, ${fields.map(([field, { offset }]) => `${field}: ${offset}`).join(", ")} },`;
  });
  const constants = Object.entries(abi.constants).map(([name, value]) => `${short(name)}: ${value},`);
  return `/**
 * The structs and constants of csrc/include/rope.h as the library has them. Made by \`bun run layouts\`; do not edit.
 *
 * @module
 */

/** Struct name without \`rope_\` -> its size and the offsets of its fields, in bytes. A field called \`size\` is at 0 and not listed. */
export const layouts = {
${layouts.join("\n")}
} as const;

/** Enum constants and integer macros, without \`ROPE_\`. */
export const enums = {
${constants.join("\n")}
} as const;
`;
}

function short(name: string): string {
  return name.replace(/^rope_/i, "");
}

function formatted(text: string): Promise<string> {
  return runOrThrow(deno(), ["fmt", "--ext", "ts", "--quiet", "-"], { input: text });
}

// Writes a file that differs from what it should be, or with --check reports where.
function settle(path: string, wanted: string): void {
  const there = readIfThere(inProject(path));
  if (there === wanted) return;
  if (check) throw new ScriptError(`${path} is not what rope.h says. Run: bun run layouts\n${difference(there ?? "", wanted)}`);
  mkdirSync(dirname(inProject(path)), { recursive: true });
  writeFileSync(inProject(path), wanted);
  console.log(`wrote ${path}`);
}

// The lines that only one of two texts has; enough for lists of named lines.
function difference(there: string, wanted: string): string {
  const [old, now] = [there.split("\n"), wanted.split("\n")];
  const lines = [
    ...old.filter((line) => !now.includes(line)).map((line) => `- ${line}`),
    ...now.filter((line) => !old.includes(line)).map((line) => `+ ${line}`),
  ];
  return (lines.length > 0 ? lines : ["(the same lines in another order)"]).slice(0, 40).join("\n");
}

// One version in all places that carry it.
function checkVersions(header: Header): void {
  for (const file of ["package.json", "deno.json"]) {
    const { version } = JSON.parse(readFileSync(inProject(file), "utf8")) as { version: string };
    if (version !== header.version) {
      throw new ScriptError(`${file} is of version ${version}, csrc/include/rope.h of ${header.version}: make them equal`);
    }
  }
}
