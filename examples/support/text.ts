// Tables and paragraphs of text.

/** Columns as wide as their longest entry; the first `left` stand to the left, the others to the right. */
export function table(header: readonly string[], rows: readonly (readonly string[])[], left: number): string {
  const lines = [header, ...rows];
  const widths = header.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)));
  const text = lines.map((line) =>
    line.map((entry, column) => column < left ? entry.padEnd(widths[column] ?? 0) : entry.padStart(widths[column] ?? 0)).join("  ")
      .trimEnd()
  );
  return `${text.join("\n")}\n`;
}

/** Breaks a paragraph into lines of at most `width` characters, where words allow. */
export function wrap(paragraph: string, width: number = 96): string {
  const lines: string[] = [];
  for (const word of paragraph.split(" ")) {
    const line = lines.at(-1);
    if (line !== undefined && line.length + 1 + word.length <= width) lines[lines.length - 1] = `${line} ${word}`;
    else lines.push(word);
  }
  return lines.join("\n");
}
