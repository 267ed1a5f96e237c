// Reads csrc/include/rope.h. The header keeps to a few regular forms, and anything else is an error here rather than a wrong layout:
//   #define ROPE_X <integer>     typedef enum rope_x { ROPE_A = 1, ... } rope_x;     typedef struct rope_x { type name[length]; ... } rope_x;
//   ROPE_API <type> rope_x(...);
import { readFileSync } from "node:fs";
import { inProject } from "./paths.ts";
import { ScriptError } from "./process.ts";

/** What the scripts need to know of the header. */
export interface Header {
  /** Struct name -> the names of its fields, in order. */
  readonly structs: ReadonlyMap<string, readonly string[]>;
  /** Integer macros and enum constants, in order. */
  readonly constants: readonly string[];
  readonly functions: readonly string[];
  /** "0.1.0" */
  readonly version: string;
}

/** Reads rope.h, or another file written like it. */
export function readHeader(path: string = inProject("csrc", "include", "rope.h")): Header {
  const text = readFileSync(path, "utf8").replace(/\/\*[\s\S]*?\*\//g, " ");
  const macros = new Map(all(text, /^#define[ \t]+(ROPE_\w+)[ \t]+(\(?(?:INT64_C\()?-?\d.*)$/gm).map(([, name, value]) => [name, value]));

  const enums = all(text, /typedef\s+enum\s+\w*\s*\{([^}]*)\}\s*\w+\s*;/g);
  const constants = enums.flatMap(([, body]) => names(body, ",", /^(ROPE_\w+)\s*(?:=[^=]+)?$/));

  const structs = new Map(
    all(text, /typedef\s+struct\s+(\w+)\s*\{([^}]*)\}\s*\1\s*;/g).map(([, name, body]) => {
      return [name, names(body, ";", /^\w+\s+(\w+)(?:\[\w+\])?$/)];
    }),
  );
  const functions = all(text, /^ROPE_API\s+\w+\s+(\w+)\s*\(/gm).map(([, name]) => name);

  requireAll("struct", all(text, /\bstruct\b/g).length, structs.size);
  requireAll("enum", all(text, /\benum\b/g).length, enums.length);
  requireAll("ROPE_API", all(text, /^ROPE_API\b/gm).length, functions.length);
  const version = ["MAJOR", "MINOR", "PATCH"].map((part) => macros.get(`ROPE_VERSION_${part}`)?.trim() ?? "?").join(".");
  return { structs, constants: [...macros.keys(), ...constants], functions, version };
}

function requireAll(word: string, written: number, read: number): void {
  if (written !== read) throw new ScriptError(`rope.h has ${written} times ${word}, of which scripts/support/header.ts can read ${read}`);
}

// Every match with its groups, those that matched nothing as "".
function all(text: string, pattern: RegExp): [string, string, string][] {
  return [...text.matchAll(pattern)].map((match) => [match[0], match[1] ?? "", match[2] ?? ""]);
}

// The names in a list of declarations, each of which has one form.
function names(body: string, separator: string, form: RegExp): string[] {
  return body.split(separator).map((entry) => entry.trim()).filter((entry) => entry !== "").map((entry) => {
    const name = form.exec(entry)?.[1];
    if (name === undefined) throw new ScriptError(`rope.h: scripts/support/header.ts cannot read "${entry}"`);
    return name;
  });
}
